"""How far a run is, read from its directory; so the terminal, a notebook and a second notebook see the same."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from tuner.core import timestamps
from tuner.core.level import Level, level_title
from tuner.core.run_directory import (
    RUNNING,
    Experiment,
    Sidecar,
    Trial,
    TrialRecord,
    part_of,
)
from tuner.core.text import plural
from tuner.judging.levels import TOO_MUCH

WAITING = "waiting"
_BETWEEN_LEVELS = 1.0  # seconds


@dataclass(frozen=True)
class LevelState:
    """One asked-for level: `waiting`, `running`, or its outcome."""

    scenario: str
    level: Level
    state: str = WAITING
    reason: str = ""
    started_at: datetime | None = None
    folder: Path = Path()

    @property
    def ended(self) -> bool:
        """Whether the level has an outcome."""
        return self.state not in (WAITING, RUNNING)

    @property
    def is_too_much(self) -> bool:
        """Whether it has no numbers because the server could not bear it."""
        return self.state in TOO_MUCH


@dataclass(frozen=True)
class Progress:
    """The server's state (`starting`, `ready`, … as in server.json; empty before) and that of every level.

    `seconds_a_level` is how long each may take; 0 where nobody said.
    """

    server: str = ""
    levels: tuple[LevelState, ...] = ()
    seconds_a_level: float = 0.0

    @property
    def ended(self) -> tuple[LevelState, ...]:
        """The levels that have an outcome."""
        return tuple(level for level in self.levels if level.ended)

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
        open_levels = [level for level in self.levels if not level.ended]
        begun = [level.started_at for level in open_levels if level.started_at]
        spent = sum((timestamps.now() - started).total_seconds() for started in begun)
        return max(0.0, len(open_levels) * (self.seconds_a_level + _BETWEEN_LEVELS) - spent)

    def describe(self) -> str:
        """What is going on now, in a few words."""
        running = [level for level in self.levels if level.state == RUNNING]
        if running:
            return f"{running[0].scenario} at {level_title(running[0].level)}"
        if self.server == "ready":
            return "between levels"
        return "starting the server" if len(self.ended) < len(self.levels) else "writing the report"


@dataclass(frozen=True)
class SearchProgress:
    """The trials of a search that began, in that order, how many runs are asked for, and what runs now."""

    records: tuple[TrialRecord, ...] = ()  # what the search noted of each of its trials, those that confirm too
    trials: int = 0  # how many it may take
    confirm: int = 0  # how many runs confirm
    minutes: float | None = None  # how long it may take; None where nobody said
    state: str = ""  # of the search: `searching`, `confirming`, `stopped` or `done`; empty before
    now: Progress = field(default_factory=Progress)  # the levels of the trial that began last

    @property
    def ended(self) -> tuple[TrialRecord, ...]:
        """The runs that are not to be run any more."""
        return tuple(record for record in self.records if record.state not in (RUNNING, WAITING))

    @property
    def tried(self) -> tuple[TrialRecord, ...]:
        """Those that confirm nothing."""
        return tuple(record for record in self.records if record.role != "confirmation")

    @property
    def planned(self) -> int:
        """How many runs there will be, if nothing ends the search before."""
        return (self.trials if self.state in ("", "searching") else len(self.tried)) + self.confirm

    @property
    def total(self) -> str:
        """How many trials have ended, in words; those that confirm are none."""
        return plural(sum(record in self.ended for record in self.tried), "trial")

    @property
    def seconds_left(self) -> float:
        """How long the runs that have not ended will take, as those took that have; 0 for nobody knows."""
        took = [record.seconds for record in self.ended if record.seconds]
        if not took:
            return 0.0
        left = max(0, self.planned - len(self.ended)) * sum(took) / len(took)
        return left if self.minutes is None else min(left, max(0.0, 60 * self.minutes - sum(took)))

    def describe(self) -> str:
        """What is going on now, in a few words."""
        running = [record for record in self.records if record.state == RUNNING]
        if not running:
            return "choosing the next configuration"
        if len(running) > 1:
            return f"{len(running)} trials at once"
        number = len(self.tried)
        again = f"confirming, run {len(self.records) - number} of {self.confirm}"
        what = again if running[0].role == "confirmation" else f"trial {number} of {self.trials}"
        return f"{what}: {self.now.describe()}"


def read_sweep(experiment: Experiment) -> Progress:
    """How far a sweep is; what is not there yet, or just being replaced, counts as not there."""
    seconds = experiment.record.spec.get("max_seconds", 0.0)
    trial = Trial(next(iter(experiment.trial_folders), experiment.folder))
    return replace(read_progress(trial), seconds_a_level=seconds)


def read_search(experiment: Experiment) -> SearchProgress:
    """How far a search is; what is not there yet, or just being replaced, counts as not there."""
    record = experiment.record
    trials = experiment.search_trials
    return SearchProgress(
        records=tuple(trial.record for trial in trials),
        trials=record.spec.get("trials", 0),
        confirm=2 * record.spec.get("confirm", 0),
        minutes=record.spec.get("max_minutes"),
        state=record.search.get("state", ""),
        now=read_progress(trials[-1]) if trials else Progress(),
    )


def read_progress(trial: Trial) -> Progress:
    """How far a trial is; a file that is not there yet, or just being replaced, counts as not there."""
    facts = trial.facts
    if facts is None:
        return Progress()
    server = trial.server.state if trial.server else ""
    repeats = range(1, facts.repeats + 1)
    loads = [
        (scenario, level, repeat) for scenario in facts.scenarios for repeat in repeats for level in facts.every_level
    ]
    return Progress(server, tuple(_level(trial, *load) for load in loads))


def _level(trial: Trial, scenario: str, level: Level, repeat: int) -> LevelState:
    folder = trial.batch_folder(scenario, level, repeat)
    sidecar, is_whole = Sidecar.read(folder), True
    if sidecar is None:  # what is not in place yet goes on, whatever it says of its end
        sidecar, is_whole = Sidecar.read(part_of(folder)), False
    if sidecar is None:
        return LevelState(scenario, level, folder=folder)
    started_at = timestamps.read(sidecar.started_at)[0] if sidecar.started_at else None
    state = sidecar.outcome if is_whole else RUNNING
    return LevelState(scenario, level, state, sidecar.reason, started_at, folder)
