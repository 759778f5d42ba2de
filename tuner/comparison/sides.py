"""Judged batches of one side → one estimate a level and metric, and the compliant maximum."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from tuner.cache import Reading, readings_of
from tuner.comparison.effects import Estimate, satterthwaite
from tuner.constraints import SLO, Constraint
from tuner.experiment import COMPLETED
from tuner.measure import Floats
from tuner.resampling import block_count, replicates
from tuner.slo import COMPLIANT, FAIL, HARD_FAIL, ROUNDING
from tuner.summary import BRACKETED, bracket

LEVEL = ["scenario", "iteration_type", "concurrency"]
#: What tells one run of a level from another.
RUN = ["experiment", "trial", "repeat"]
#: These outcomes say nothing of the server.
NOT_RUN = ("missing", "skipped")
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

    @cached_property
    def replicates(self) -> dict[str, Floats]:
        """Of every column; empty where the requests are gone. The seed is the batch's own, so that no two share one."""
        if self.reading is None or not self.reading.recomputed or not len(self.reading.output_tokens):
            return {}
        seed = hash((float(self.row["output_throughput"]), float(self.row["e2e_latency_mean"]))) % 2**32
        return replicates(self.reading, self.concurrency, seed=seed)

    @property
    def blocks(self) -> int:
        """How many blocks the requests make."""
        return block_count(len(self.reading.output_tokens), self.concurrency) if self.reading else 0

    def variance(self, metric: str) -> tuple[float, float]:
        """(variance of the logarithm of the metric, its degrees of freedom) over the requests."""
        drawn = self.replicates.get(metric, np.empty(0))
        drawn = drawn[drawn > 0]
        if len(drawn) < 2 or self.blocks < 2:
            return math.nan, 0.0
        return float(np.var(np.log(drawn), ddof=1)) * self.blocks / (self.blocks - 1), self.blocks - 1

    def share_variance(self, metric: str) -> float:
        """Of a share of requests, with one success and one failure added (Agresti and Caffo, 2000)."""
        requests = float(self.row["requests"])
        share = (float(self.row[metric]) * requests + 1) / (requests + 2)
        return share * (1 - share) / (requests + 2)


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
            variance = sum(run.share_variance(metric) for run in runs) / max(len(runs), 1) ** 2
            return Estimate(values, variance, math.inf, False, requests)
        parts = [run.variance(metric) for run in runs]
        variance = sum(part for part, _ in parts) / max(len(runs), 1) ** 2
        return Estimate(values, variance, satterthwaite(parts), True, requests)

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
        freedom = min((run.blocks for run in self.batches), default=1) - 1
        requests = int(self.best.row["completed"]) if self.best else 0
        return Estimate(np.array(values), variance, max(freedom, 1), False, requests)

    def _variance(self, runs: list[Run]) -> float:
        drawn = [self._compliant(run) for run in runs if not pd.isna(run.row["output_throughput"])]
        blocks = min((run.blocks for run in runs), default=0)
        if not drawn or blocks < 2 or any(values is None for values in drawn):
            return math.nan
        return (
            float(np.var(np.max([values for values in drawn if values is not None], axis=0), ddof=1))
            * blocks
            / (blocks - 1)
        )

    def _compliant(self, run: Run) -> Floats | None:
        """The throughput of each draw in which the batch complies, 0 in the others; None where nobody knows."""
        drawn = run.replicates
        if not drawn:
            return None
        limits = [limit for limit in self.slo.all_constraints if limit.hard_fail] if self.slo else []
        drawable = [limit for limit in limits if limit.column in drawn]
        met = np.ones(len(drawn["output_throughput"]), bool)
        for limit in drawable:
            met &= limit.sign * (drawn[limit.column] / limit.threshold - 1) <= limit.fail_ratio + ROUNDING
        return np.where(met & _certain(run, drawable), np.nan_to_num(drawn["output_throughput"]), 0.0)


def _certain(run: Run, drawable: list[Constraint]) -> bool:
    """Whether everything that does not vary over the draws lets the batch comply."""
    hard = {entry["metric"] for entry in run.row["violations"] if entry["type"] == HARD_FAIL}
    others = hard - {limit.column for limit in drawable}
    return _complies(run) or (run.row["verdict"] == FAIL and not others)


def _complies(run: Run) -> bool:
    return run.row["verdict"] in COMPLIANT and not pd.isna(run.row["output_throughput"])
