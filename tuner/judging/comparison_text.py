"""A comparison as sentences and as tables."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd

from tuner.core import text
from tuner.core.level import COLUMNS, Level, level_of, level_title
from tuner.core.metrics import SHARE, column_name
from tuner.judging.estimates import BETTER, REQUESTS, SAME, UNKNOWN, WORSE

if TYPE_CHECKING:
    from tuner.judging.comparison import Comparison

#: So many rows of one kind are named; the others are counted.
LISTED = 8


def lost_row(row: dict[Any, Any]) -> dict[str, Any]:
    """A level that completed before and fails now, as a row of `differences`."""
    note = f"it completed before and ends in {row['outcome']} now" + (f": {row['reason']}" if row["reason"] else "")
    same = {name: row[name] for name in ("scenario", *COLUMNS)}
    return same | {"metric": "outcome", "unit": "", "verdict": WORSE, "over": "", "note": note}


def conclusions(comparison: "Comparison") -> list[str]:
    """Lost levels first, then the maximum, what is worse, what is better, what can be found, and what is not known."""
    differences, unmatched = comparison.differences, comparison.unmatched
    lost = unmatched[unmatched["lost"]].to_dict("records")
    lines = [f"WORSE: {_where(row)} {lost_row(row)['note']}" for row in lost]
    for verdict in (WORSE, BETTER):
        lines += _called(differences[differences["verdict"] == verdict], verdict)
    rest = _rest(differences, bool(lines), comparison.tolerance, comparison.confidence)
    return [*lines, rest, *_sensitivity(comparison), *_limits(differences, unmatched)]


def _called(rows: pd.DataFrame, verdict: str) -> list[str]:
    ordered = rows.assign(size=rows["change"].abs(), first=rows["metric"] == "max_throughput")
    ordered = ordered.sort_values(["first", "size"], ascending=False, kind="stable")
    lines = [f"{verdict.upper()}: {_difference_line(row)}" for row in ordered.head(LISTED).to_dict("records")]
    further = len(ordered) - LISTED
    return [*lines, f"… and {further} more that are {verdict}"] if further > 0 else lines


def _difference_line(row: dict[Any, Any]) -> str:
    """One difference: `TTFT p90 at concurrency 8: 0.42 s → 0.51 s, +21.0 % (+12 to +31 %)`."""
    values = " → ".join(text.value(row[side], row["unit"]) for side in ("baseline", "candidate"))
    note = f"; {row['note']}" if row["note"] else ""
    return f"{column_name(row['metric'])} {_where(row)}: {values}, {change_with_interval(row)}{note}"


def _where(row: dict[Any, Any]) -> str:
    level = level_of(row)
    return " ".join(
        filter(
            None,
            ["" if level is None else f"at {level_title(level)}", f"({row['scenario']})" if row["scenario"] else ""],
        )
    )


def _rest(differences: pd.DataFrame, any_shown: bool, tolerance: float, confidence: float) -> str:
    same = int((differences["verdict"] == SAME).sum())
    beyond = f" beyond ±{text.percent(tolerance)}" if tolerance else ""
    if differences.empty:
        return "No level completed on both sides, so no numbers can be compared"
    if differences["over"].eq(REQUESTS).all():
        return f"One run a side: not judged; {_REPEAT}"
    start = "No further difference" if any_shown else "No difference"
    sure = f"at {text.percent(confidence)} over all of them"
    return f"{start}{beyond} was found in {same} of {len(differences)} comparisons, {sure}{_most_hidden(differences)}"


def _most_hidden(differences: pd.DataFrame) -> str:
    """The largest change that rows in which no difference was found could hide."""
    rows = telling_rows(differences[differences["verdict"] == SAME]).dropna(subset=["low", "high"])
    if rows.empty:
        return ""
    relative = rows[rows["unit"] != SHARE]
    widest = relative if len(relative) else rows
    row = widest.iloc[int(widest[["low", "high"]].abs().max(axis=1).argmax())].to_dict()
    return f"; {hidden(row)}, in {column_name(row['metric'])} {_where(row)}".rstrip()


def _sensitivity(comparison: "Comparison") -> Iterator[str]:
    """How large a change could have been found, so that nobody takes `same` for equal."""
    if comparison.noise and comparison.findable:
        known = comparison.differences[comparison.differences["metric"] == "output_throughput"]
        fewest = min(known["baseline_runs"].max(), known["candidate_runs"].max())
        noise, change = (text.percent(float(f"{each:.2g}")) for each in (comparison.noise, comparison.findable))
        yield (
            f"With {fewest} runs a side that vary by {noise} from run to run in output throughput, "
            f"a change of {change} is found 9 times in 10; more runs find smaller ones"
        )


#: Why one run a side is no verdict, and what helps.
_REPEAT = "what a machine does from run to run is not in one, so repeat the runs"


def _limits(differences: pd.DataFrame, unmatched: pd.DataFrame) -> Iterator[str]:
    """What the comparison cannot tell."""
    unknown = int((differences["verdict"] == UNKNOWN).sum())
    of_one_run = differences[differences["over"] == REQUESTS]
    if unknown and len(of_one_run) < len(differences):
        yield f"{unknown} of {len(differences)} comparisons cannot be judged; their notes say why"
    if 0 < len(of_one_run) < len(differences):
        names = ", ".join(map(column_name, of_one_run["metric"].unique()))
        yield f"{names}: one run a side at a level: not judged; {_REPEAT}"
    others = unmatched[~unmatched["lost"]]
    for row in others.head(LISTED).to_dict("records"):
        reason = f": {row['reason']}" if row["reason"] else ""
        yield f"Not compared: the {row['side']} {_where(row)} is {row['outcome']}{reason}"
    if len(others) > LISTED:
        yield f"… and {len(others) - LISTED} more that are not compared"


#: what a verdict is called where there is little room; what differs for sure comes first
MARKS = {WORSE: "✗ worse", BETTER: "✓ better", SAME: "≈", UNKNOWN: "?"}
LEGEND = (
    "✗ worse, ✓ better: a difference beyond the tolerance that chance does not explain. "
    "≈: no difference found, and the range says how large a one could be hidden. "
    "?: cannot be judged, as of one run a side."
)
#: what is said with the marks where there is room
_SAID = {SAME: "≈ no difference found", UNKNOWN: "? not judged"}
#: the metrics that a line has room for; another one joins them where it differs for sure
TELLING = (
    *("max_throughput", "output_throughput", "ttft_p50", "ttft_p90", "tpot_p50", "e2e_latency_p50", "e2e_latency_p90"),
    *("error_rate", "attainment"),
)


def telling_rows(differences: pd.DataFrame) -> pd.DataFrame:
    """The rows of the most telling metrics, and of every other one that differs for sure somewhere."""
    sure = differences.loc[differences["verdict"].isin([WORSE, BETTER]), "metric"]
    return differences[differences["metric"].isin({*TELLING, *sure})]


def metrics(differences: pd.DataFrame) -> list[str]:
    """The metrics of the rows: the most telling first, each followed by its kin."""
    return sorted(differences["metric"].unique(), key=lambda name: (_family(name), name not in TELLING))


def _family(metric: str) -> int:
    """Where the first telling metric stands that measures the same: `ttft_p99` belongs to `ttft_p50`."""
    stem = metric.rpartition("_")[0]
    return next((place for place, name in enumerate(TELLING) if metric == name or name.startswith(f"{stem}_")), 99)


def level(row: dict[Any, Any], name: Callable[[Level], str] = str) -> str:
    """A row's level as text, `maximum` where it is about the best of all levels."""
    one = level_of(row)
    return "maximum" if one is None else name(one)


def overview(comparison: "Comparison") -> pd.DataFrame:
    """One row a level, one column for each of the most telling metrics.

    Returns:
        Texts: `scenario` (where there are several), `level`, and by metric the verdict before the size.
    """
    rows = telling_rows(comparison.differences)
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows.to_dict("records"):
        column = "output_throughput" if row["metric"] == "max_throughput" else row["metric"]
        cells.setdefault((row["scenario"], level(row)), {})[column] = cell(row)
    columns = [name for name in metrics(rows) if any(name in row for row in cells.values())]
    table = [[*key, *(row.get(name, "") for name in columns)] for key, row in cells.items()]
    frame = pd.DataFrame(table, columns=["scenario", "level", *map(column_name, columns)])
    return frame if frame["scenario"].nunique() > 1 else frame.drop(columns="scenario")


def details(comparison: "Comparison") -> pd.DataFrame:
    """One row a scenario, level and metric, what differs for sure first.

    Returns:
        Texts: `verdict`, `scenario`, `level`, `metric`, `change`, its interval, `baseline`, `candidate`, `evidence`.
    """
    places = {verdict: place for place, verdict in enumerate(MARKS)}
    rows = comparison.differences.sort_values("verdict", key=lambda verdicts: verdicts.map(places), kind="stable")
    interval = f"{text.percent(comparison.confidence)} interval"
    names = ["verdict", "scenario", "level", "metric", "change", interval, "baseline", "candidate", "evidence"]
    frame = pd.DataFrame([_detail(row) for row in rows.to_dict("records")], rows.index, names)
    return frame if rows["scenario"].nunique() > 1 else frame.drop(columns="scenario")


def _detail(row: dict[Any, Any]) -> list[str]:
    sides = [text.value(row[side], row["unit"]) for side in ("baseline", "candidate")]
    where = [row["scenario"], level(row), column_name(row["metric"])]
    return [_SAID.get(row["verdict"], MARKS[row["verdict"]]), *where, change(row), between(row), *sides, _evidence(row)]


def _evidence(row: dict[Any, Any]) -> str:
    """What the interval rests on, and what else is to be said."""
    over = row["over"] if isinstance(row["over"], str) else ""
    counts = [row[f"{side}_{over}"] for side in ("baseline", "candidate")] if over else []
    basis = f"{counts[0]} and {counts[1]} {over}" if counts and not any(map(pd.isna, counts)) else over
    return "; ".join(filter(None, [basis, hidden(row), row["note"] if isinstance(row["note"], str) else ""]))


def unmatched(comparison: "Comparison") -> pd.DataFrame:
    """The levels that one side has no result of: `scenario`, `level`, `no result in`, `outcome`, `why`, `batches`."""
    rows = comparison.unmatched
    shown = rows.rename(columns={"side": "no result in", "reason": "why"}).fillna({"why": ""})
    shown["level"] = [level(row) for row in rows.to_dict("records")]
    names = ["scenario", "level", "no result in", "outcome", "why"]
    return shown.groupby(names, sort=False).size().reset_index(name="batches")


def cell(row: dict[Any, Any]) -> str:
    """The verdict, then the size: of a difference that is none for sure, how large it may be."""
    known = "" if pd.isna(row["change"]) else change_with_interval(row)
    size = {UNKNOWN: known, SAME: between(row) or change(row)}
    return f"{MARKS[row['verdict']]} {size.get(row['verdict'], change(row))}".strip()


def hidden(row: dict[Any, Any]) -> str:
    """What no difference found leaves open; empty for other verdicts, and where nobody knows."""
    if row["verdict"] != SAME or not between(row):
        return ""
    most = max(abs(row["low"]), abs(row["high"]))
    size = f"{100 * most:.2g} pp" if row["unit"] == SHARE else text.percent(float(f"{most:.2g}"))
    return f"a change of up to {size} could be hidden"


def verdict_of(content: str) -> str:
    """The verdict that a cell begins with, in an overview; empty for others."""
    return next((verdict for verdict, mark in MARKS.items() if f"{content} ".startswith(f"{mark} ")), "")


def change(row: dict[Any, Any]) -> str:
    """A relative change in percent; of a share, in percentage points."""
    return text.change(row["change"], row["unit"])


def between(row: dict[Any, Any]) -> str:
    """The interval of a change; empty where there is none."""
    return text.interval(row["low"], row["high"], row["unit"])


def change_with_interval(row: dict[Any, Any]) -> str:
    """A change, and where it may lie: `+21.0 % (+12 to +31 %)`."""
    return f"{change(row)} ({between(row)})" if between(row) else change(row)
