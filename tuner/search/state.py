"""The trials of a search so far, and when it is enough."""

import math
import operator
import re
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from tuner import engines
from tuner.core.records import CANNOT_START, COMPLETE, ENDED, FAILED, PRUNED, RUNNING, WAITING, TrialRecord
from tuner.core.run_directory import PARTIAL, Experiment, Trial
from tuner.core.text import one_line
from tuner.core.timestamps import now, to_text
from tuner.errors import ServerFailed, SpecError, Stopped
from tuner.judging.scores import Score, Scoring
from tuner.judging.trials import gains_of
from tuner.search.early import TrialStop
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

    files: Trial  # its folder
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
    def cause(self) -> str:
        """Why it is worth nothing; empty where it counts, or runs."""
        return self.record.cause or (self.score.cause if self.score else "")


class Trials:
    """All trials of a search, in the order they were asked for."""

    def __init__(self, experiment: Experiment, spec: TuneSpec) -> None:
        self.experiment, self.spec = experiment, spec
        self.scoring = Scoring.of(spec.model_dump(mode="json"))
        self.all = [self._scored(SearchTrial(trial, trial.record)) for trial in experiment.search_trials]

    @property
    def searched(self) -> list[SearchTrial]:
        """Those of the search itself, confirmations left out."""
        return [trial for trial in self.all if trial.record.role != "confirmation"]

    @property
    def baseline(self) -> SearchTrial | None:
        """The trial of the defaults."""
        return next((trial for trial in self.all if trial.record.role == "baseline"), None)

    @property
    def best(self) -> SearchTrial | None:
        """The best trial of the search by its first objective; the first one of equals."""
        return max(filter(self.gains, self.searched), key=self.gains, default=None)

    def gains(self, trial: SearchTrial) -> tuple[float, ...]:
        """The values of a trial that counts, with the sign that makes more better; else empty."""
        score = trial.score if trial.state == COMPLETE else None
        return gains_of(score.values, self.scoring.objectives) if score else ()

    def add(self, record: TrialRecord) -> SearchTrial:
        """A new trial."""
        number = max((trial.files.number for trial in self.all), default=0) + 1
        trial = SearchTrial(self.experiment.trial(number), record)
        self.all.append(trial)
        return trial

    def take(self, known: SearchTrial) -> SearchTrial:
        """A trial that was measured elsewhere; on disk here, so that the run directory tells all."""
        trial = self.add(known.record)
        shutil.rmtree(trial.files.folder)  # what a copy that was cut off has left
        shutil.copytree(known.files.folder, trial.files.folder, ignore=_unwanted)
        if facts := trial.files.facts:
            msgspec.structs.replace(facts, trial=trial.files.number).write(trial.files.folder)
        return self._note(trial)

    def rule_out(self, trial: SearchTrial, cause: str) -> SearchTrial:
        """Note that a trial is not begun since it cannot start."""
        instant = to_text(now())
        how = {"state": FAILED, "kind": CANNOT_START, "cause": cause}
        return self._note(trial, **how, started_at=instant, finished_at=instant)

    def begin(self, trial: SearchTrial) -> None:
        """Note that a trial runs, for the first time or again; on disk before anything of it runs."""
        trial.began = time.monotonic()
        started = trial.record.started_at or to_text(now())
        spec = self.spec.of_trial(trial.record.parameters)
        gpus = engines.find(spec.engine).gpus(spec) if spec.gpu_count is None else spec.gpu_count
        self._note(trial, state=RUNNING, cause="", started_at=started, gpus=gpus)

    def settle(self, trial: SearchTrial, error: BaseException | None, stop: TrialStop) -> None:
        """Note how a trial ended: what its run raised, and why it was stopped; errors beside it are raised on."""
        match error:
            case None:
                state, kind, cause = ENDED, "", ""
            case Stopped() if not stop.end_of_search and stop.reason_to_prune:
                state, kind, cause = PRUNED, "", stop.reason_to_prune
            case Stopped():
                state, kind, cause = WAITING, "", stop.end_of_search or "stopped"
            case ServerFailed():
                state, kind, cause = FAILED, error.kind, str(error)
            case SpecError():
                state, kind, cause = FAILED, "refused", f"refused: {error}"
            case _:
                raise error
        seconds = round(trial.record.seconds + time.monotonic() - trial.began, 3)
        ending = {"finished_at": to_text(now()), "seconds": seconds, "gpus": trial.files.gpus}
        self._note(trial, state=state, kind=kind, cause=one_line(cause), **ending)

    def _note(self, trial: SearchTrial, **changes: Any) -> SearchTrial:
        trial.record = msgspec.structs.replace(trial.record, **changes)
        trial.record.write(trial.files.folder)
        return self._scored(trial)

    def _scored(self, trial: SearchTrial) -> SearchTrial:
        if trial.is_settled:
            trial.judged = self.scoring.judged(trial.files.folder)
            trial.score = self.scoring.score(trial.judged, trial.files.gpus)
        return trial


def _unwanted(folder: str, names: list[str]) -> list[str]:
    """Of the names in a trial's folder those that are no plain files of a level that has ended."""
    paths = [Path(folder, name) for name in names]
    plain = [path.name for path in paths if not path.is_symlink() and (path.is_dir() or path.is_file())]
    return [name for name in names if name not in plain or name.endswith(PARTIAL) or name == TrialRecord.FILE]


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

    def deadline(self, *, confirming: bool = False) -> float:
        """When, on the monotonic clock, whatever runs must end after its level; infinite where it need not."""
        return time.monotonic() + self._seconds_left(confirming=confirming)

    def is_over(self, *, confirming: bool = False) -> bool:
        """Whether the time is over: all of it, or what is left for the search beside the confirmation."""
        return self._seconds_left(confirming=confirming) <= 0

    def _seconds_left(self, *, confirming: bool) -> float:
        """The time there is; while it searches without what the confirmation will take, at most half of it."""
        whole = (self.spec.max_minutes or math.inf) * 60
        confirmation = 0.0 if confirming else self._confirmation([trial.record.seconds for trial in self._ended])
        return whole - min(confirmation, whole / 2) - self.seconds

    def _confirmation(self, each: list[float]) -> float:
        """What the confirmation will take, by what trials took: two for each turn, as short as the shortest."""
        return 2 * self.spec.confirm * min(filter(None, each), default=0.0)

    @property
    def _settled(self) -> list[SearchTrial]:
        return [trial for trial in self.trials.searched if trial.record.was_run and trial.is_settled]

    @property
    def _ended(self) -> list[SearchTrial]:
        return [trial for trial in self._settled if trial.state != FAILED]

    def reached(self) -> str:
        """Why no further trial is to be begun; empty where one is."""
        most, searched = self.spec.trials, self.trials.searched
        ruled_out = sum(trial.record.kind == CANNOT_START for trial in searched)
        all_made = f"all {most} trials were made" if most > 1 else "the one trial was made"
        reasons = (
            (sum(trial.record.was_run for trial in searched) >= most, all_made),
            (ruled_out > MOST_RULED_OUT * most, f"{ruled_out} configurations cannot start"),
            (bool(self.one_cause), "all trials failed of one cause"),
            (len(self._settled) >= HOPELESS and not self._ended, f"the first {HOPELESS} trials all failed"),
            (self._has_gained_nothing(), f"{self.spec.patience} trials gained nothing"),
            (self.is_over(), f"{self.spec.max_minutes} minutes are over"),
            (self._is_out_of_money(), f"more would cost over {self.spec.max_cost}"),
        )
        return next((reason for reached, reason in reasons if reached), "")

    @property
    def one_cause(self) -> str:
        """The cause of which, numbers in it aside, all trials died but for the baseline; empty where there is none."""
        died = [trial for trial in self._settled if trial.state == FAILED or trial.record.role != "baseline"]
        works = len(died) < len(self._settled)
        is_one = len({(one.state, re.sub(r"\d+", "", one.cause)) for one in died}) == 1 and died[0].state == FAILED
        if not is_one or len(died) < (HOPELESS if works else HOPELESS_OF_ONE_CAUSE):
            return ""
        return died[0].cause if not works or died[0].record.kind in REFUSALS else ""

    def _has_gained_nothing(self) -> bool:
        """Whether of the last trials, as many as its patience, each has one before it that is as good in everything."""
        gains = list(map(self.trials.gains, self._settled))
        better = [
            bool(own) and not any(all(map(operator.ge, one, own)) for one in gains[:place] if one)
            for place, own in enumerate(gains)
        ]
        return 0 < self.spec.patience < len(gains) and any(better) and not any(better[-self.spec.patience :])

    def _is_out_of_money(self) -> bool:
        """Whether one more trial, as dear as the dearest so far, and the confirmation would cost too much."""
        if self.spec.max_cost is None or self.spec.price_per_gpu_hour is None:
            return False
        took, each = ([one.record.seconds * one.record.gpus for one in some] for some in (self.trials.all, self._ended))
        unsettled = sum(not trial.is_settled for trial in self.trials.searched)
        gpu_seconds = sum(took) + (unsettled + 1) * max(each, default=0.0) + self._confirmation(each)
        return gpu_seconds * self.spec.price_per_gpu_hour / 3600 > self.spec.max_cost
