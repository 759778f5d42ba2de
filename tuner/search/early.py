"""When a trial can end before its last level: as soon as its levels show that it cannot win."""

import itertools
import math
import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from tuner.core.level import levels_in
from tuner.core.records import COMPLETED
from tuner.core.run_directory import Trial
from tuner.judging.scores import Scoring
from tuner.judging.verdicts import COMPLIANT, FAIL, HARD_FAIL
from tuner.search.spec import TuneSpec
from tuner.sweep.sweep import StopRequest

FEWEST = 2  # levels that must fail, since one may be an accident
#: By how much a level may have more than a higher one and still lie before the peak, or on a plateau: for noise.
PLATEAU = 0.1
TO_COME = ("missing", "interrupted")  # how a level stands that is still to come, or that runs


@dataclass(frozen=True, kw_only=True)
class TrialStop(StopRequest):
    """Why a trial shall end: somebody wants all of it to end, its time is over, or it cannot win."""

    trial: Trial
    spec: TuneSpec  # what is searched
    best: pd.DataFrame | None = None  # the judged batches of the best trial so far; None where there is none
    # throughput of the trial over that of the best at which they are worth the same: GPUs over GPUs
    factor: float = 1.0
    deadline: float = math.inf  # when, on the monotonic clock, the search must end
    _answers: dict[int, str] = field(default_factory=dict, init=False)

    def is_set(self) -> bool:
        """Whether it shall end, for whichever of these reasons."""
        return bool(self.end_of_search or self.reason_to_prune)

    @property
    def end_of_search(self) -> str:
        """Why the whole search ends; empty where it goes on."""
        is_over = time.monotonic() >= self.deadline
        return "the time was over" if is_over else "stopped" if super().is_set() else ""

    @property
    def reason_to_prune(self) -> str:
        """Why the trial cannot win, by the levels that are there; empty where it can."""
        if self.best is None or not _may_end_early(self.spec):
            return ""
        measured = len(self.trial.level_folders())
        if measured not in self._answers:  # asked several times a second, answered once a level
            judged = Scoring.of(self.spec.model_dump(mode="json")).judged(self.trial.folder)
            self._answers[measured] = cannot_win(judged, self.best, self.spec, self.factor)
        return self._answers[measured]


def _may_end_early(spec: TuneSpec) -> bool:
    return spec.early_stop and spec.objective == ["max_throughput"] and bool(spec.fixed_levels)


def busiest_first(spec: TuneSpec, best_level: float | None) -> dict[str, Any]:
    """The order of a candidate's levels that shows soon that it cannot win: from the best trial's up, then down."""
    levels = sorted(spec.fixed_levels)
    if best_level not in levels or spec.order != "given" or spec.stop_when_saturated or not _may_end_early(spec):
        return {}
    upper, lower = ([one for one in levels if (one >= best_level) == is_upper] for is_upper in (True, False))
    return {spec.varied: [*upper, *reversed(lower)]}


def cannot_win(judged: pd.DataFrame, best: pd.DataFrame, spec: TuneSpec, factor: float = 1.0) -> str:
    """Why a trial cannot have more throughput than the best one; empty where it still can.

    Only what holds for every server counts: no request is faster beside more others. So tokens/s grow at most as
    the level does, and above a level that is too slow for the SLO all are. And they have one peak: where a level has
    no more than a higher one, none below has more than it. Whether a trial catches up is not guessed from its first
    levels: mixtures of experts, for one, scale badly at first and well later. `spec.margin` is left for noise.
    """
    if judged.empty or best.empty or len(spec.scenarios) > 1:
        return ""
    needed = best.loc[best["verdict"].isin(COMPLIANT), "output_throughput"].max() * factor * (1 - spec.margin)
    rows = judged.assign(level=levels_in(judged)).to_dict("records")
    own = [row for row in rows if row["outcome"] not in TO_COME]
    results = [row for row in own if row["outcome"] == COMPLETED and row["output_throughput"] > 0]
    ahead = {row["level"] for row in rows if row["outcome"] in TO_COME} - _levels_beyond_slo(rows, spec.margin)
    reached = [row["output_throughput"] for row in results if row["verdict"] != FAIL]
    most = max([*reached, *(_reach(results, level) for level in ahead)], default=0.0)
    if not own or not most < needed:
        return ""
    if not most:
        return f"none of its first {len(own)} levels meets the SLO, and no higher one will"
    return f"at most {most:.4g} tokens/s are in reach within the SLO, less than the best trial has"


def _levels_beyond_slo(rows: list[dict[Hashable, Any]], margin: float) -> set[float]:
    """The levels that cannot meet the SLO: above so many that do not that it is no accident, and none that may."""
    run = [row for row in rows if row["outcome"] not in TO_COME]
    highest = max((row["level"] for row in run if not _is_too_much(row, margin)), default=0)
    missed = sorted({row["level"] for row in run if row["level"] > highest})
    return {row["level"] for row in rows if row["level"] >= missed[FEWEST - 1]} if len(missed) >= FEWEST else set()


def _is_too_much(row: dict[Hashable, Any], margin: float) -> bool:
    """Whether a level has no result or is clearly over a hard limit; what is under one, as of throughput, may grow."""
    over = (one["actual"] > (1 + margin) * one["threshold"] for one in row["violations"] if one["type"] == HARD_FAIL)
    return row["outcome"] != COMPLETED or (row["verdict"] == FAIL and any(over))


def _reach(results: list[dict[Hashable, Any]], level: float) -> float:
    """The most tokens/s that a level can have: in proportion to what lower ones had, and what two above it allow."""
    known = sorted((row["level"], row["output_throughput"]) for row in results)
    each = [level * throughput / lower for lower, throughput in known if lower <= level]
    above = [throughput for higher, throughput in known if higher > level]
    rising = [one for one, next_one in itertools.pairwise(above) if one <= next_one * (1 + PLATEAU)]
    return min([*each, *rising], default=math.inf)
