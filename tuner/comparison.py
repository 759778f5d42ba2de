"""A stand-in until the statistics come: means, and a fixed share of doubt."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from tuner.experiment import COMPLETED
from tuner.rows import records
from tuner.slo import COMPLIANT

_METRICS = {
    "output_throughput": ("tokens/s", 1),
    **{
        f"{metric}_{statistic}": ("s", -1)
        for metric in ("ttft", "tpot", "e2e_latency")
        for statistic in ("p50", "p90", "p99")
    },
    "error_rate": ("", -1),
    "attainment": ("", 1),
}


@dataclass(frozen=True)
class Comparison:
    """What two sides differ in."""

    differences: pd.DataFrame
    unmatched: pd.DataFrame
    tolerance: float
    confidence: float

    @property
    def regressions(self) -> pd.DataFrame:
        """Rows with verdict worse."""
        return self.differences[self.differences["verdict"] == "worse"]

    @property
    def text(self) -> list[str]:
        """In words."""
        worse = len(self.regressions)
        return [f"{worse} differences are worse" if worse else "No difference shown"]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "tolerance": self.tolerance,
            "confidence": self.confidence,
            "text": self.text,
            "differences": records(self.differences),
            "unmatched": records(self.unmatched),
        }


def compare(
    baseline: pd.DataFrame, candidate: pd.DataFrame, tolerance: float = 0.0, confidence: float = 0.95
) -> Comparison:
    """Compare judged batches."""
    sides = {"baseline": baseline, "candidate": candidate}
    good = {name: side[side["outcome"] == COMPLETED] for name, side in sides.items()}
    keys = {name: set(zip(side["scenario"], side["concurrency"], strict=True)) for name, side in good.items()}
    rows, lost = [], []
    for key in sorted(keys["baseline"] | keys["candidate"]):
        chosen = {n: s[(s["scenario"] == key[0]) & (s["concurrency"] == key[1])] for n, s in good.items()}
        gone = [name for name, side in chosen.items() if side.empty]
        if gone:
            side = sides[gone[0]]
            there = side[(side["scenario"] == key[0]) & (side["concurrency"] == key[1])]
            outcome, reason = there.iloc[0][["outcome", "reason"]] if len(there) else ("missing", "not measured")
            lost.append([key[0], key[1], gone[0], outcome, reason])
            continue
        rows += [_row(key, metric, chosen, tolerance) for metric in _METRICS]
    counted = {name: side[side["verdict"].isin(COMPLIANT)]["output_throughput"].max() for name, side in good.items()}
    if all(pd.notna(value) for value in counted.values()) and rows:
        best = {name: pd.DataFrame({"max_throughput": [value], "completed": [1]}) for name, value in counted.items()}
        rows.append(_row((baseline["scenario"].iloc[0], pd.NA), "max_throughput", best, tolerance))
    return Comparison(
        pd.DataFrame(rows, columns=_COLUMNS).astype({"concurrency": "Int64"}),
        pd.DataFrame(lost, columns=["scenario", "concurrency", "side", "outcome", "reason"]).astype(
            {"concurrency": "Int64"}
        ),
        tolerance,
        confidence,
    )


_COLUMNS = [
    *("scenario", "concurrency", "metric", "unit", "baseline", "candidate", "change", "low", "high", "p_value"),
    *("p_adjusted", "verdict", "over", "baseline_runs", "candidate_runs", "baseline_requests", "candidate_requests"),
    "note",
]


def _row(key: tuple[Any, Any], metric: str, chosen: dict[str, pd.DataFrame], tolerance: float) -> list[Any]:
    unit, sign = _METRICS.get(metric, ("tokens/s", 1))
    before, after = (chosen[name][metric].mean() for name in ("baseline", "candidate"))
    change = after - before if unit == "" else after / before - 1
    doubt = 0.001 if unit == "" else 0.02 + abs(change) / 10
    verdict = "unknown" if pd.isna(change) else "same" if abs(change) < max(doubt, tolerance) else "better"
    verdict = "worse" if verdict == "better" and change * sign < 0 else verdict
    counts = [len(chosen["baseline"]), len(chosen["candidate"])]
    done = [int(chosen[name]["completed"].sum()) for name in ("baseline", "candidate")]
    return [
        *(*key, metric, unit, before, after, change, change - doubt, change + doubt),
        *(0.5, 0.5, verdict, "requests", *counts, *done, ""),
    ]
