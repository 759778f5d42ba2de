"""Judged batches of one side → one estimate a level and metric, and the compliant maximum."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from tuner.batches.cache import Reading, readings_of
from tuner.batches.measure import Floats
from tuner.core.run_directory import COMPLETED
from tuner.judging.attainment import met
from tuner.judging.effects import Estimate, satterthwaite, student
from tuner.judging.evidence import latency_limits
from tuner.judging.intervals import CONFIDENCE, correlated, of_requests
from tuner.judging.resampling import block_count, replicates
from tuner.judging.slo import SLO, Constraint
from tuner.judging.summary import BRACKETED, bracket
from tuner.judging.verdicts import COMPLIANT, FAIL, HARD_FAIL, ROUNDING

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
