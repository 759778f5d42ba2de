"""One metric of one side, and the difference of two."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from tuner.batches.batch import Reading
from tuner.batches.load import readings_of
from tuner.batches.result_file import Floats
from tuner.core.level import Level, level_of, levels_in
from tuner.core.metrics import SHARE, metric_of
from tuner.core.records import COMPLETED
from tuner.judging.intervals import CONFIDENCE, of_requests, student_above
from tuner.judging.levels import BRACKETED, bracket, levels_of, without_superseded
from tuner.judging.memory import reach_and_worth, student
from tuner.judging.slo import SLO
from tuner.judging.verdicts import COMPLIANT, NOT_RUN, latency_limits, met

#: What is said of a difference.
BETTER, WORSE, SAME, UNKNOWN = "better", "worse", "same", "unknown"
RUNS, REQUESTS = "runs", "requests"
#: Relative difference that rounding makes, such as by a file in milliseconds: it is no difference.
_EQUAL = 1e-9


@dataclass(frozen=True)
class Estimate:
    """One metric of one side at one level."""

    values: Floats  # one a run
    variance: float = math.nan  # of their mean on the scale that is compared, from the requests; NaN where nobody knows
    log: bool = True  # whether the scale is that of logarithms, on which a relative change is a difference
    requests: int = 0  # how many completed, in all runs
    is_lacking: bool = False  # whether a run has requests, but too few to tell its variance
    # which run each value is of, so that those of several metrics and levels are known to be one run's
    runs: tuple[str, ...] = ()

    @property
    def value(self) -> float:
        """The mean over the runs."""
        return float(np.mean(self.values)) if len(self.values) else math.nan

    @property
    def scaled(self) -> Floats:
        """The values on the scale that is compared; NaN where they have no place on it."""
        return np.log(np.where(self.values > 0, self.values, np.nan)) if self.log else self.values


@dataclass(frozen=True)
class Difference:
    """Candidate minus baseline on the scale that is compared."""

    shift: float
    error: float  # its standard error
    freedom: float
    over: str
    log: bool = True
    scale: float = 1.0  # what a shift of 1 is as a change, where the scale is not that of logarithms
    runs: tuple[tuple[str, str], ...] = ()  # side and run of each value, where it is over runs
    values: Floats = field(default_factory=lambda: np.empty(0), compare=False)  # of the runs, on that scale

    def p_value(self, tolerance: float) -> float:
        """How probable so large a shift is where the true change is within the tolerance: two-sided, Student's t."""
        low, high = self._placed(-tolerance), self._placed(tolerance)
        beyond = max(self.shift - high, low - self.shift, 0.0)
        if math.isnan(beyond + self.error):
            return math.nan
        if beyond <= _EQUAL:
            return 1.0
        return 2 * float(student_above(beyond / self.error, self.freedom)) if self.error > 0 else 0.0

    def interval(self, confidence: float) -> tuple[float, float]:
        """The change's interval, of Student's t."""
        reach = student(confidence, self.freedom) * self.error if self.error > 0 else 0.0 * self.error
        return self.change(self.shift - reach), self.change(self.shift + reach)

    def findable(self, tolerance: float, confidence: float) -> float:
        """The change that is found beyond the tolerance nine times in ten where runs vary so (noncentral t)."""
        from scipy import special

        away = float(special.nctdtrinc(self.freedom, 0.1, student(confidence, self.freedom)))
        return self.change(self._placed(tolerance) + away * self.error)

    def change(self, shift: float) -> float:
        """A shift as a change: relative, or for shares as it is."""
        return float(np.expm1(min(shift, 700.0))) if self.log else shift * self.scale

    def _placed(self, change: float) -> float:
        if not self.log:
            return change / self.scale
        return math.log1p(change) if change > -1 else -math.inf


def difference(baseline: Estimate, candidate: Estimate, scale: float = 1.0) -> Difference:
    """How far the candidate lies from the baseline.

    Where both have several runs it is Student's t over the runs' values, whose spread includes the drift between runs.
    Both sides are taken to vary alike: of three runs a side, a variance each finds half as much. Runs cannot vary less
    than the requests in them: where they seem to, that is chance, or their values are coarse. Otherwise it is over the
    requests, by their variances, which is no verdict.
    """
    sides = (baseline, candidate)
    known = all(len(side.values) for side in sides)
    shift = float(np.mean(candidate.scaled) - np.mean(baseline.scaled)) if known else math.nan
    least = baseline.variance + candidate.variance
    if any(len(side.values) < 2 for side in sides):
        return Difference(shift, math.sqrt(least), math.inf, REQUESTS, baseline.log, scale)
    counts = [len(side.values) for side in sides]
    within = sum(float(np.var(side.scaled)) * count for side, count in zip(sides, counts, strict=True))
    variance = within / (sum(counts) - 2) * sum(1 / count for count in counts)
    error = math.nan if math.isnan(variance) else math.sqrt(np.nanmax([variance, least]))
    runs = tuple((name, run) for name, side in zip(("baseline", "candidate"), sides, strict=True) for run in side.runs)
    values = np.concatenate([side.scaled for side in sides])
    return Difference(shift, error, sum(counts) - 2, RUNS, baseline.log, scale, runs, values)


#: So many random rotations tell a p-value of 5 % to ±0.4 points.
ROTATIONS = 10_000


def smallest_by_chance(differences: Iterable[Difference]) -> Floats:
    """The smallest p-value among differences over runs where nothing differs but the runs, often drawn, ascending.

    Without a difference, runs that vary alike lie in any direction with the same probability, whatever their metrics
    have in common; so the runs are rotated at random, those of all rows alike (Langsrud, Rotation tests, 2005). Rows
    that all show one run's speed count as hardly more than one row, independent ones as many.
    """
    by_runs: dict[tuple[tuple[str, str], ...], list[Difference]] = {}
    for one in differences:
        by_runs.setdefault(one.runs, []).append(one)
    dice, smallest = np.random.default_rng(0), np.ones(ROTATIONS)
    drawn = {run: dice.normal(size=ROTATIONS) for run in sorted({run for runs in by_runs for run in runs})}
    for runs, rows in by_runs.items():
        directions, nearest = _directions(np.stack([drawn[run] for run in runs], axis=1)), np.zeros(ROTATIONS)
        for one in rows:
            np.maximum(nearest, np.abs(directions @ _directions(one.values)), out=nearest)
        t = nearest * np.sqrt((len(runs) - 2) / np.maximum(1 - nearest**2, 1e-300))
        smallest = np.minimum(smallest, 2 * student_above(t, len(runs) - 2))
    return np.sort(smallest)


def _directions(values: Floats) -> Floats:
    """Where each row lies from its mean, one long; 0 where nothing varies."""
    centred = values - values.mean(axis=-1, keepdims=True)
    length = np.linalg.norm(centred, axis=-1, keepdims=True)
    return np.asarray(centred / np.where(length > 0, length, 1.0), np.float64)


def adjust_p_values(
    differences: Sequence[Difference | None], p_values: Floats, confidence: float
) -> tuple[Floats, float]:
    """P-values of changes within the tolerance, corrected for their number stepwise (Romano and Wolf, 2005); NaN stays.

    Returns:
        How often chance alone gives any row so small a p-value, of those rows that are not called different by a step
        before; and the confidence of each interval, so that it leaves out the tolerance exactly where that is small.
    """
    corrected, left = np.full(len(p_values), np.nan), np.flatnonzero(~np.isnan(p_values))
    while True:
        smallest = smallest_by_chance(one for place in left.tolist() if (one := differences[place]))
        by_chance = (np.searchsorted(smallest, p_values[left], "right") + 1) / (ROTATIONS + 1)
        corrected[left] = np.clip(by_chance, p_values[left], 1.0)
        same = left[corrected[left] >= 1 - confidence]
        if len(same) in {0, len(left)}:
            least = smallest[max(math.ceil((1 - confidence) * (ROTATIONS + 1)) - 2, 0)]
            return corrected, max(1 - float(least), confidence)  # rows in which nothing varies bound nothing
        left = same


LEVEL = ["scenario", "iteration_type", "level"]
#: What tells one run of a level from another.
RUN = ["experiment", "trial", "repeat"]
Key = tuple[Any, ...]


@dataclass(frozen=True)
class CompletedBatch:
    """One completed batch, and what is kept of its requests."""

    row: Mapping[Any, Any]
    reading: Reading | None

    @property
    def run(self) -> str:
        """Which run of its side it is of."""
        return " ".join(str(self.row.get(part)) for part in RUN)

    @property
    def readable(self) -> Reading | None:
        """Its single requests; None where they are gone, or the file never held any."""
        return self.reading if self.reading and self.reading.recomputed else None

    @property
    def throughput(self) -> float:
        """Output tokens/s; 0 where it does not comply with the SLO."""
        known = self.row["verdict"] in COMPLIANT and not pd.isna(self.row["output_throughput"])
        return float(self.row["output_throughput"]) if known else 0.0

    def bounds(self, column: str) -> tuple[float, float]:
        """The interval of a number over the requests: the one that the batch has where they are gone."""
        if self.readable is not None:
            return of_requests(self.readable, column)
        known = self.row.get("interval_over") == REQUESTS and f"{column}_low" in self.row
        return (self.row[f"{column}_low"], self.row[f"{column}_high"]) if known else (math.nan, math.nan)

    def variance(self, column: str) -> float:
        """The variance of the number's logarithm over the requests, from the wider half of its interval."""
        value, (low, high) = float(self.row[column]), self.bounds(column)
        if not (value > 0 and low > 0):
            return math.nan
        return float((max(math.log(high / value), math.log(value / low)) / student(CONFIDENCE, math.inf)) ** 2)

    def share_variance(self, metric: str, limits: Mapping[str, float]) -> float:
        """Of a share of requests, with one success and one failure added (Agresti and Caffo, 2000)."""
        requests = float(self.row["requests"])
        share = (float(self.row[metric]) * requests + 1) / (requests + 2)
        variance = share * (1 - share) / (requests + 2)
        if metric != "attainment" or self.readable is None:
            return variance
        met_by = met(self.readable, limits).astype(np.float64)
        return variance * len(met_by) / reach_and_worth(met_by, CONFIDENCE)[1] if len(met_by) > 1 else variance


class Levels:
    """The judged batches of one side by level, without those that were run again later."""

    def __init__(self, judged: pd.DataFrame) -> None:
        rows = without_superseded(judged)
        self.batches = rows.assign(level=levels_in(rows))
        self.limits = latency_limits(SLO.parse(judged.attrs.get("slo") or {}))
        self.levels = levels_of(self.batches, LEVEL[:-1])  # of all runs of this side
        done = self.batches[(self.batches["outcome"] == COMPLETED) & self.batches["level"].notna()]
        verdicts = dict(zip(self.levels[LEVEL].itertuples(index=False, name=None), self.levels["verdict"], strict=True))
        together = [verdicts[key] for key in done[LEVEL].itertuples(index=False, name=None)]
        self.done = done.assign(verdict=done["verdict"].where(done["verdict"] == "unknown", together))

    @cached_property
    def runs(self) -> dict[Key, list[CompletedBatch]]:
        """The completed batches of each level."""
        levels: dict[Key, list[CompletedBatch]] = {}
        for row, reading in zip(self.done.to_dict("records"), readings_of(self.done), strict=True):
            levels.setdefault(tuple(row[name] for name in LEVEL), []).append(CompletedBatch(row, reading))
        return levels

    def estimate(self, key: Key, metric: str) -> Estimate:
        """One metric at one level."""
        runs = [run for run in self.runs[key] if not pd.isna(run.row[metric])]
        share = metric_of(metric).unit == SHARE
        parts = [run.share_variance(metric, self.limits) if share else run.variance(metric) for run in runs]
        requests = sum(int(run.row["completed"]) for run in runs)
        values = np.array([run.row[metric] for run in runs], np.float64)
        is_lacking = any(math.isnan(part) and run.readable for run, part in zip(runs, parts, strict=True))
        names = tuple(run.run for run in runs)
        return Estimate(values, sum(parts) / max(len(runs), 1) ** 2, not share, requests, is_lacking, names)

    @cached_property
    def tried(self) -> set[Key]:
        """The levels that were run, however they ended."""
        run = self.batches[~self.batches["outcome"].isin(NOT_RUN) & self.batches["level"].notna()]
        return {tuple(row[name] for name in LEVEL) for row in run.to_dict("records")}

    def is_bounded(self, scenario: str) -> bool:
        """Whether a level that fails bounds the compliant ones from above, so that the maximum is no lower bound."""
        curves = self.levels[self.levels["scenario"] == scenario].groupby("iteration_type")
        return all(bracket(curve) == BRACKETED for _, curve in curves)

    def maximum(self, levels: Collection[Key]) -> tuple[Estimate, Level | None]:
        """The compliant maximum over these levels, 0 in a run where none complies, and the level it was reached at."""
        best: dict[str, CompletedBatch] = {}
        for run in (run for key, runs in self.runs.items() if key in levels for run in runs):
            best[run.run] = max(best.get(run.run, run), run, key=lambda one: one.throughput)
        values = np.array([run.throughput for run in best.values()], np.float64)
        variance = sum(run.variance("output_throughput") * run.throughput**2 for run in best.values() if run.throughput)
        first = max(best.values(), key=lambda run: run.throughput, default=None)
        if not first or not first.throughput:
            return Estimate(values, 0.0, log=False, runs=tuple(best)), None
        estimate = Estimate(values, variance / len(values) ** 2, False, int(first.row["completed"]), runs=tuple(best))
        return estimate, level_of(first.row)
