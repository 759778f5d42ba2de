"""When a trial can end before its last level: as soon as its levels show that it cannot win."""

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import pandas as pd

from tuner.experiment import COMPLETED, SIDECAR_FILE, Trial
from tuner.scores import Scoring
from tuner.slo import COMPLIANT, FAIL
from tuner.space import TuneSpec
from tuner.sweep import Wish
from tuner.timestamps import now

#: Levels that must lag behind before more than one of them is no accident.
FEWEST = 2
Load = tuple[str, int]


@dataclass(frozen=True)
class TrialWish(Wish):
    """Whether a trial shall end: somebody wants all of it to end, its time is over, or it cannot win.

    Args:
        trial: the trial.
        spec: what is searched.
        best: the judged batches of the best trial so far; empty where there is none.
        factor: throughput of the trial over that of the best at which they are worth the same: GPUs over GPUs.
        deadline: when the search must end; None where it need not.
    """

    trial: Trial
    spec: TuneSpec
    best: pd.DataFrame
    factor: float = 1.0
    deadline: datetime | None = None

    def __bool__(self) -> bool:
        return self.is_asked or self.is_over or bool(self.hopeless)

    @property
    def is_asked(self) -> bool:
        """Whether somebody wants the whole search to end."""
        return super().__bool__()

    @property
    def is_over(self) -> bool:
        """Whether the time of the search is over."""
        return self.deadline is not None and now() >= self.deadline

    @property
    def hopeless(self) -> str:
        """Why the trial cannot win, by the levels that are there; empty where it can."""
        if not self._may_end_early:
            return ""
        measured = sum(1 for _ in self.trial.folder.glob(f"batches/*/*[0-9]/{SIDECAR_FILE}"))
        if measured not in self._known:  # asked several times a second, answered once a level
            self._known[measured] = cannot_win(
                self._scoring.judged(self.trial.folder), self.best, self.spec, self.factor
            )
        return self._known[measured]

    @cached_property
    def _may_end_early(self) -> bool:
        one = self.spec.objective == ["max_throughput"]
        return self.spec.early_stop and one and bool(self.spec.fixed_levels) and not self.best.empty

    @cached_property
    def _known(self) -> dict[int, str]:
        return {}

    @cached_property
    def _scoring(self) -> Scoring:
        return Scoring.of(self.spec.model_dump(mode="json"))


def cannot_win(judged: pd.DataFrame, best: pd.DataFrame, spec: TuneSpec, factor: float = 1.0) -> str:
    """Why a trial cannot have more throughput than the best one; empty where it still can.

    Args:
        judged: the batches of the trial, those that are still to come `missing`.
        best: the judged batches of the best trial.
        spec: what is searched: its levels, and the margin that is left for noise.
        factor: throughput of the trial over that of the best at which they are worth the same.
    """
    if judged.empty or best.empty:
        return ""
    own, others, keep = _worth(judged), _worth(best), 1 - spec.margin
    if not own or None in own.values():
        return ""
    lagging = [load for load, value in own.items() if (value or 0) < keep * factor * (others.get(load) or 0)]
    if len(lagging) == len(own) >= FEWEST:
        return f"at each of its first {len(own)} levels more than {spec.margin:.0%} behind the best trial"
    return _bounded(judged, max(filter(None, others.values()), default=0.0) * factor * keep, spec)


def _worth(judged: pd.DataFrame) -> dict[Load, float | None]:
    """The throughput of each level that was measured, 0 where it does not comply, None where nobody knows."""
    found: dict[Load, float | None] = {}
    for row in judged[judged["outcome"] != "missing"].to_dict("records"):
        compliant, failed = row["verdict"] in COMPLIANT, row["verdict"] == FAIL or row["outcome"] != COMPLETED
        found[row["scenario"], int(row["concurrency"])] = (
            float(row["output_throughput"]) if compliant else 0.0 if failed else None
        )
    return found


def _bounded(judged: pd.DataFrame, needed: float, spec: TuneSpec) -> str:
    """In a closed loop throughput grows at most as the level does, since no request is faster beside more others."""
    if len(spec.scenarios) > 1:
        return ""
    highest = max(spec.fixed_levels)
    done = judged[judged["outcome"] == COMPLETED]
    most = (done["output_throughput"] * highest / done["concurrency"]).min() if len(done) else float("inf")
    if most < needed:
        return f"at most {most:.4g} tokens/s are in reach at concurrency {highest}, less than the best trial has"
    return ""
