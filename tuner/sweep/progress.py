"""How far a run is, read from its directory; so the terminal, a notebook and a second notebook see the same."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from tuner.core import files, timestamps
from tuner.core.level import Level, level_title
from tuner.core.records import READY, RUNNING, UNSETTLED, Sidecar, TrialRecord
from tuner.core.run_directory import Experiment, Trial, part_of
from tuner.core.text import plural
from tuner.sweep.fields import AUTO
from tuner.traffic.live import Live, read_live

WAITING = "waiting"
LOADING, WARMING_UP = "loading the load generator", "warming up"
PHASE_FILE = "phase"  # in a trial's folder, while it is in one of these
_MOMENTS = ("the server is ready", "between levels")
_REPORTING = "writing the report"
_CUT_OFF = "cut off after {}: no process of this machine goes on with it"
#: what a search does while no trial runs, by its state, where it does not choose
_BETWEEN_TRIALS = {
    "": "preparing the search",  # which a cluster takes half a minute for
    "confirming": "starting the next run that confirms",
    "done": _REPORTING,
    "stopped": _REPORTING,
}


@dataclass(frozen=True)
class LevelState:
    """One asked-for level: `waiting`, `running`, or its outcome."""

    scenario: str
    level: Level
    state: str = WAITING
    reason: str = ""
    started_at: datetime | None = None
    folder: Path = Path()
    live: Live | None = None  # of its last seconds, while it runs


@dataclass(frozen=True)
class Progress:
    """How far the server and the levels of one trial are."""

    server: str = ""  # its state (`starting`, `ready`, … as in server.json); empty before
    levels: Sequence[LevelState] = ()  # in the order in which they are measured
    seconds_a_level: float = 0.0  # how long each may take; 0 where nobody said
    is_auto: bool = False  # more levels may come than are known
    is_attached: bool = False  # the server is not ours
    preparation: str = ""  # what is done before a level, `LOADING` or `WARMING_UP`; empty else
    is_cut_off: bool = False  # the run has not ended, and no process goes on with it

    @property
    def ended(self) -> list[LevelState]:
        """The levels that have an outcome."""
        return [level for level in self.levels if level.state not in (WAITING, RUNNING)]

    @property
    def planned(self) -> int:
        """How many levels there will be."""
        return len(self.levels)

    @property
    def total(self) -> str:
        """How many levels have ended, in words."""
        return plural(len(self.ended), "level")

    @property
    def seconds_left(self) -> float:
        """How long the levels that have not ended will take; 0 for none."""
        each = self.seconds_a_level + 1.0  # between two levels
        return max(0.0, (self.planned - len(self.ended)) * each - self._seconds_spent)

    @property
    def _seconds_spent(self) -> float:
        began = self.running and self.running.started_at
        return (timestamps.now() - began).total_seconds() if began else 0.0

    @property
    def running(self) -> LevelState | None:
        """The level that runs."""
        return next((level for level in self.levels if level.state == RUNNING), None)

    @property
    def phase(self) -> str:
        """What has begun, in words that stay the same until it is over; empty for the moment between two levels."""
        if running := self.running:
            of = "" if self.is_auto else f" of {self.planned}"
            return f"level {self.levels.index(running) + 1}{of}: {_title(running)}"
        return "" if self.describe() in _MOMENTS else self.describe()

    def describe(self) -> str:
        """What is going on now, in a few words; numbers of a level are of its last seconds, and no result."""
        if self.is_cut_off:
            return _CUT_OFF.format(self.total)
        if running := self.running:
            return f"{_title(running)}{f': {running.live}' if running.live else ''}"
        if self.preparation or not self.levels:
            return self.preparation or "preparing"
        all_ended, is_attached = len(self.ended) == self.planned, self.is_attached
        if self.server == READY and (self.is_auto or not all_ended):
            return _MOMENTS[bool(self.ended)]
        if all_ended:
            return "stopping the server" if self.server == READY and not is_attached else _REPORTING
        return "connecting to the server" if is_attached else "starting the server"

    @property
    def ending(self) -> str:
        """When a run that is asked to end after its level will end, in words."""
        if not (self.running or self.preparation):
            return "ending before the next level" if len(self.ended) < self.planned or not self.levels else "ending"
        left = self.seconds_a_level - self._seconds_spent
        return f"ending after this level{f', about {left:.0f} s' if left >= 1 else ''}"


@dataclass(frozen=True)
class SearchProgress:
    """The trials of a search that began, in that order, how many runs are asked for, and what runs now."""

    records: Sequence[TrialRecord] = ()  # what the search noted of each of its trials, those that confirm too
    trials: int = 0  # how many it may take
    confirm: int = 0  # how many runs confirm
    minutes: float | None = None  # how long it may take; None where nobody said
    state: str = ""  # of the search: `searching`, `confirming`, `stopped` or `done`; empty before
    now: Progress = field(default_factory=Progress)  # the levels of the trial that began last
    is_cut_off: bool = False  # it has not ended, and no process goes on with it

    @property
    def ended(self) -> list[TrialRecord]:
        """The runs that are not to be run any more."""
        return [record for record in self.records if record.state not in (RUNNING, WAITING)]

    @property
    def _tried(self) -> list[TrialRecord]:
        """Those that it runs, and that confirm nothing."""
        return [record for record in self.records if record.role != "confirmation" and record.was_run]

    @property
    def planned(self) -> int:
        """How many runs there will be, if nothing ends the search before."""
        return (self.trials if self.state in ("", "searching") else len(self._tried)) + self.confirm

    @property
    def total(self) -> str:
        """How many trials have ended, in words; those that confirm are none."""
        return plural(sum(record in self.ended for record in self._tried), "trial")

    @property
    def seconds_left(self) -> float:
        """How long the runs that have not ended will take, as those took that have, or as the first is expected to."""
        took = [record.seconds for record in self.ended if record.seconds]
        if not took:  # as long as its levels may take
            return self.now.seconds_left * self.planned
        left = max(0, self.planned - len(self.ended)) * sum(took) / len(took)
        return left if self.minutes is None else min(left, max(0.0, 60 * self.minutes - sum(took)))

    def describe(self) -> str:
        """What is going on now, in a few words."""
        return self._of_trial(self.now.describe())

    @property
    def phase(self) -> str:
        """What has begun, in words that stay the same until it is over; empty for moments between, and before all."""
        has_begun = self.records and (self.now.phase or not self.running)
        return self._of_trial(self.now.phase) if has_begun else ""

    @property
    def running(self) -> list[TrialRecord]:
        """The trials that run."""
        return [record for record in self.records if record.state == RUNNING]

    @property
    def ending(self) -> str:
        """When a search that is asked to end after its level will end, in words."""
        return self.now.ending if len(self.running) == 1 else "ending after the levels that run"

    def _of_trial(self, what: str) -> str:
        if self.is_cut_off:
            return _CUT_OFF.format(self.total)
        if not self.running:
            return _BETWEEN_TRIALS.get(self.state, "choosing the next configuration")
        if len(self.running) > 1:
            return f"{len(self.running)} trials at once"
        number = len(self._tried)
        again = f"confirming, run {len(self.records) - number} of {self.confirm}"
        which = again if self.running[0].role == "confirmation" else f"trial {number} of {self.trials}"
        return f"{which}: {'judging its levels' if what == _REPORTING else what}"


def _title(level: LevelState) -> str:
    return f"{level.scenario} at {level_title(level.level)}"


@contextlib.contextmanager
def phase(trial: Trial, words: str) -> Iterator[None]:
    """Within this, whoever reads the trial's progress is told these words."""
    files.write_atomically(trial.folder / PHASE_FILE, words, sync_it=False)
    try:
        yield
    finally:
        (trial.folder / PHASE_FILE).unlink(missing_ok=True)


def read_sweep(experiment: Experiment) -> Progress:
    """How far a sweep is; what is not there yet, or just being replaced, counts as not there."""
    return _read_trial(Trial(next(iter(experiment.trial_folders), experiment.folder)), experiment)


def read_search(experiment: Experiment) -> SearchProgress:
    """How far a search is; what is not there yet, or just being replaced, counts as not there."""
    spec, trials = experiment.facts.get("spec", {}), experiment.search_trials
    return SearchProgress(
        records=[trial.record for trial in trials],
        trials=spec.get("trials", 0),
        confirm=2 * spec.get("confirm", 0),
        minutes=spec.get("max_minutes"),
        state=experiment.record.search.get("state", ""),
        now=_read_trial(trials[-1], experiment) if trials else Progress(),
        is_cut_off=_is_cut_off(experiment),
    )


def _is_cut_off(experiment: Experiment) -> bool:
    return experiment.record.state == RUNNING and not experiment.is_running


def _read_trial(trial: Trial, experiment: Experiment) -> Progress:
    if (facts := trial.facts) is None:
        return Progress()
    of_run, is_cut_off = experiment.facts, _is_cut_off(experiment)
    spec = of_run.get("spec", {})
    since = "~" if is_cut_off else str(of_run.get("resumed_at", ""))  # what began before goes on no more
    server = record.state if (record := trial.server) and record.started_at >= since else ""
    loads = itertools.product(facts.scenarios, facts.every_repeat, facts.every_level)
    return Progress(
        server=server,
        levels=[_level(trial, scenario, level, repeat, since) for scenario, repeat, level in loads],
        seconds_a_level=spec.get("max_seconds", 0.0),
        is_auto=AUTO in (spec.get("levels"), spec.get("rates")),
        is_attached=bool(spec.get("base_url")),
        preparation=files.read_end(trial.folder / PHASE_FILE, 100) if server == READY else "",
        is_cut_off=is_cut_off,
    )


def _level(trial: Trial, scenario: str, level: Level, repeat: int, since: str) -> LevelState:
    folder = trial.batch_folder(scenario, level, repeat)
    state, part = LevelState(scenario, level, folder=folder), part_of(folder)
    running = Sidecar.read(part)  # what is not in place yet goes on, also where an earlier try was cut off
    if running and running.started_at >= since:
        began = timestamps.known(running.started_at)
        return replace(state, state=RUNNING, started_at=began, live=read_live(part))
    ended = Sidecar.read(folder)
    if ended and (ended.outcome not in UNSETTLED or ended.started_at >= since):  # else it is measured again
        began = timestamps.known(ended.started_at)
        return replace(state, state=ended.outcome, reason=ended.reason, started_at=began)
    return state
