"""The trials of a search: read from disk, added to, and settled; each with the search's note and its score."""

import time
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pandas as pd

from tuner.batches.run_folder import subfolders
from tuner.core.run_directory import Experiment, Trial
from tuner.core.timestamps import now, to_text
from tuner.core.trial_record import (
    COMPLETE,
    ENDED,
    FAILED,
    PRUNED,
    RECORD_FILE,
    RUNNING,
    WAITING,
    TrialRecord,
    gpus_of,
    read_record,
)
from tuner.engines import registry
from tuner.errors import ServerFailed, SpecError
from tuner.judging.score import Score, Scoring
from tuner.judging.trials import gains_of
from tuner.search.early import TrialWish
from tuner.search.spec import TuneSpec
from tuner.sweep.books import Stopped

_LONGEST_CAUSE = 300


@dataclass
class Known:
    """One trial.

    Args:
        trial: its folder.
        record: the search's note of it.
        judged: its judged batches, once it has settled.
        score: what it is worth, once it has settled.
        began: on the monotonic clock, when this process began to run it.
    """

    trial: Trial
    record: TrialRecord
    judged: pd.DataFrame = field(default_factory=pd.DataFrame)
    score: Score | None = None
    began: float = 0.0

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
    def is_searched(self) -> bool:
        """Whether it is a trial of the search, not of the confirmation."""
        return self.record.role != "confirmation"


class Trials:
    """All trials of a search, in the order they were asked for.

    Args:
        experiment: the run directory.
        spec: what is searched.
    """

    def __init__(self, experiment: Experiment, spec: TuneSpec) -> None:
        self.experiment, self.spec = experiment, spec
        self.scoring = Scoring.of(spec.model_dump(mode="json"))
        folders = subfolders(experiment.folder / "trials")
        self.all = [Known(Trial(path), read_record(path)) for path in folders if (path / RECORD_FILE).exists()]
        for known in self.settled:
            self._score(known)

    @property
    def settled(self) -> list[Known]:
        """Those that need not be run any more."""
        return [known for known in self.all if known.is_settled]

    @property
    def searched(self) -> list[Known]:
        """Those of the search itself, confirmations left out."""
        return [known for known in self.all if known.is_searched]

    @property
    def baseline(self) -> Known | None:
        """The trial of the defaults."""
        return next((known for known in self.all if known.record.role == "baseline"), None)

    @property
    def best(self) -> Known | None:
        """The best trial of the search by its first objective; the first one of equals."""
        counting = [known for known in self.searched if known.counts and known.score]
        return max(counting, key=self.gains, default=None)

    def gains(self, known: Known) -> tuple[float, ...]:
        """Its values, with the sign that makes more better."""
        return gains_of(known.score.values, self.scoring.objectives) if known.score else ()

    def add(self, record: TrialRecord) -> Known:
        """A new trial, noted on disk before anything of it runs."""
        number = max((known.trial.number for known in self.all), default=0) + 1
        known = Known(self.experiment.trial(number), record)
        self.all.append(known)
        self.begin(known)
        return known

    def begin(self, known: Known) -> None:
        """Note that a trial runs, for the first time or again."""
        known.began = time.monotonic()
        started = known.record.started_at or to_text(now())
        gpus = _gpus_asked(self.spec_of(known.record.parameters))
        self._note(known, state=RUNNING, cause="", started_at=started, gpus=gpus)

    def settle(self, known: Known, error: BaseException | None, wish: TrialWish | None = None) -> None:
        """Note how a trial ended.

        Args:
            known: the trial.
            error: what its run raised; None where it ran to its end.
            wish: why it was stopped, where it was.

        Raises:
            BaseException: `error`, where it says nothing about the trial.
        """
        state, kind, cause = self._how(error, wish)
        seconds = known.record.seconds + time.monotonic() - known.began
        gpus = gpus_of(known.trial.folder)
        self._note(
            known,
            state=state,
            kind=kind,
            cause=" ".join(cause.split())[:_LONGEST_CAUSE],
            finished_at=to_text(now()),
            seconds=round(seconds, 3),
            gpus=gpus,
        )
        self._score(known)

    def _how(self, error: BaseException | None, wish: TrialWish | None) -> tuple[str, str, str]:
        match error:
            case None:
                return ENDED, "", ""
            case Stopped() if wish is not None and not wish.is_asked and not wish.is_over and wish.hopeless:
                return PRUNED, "", wish.hopeless
            case Stopped():
                return WAITING, "", "the time was over" if wish is not None and wish.is_over else "stopped"
            case ServerFailed():
                return FAILED, error.kind, str(error)
            case SpecError():
                return FAILED, "refused", f"refused: {error}"
        raise error

    def _note(self, known: Known, **changes: Any) -> None:
        known.record = msgspec.structs.replace(known.record, **changes)
        known.record.write(known.trial.folder)

    def _score(self, known: Known) -> None:
        known.judged = self.scoring.judged(known.trial.folder)
        known.score = self.scoring.score(known.judged, gpus_of(known.trial.folder))

    def spec_of(self, parameters: dict[str, Any], **changes: Any) -> TuneSpec:
        """What a trial with these parameters is asked to do; it takes as many GPUs as its parallel sizes come to."""
        made = self.spec.model_copy(update={"parameters": parameters, **changes})
        engine = registry.find(made.engine)
        if made.gpus is None or not {*getattr(engine, "sizes", ())} & {*parameters}:
            return made
        needed = engine.gpus(made)
        some = made.gpus[:needed] if isinstance(made.gpus, list) else min(made.gpus, needed)
        return made.model_copy(update={"gpus": some})


def _gpus_asked(spec: TuneSpec) -> int:
    """How many GPUs a trial will take, before its server's record says so."""
    if spec.gpus is None:
        return registry.find(spec.engine).gpus(spec)
    return len(spec.gpus) if isinstance(spec.gpus, list) else spec.gpus
