"""When a trial can end before its last level: as soon as its levels show that it cannot win."""

import math
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import pandas as pd

from tuner.core.run_directory import COMPLETED, SIDECAR_FILE, Trial
from tuner.core.timestamps import now
from tuner.judging.scores import Scoring
from tuner.judging.verdicts import COMPLIANT, FAIL
from tuner.search.spec import TuneSpec
from tuner.sweep.sweep import StopRequest

#: Levels that must fail, since one may be an accident.
FEWEST = 2
#: Levels that tell whether it catches up: noise in two alone hides that it does.
FEWEST_OF_TREND = 3
#: How a level stands that is still to come, or that runs.
TO_COME = ("missing", "interrupted")


@dataclass(frozen=True, kw_only=True)
class TrialStop(StopRequest):
    """Why a trial shall end: somebody wants all of it to end, its time is over, or it cannot win.

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

    def is_set(self) -> bool:
        """Whether it shall end, for whichever of these reasons."""
        return self.is_asked or self.is_over or bool(self.hopeless)

    @property
    def is_asked(self) -> bool:
        """Whether somebody wants the whole search to end."""
        return super().is_set()

    @property
    def is_over(self) -> bool:
        """Whether the time of the search is over."""
        return self.deadline is not None and now() >= self.deadline

    @property
    def hopeless(self) -> str:
        """Why the trial cannot win, by the levels that are there; empty where it can."""
        if not self._may_end_early:
            return ""
        measured = sum(1 for _ in self.trial.batches.glob(f"*/*[0-9]/{SIDECAR_FILE}"))
        if measured not in self._answers:  # asked several times a second, answered once a level
            judged = Scoring.of(self.spec.model_dump(mode="json")).judged(self.trial.folder)
            self._answers[measured] = cannot_win(judged, self.best, self.spec, self.factor)
        return self._answers[measured]

    @cached_property
    def _may_end_early(self) -> bool:
        one = self.spec.objective == ["max_throughput"]
        return self.spec.early_stop and one and bool(self.spec.fixed_levels) and not self.best.empty

    @cached_property
    def _answers(self) -> dict[int, str]:
        return {}


def cannot_win(judged: pd.DataFrame, best: pd.DataFrame, spec: TuneSpec, factor: float = 1.0) -> str:
    """Why a trial cannot have more throughput than the best one; empty where it still can.

    Args:
        judged: the batches of the trial, those that are still to come `missing`.
        best: the judged batches of the best trial.
        spec: what is searched: its levels, and the margin that is left for noise.
        factor: throughput of the trial over that of the best at which they are worth the same.
    """
    if judged.empty or best.empty or len(spec.scenarios) > 1:
        return ""
    own, others = _measured(judged), _measured(best)
    if own["verdict"].isin((*COMPLIANT, FAIL)).all() and len(own):
        needed = others.loc[others["verdict"].isin(COMPLIANT), "output_throughput"].max() * factor * (1 - spec.margin)
        return _fails(own, others) or _bounded(own, needed, spec) or _lags(judged, best, needed)
    return ""


def _measured(judged: pd.DataFrame) -> pd.DataFrame:
    """The levels that were run; one without a result fails."""
    run = judged[~judged["outcome"].isin(TO_COME)]
    return run.assign(verdict=run["verdict"].where(run["outcome"] == COMPLETED, FAIL))


def _fails(own: pd.DataFrame, others: pd.DataFrame) -> str:
    """Latency grows with the level: whoever misses the SLO where the best trial met it does not meet it higher up."""
    met = others.loc[others["verdict"].isin(COMPLIANT), "concurrency"]
    if own["concurrency"].nunique() >= FEWEST and own["verdict"].eq(FAIL).all() and own["concurrency"].isin(met).all():
        return f"none of its first {len(own)} levels meets the SLO as the best trial's do"
    return ""


def _bounded(own: pd.DataFrame, needed: float, spec: TuneSpec) -> str:
    """In a closed loop throughput grows at most as the level does, since no request is faster beside more others."""
    highest = max(spec.fixed_levels)
    most = (own["output_throughput"] * highest / own["concurrency"]).min()
    if most < needed:
        return f"at most {most:.4g} tokens/s are in reach at concurrency {highest}, less than the best trial has"
    return ""


def _lags(judged: pd.DataFrame, best: pd.DataFrame, needed: float) -> str:
    """Whether it stays behind at each level to come, even if it goes on to catch up with the best as it did so far."""
    own, others = _throughputs(judged), _throughputs(best)
    ahead = judged.loc[judged["outcome"].isin(TO_COME), "concurrency"]
    shares = {level: own[level] / others[level] for level in sorted({*own} & {*others})}
    if len(shares) < FEWEST_OF_TREND or not {*ahead} <= {*others}:  # where the best has no result nobody knows
        return ""
    (first, at_first), (last, at_last) = (list(shares.items())[place] for place in (0, -1))
    growth = max(math.log(at_last / at_first) / math.log(last / first), 0.0)
    most = max([*own.values(), *(others[level] * at_last * (level / last) ** growth for level in ahead)])
    return f"after {len(own)} levels at {at_last:.0%} of the best trial, and not catching up" if most < needed else ""


def _throughputs(judged: pd.DataFrame) -> dict[int, float]:
    """The throughput of each level that has one, whether it complies or not."""
    rows = judged[(judged["outcome"] == COMPLETED) & (judged["output_throughput"] > 0)].to_dict("records")
    return {int(row["concurrency"]): float(row["output_throughput"]) for row in rows}
