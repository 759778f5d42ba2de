"""A comparison in words, the most important line first."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

#: How metrics are called in texts.
_NAMES = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "e2e", "max": "compliant maximum"}
#: So many rows of one kind are told; the others are counted.
LISTED = 8


def lost_row(row: dict[Any, Any]) -> dict[str, Any]:
    """A level that completed before and fails now, as a row of `differences`."""
    note = f"it completed before and ends in {row['outcome']} now" + (f": {row['reason']}" if row["reason"] else "")
    same = {"scenario": row["scenario"], "concurrency": row["concurrency"]}
    return same | {"metric": "outcome", "unit": "", "verdict": "worse", "over": "", "note": note}


def told(differences: pd.DataFrame, unmatched: pd.DataFrame, tolerance: float, confidence: float) -> list[str]:
    """Lost levels first, then the maximum, what is worse, what is better, and what is not known."""
    lost = unmatched[unmatched["lost"]].to_dict("records")
    lines = [f"WORSE: {_where(row)} {lost_row(row)['note']}" for row in lost]
    for verdict in ("worse", "better"):
        lines += _called(differences[differences["verdict"] == verdict], verdict)
    return [*lines, _rest(differences, bool(lines), tolerance, confidence), *_limits(differences, unmatched)]


def _called(rows: pd.DataFrame, verdict: str) -> list[str]:
    ordered = rows.assign(size=rows["change"].abs(), first=rows["metric"] == "max_throughput")
    ordered = ordered.sort_values(["first", "size"], ascending=False, kind="stable")
    lines = [f"{verdict.upper()}: {line(row)}" for row in ordered.head(LISTED).to_dict("records")]
    further = len(ordered) - LISTED
    return [*lines, f"… and {further} more that are {verdict}"] if further > 0 else lines


def line(row: dict[Any, Any]) -> str:
    """One difference: `TTFT p90 at concurrency 8: 0.42 s → 0.51 s, +21 % (+12 % to +31 %)`."""
    parts = [_value(row["baseline"], row["unit"]), _value(row["candidate"], row["unit"])]
    size, low, high = (_change(row[part], row["unit"]) for part in ("change", "low", "high"))
    note = f"; {row['note']}" if row["note"] else ""
    return f"{name(row['metric'])} {_where(row)}: {parts[0]} → {parts[1]}, {size} ({low} to {high}){note}"


def name(metric: str) -> str:
    """A metric's name in texts: `TTFT p90`, `output throughput`."""
    first, *rest = metric.split("_")
    return _NAMES["max"] if first == "max" else " ".join([_NAMES.get(first, first), *rest])


def _where(row: dict[Any, Any]) -> str:
    level = "" if pd.isna(row["concurrency"]) else f"at concurrency {row['concurrency']}"
    return " ".join(filter(None, [level, f"({row['scenario']})" if row["scenario"] else ""]))


def _value(value: float, unit: str) -> str:
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
        f"{', '.join(map(name, rows['metric'].unique()))}: known in one run of a side"
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
