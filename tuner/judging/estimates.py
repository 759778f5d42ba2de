"""One metric of one side, and the difference of two."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from tuner.batches.batch import Reading
from tuner.batches.load import readings_of
from tuner.batches.result_file import Floats
from tuner.core.run_directory import COMPLETED
from tuner.judging.intervals import CONFIDENCE, block_count, correlated, of_requests, replicates
from tuner.judging.slo import SLO, Constraint
from tuner.judging.summary import BRACKETED, bracket
from tuner.judging.verdicts import COMPLIANT, FAIL, HARD_FAIL, ROUNDING, latency_limits, met

#: What is said of a difference.
BETTER, WORSE, SAME, UNKNOWN = "better", "worse", "same", "unknown"
#: Relative difference that rounding makes, such as by a file in milliseconds: it is no difference.
_EQUAL = 1e-9


@dataclass(frozen=True)
class Estimate:
    """One metric of one side at one level.

    Args:
        values: one a run.
        variance: of their mean on the scale that is compared, from the requests; NaN where nobody knows.
        freedom: the degrees of freedom of `variance`.
        log: whether the scale is that of logarithms, on which a relative change is a difference.
        requests: how many completed, in all runs.
        lacking: whether a run has requests, but too few to tell its variance.
    """

    values: Floats
    variance: float = math.nan
    freedom: float = math.inf
    log: bool = True
    requests: int = 0
    lacking: bool = False

    @property
    def value(self) -> float:
        """The mean over the runs."""
        return float(np.mean(self.values)) if len(self.values) else math.nan

    @property
    def scaled(self) -> Floats:
        """The values on the scale that is compared; NaN where they have no place on it."""
        return np.log(np.where(self.values > 0, self.values, np.nan)) if self.log else self.values

    @property
    def over_runs(self) -> tuple[float, float]:
        """(variance of the mean, degrees of freedom) from how the runs vary, which includes drift between them.

        Runs cannot vary less than the requests in them: where they seem to, that is chance, or their values are coarse.
        """
        variance = float(np.var(self.scaled, ddof=1)) / len(self.values)
        return float(np.nanmax([variance, self.variance])) if not math.isnan(variance) else math.nan, len(
            self.values
        ) - 1


@dataclass(frozen=True)
class Difference:
    """Candidate minus baseline on the scale that is compared."""

    shift: float
    error: float  # its standard error
    freedom: float
    over: str
    log: bool = True
    scale: float = 1.0  # what a shift of 1 is as a change, where the scale is not that of logarithms

    def p_value(self, tolerance: float) -> float:
        """How probable so large a shift is where the true change is within the tolerance: two-sided, Student's t."""
        low, high = self._placed(-tolerance), self._placed(tolerance)
        beyond = max(self.shift - high, low - self.shift, 0.0)
        if math.isnan(beyond + self.error):
            return math.nan
        if beyond <= _EQUAL:
            return 1.0
        return 2 * _student_above(beyond / self.error, self.freedom) if self.error > 0 else 0.0

    def interval(self, confidence: float) -> tuple[float, float]:
        """The change's interval, of Student's t."""
        reach = student(confidence, self.freedom) * self.error if self.error > 0 else 0.0 * self.error
        return self.change(self.shift - reach), self.change(self.shift + reach)

    def change(self, shift: float) -> float:
        """A shift as a change: relative, or for shares as it is."""
        return float(np.expm1(min(shift, 700.0))) if self.log else shift * self.scale

    def _placed(self, change: float) -> float:
        if not self.log:
            return change / self.scale
        return math.log1p(change) if change > -1 else -math.inf


def difference(baseline: Estimate, candidate: Estimate, scale: float = 1.0) -> Difference:
    """How far the candidate lies from the baseline.

    Where both have several runs it is Welch's t over the runs' values, whose spread includes the drift between runs;
    otherwise over the requests, by their variances. Degrees of freedom by Satterthwaite.
    """
    sides = (baseline, candidate)
    runs = all(len(side.values) > 1 for side in sides)
    parts = [side.over_runs if runs else (side.variance, side.freedom) for side in sides]
    variance = sum(part for part, _ in parts)
    shift = (
        float(np.mean(candidate.scaled) - np.mean(baseline.scaled)) if all(len(s.values) for s in sides) else math.nan
    )
    over = "runs" if runs else "requests"
    return Difference(shift, math.sqrt(variance), satterthwaite(parts), over, baseline.log, scale)


def satterthwaite(parts: Sequence[tuple[float, float]]) -> float:
    """The degrees of freedom of a sum of variances, each with its own (Satterthwaite, 1946)."""
    whole = sum(variance for variance, _ in parts)
    below = sum(variance**2 / freedom for variance, freedom in parts if freedom > 0 and variance > 0)
    return whole**2 / below if below > 0 else math.inf


def student(confidence: float, freedom: float) -> float:
    """The two-sided quantile of Student's t."""
    from scipy import special

    return float(special.stdtrit(min(max(freedom, 1e-3), 1e9), (1 + confidence) / 2))


def _student_above(value: float, freedom: float) -> float:
    from scipy import special

    return float(special.stdtr(min(max(freedom, 1e-3), 1e9), -value))


@dataclass(frozen=True)
class Family:
    """Many comparisons, of which at most one in 1/(1 − confidence) families calls any true null different.

    Args:
        p_values: one a comparison; NaN where there is none.
        confidence: between 0 and 1.
    """

    p_values: Floats
    confidence: float
    adjusted: Floats = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "adjusted", holm(self.p_values))

    @property
    def level(self) -> float:
        """The confidence of each interval, so that it leaves out the tolerance exactly where p is small enough.

        That of the step at which Holm's procedure stops: 1 − α / (comparisons − those called different).
        """
        known = ~np.isnan(self.p_values)
        left = int(known.sum() - (self.adjusted[known] < 1 - self.confidence).sum())
        return 1 - (1 - self.confidence) / max(left, 1)


def holm(p_values: Floats) -> Floats:
    """P-values corrected for their number, by Holm's step-down procedure (1979); NaN stays NaN and counts nothing."""
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    steps = p_values[order] * np.arange(len(order), 0, -1)
    adjusted = np.full(len(p_values), np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    return adjusted


LEVEL = ["scenario", "iteration_type", "concurrency"]
#: What tells one run of a level from another.
RUN = ["experiment", "trial", "repeat"]
#: These outcomes say nothing of the server.
NOT_RUN = ("missing", "skipped")
#: Besides the usual one: about where a comparison of some dozen rows decides.
STRICT = 0.999
SHARES = ("error_rate", "attainment")
Key = tuple[Any, ...]


@dataclass(frozen=True)
class Run:
    """One completed batch, and what is kept of its requests."""

    row: Mapping[Any, Any]
    reading: Reading | None

    @property
    def concurrency(self) -> int:
        """How many requests were in flight."""
        return int(self.row["concurrency"]) if self.row["iteration_type"] != "batch_size" else 1

    @property
    def readable(self) -> Reading | None:
        """Its single requests; None where they are gone, or the file never held any."""
        return self.reading if self.reading and self.reading.recomputed else None

    def replicates(self, latencies: Collection[str]) -> dict[str, Floats]:
        """Of these latencies and of throughput; empty where the requests are gone. Each batch has a seed of its own."""
        if self.readable is None or not len(self.readable.output_tokens):
            return {}
        seed = hash((float(self.row["output_throughput"]), float(self.row["e2e_latency_mean"]))) % 2**32
        return replicates(self.readable, self.concurrency, latencies, seed=seed)

    @property
    def freedom(self) -> int:
        """The degrees of freedom of a variance over the requests: one less than the blocks they make."""
        return block_count(int(self.row["completed"]), self.concurrency) - 1

    def bounds(self, column: str, confidence: float) -> tuple[float, float]:
        """The interval of a number over the requests: the one that the batch has where they are gone."""
        if self.readable is not None:
            return of_requests(self.readable, self.concurrency, column, confidence)
        known = self.row.get("interval_over") == "requests" and confidence == CONFIDENCE
        return (self.row[f"{column}_low"], self.row[f"{column}_high"]) if known else (math.nan, math.nan)

    def variance(self, metric: str) -> tuple[float, int]:
        """(variance of the logarithm of the metric, its degrees of freedom) over the requests.

        From the wider half of the interval. Few values far from the others widen only a stricter one: where there is
        such a one, the larger of both counts, since among many comparisons it is the strict ones that decide.
        """
        column = "e2e_latency_mean" if metric == "request_throughput" else metric
        value, freedom = float(self.row[column]), self.freedom
        if not value > 0 or freedom < 1:
            return math.nan, freedom
        errors = [self._error(column, value, freedom, confidence) for confidence in (CONFIDENCE, STRICT)]
        return float(np.nanmax(errors)) ** 2 if not math.isnan(errors[0]) else math.nan, freedom

    def _error(self, column: str, value: float, freedom: int, confidence: float) -> float:
        low, high = self.bounds(column, confidence)
        if not low > 0:
            return math.nan
        return max(math.log(high / value), math.log(value / low)) / student(confidence, freedom)

    def share_variance(self, metric: str, limits: Mapping[str, float]) -> float:
        """Of a share of requests, with one success and one failure added (Agresti and Caffo, 2000)."""
        requests = float(self.row["requests"])
        share = (float(self.row[metric]) * requests + 1) / (requests + 2)
        return share * (1 - share) / (requests + 2) * (self._clusters(limits) if metric == "attainment" else 1.0)

    def _clusters(self, limits: Mapping[str, float]) -> float:
        """How many completed requests meet the limits, or do not, as one."""
        if self.readable is None:
            return 1.0
        kept = met(self.readable, limits).astype(np.float64)
        return correlated(kept, self.concurrency)


class Side:
    """The batches of one side.

    Args:
        judged: as from `judge`; batches that were run again later are left out.
    """

    def __init__(self, judged: pd.DataFrame) -> None:
        again = judged["superseded"].eq(True) if "superseded" in judged else False
        self.batches = judged[~pd.Series(again, judged.index)]
        self.slo = SLO.parse(judged.attrs["slo"]) if judged.attrs.get("slo") else None
        self.done = self.batches[(self.batches["outcome"] == COMPLETED) & self.batches["concurrency"].notna()]

    @cached_property
    def runs(self) -> dict[Key, list[Run]]:
        """The completed batches of each level."""
        found: dict[Key, list[Run]] = {}
        for row, reading in zip(self.done.to_dict("records"), readings_of(self.done), strict=True):
            found.setdefault(tuple(row[name] for name in LEVEL), []).append(Run(row, reading))
        return found

    def estimate(self, key: Key, metric: str) -> Estimate:
        """One metric at one level."""
        runs = [run for run in self.runs[key] if not pd.isna(run.row[metric])]
        requests = sum(int(run.row["completed"]) for run in runs)
        values = np.array([run.row[metric] for run in runs], np.float64)
        if metric in SHARES:
            limits = latency_limits(self.slo) if self.slo else {}
            variance = sum(run.share_variance(metric, limits) for run in runs) / max(len(runs), 1) ** 2
            return Estimate(values, variance, math.inf, False, requests)
        parts = [run.variance(metric) for run in runs]
        variance = sum(part for part, _ in parts) / max(len(runs), 1) ** 2
        lacking = any(math.isnan(part) and run.readable for run, (part, _) in zip(runs, parts, strict=True))
        return Estimate(values, variance, satterthwaite(parts), True, requests, lacking)

    @cached_property
    def tried(self) -> set[Key]:
        """The levels that were run, however they ended."""
        run = self.batches[~self.batches["outcome"].isin(NOT_RUN) & self.batches["concurrency"].notna()]
        return {tuple(row[name] for name in LEVEL) for row in run.to_dict("records")}

    def is_bounded(self, scenario: str) -> bool:
        """Whether a level that fails bounds the compliant ones from above, so that the maximum is no lower bound."""
        return bracket(self.batches[self.batches["scenario"] == scenario]) == BRACKETED

    def maximum(self, levels: Collection[Key]) -> "Maximum":
        """The compliant maximum over these levels."""
        return Maximum([run for key, runs in self.runs.items() if key in levels for run in runs], self.slo)


@dataclass(frozen=True)
class Maximum:
    """The most output tokens/s among compliant batches of one scenario.

    Args:
        batches: the completed ones of all levels and runs.
        slo: what they were judged by; None where nobody knows, and then verdicts are taken as certain.
    """

    batches: list[Run]
    slo: SLO | None

    @property
    def runs(self) -> list[list[Run]]:
        """The batches of each run."""
        found: dict[Key, list[Run]] = {}
        for run in self.batches:
            found.setdefault(tuple(run.row.get(name) for name in RUN), []).append(run)
        return list(found.values())

    @property
    def best(self) -> Run | None:
        """The batch it was reached in."""
        return max(filter(_complies, self.batches), key=lambda run: float(run.row["output_throughput"]), default=None)

    @property
    def level(self) -> int | None:
        """The level it was reached at."""
        return int(self.best.row["concurrency"]) if self.best else None

    def estimate(self) -> Estimate:
        """Over the runs; 0 where a run has no compliant batch. Which level is best varies with its requests too."""
        values = [
            max((float(run.row["output_throughput"]) for run in runs if _complies(run)), default=0.0)
            for runs in self.runs
        ]
        variance = sum(self._variance(runs) for runs in self.runs) / max(len(values), 1) ** 2
        freedom = min((run.freedom for run in self.batches), default=1)
        requests = int(self.best.row["completed"]) if self.best else 0
        return Estimate(np.array(values), variance, max(freedom, 1), False, requests)

    def _variance(self, runs: list[Run]) -> float:
        known = [run for run in runs if not pd.isna(run.row["output_throughput"])]
        freedom = min((run.freedom for run in known), default=0)
        drawn = [self._compliant(run) for run in known]
        if freedom < 1 or not all(map(len, drawn)):
            return math.nan
        return float(np.var(np.max(drawn, axis=0), ddof=1)) * (freedom + 1) / freedom

    def _compliant(self, run: Run) -> Floats:
        """The throughput of each draw, 0 where the batch does not comply in it; empty where the requests are gone."""
        limits = [limit for limit in self.slo.all_constraints if limit.hard_fail] if self.slo else []
        drawn = run.replicates({limit.metric for limit in limits if limit.is_latency})
        drawable = [limit for limit in limits if limit.column in drawn]
        met = np.array(True)
        for limit in drawable:
            met = met & (limit.sign * (drawn[limit.column] / limit.threshold - 1) <= limit.fail_ratio + ROUNDING)
        throughput = np.nan_to_num(drawn.get("output_throughput", np.empty(0)))
        return np.where(met & _certain(run, drawable), throughput, 0.0)


def _certain(run: Run, drawable: list[Constraint]) -> bool:
    """Whether everything that does not vary over the draws lets the batch comply."""
    hard = {entry["metric"] for entry in run.row["violations"] if entry["type"] == HARD_FAIL}
    others = hard - {limit.column for limit in drawable}
    return _complies(run) or (run.row["verdict"] == FAIL and not others)


def _complies(run: Run) -> bool:
    return run.row["verdict"] in COMPLIANT and not pd.isna(run.row["output_throughput"])
