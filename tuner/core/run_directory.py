"""The run directory: its layout, who may write into it, and what it was written on (its records: `records`)."""

import contextlib
import platform
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from tuner.core import files, locks, records, timestamps
from tuner.core.level import Level, folder_name
from tuner.core.records import EXPERIMENT_FILE, ExperimentRecord, ServerRecord, TrialFacts, TrialRecord, sound
from tuner.errors import PathError

SERVER_LOG = "server.log"
TRIALS = "trials"
LEVEL_NAME = re.compile(  # how the folder of a level is called, without `PARTIAL`; see `Trial.batch_folder`
    r"(?:concurrency-|(?P<rate>rate-))(?P<level>\d{1,9}(?(rate)(?:\.\d{1,9})?))(?:-repeat-(?P<repeat>\d{1,9}))?"
)
PARTIAL = ".part"
_LOCK = ".lock"  # whose holder writes, and says in it who that is
_SURELY_LEFT = 5.0  # seconds, in which a file that was written aside is renamed


def part_of(folder: Path) -> Path:
    """Where the files of a level lie that goes in `folder` when it has ended."""
    return folder.with_name(folder.name + PARTIAL)


@dataclass(frozen=True)
class Trial:
    """The folder of one server configuration and its sweep."""

    folder: Path

    @property
    def number(self) -> int:
        """Which trial of its experiment it is, from 1."""
        return int(self.folder.name)

    @property
    def run(self) -> Path:
        """The run directory that it lies in; itself where it lies in none."""
        return self.folder.parents[1] if self.folder.parent.name == TRIALS else self.folder

    @property
    def batches(self) -> Path:
        """Where the folders of its levels lie, below one a scenario."""
        return self.folder / "batches"

    @property
    def server_log(self) -> Path:
        """What the server printed."""
        return self.folder / SERVER_LOG

    @property
    def server(self) -> ServerRecord | None:
        """What is recorded of its server; None where nothing is, or the file is damaged."""
        return ServerRecord.read(self.folder)

    @property
    def gpus(self) -> int:
        """How many GPUs its server had, as the record says."""
        return len(server.gpus) if (server := self.server) else 0

    def batch_folder(self, scenario: str, level: Level, repeat: int = 1) -> Path:
        """Where one level's files lie once it has ended."""
        again = f"-repeat-{repeat}" if repeat > 1 else ""
        return self.batches / safe_name(scenario) / f"{folder_name(level)}{again}"

    def level_folders(self, *, partial: bool = False) -> list[Path]:
        """The folders of the levels that have ended, or instead of those that have not (`part_of`)."""
        folders = [level for scenario in files.subfolders(self.batches) for level in files.subfolders(scenario)]
        return [folder for folder in folders if folder.name.endswith(PARTIAL) == partial]

    @property
    def facts(self) -> TrialFacts | None:
        """What was asked of this trial; None where nothing was yet, or the file is damaged."""
        return TrialFacts.read(self.folder)

    @property
    def record(self) -> TrialRecord:
        """What a search noted of it; made from the trial itself where it noted nothing."""
        if note := TrialRecord.read(self.folder):
            return note
        facts = self.facts
        role: records.Role = "baseline" if self.folder.name == "0001" else "candidate"
        state = records.ENDED if facts else records.WAITING
        return TrialRecord(role=role, parameters=facts.parameters if facts else {}, state=state)


@dataclass(frozen=True)
class Experiment:
    """One run directory; `is_held` while the `only_writer` lasts that it was got from."""

    folder: Path
    lock: IO[str] | None = field(default=None, compare=False)

    @classmethod
    def create(cls, runs: Path, kind: str, name: str) -> "Experiment":
        """Make a new run directory under `runs`; PathError: it cannot be made."""
        stem = f"{timestamps.to_stamp(timestamps.now())}-{kind}-{safe_name(name)}"
        for folder in (runs / stem, *(runs / f"{stem}-{number}" for number in range(2, 1000))):
            with contextlib.suppress(FileExistsError):  # which somebody has made meanwhile
                return cls.at(folder, exist_ok=False)
        raise PathError(f"cannot make a run directory: {runs} has a thousand of this second")

    @classmethod
    def find(cls, runs: Path, kind: str = "", name: str = "") -> Iterator["Experiment"]:
        """The run directories under `runs`, the newest first; those of a `kind` and a `name`, where they are given."""
        names = f"*Z-{kind}-*" if kind else "*"
        for path in sorted(runs.glob(f"{names}/{EXPERIMENT_FILE}"), reverse=True):
            experiment = cls(path.parent)
            if not name or experiment.record.name == name:
                yield experiment

    @classmethod
    def at(cls, folder: Path, *, exist_ok: bool = True) -> "Experiment":
        """The run directory `folder`, made if it is not there; PathError: it cannot be made."""
        try:
            folder.mkdir(parents=True, exist_ok=exist_ok)
            (folder / TRIALS).mkdir(exist_ok=True)
        except OSError as error:
            if isinstance(error, FileExistsError) and not exist_ok:
                raise
            raise PathError(f"cannot make the run directory {folder}: {error.strerror}") from error
        return cls(folder)

    @classmethod
    def open(cls, folder: Path) -> "Experiment":
        """The run directory `folder`; PathError: it is none, or what was asked of it cannot be read."""
        if not (folder / EXPERIMENT_FILE).is_file():
            raise PathError(f"{folder} is no run directory: it has no {EXPERIMENT_FILE}")
        files.read_json(folder / EXPERIMENT_FILE, dict[str, Any])
        return cls(folder)

    @property
    def is_held(self) -> bool:
        """Whether nobody but who has this may write into it."""
        return self.lock is not None and not self.lock.closed

    @property
    def is_new(self) -> bool:
        """Whether nothing was asked of it yet."""
        return not (self.folder / EXPERIMENT_FILE).exists()

    @property
    def stop_file(self) -> Path:
        """Its presence asks whoever runs this experiment to end after the level that runs."""
        return self.folder / "stop"

    def describe(self, **facts: Any) -> None:
        """Add `facts` to `experiment.json`; a fact given again replaces the old one.

        PathError: what stands there already cannot be read, or nothing can be written.
        """
        before = {} if self.is_new else files.read_json(self.folder / EXPERIMENT_FILE, dict[str, Any])
        files.write_json(self.folder / EXPERIMENT_FILE, before | facts)

    @property
    def facts(self) -> dict[str, Any]:
        """All that `experiment.json` says, as far as it is sound; empty where the file is missing or damaged."""
        return sound(files.read_object(self.folder / EXPERIMENT_FILE), self.folder / EXPERIMENT_FILE)

    @property
    def record(self) -> ExperimentRecord:
        """The part of `experiment.json` that has a schema; empty where the file is missing or damaged."""
        return ExperimentRecord.read(self.folder) or ExperimentRecord()

    @property
    def is_running(self) -> bool:
        """Whether a process writes into it, here or wherever the folder is shared."""
        return locks.is_locked(self.folder / _LOCK)

    @contextlib.contextmanager
    def only_writer(self) -> Iterator["Experiment"]:
        """Hold it, so that two runs never write into one; the kernel lets go with us.

        Yields the same run as its holder knows it, whose `only_writer` does nothing more. PathError: another process,
        or another thread of this one, holds it.
        """
        if self.is_held:
            yield self
            return
        try:
            lock = locks.take_file(self.folder / _LOCK)
        except locks.AlreadyTaken as holder:
            raise PathError(f"{self.folder} is being written by {holder}; wait for its end") from None
        with lock:
            if not self.is_new:  # what asks a new run to stop is meant
                self.stop_file.unlink(missing_ok=True)
            self._remove_leftovers()
            try:
                yield Experiment(self.folder, lock)
            finally:
                self._remove_leftovers()
                with contextlib.suppress(OSError):  # leave nothing of a run that was refused before it began
                    if self.is_new:
                        (self.folder / _LOCK).unlink(missing_ok=True)
                        for folder in (*self.trial_folders, self.folder / TRIALS, self.folder):
                            folder.rmdir()

    def _remove_leftovers(self) -> None:
        """Remove what a killed writer had aside; somebody may just write a report from elsewhere."""
        for path in self.folder.rglob(".*"):
            with contextlib.suppress(OSError):
                if files.ASIDE.fullmatch(path.name) and time.time() - path.lstat().st_mtime > _SURELY_LEFT:
                    path.unlink()

    def forget(self) -> None:
        """Unmake what was refused before anything was measured; its `only_writer` then leaves nothing of it."""
        for folder in self.trial_folders:
            shutil.rmtree(folder, ignore_errors=True)
        (self.folder / EXPERIMENT_FILE).unlink(missing_ok=True)

    @property
    def logs(self) -> list[Path]:
        """What its servers and its other processes printed."""
        logs = [*sorted(self.folder.glob(f"{TRIALS}/*/{SERVER_LOG}")), *sorted(self.folder.glob("*.log"))]
        return [log for log in logs if files.is_regular(log)]

    @property
    def trial_folders(self) -> list[Path]:
        """The folders of its trials, in the order of their numbers."""
        return files.subfolders(self.folder / TRIALS)

    @property
    def search_trials(self) -> list[Trial]:
        """Those of its trials of which a search has noted something."""
        return [Trial(folder) for folder in self.trial_folders if (folder / TrialRecord.FILE).exists()]

    @property
    def has_begun(self) -> bool:
        """Whether anything was asked of a trial of its."""
        return any((folder / TrialFacts.FILE).exists() for folder in self.trial_folders)

    def trial(self, number: int) -> Trial:
        """The folder of trial `number` (from 1), made if it is not there."""
        folder = self.folder / TRIALS / f"{number:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        return Trial(folder)


def safe_name(text: str) -> str:
    """`text` as one path component: no separator, no leading dot, at most 80 characters."""
    return re.sub(r"[^\w(),.=+-]", "_", text).strip(".")[:80] or "_"


_PACKAGES = ("tuner", "genai-bench", "xllamacpp", "vllm", "sglang", "pandas", "plotly")
NODE_VARIABLE = "TUNER_NODE"  # how a cluster's node is called in records, where it is known by more than its host name


def environment() -> dict[str, Any]:
    """Versions of Python and of the packages that shape a result, and the machine: plain JSON values."""
    import psutil

    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    host = {
        "name": platform.node(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }
    return {"versions": versions, "host": host}
