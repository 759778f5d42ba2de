"""The trials of a search so far, and when it is enough."""

import math
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pandas as pd

from tuner import engines
from tuner.core import run_directory
from tuner.core.records import CANNOT_START, COMPLETE, ENDED, FAILED, PRUNED, RUNNING, WAITING, TrialRecord
from tuner.core.run_directory import Experiment
from tuner.core.text import one_line
from tuner.core.timestamps import now, to_text
from tuner.errors import ServerFailed, SpecError, Stopped
from tuner.judging.scores import Score, Scoring
from tuner.judging.trials import gains_of
from tuner.search.early import TrialStop
from tuner.search.known import Known, copy_known
from tuner.search.spec import TuneSpec

#: The first trials, the baseline among them, that may all fail before the search is given up; of one cause.
HOPELESS, HOPELESS_OF_ONE_CAUSE = 5, 3
#: Failures that beside a baseline that works tell of the space, where they are all the same.
REFUSALS = ("bad_argument", "refused")
#: For each trial that is wanted, configurations that may turn out not to start; asking goes on no longer.
MOST_RULED_OUT = 10


@dataclass
class SearchTrial:
    """One trial of a search: what is on disk of it, and what it is worth."""

    files: run_directory.Trial  # its folder
    record: TrialRecord  # the search's note of it
    judged: pd.DataFrame = field(default_factory=pd.DataFrame)  # its judged batches, once it has settled
    score: Score | None = None  # what it is worth, once it has settled
    began: float = 0.0  # on the monotonic clock, when this process began to run it

    @property
    def is_settled(self) -> bool:
        """Whether it need not be run any more."""
        return self.record.state not in (RUNNING, WAITING)

    @property
    def state(self) -> str:
        """As `load_trials` has it."""
        return self.score.state if self.score and self.record.state == ENDED else self.record.state

    @property
    def counts(self) -> bool:
        """Whether it is worth something as it is."""
        return self.state == COMPLETE

    @property
    def cause(self) -> str:
        """Why it is worth nothing; empty where it counts, or runs."""
        return self.record.cause or (self.score.cause if self.score else "")

    @property
    def gpu_seconds(self) -> float:
        """What its runs took of all its GPUs."""
        return self.record.seconds * self.record.gpus

    @property
    def is_searched(self) -> bool:
        """Whether it is a trial of the search, not of the confirmation."""
        return self.record.role != "confirmation"


class Trials:
    """All trials of a search, in the order they were asked for."""

    def __init__(self, experiment: Experiment, spec: TuneSpec) -> None:
        self.experiment, self.spec = experiment, spec
        self.scoring = Scoring.of(spec.model_dump(mode="json"))
        self.all = [SearchTrial(trial, trial.record) for trial in experiment.search_trials]
        for trial in self.all:
            if trial.is_settled:
                self._scored(trial)

    @property
    def searched(self) -> list[SearchTrial]:
        """Those of the search itself, confirmations left out."""
        return [trial for trial in self.all if trial.is_searched]

    @property
    def baseline(self) -> SearchTrial | None:
        """The trial of the defaults."""
        return next((trial for trial in self.all if trial.record.role == "baseline"), None)

    @property
    def best(self) -> SearchTrial | None:
        """The best trial of the search by its first objective; the first one of equals."""
        counting = [trial for trial in self.searched if trial.counts and trial.score]
        return max(counting, key=self.gains, default=None)

    def gains(self, trial: SearchTrial) -> tuple[float, ...]:
        """Its values, with the sign that makes more better."""
        return gains_of(trial.score.values, self.scoring.objectives) if trial.score else ()

    def add(self, record: TrialRecord) -> SearchTrial:
        """A new trial."""
        number = max((trial.files.number for trial in self.all), default=0) + 1
        trial = SearchTrial(self.experiment.trial(number), record)
        self.all.append(trial)
        return trial

    def take(self, known: Known) -> SearchTrial:
        """A trial that was measured elsewhere; on disk here, so that the run directory tells all."""
        trial = self.add(known.record)
        copy_known(known, trial.files)
        self._note(trial)
        return self._scored(trial)

    def rule_out(self, trial: SearchTrial, cause: str) -> SearchTrial:
        """Note that a trial is not begun since it cannot start."""
        instant = to_text(now())
        self._note(trial, state=FAILED, kind=CANNOT_START, cause=cause, started_at=instant, finished_at=instant)
        return self._scored(trial)

    def begin(self, trial: SearchTrial) -> None:
        """Note that a trial runs, for the first time or again; on disk before anything of it runs."""
        trial.began = time.monotonic()
        started = trial.record.started_at or to_text(now())
        spec = self.spec.of_trial(trial.record.parameters)
        gpus = engines.find(spec.engine).gpus(spec) if spec.gpu_count is None else spec.gpu_count
        self._note(trial, state=RUNNING, cause="", started_at=started, gpus=gpus)

    def settle(self, trial: SearchTrial, error: BaseException | None, stop: TrialStop) -> None:
        """Note how a trial ended: what its run raised, and why it was stopped where it was.

        Raises:
            BaseException: `error`, where it says nothing about the trial.
        """
        state, kind, cause = self._ending(error, stop)
        ending = {"state": state, "kind": kind, "cause": one_line(cause), "finished_at": to_text(now())}
        seconds = round(trial.record.seconds + time.monotonic() - trial.began, 3)
        self._note(trial, **ending, seconds=seconds, gpus=trial.files.gpus)
        self._scored(trial)

    def _ending(self, error: BaseException | None, stop: TrialStop) -> tuple[str, str, str]:
        """The state in which a trial ended, the kind of its failure, and the cause."""
        match error:
            case None:
                return ENDED, "", ""
            case Stopped() if not stop.end_of_search and stop.reason_to_prune:
                return PRUNED, "", stop.reason_to_prune
            case Stopped():
                return WAITING, "", stop.end_of_search or "stopped"
            case ServerFailed():
                return FAILED, error.kind, str(error)
            case SpecError():
                return FAILED, "refused", f"refused: {error}"
        raise error

    def _note(self, trial: SearchTrial, **changes: Any) -> None:
        trial.record = msgspec.structs.replace(trial.record, **changes)
        trial.record.write(trial.files.folder)

    def _scored(self, trial: SearchTrial) -> SearchTrial:
        trial.judged = self.scoring.judged(trial.files.folder)
        trial.score = self.scoring.score(trial.judged, trial.files.gpus)
        return trial


@dataclass(frozen=True)
class Limits:
    """The limits of one search."""

    spec: TuneSpec  # what is searched
    trials: Trials  # all of it
    spent: float = 0.0  # seconds that earlier calls of the same search took
    began: float = field(default_factory=time.monotonic)  # on the monotonic clock, when this call began

    @property
    def seconds(self) -> float:
        """What the search took so far."""
        return self.spent + time.monotonic() - self.began

    @property
    def cost(self) -> float | None:
        """Money spent on GPUs by the trials that have ended; None where nobody said what one costs."""
        price = self.spec.price_per_gpu_hour
        return None if price is None else sum(trial.gpu_seconds for trial in self.trials.all) * price / 3600

    def deadline(self, *, confirming: bool = False) -> datetime | None:
        """When whatever runs must end after its level; None where it need not."""
        left = self._seconds_left(confirming=confirming)
        return None if left == math.inf else now() + timedelta(seconds=left)

    def is_over(self, *, confirming: bool = False) -> bool:
        """Whether the time is over: all of it, or what is left for the search beside the confirmation."""
        return self._seconds_left(confirming=confirming) <= 0

    def _seconds_left(self, *, confirming: bool) -> float:
        """The time there is; while it searches without what the confirmation will take, at most half of it."""
        whole = (self.spec.max_minutes or math.inf) * 60
        confirmation = 0.0 if confirming else self._confirmation(trial.record.seconds for trial in self._ended)
        return whole - min(confirmation, whole / 2) - self.seconds

    def _confirmation(self, each: Iterable[float]) -> float:
        """What the confirmation will take, by what trials took: two for each turn, as short as the shortest."""
        return 2 * self.spec.confirm * min((one for one in each if one), default=0.0)

    @property
    def _run(self) -> list[SearchTrial]:
        return [trial for trial in self.trials.searched if trial.record.was_run]

    @property
    def _settled(self) -> list[SearchTrial]:
        return [trial for trial in self._run if trial.is_settled]

    @property
    def _ended(self) -> list[SearchTrial]:
        return [trial for trial in self._settled if trial.state != FAILED]

    def reached(self) -> str:
        """Why no further trial is to be begun; empty where one is."""
        ruled_out = sum(trial.record.kind == CANNOT_START for trial in self.trials.searched)
        reasons = (
            (
                len(self._run) >= self.spec.trials,
                f"all {self.spec.trials} trials were made" if self.spec.trials > 1 else "the one trial was made",
            ),
            (ruled_out > MOST_RULED_OUT * self.spec.trials, f"{ruled_out} configurations cannot start"),
            (bool(self.one_cause), "all trials failed of one cause"),
            (len(self._settled) >= HOPELESS and not self._ended, f"the first {HOPELESS} trials all failed"),
            (self._gained_nothing(), f"{self.spec.patience} trials gained nothing"),
            (self.is_over(), f"{self.spec.max_minutes} minutes are over"),
            (self._is_out_of_money(), f"more would cost over {self.spec.max_cost}"),
        )
        return next((reason for reached, reason in reasons if reached), "")

    @property
    def one_cause(self) -> str:
        """The cause of which, numbers in it aside, all trials died but for the baseline; empty where there is none."""
        died = [trial for trial in self._settled if trial.state == FAILED or trial.record.role != "baseline"]
        works = len(died) < len(self._settled)
        if len(died) < (HOPELESS if works else HOPELESS_OF_ONE_CAUSE) or any(one.state != FAILED for one in died):
            return ""
        if len({re.sub(r"\d+", "", one.cause) for one in died}) > 1:
            return ""
        return died[0].cause if not works or died[0].record.kind in REFUSALS else ""

    def _gained_nothing(self) -> bool:
        """Whether none of the last trials is better than all before them."""
        settled = self._settled
        if not self.spec.patience or not any(trial.counts for trial in settled):
            return False
        last = max(place for place, trial in enumerate(settled) if self._is_gain(trial, settled[:place]))
        return len(settled) - 1 - last >= self.spec.patience

    def _is_gain(self, trial: SearchTrial, before: list[SearchTrial]) -> bool:
        """Whether no trial before is at least as good in everything."""
        if not trial.counts:
            return False
        own, gains = self.trials.gains(trial), self.trials.gains
        return not any(all(a >= b for a, b in zip(gains(one), own, strict=True)) for one in before if one.counts)

    def _is_out_of_money(self) -> bool:
        """Whether one more trial, as dear as the dearest so far, and the confirmation would cost too much."""
        if self.spec.max_cost is None or self.spec.price_per_gpu_hour is None:
            return False
        each = [trial.gpu_seconds for trial in self._ended]
        spent = sum(trial.gpu_seconds for trial in self.trials.all)
        unsettled = sum(not trial.is_settled for trial in self.trials.searched)
        gpu_seconds = spent + (unsettled + 1) * max(each, default=0.0) + self._confirmation(each)
        return gpu_seconds * self.spec.price_per_gpu_hour / 3600 > self.spec.max_cost
