"""Two sets of judged batches → whether they differ, by how much, and how sure that is.

Significance comes before size: what chance explains is no difference, whatever its size. `same` means that no
difference was shown, not that there is none; how large a one could have hidden is what the interval says.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tuner.batches.batch import records
from tuner.core import level
from tuner.core.level import Level, level_from, level_title
from tuner.core.metrics import PERCENTILES, SHARE, metric_of, requests_needed, split
from tuner.core.records import COMPLETED
from tuner.judging import comparison_text, estimates
from tuner.judging.estimates import RUNS, Difference, Estimate, Levels, adjust_p_values, difference
from tuner.judging.verdicts import NOT_RUN, judge

_LATENCIES = ("ttft_mean", "ttft_p50", "ttft_p90", "ttft_p99", "tpot_mean", "tpot_p50", "tpot_p99")
_WHOLE = ("e2e_latency_mean", "e2e_latency_p50", "e2e_latency_p90", "e2e_latency_p99")
#: The columns that are compared at each level.
METRICS = ("output_throughput", "request_throughput", *_LATENCIES, *_WHOLE, "error_rate", "attainment")
MAXIMUM = "max_throughput"
#: What is said of a difference whose sides have not both been run again.
NOT_JUDGED = "one run a side: not judged"
#: The columns of `differences`, and their types.
KINDS = {
    **{"scenario": "str", "concurrency": "Int64", "request_rate": "float64", "metric": "str", "unit": "str"},
    **dict.fromkeys(("baseline", "candidate", "change", "low", "high", "p_value", "p_adjusted"), "float64"),
    **dict.fromkeys(("verdict", "over"), "str"),
    **dict.fromkeys(("baseline_runs", "candidate_runs", "baseline_requests", "candidate_requests"), "Int64"),
    "note": "str",
}


@dataclass(frozen=True)
class Comparison:
    """What differs between two sides.

    Args:
        differences: one row a scenario, level and metric, the compliant maximum (`max_throughput`, no level) too:
            scenario, concurrency or request_rate, metric, unit, baseline, candidate (their means over the runs), change
            (relative, for shares the difference; of the candidate where the baseline is 0), low and high (its
            interval), p_value (of a change within the tolerance), p_adjusted (how probably chance gives any row so
            small a one), verdict (`better`, `worse`, `same`: none shown, `unknown`: also of one run a side), over
            (`runs`, `requests`), baseline_runs, candidate_runs, baseline_requests, candidate_requests, note.
        unmatched: what has no counterpart: scenario, its level, side (where it is missing or failed), outcome,
            reason, lost (it completed in the baseline and fails in the candidate).
        tolerance: relative change that does not matter.
        confidence: that not one of all rows is called different by chance.
        noise: by how much output throughput varies from run to run (relative standard deviation), at its median level;
            None where no level was run again on both sides, as `findable`.
        findable: the relative change of it that is found nine times in ten where runs vary so.
    """

    differences: pd.DataFrame
    unmatched: pd.DataFrame
    tolerance: float
    confidence: float
    noise: float | None = None
    findable: float | None = None

    @property
    def lost(self) -> pd.DataFrame:
        """The rows of `unmatched` that completed in the baseline and fail in the candidate."""
        return self.unmatched[self.unmatched["lost"]].drop(columns="lost")

    @property
    def regressions(self) -> pd.DataFrame:
        """What got worse beyond the tolerance: lost levels first (metric `outcome`), then the rows called worse."""
        lost = [comparison_text.lost_row(row) for row in self.lost.to_dict("records")]
        worse = self.differences[self.differences["verdict"] == estimates.WORSE]
        return pd.DataFrame([*lost, *worse.to_dict("records")], columns=list(KINDS)).astype(KINDS)

    @property
    def is_judged(self) -> bool:
        """Whether any difference is one between runs: both sides have several."""
        return bool(self.differences["over"].eq(RUNS).any())

    @property
    def text(self) -> list[str]:
        """The answer in words, most important line first."""
        return comparison_text.conclusions(self)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: plain values, None for what is unknown."""
        said = {name: getattr(self, name) for name in ("tolerance", "confidence", "noise", "findable", "text")}
        tables = {"differences": records(self.differences), "unmatched": records(self.unmatched)}
        return said | {"regressions": len(self.regressions)} | tables


def compare(
    baseline: pd.DataFrame, candidate: pd.DataFrame, tolerance: float = 0.0, confidence: float = 0.95
) -> Comparison:
    """Say what differs between two sets of batches, and whether it is more than chance.

    Levels are matched by scenario and by concurrency or request rate; all experiments, trials and repeats of a side are
    its runs. With several runs on both sides runs are compared (Student's t), which includes what a machine does from
    run to run; all rows of a run may share that. One run a side is not judged: its interval over the requests
    (`intervals`) does not include it. Relative changes are compared as logarithms, shares and the maximum as they are.

    Args:
        baseline: judged batches; those that nobody judged are judged without limits.
        candidate: likewise.
        tolerance: a change of this size or less does not matter: relative, for shares the difference.
        confidence: between 0 and 1.

    Example:
        >>> before, after = tuner.load_batches("runs/monday"), tuner.load_batches("runs/tuesday")
        >>> tuner.compare(before, after, tolerance=0.05).regressions.empty
        True
    """
    sides = [Levels(each if "verdict" in each else judge(each, {})) for each in (baseline, candidate)]
    compared = [*_maxima(*sides), *_levels(*sides)]
    differences = [one for _, one in compared]
    p_values = np.array([one.p_value(tolerance) if one and one.over == RUNS else math.nan for one in differences])
    corrected, sure = adjust_p_values(differences, p_values, confidence)
    rows = pd.DataFrame([row for row, _ in compared], columns=list(KINDS))
    rows = _with_bounds(rows.assign(p_value=p_values, p_adjusted=corrected), differences, sure, confidence)
    is_better = (rows["candidate"] > rows["baseline"]) == [metric_of(one).more_is_better for one in rows["metric"]]
    known, same = rows["p_adjusted"].notna(), rows["p_adjusted"] >= 1 - confidence
    verdicts = np.select(
        [~known, same, is_better], [estimates.UNKNOWN, estimates.SAME, estimates.BETTER], estimates.WORSE
    )
    rows = rows.assign(verdict=pd.Series(verdicts, rows.index, "str"))
    return Comparison(rows, _unmatched(*sides), tolerance, confidence, *_sensitivity(compared, tolerance, sure))


RowAndDifference = tuple[dict[str, Any], Difference | None]


def _levels(baseline: Levels, candidate: Levels) -> Iterator[RowAndDifference]:
    for key in sorted(baseline.runs.keys() & candidate.runs.keys()):
        for metric in METRICS:
            sides = baseline.estimate(key, metric), candidate.estimate(key, metric)
            yield _row((key[0], level_from(key[2], key[1]), metric), sides)


def _maxima(baseline: Levels, candidate: Levels) -> Iterator[RowAndDifference]:
    for scenario in sorted({key[0] for key in baseline.runs.keys() & candidate.runs.keys()}):
        # everywhere if both sides know their limit, else where both were measured
        tried = [{key for key in side.tried if key[0] == scenario} for side in (baseline, candidate)]
        bounded = all(side.is_bounded(scenario) for side in (baseline, candidate))
        levels = tried[0] | tried[1] if bounded else tried[0] & tried[1]
        maxima = baseline.maximum(levels), candidate.maximum(levels)
        where = [f"at {level_title(best)}" if best else "nothing complies" for _, best in maxima]
        note = ", then ".join(dict.fromkeys(where))
        row, difference = _row((scenario, None, MAXIMUM), (maxima[0][0], maxima[1][0]))
        yield row | {"note": "; ".join(filter(None, [note, row["note"]]))}, difference


def _row(place: tuple[str, Level | None, str], sides: tuple[Estimate, Estimate]) -> RowAndDifference:
    """A row of `differences`, still without its verdict."""
    before, after = sides
    unit = metric_of(place[-1]).unit
    measured = difference(before, after, 1.0 if unit == SHARE else 1 / (before.value or after.value or 1.0))
    note = _why_unknown(place[-1], sides) or (NOT_JUDGED if measured.over != RUNS else "")
    row = {
        **{"scenario": place[0], **level.columns_of(place[1]), "metric": place[-1], "unit": unit},
        **{"change": measured.change(measured.shift), "over": measured.over, "note": note},
    }
    for side, one in (("baseline", before), ("candidate", after)):
        row |= {side: one.value, f"{side}_runs": len(one.values), f"{side}_requests": one.requests}
    return row, None if note not in ("", NOT_JUDGED) else measured


def _why_unknown(metric: str, sides: tuple[Estimate, Estimate]) -> str:
    """Why a metric cannot be compared: a percentile, because each run must have enough requests for it."""
    if not all(len(side.values) for side in sides):
        return "not known on both sides"
    share = PERCENTILES.get(split(metric)[1], 0.0) / 100
    needed = requests_needed(share) if share else 0
    fewest = min(side.requests // len(side.values) for side in sides)
    if fewest < needed:
        return f"{split(metric)[1]} needs {needed} completed requests a run; the smallest has {fewest}"
    if needed and any(side.is_lacking for side in sides):
        return "requests in flight together tell little more than one, so that they are too few"
    is_relative = metric_of(metric).unit != SHARE and metric != MAXIMUM
    return "0 has no relative change" if is_relative and not all(side.values.all() for side in sides) else ""


def _with_bounds(
    rows: pd.DataFrame, differences: list[Difference | None], of_runs: float, of_requests: float
) -> pd.DataFrame:
    sure = {RUNS: of_runs, estimates.REQUESTS: of_requests}
    bounds = np.array([one.interval(sure[one.over]) if one else (math.nan, math.nan) for one in differences])
    low, high = bounds.reshape(-1, 2).T
    rows = rows.astype(KINDS)
    shares, before = rows["unit"].eq(SHARE), rows["baseline"].to_numpy()  # no share lies below 0 or above 1
    low = np.where(shares, np.fmax(low, -before), low)
    return rows.assign(low=low, high=np.where(shares, np.fmin(high, 1 - before), high))


def _sensitivity(
    compared: list[RowAndDifference], tolerance: float, confidence: float
) -> tuple[float, float] | tuple[None, None]:
    """(how runs vary, the change found nine times in ten) of output throughput; None where none was run again."""
    known = [(one, row) for row, one in compared if one and one.over == RUNS and row["metric"] == "output_throughput"]
    if not known:
        return None, None
    one, row = sorted(known, key=lambda pair: pair[0].error)[len(known) // 2]
    noise = one.error / math.sqrt(1 / row["baseline_runs"] + 1 / row["candidate_runs"])
    return noise, one.findable(tolerance, confidence)


#: What is said of a level without a result, beside the side.
_GAP = ("scenario", *level.COLUMNS, "outcome", "reason")


def _unmatched(baseline: Levels, candidate: Levels) -> pd.DataFrame:
    rows = [*_gaps("baseline", baseline, candidate), *_gaps("candidate", candidate, baseline)]
    kinds = {"concurrency": "Int64", "request_rate": "float64", "lost": "bool"}
    return pd.DataFrame(rows, columns=[*_GAP, "side", "lost"]).astype(kinds)


def _gaps(name: str, side: Levels, other: Levels) -> Iterator[dict[str, Any]]:
    failed = set()
    for row in side.batches[side.batches["outcome"] != COMPLETED].to_dict("records"):
        key = tuple(row[part] for part in estimates.LEVEL)
        failed.add(key)
        lost = name == "candidate" and key in other.runs and key not in side.runs and row["outcome"] not in NOT_RUN
        yield {part: row[part] for part in _GAP} | {"side": name, "lost": lost}
    for key in sorted(other.runs.keys() - side.runs.keys() - failed):
        where = {"scenario": key[0], **dict.fromkeys(level.COLUMNS), **level.columns_of(level_from(key[2], key[1]))}
        yield where | {"outcome": "missing", "reason": "it was not measured", "side": name, "lost": False}
