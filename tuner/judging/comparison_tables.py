"""A comparison as tables of text: what differs for sure comes before how much."""

from typing import Any

import pandas as pd

from tuner.judging import comparison_words as words
from tuner.judging.comparison import BETTER, SAME, UNKNOWN, WORSE, Comparison
from tuner.judging.estimates import SHARES

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


def told(differences: pd.DataFrame) -> pd.DataFrame:
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


def overview(comparison: Comparison) -> pd.DataFrame:
    """One row a level, one column for each of the most telling metrics.

    Returns:
        Texts: `scenario` (where there are several), `level`, and by metric the verdict before the size.
    """
    rows = told(comparison.differences)
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in _each(rows):
        column = "output_throughput" if row["metric"] == "max_throughput" else row["metric"]
        cells.setdefault((row["scenario"], level(row)), {})[column] = cell(row)
    columns = [name for name in metrics(rows) if any(name in found for found in cells.values())]
    table = [[*key, *(found.get(name, "") for name in columns)] for key, found in cells.items()]
    frame = pd.DataFrame(table, columns=["scenario", "level", *map(words.name, columns)])
    return frame if frame["scenario"].nunique() > 1 else frame.drop(columns="scenario")


def details(comparison: Comparison) -> pd.DataFrame:
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
    where = [row["scenario"], level(row), words.name(row["metric"])]
    return [row["verdict"], *where, change(row), between(row), *sides, _evidence(row)]


def _evidence(row: dict[Any, Any]) -> str:
    """What the interval rests on, and what else is to be said."""
    over = row["over"] if isinstance(row["over"], str) else ""
    counts = [row[f"{side}_{over}"] for side in ("baseline", "candidate")] if over else []
    told = f"{counts[0]} and {counts[1]} {over}" if counts and not any(map(pd.isna, counts)) else over
    return "; ".join(filter(None, [told, row["note"] if isinstance(row["note"], str) else ""]))


def unmatched(comparison: Comparison) -> pd.DataFrame:
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
