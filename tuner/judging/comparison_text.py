"""A comparison as sentences and as tables."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd

from tuner.core import text
from tuner.core.level import COLUMNS, Level, level_of, level_title
from tuner.core.metrics import SHARE, column_name
from tuner.judging.estimates import BETTER, REQUESTS, SAME, UNKNOWN, WORSE
from tuner.judging.verdicts import ending

if TYPE_CHECKING:
    from tuner.judging.comparison import Comparison

#: So many rows of one kind are named; the others are counted.
LISTED = 8


def lost_row(row: dict[Any, Any]) -> dict[str, Any]:
    """A level that completed before and fails now, as a row of `differences`."""
    note = f"it completed before and has no result now: {ending(row['outcome'], row['reason'])}"
    same = {name: row[name] for name in ("scenario", *COLUMNS)}
    return same | {"metric": "outcome", "unit": "", "verdict": WORSE, "over": "", "note": note}


def conclusions(comparison: "Comparison") -> list[str]:
    """Lost levels first, then the maximum, what is worse, what is better, what can be found, and what is not known."""
    differences = comparison.differences
    lines = [f"WORSE: {_where(row)} {lost_row(row)['note']}" for row in comparison.lost.to_dict("records")]
    for verdict in (WORSE, BETTER):
        lines += _called(differences[differences["verdict"] == verdict], verdict)
    return [*lines, _rest(comparison, any_shown=bool(lines)), *_sensitivity(comparison), *_limits(comparison)]


def _called(rows: pd.DataFrame, verdict: str) -> list[str]:
    ordered = rows.assign(size=rows["change"].abs(), first=rows["metric"] == "max_throughput")
    ordered = ordered.sort_values(["first", "size"], ascending=False, kind="stable")
    lines = [
        f"{verdict.upper()}: {column_name(row['metric'])} {_where(row)}: {' → '.join(_sides(row))}, "
        f"{_change_with_interval(row)}{'; ' if row['note'] else ''}{row['note']}"
        for row in ordered.head(LISTED).to_dict("records")
    ]
    further = len(ordered) - LISTED
    return [*lines, f"… and {further} more that are {verdict}"] if further > 0 else lines


def _sides(row: dict[Any, Any]) -> list[str]:
    return [text.value(row[side], row["unit"]) for side in ("baseline", "candidate")]


def _where(row: dict[Any, Any]) -> str:
    level, scenario = level_of(row), row["scenario"]
    at = "" if level is None else f"at {level_title(level)}"
    return " ".join(filter(None, [at, f"({scenario})" if scenario else ""]))


def _rest(comparison: "Comparison", *, any_shown: bool) -> str:
    rows, tolerance = comparison.differences, comparison.tolerance
    if rows.empty:
        return "No level completed on both sides, so no numbers can be compared"
    if rows["over"].eq(REQUESTS).all():
        return f"One run a side: {_REPEAT}"
    start = (
        f"No {'further ' if any_shown else ''}difference{f' beyond ±{text.percent(tolerance)}' if tolerance else ''}"
    )
    found = f"{start} was found in {rows['verdict'].eq(SAME).sum()} of {len(rows)} comparisons"
    return f"{found}, at {text.percent(comparison.confidence)} over all of them{_most_hidden(rows)}"


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
        runs = f"{fewest} runs a side that vary by {noise} from run to run in output throughput"
        if comparison.findable >= _ANYTHING:
            yield f"{runs} tell next to nothing: more runs are needed"
        else:
            yield f"With {runs}, a change of {change} is found 9 times in 10; more runs find smaller ones"


#: So large a change, and its size says no more.
_ANYTHING = 10.0
#: Why one run a side is no verdict, and what helps.
_REPEAT = "not judged, since one run does not show by how much results differ from run to run; repeat the runs"


def _limits(comparison: "Comparison") -> Iterator[str]:
    """What the comparison cannot tell."""
    differences, unmatched = comparison.differences, comparison.unmatched
    unknown = int((differences["verdict"] == UNKNOWN).sum())
    of_one_run = differences[differences["over"] == REQUESTS]
    if unknown and len(of_one_run) < len(differences):
        yield f"{unknown} of {len(differences)} comparisons cannot be judged; their notes say why"
    if 0 < len(of_one_run) < len(differences):
        names = ", ".join(map(column_name, of_one_run["metric"].unique()))
        yield f"{names}: one run a side at some level: {_REPEAT}"
    others = unmatched[~unmatched["lost"]]
    for row in others.head(LISTED).to_dict("records"):
        yield f"Not compared: the {without_result(row)}"
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
#: what tells one difference of a metric from another
_PLACE = ("scenario", *COLUMNS, "verdict")
#: the metrics that a line has room for; another one joins them where it alone of its kin differs for sure
TELLING = (
    *("max_throughput", "output_throughput", "ttft_p50", "ttft_p90", "tpot_p50", "e2e_latency_p50", "e2e_latency_p90"),
    *("error_rate", "attainment"),
)


def telling_rows(differences: pd.DataFrame) -> pd.DataFrame:
    """The rows of the most telling metrics, and of another one that differs for sure where none of its kin does."""
    sure = differences[differences["verdict"].isin([WORSE, BETTER])]
    sure = sure.assign(family=[_family(metric) for metric in sure["metric"]])
    has_telling = sure.groupby([*_PLACE, "family"], dropna=False)["metric"].transform(
        lambda kin: kin.isin(TELLING).any()
    )
    return differences[differences["metric"].isin({*TELLING, *sure.loc[~has_telling.astype("bool"), "metric"]})]


def metrics(differences: pd.DataFrame) -> list[str]:
    """The metrics of the rows: the most telling first, each followed by its kin."""
    return sorted(differences["metric"].unique(), key=lambda name: (_family(name), name not in TELLING))


def _family(metric: str) -> int:
    """Where the first telling metric stands that measures the same: `ttft_p99` belongs to `ttft_p50`."""
    stem = "output" if metric == "request_throughput" else metric.rpartition("_")[0]
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
    frame = pd.DataFrame(list(map(_detail, rows.to_dict("records"))), rows.index, names)
    return frame if rows["scenario"].nunique() > 1 else frame.drop(columns="scenario")


def _detail(row: dict[Any, Any]) -> list[str]:
    where = [row["scenario"], level(row), column_name(row["metric"])]
    over = row["over"]
    basis = f"{row[f'baseline_{over}']} and {row[f'candidate_{over}']} {over}"  # what the interval rests on
    evidence = "; ".join(filter(None, [basis, hidden(row), row["note"]]))
    said = _SAID.get(row["verdict"], MARKS[row["verdict"]])
    return [said, *where, change(row), between(row), *_sides(row), evidence]


def without_result(row: dict[Any, Any]) -> str:
    """A level that one side lacks: `candidate at concurrency 8 has no result: missing: it was not measured`."""
    which = " ".join(filter(None, [row["side"], _where(row)]))
    return f"{which} has no result: {ending(row['outcome'], row['reason'])}"


def unmatched(comparison: "Comparison") -> pd.DataFrame:
    """The levels that one side has no result of: `scenario`, `level`, `no result in`, `outcome`, `why`, `batches`."""
    rows = comparison.unmatched
    shown = rows.rename(columns={"side": "no result in", "reason": "why"}).fillna({"why": ""})
    shown["level"] = [level(row) for row in rows.to_dict("records")]
    names = ["scenario", "level", "no result in", "outcome", "why"]
    return shown.groupby(names, sort=False).size().reset_index(name="batches")


def cell(row: dict[Any, Any]) -> str:
    """The verdict, then the size: of a difference that is none for sure, how large it may be."""
    known = "" if pd.isna(row["change"]) else _change_with_interval(row)
    size = {UNKNOWN: known, SAME: between(row) or change(row)}
    return f"{MARKS[row['verdict']]} {size.get(row['verdict'], change(row))}".strip()


def hidden(row: dict[Any, Any]) -> str:
    """What no difference found leaves open; empty for other verdicts, and where nobody knows."""
    if row["verdict"] != SAME or not between(row):
        return ""
    most = max(abs(row["low"]), abs(row["high"]))
    size = f"{100 * most:.2g} pp" if row["unit"] == SHARE else text.percent(float(f"{most:.2g}"))
    is_huge = row["unit"] != SHARE and most >= _ANYTHING
    return "even a tenfold change could be hidden" if is_huge else f"a change of up to {size} could be hidden"


def verdict_of(content: str) -> str:
    """The verdict that a cell begins with, in an overview; empty for others."""
    return next((verdict for verdict, mark in MARKS.items() if f"{content} ".startswith(f"{mark} ")), "")


def change(row: dict[Any, Any]) -> str:
    """A relative change in percent; of a share, in percentage points."""
    return text.change(row["change"], row["unit"])


def between(row: dict[Any, Any]) -> str:
    """The interval of a change; empty where there is none."""
    return text.interval(row["low"], row["high"], row["unit"])


def _change_with_interval(row: dict[Any, Any]) -> str:
    return f"{change(row)} ({between(row)})" if between(row) else change(row)
