"""A comparison as sentences and as tables."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd

from tuner.judging.estimates import BETTER, SAME, SHARES, UNKNOWN, WORSE

if TYPE_CHECKING:
    from tuner.judging.comparison import Comparison

#: How metrics are called in texts.
_NAMES = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "e2e", "max": "compliant maximum"}
#: So many rows of one kind are told; the others are counted.
LISTED = 8


def lost_row(row: dict[Any, Any]) -> dict[str, Any]:
    """A level that completed before and fails now, as a row of `differences`."""
    note = f"it completed before and ends in {row['outcome']} now" + (f": {row['reason']}" if row["reason"] else "")
    same = {"scenario": row["scenario"], "concurrency": row["concurrency"]}
    return same | {"metric": "outcome", "unit": "", "verdict": "worse", "over": "", "note": note}


def conclusions(differences: pd.DataFrame, unmatched: pd.DataFrame, tolerance: float, confidence: float) -> list[str]:
    """Lost levels first, then the maximum, what is worse, what is better, and what is not known."""
    lost = unmatched[unmatched["lost"]].to_dict("records")
    lines = [f"WORSE: {_where(row)} {lost_row(row)['note']}" for row in lost]
    for verdict in ("worse", "better"):
        lines += _called(differences[differences["verdict"] == verdict], verdict)
    return [*lines, _rest(differences, bool(lines), tolerance, confidence), *_limits(differences, unmatched)]


def _called(rows: pd.DataFrame, verdict: str) -> list[str]:
    ordered = rows.assign(size=rows["change"].abs(), first=rows["metric"] == "max_throughput")
    ordered = ordered.sort_values(["first", "size"], ascending=False, kind="stable")
    lines = [f"{verdict.upper()}: {difference_line(row)}" for row in ordered.head(LISTED).to_dict("records")]
    further = len(ordered) - LISTED
    return [*lines, f"… and {further} more that are {verdict}"] if further > 0 else lines


def difference_line(row: dict[Any, Any]) -> str:
    """One difference: `TTFT p90 at concurrency 8: 0.42 s → 0.51 s, +21 % (+12 % to +31 %)`."""
    parts = [_value_text(row["baseline"], row["unit"]), _value_text(row["candidate"], row["unit"])]
    size, low, high = (_change(row[part], row["unit"]) for part in ("change", "low", "high"))
    note = f"; {row['note']}" if row["note"] else ""
    return f"{metric_name(row['metric'])} {_where(row)}: {parts[0]} → {parts[1]}, {size} ({low} to {high}){note}"


def metric_name(metric: str) -> str:
    """A metric's name in texts: `TTFT p90`, `output throughput`."""
    first, *rest = metric.split("_")
    return _NAMES["max"] if first == "max" else " ".join([_NAMES.get(first, first), *rest])


def _where(row: dict[Any, Any]) -> str:
    level = "" if pd.isna(row["concurrency"]) else f"at concurrency {row['concurrency']}"
    return " ".join(filter(None, [level, f"({row['scenario']})" if row["scenario"] else ""]))


def _value_text(value: float, unit: str) -> str:
    return f"{value:.1%}" if unit == "share" else f"{value:.4g} {unit}"


def _change(change: float, unit: str) -> str:
    if pd.isna(change):
        return "unknown"
    return f"{change * 100:+.1f} points" if unit == "share" else f"{change * 100:+.1f} %"


def _rest(differences: pd.DataFrame, any_found: bool, tolerance: float, confidence: float) -> str:
    same = int((differences["verdict"] == "same").sum())
    beyond = f" beyond ±{tolerance:.0%}" if tolerance else ""
    if differences.empty:
        return "No level completed on both sides, so no numbers can be compared"
    start = "No difference" if not any_found else "No further difference"
    return (
        f"{start}{beyond} was shown in {same} of {len(differences)} comparisons, at {confidence:.0%} over all of them"
    )


def _without_drift(differences: pd.DataFrame) -> Iterator[str]:
    """What rests on requests alone: everything, or metrics that too few of the runs have a value of."""
    rows = differences[differences["over"] == "requests"]
    if rows.empty:
        return
    several = len(rows) < len(differences)
    which = (
        f"{', '.join(map(metric_name, rows['metric'].unique()))}: known in one run of a side"
        if several
        else "A side has one run"
    )
    yield f"{which} only, so that only its requests vary: drift from run to run is not in it; repeat the runs"


def _limits(differences: pd.DataFrame, unmatched: pd.DataFrame) -> Iterator[str]:
    """What the comparison cannot tell."""
    unknown = int((differences["verdict"] == "unknown").sum())
    if unknown:
        yield f"{unknown} of {len(differences)} comparisons cannot be judged; their notes say why"
    yield from _without_drift(differences)
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
    "≈: none was shown, and the range says where it may lie. ?: cannot be told."
)
#: the metrics that a line has room for; another one joins them where it differs for sure
TELLING = (
    *("max_throughput", "output_throughput", "ttft_p50", "ttft_p90", "tpot_p50", "e2e_latency_p50", "e2e_latency_p90"),
    *("error_rate", "attainment"),
)
#: percent beyond which an interval says no more than that nobody knows
_FAR = 1000
#: the level of a row that is about all of them
ALL_LEVELS = "maximum"


def telling_rows(differences: pd.DataFrame) -> pd.DataFrame:
    """The rows of the most telling metrics, and of every other one that differs for sure somewhere."""
    sure = differences.loc[differences["verdict"].isin([WORSE, BETTER]), "metric"]
    return differences[differences["metric"].isin({*TELLING, *sure})]


def metrics(differences: pd.DataFrame) -> list[str]:
    """The metrics of the rows: the most telling first, each followed by its kin."""
    known = list(dict.fromkeys(differences["metric"]))
    return sorted(known, key=lambda name: (_family(name), name not in TELLING, known.index(name)))


def _family(metric: str) -> int:
    """Where the first telling metric stands that measures the same: `ttft_p99` belongs to `ttft_p50`."""
    stem = metric.rpartition("_")[0]
    return next((place for place, name in enumerate(TELLING) if metric == name or name.startswith(f"{stem}_")), 99)


def level(row: "pd.Series[Any] | dict[Any, Any]") -> str:
    """A row's concurrency as text, `maximum` where it is about the best of all levels."""
    return ALL_LEVELS if pd.isna(row["concurrency"]) else str(row["concurrency"])


def overview(comparison: "Comparison") -> pd.DataFrame:
    """One row a level, one column for each of the most telling metrics.

    Returns:
        Texts: `scenario` (where there are several), `level`, and by metric the verdict before the size.
    """
    rows = telling_rows(comparison.differences)
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in _each(rows):
        column = "output_throughput" if row["metric"] == "max_throughput" else row["metric"]
        cells.setdefault((row["scenario"], level(row)), {})[column] = cell(row)
    columns = [name for name in metrics(rows) if any(name in found for found in cells.values())]
    table = [[*key, *(found.get(name, "") for name in columns)] for key, found in cells.items()]
    frame = pd.DataFrame(table, columns=["scenario", "level", *map(metric_name, columns)])
    return frame if frame["scenario"].nunique() > 1 else frame.drop(columns="scenario")


def details(comparison: "Comparison") -> pd.DataFrame:
    """One row a scenario, level and metric, what differs for sure first.

    Returns:
        Texts: `verdict`, `scenario`, `level`, `metric`, `change`, its interval, `baseline`, `candidate`, `evidence`.
    """
    order = list(MARKS)
    rows = comparison.differences
    rows = rows.iloc[sorted(range(len(rows)), key=lambda place: order.index(rows["verdict"].iloc[place]))]
    interval = f"{comparison.confidence * 100:g} % interval"
    names = ["verdict", "scenario", "level", "metric", "change", interval, "baseline", "candidate", "evidence"]
    frame = pd.DataFrame([_detail(row) for row in _each(rows)], columns=names, index=rows.index)
    return frame if rows["scenario"].nunique() > 1 else frame.drop(columns="scenario")


def _detail(row: dict[Any, Any]) -> list[str]:
    sides = [_value(row, side) for side in ("baseline", "candidate")]
    where = [row["scenario"], level(row), metric_name(row["metric"])]
    return [row["verdict"], *where, change(row), between(row), *sides, _evidence(row)]


def _evidence(row: dict[Any, Any]) -> str:
    """What the interval rests on, and what else is to be said."""
    over = row["over"] if isinstance(row["over"], str) else ""
    counts = [row[f"{side}_{over}"] for side in ("baseline", "candidate")] if over else []
    telling_rows = f"{counts[0]} and {counts[1]} {over}" if counts and not any(map(pd.isna, counts)) else over
    return "; ".join(filter(None, [telling_rows, row["note"] if isinstance(row["note"], str) else ""]))


def unmatched(comparison: "Comparison") -> pd.DataFrame:
    """The levels that one side has no result of: `scenario`, `level`, `no result in`, `outcome`, `why`, `batches`."""
    rows = comparison.unmatched
    shown = rows.rename(columns={"side": "no result in", "reason": "why"}).fillna({"why": ""})
    shown["level"] = [level(row) for row in _each(rows)]
    names = ["scenario", "level", "no result in", "outcome", "why"]
    return shown.groupby(names, sort=False).size().reset_index(name="batches")


def cell(row: dict[Any, Any]) -> str:
    """The verdict, then the size: of a difference that is none for sure, how large it may be."""
    size = {UNKNOWN: "", SAME: between(row) or change(row)}.get(row["verdict"], change(row))
    return f"{MARKS[row['verdict']]} {size}".strip()


def verdict_of(text: str) -> str:
    """The verdict that a cell begins with, in an overview; empty for others."""
    return next((verdict for verdict, mark in MARKS.items() if f"{text} ".startswith(f"{mark} ")), "")


def change(row: dict[Any, Any]) -> str:
    """A relative change in percent; of a share, in percentage points."""
    return "–" if pd.isna(row["change"]) else f"{_signed(row['change'], 100)} {_unit(row)}"


def between(row: dict[Any, Any]) -> str:
    """The interval of a change; empty where there is none."""
    if pd.isna(row["low"]) or pd.isna(row["high"]):
        return ""
    return f"{_signed(row['low'], 10)} to {_signed(row['high'], 10)} {_unit(row)}"


def _unit(row: dict[Any, Any]) -> str:
    return "pp" if row["metric"] in SHARES else "%"


def _value(row: dict[Any, Any], side: str) -> str:
    """A metric's value with its unit; a share in percent."""
    if pd.isna(row[side]):
        return "–"
    return f"{row[side] * 100:.4g} %" if row["metric"] in SHARES else f"{row[side]:.4g} {row['unit']}".strip()


def _signed(share: float, whole_from: float) -> str:
    """A share in percent with its sign and one decimal, from `whole_from` percent on without."""
    percent = max(share, -1.0) * 100  # nothing measured here falls below zero
    if percent > _FAR:
        return f"over +{_FAR}"
    return f"{percent:+.{0 if abs(percent) >= whole_from else 1}f}".replace("-", "−")


def _each(rows: pd.DataFrame) -> list[dict[Any, Any]]:
    return rows.to_dict("records")
