"""How far a run is, read from its directory; so the terminal, a notebook and a second notebook see the same."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from tuner import files, timestamps
from tuner.errors import PathError
from tuner.experiment import PARTIAL, RUNNING, SIDECAR_FILE, Experiment, Sidecar, Trial

WAITING = "waiting"
_BETWEEN_LEVELS = 1.0  # seconds


@dataclass(frozen=True)
class LevelState:
    """One asked-for level: `waiting`, `running`, or its outcome."""

    scenario: str
    concurrency: int
    state: str = WAITING
    reason: str = ""
    started_at: datetime | None = None
    folder: Path = Path()

    @property
    def ended(self) -> bool:
        """Whether the level has an outcome."""
        return self.state not in (WAITING, RUNNING)


@dataclass(frozen=True)
class Progress:
    """The server's state (`starting`, `ready`, … as in server.json; empty before) and that of every level."""

    server: str = ""
    levels: tuple[LevelState, ...] = ()

    @property
    def ended(self) -> tuple[LevelState, ...]:
        """The levels that have an outcome."""
        return tuple(level for level in self.levels if level.ended)

    def seconds_left(self, seconds_a_level: float) -> float:
        """How long the levels that have not ended will take, where each takes `seconds_a_level`; 0 for none."""
        open_levels = [level for level in self.levels if not level.ended]
        begun = [level.started_at for level in open_levels if level.started_at]
        spent = sum((timestamps.now() - started).total_seconds() for started in begun)
        return max(0.0, len(open_levels) * (seconds_a_level + _BETWEEN_LEVELS) - spent)

    def describe(self) -> str:
        """What is going on now, in a few words."""
        running = [level for level in self.levels if level.state == RUNNING]
        if running:
            return f"{running[0].scenario} at concurrency {running[0].concurrency}"
        if self.server == "ready":
            return "between levels"
        return "starting the server" if len(self.ended) < len(self.levels) else "writing the report"


def read_progress(experiment: Experiment) -> Progress:
    """How far the run is; a file that is not there yet, or just being replaced, counts as not there."""
    trial = experiment.trial(1)
    facts = trial.facts
    if facts is None:
        return Progress()
    server = _read(trial.server_file).get("state", "")
    repeats = range(1, facts.repeats + 1)
    loads = [(scenario, level, repeat) for scenario in facts.scenarios for repeat in repeats for level in facts.levels]
    return Progress(server, tuple(_level(trial, *load) for load in loads))


def _level(trial: Trial, scenario: str, concurrency: int, repeat: int) -> LevelState:
    folder = trial.batch_folder(scenario, concurrency, repeat)
    known = _read(folder / SIDECAR_FILE) or _read(folder.with_name(folder.name + PARTIAL) / SIDECAR_FILE)
    if not known:
        return LevelState(scenario, concurrency, folder=folder)
    sidecar = msgspec.convert(known, Sidecar)
    started_at = timestamps.from_text(sidecar.started_at) if sidecar.started_at else None
    return LevelState(scenario, concurrency, sidecar.outcome, sidecar.reason, started_at, folder)


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(files.read_json(path))
    except PathError:
        return {}
