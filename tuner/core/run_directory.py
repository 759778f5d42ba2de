"""The run directory, which is the database: where everything of an experiment lies.

```
runs/20261124T041530Z-sweep-<name>/          Experiment
  experiment.json                            what was asked, versions, host, started_at, finished_at
  trials/0001/                               Trial
    trial.json                               engine, model, parameters; the levels and scenarios asked for
    server.json  server.log                  the command, when it was ready, how it ended
    batches/D(100,100)/concurrency-4/        one level: genai-bench's own files and
      batch.json                             our sidecar (Sidecar)
  report.ipynb  report.html
```
While a level runs its folder ends in `.part`; the rename that takes it away is what makes the batch count.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tuner.core import files, timestamps
from tuner.errors import PathError

EXPERIMENT_FILE = "experiment.json"
TRIAL_FILE = "trial.json"
SERVER_FILE = "server.json"
SERVER_LOG = "server.log"
SIDECAR_FILE = "batch.json"
PARTIAL = ".part"

#: the kinds of experiment
SWEEP, SEARCH = "sweep", "tune"
COMPLETED = "completed"
RUNNING = "running"
#: How a batch can end. Only a completed one has numbers that may be judged.
OUTCOMES = (
    COMPLETED,
    "out_of_memory",
    "server_died",
    "timeout",
    "all_errors",
    "truncated",
    "unreadable",
    "missing",
    "skipped",
    "interrupted",
    "client_failed",
)


class TrialFacts(msgspec.Struct, kw_only=True):
    """What was asked of one server configuration (`trial.json`)."""

    trial: int
    engine: str
    model: str
    parameters: dict[str, Any] = {}
    scenarios: list[str]
    levels: list[int]
    iteration_type: str = "num_concurrency"
    repeats: int = 1


class Sidecar(msgspec.Struct, kw_only=True):
    """What genai-bench does not record of one batch (`batch.json`); instants are UTC with a `Z`."""

    scenario: str
    concurrency: int
    iteration_type: str = "num_concurrency"
    repeat: int = 1
    outcome: str = RUNNING
    reason: str = ""
    started_at: str = ""
    finished_at: str = ""
    duration: float | None = None  # seconds on the monotonic clock
    exit_code: int | None = None
    client: dict[str, Any] = {}  # health of the load generator, such as cpu_share


@dataclass(frozen=True)
class Trial:
    """The folder of one server configuration and its sweep."""

    folder: Path

    @property
    def number(self) -> int:
        """Which trial of its experiment it is, from 1."""
        return int(self.folder.name)

    @property
    def facts_file(self) -> Path:
        """What is asked of this trial (TrialFacts)."""
        return self.folder / TRIAL_FILE

    @property
    def server_file(self) -> Path:
        """The configuration, the exact command, and how the server ended."""
        return self.folder / SERVER_FILE

    @property
    def server_log(self) -> Path:
        """What the server printed."""
        return self.folder / SERVER_LOG

    def batch_folder(self, scenario: str, concurrency: int, repeat: int = 1) -> Path:
        """Where one level's files lie once it has ended."""
        again = f"-repeat-{repeat}" if repeat > 1 else ""
        return self.folder / "batches" / safe_name(scenario) / f"concurrency-{concurrency}{again}"

    @property
    def facts(self) -> TrialFacts | None:
        """What was asked of this trial; None where nothing was yet, or the file is damaged."""
        try:
            return msgspec.convert(files.read_json(self.facts_file), TrialFacts)
        except (PathError, msgspec.ValidationError):
            return None

    def write(self, facts: TrialFacts) -> None:
        """Record what is asked of this trial."""
        files.write_json(self.facts_file, msgspec.to_builtins(facts))


@dataclass(frozen=True)
class Experiment:
    """One run directory."""

    folder: Path

    @classmethod
    def create(cls, runs: Path, kind: str, name: str) -> "Experiment":
        """Make a new run directory under `runs`.

        Raises:
            PathError: the folder cannot be made.
        """
        stem = f"{timestamps.to_stamp(timestamps.now())}-{kind}-{safe_name(name)}"
        return cls.at(_first_free(runs, stem))

    @classmethod
    def at(cls, folder: Path) -> "Experiment":
        """The run directory `folder`, made if it is not there.

        Raises:
            PathError: it cannot be made.
        """
        try:
            (folder / "trials").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PathError(f"cannot make the run directory {folder}: {error.strerror}") from error
        return cls(folder)

    @classmethod
    def open(cls, folder: Path) -> "Experiment":
        """The run directory `folder`.

        Raises:
            PathError: it is none.
        """
        if not (folder / EXPERIMENT_FILE).is_file():
            raise PathError(f"{folder} is no run directory: it has no {EXPERIMENT_FILE}")
        return cls(folder)

    @property
    def is_new(self) -> bool:
        """Whether nothing was asked of it yet."""
        return not (self.folder / EXPERIMENT_FILE).exists()

    @property
    def stop_file(self) -> Path:
        """Its presence asks whoever runs this experiment to end after the level that runs."""
        return self.folder / "stop"

    def describe(self, **facts: Any) -> None:
        """Add `facts` to `experiment.json`; a fact given again replaces the old one."""
        path = self.folder / EXPERIMENT_FILE
        known = files.read_json(path) if path.exists() else {}
        files.write_json(path, known | facts)

    @property
    def facts(self) -> dict[str, Any]:
        """What `experiment.json` says."""
        return dict(files.read_json(self.folder / EXPERIMENT_FILE))

    def trial(self, number: int) -> Trial:
        """The folder of trial `number` (from 1), made if it is not there."""
        folder = self.folder / "trials" / f"{number:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        return Trial(folder)


def safe_name(text: str) -> str:
    """`text` as one path component: no separator, no leading dot, at most 80 characters."""
    return re.sub(r"[^\w(),.=+-]", "_", text).strip(".")[:80] or "_"


def _first_free(runs: Path, stem: str) -> Path:
    """`runs/stem`, or with a number behind where that second is taken."""
    candidates = [runs / stem, *(runs / f"{stem}-{n}" for n in range(2, 100))]
    return next(path for path in candidates if not path.exists())
