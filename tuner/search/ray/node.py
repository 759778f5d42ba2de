"""What Ray runs on a node for a trial: it starts the trial's process, and hands out what is new when it is asked.

The driver asks again and again, and says with it what it wants; so files and orders take one way, which a lost node, a
lost driver and Ray's client (`ray://`) leave in a state that is easy to tell.
"""

import contextlib
import json
import os
import pickle
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tuner import __version__
from tuner.core import locks
from tuner.core.run_directory import NODE_VARIABLE, Experiment
from tuner.errors import ClusterError
from tuner.search.ray.sync import Change, Watch, apply

ERROR_FILE = "error.pickle"  # where a trial's process leaves the exception that ended it
#: what the driver may want of a trial
GO_ON, AFTER_LEVEL, AT_ONCE = "go on", "after level", "at once"


class News(NamedTuple):
    """What has happened to a trial since the driver asked last."""

    changes: list[Change]
    log: str  # what its process has logged
    has_ended: bool
    error: Exception | None = None


def versions() -> dict[str, str]:
    """What must be the same on all nodes."""
    return {"tuner": __version__, "Python": ".".join(platform.python_version_tuple()[:2])}


class Node:
    """One trial on the node where Ray has found room for it; an actor."""

    def introduce(self) -> tuple[str, str, dict[str, str]]:
        """Ray's id of this node, what it is called, and its versions."""
        import ray

        id_ = ray.get_runtime_context().get_node_id()
        self._name = f"{platform.node()} ({ray.util.get_node_ip_address()}, Ray node {id_[:8]})"
        return id_, self._name, versions()

    def start(self, spec: Mapping[str, Any], number: int, results: Sequence[Change]) -> None:
        """Start the process of the trial with this number, whose `results` so far are put in place first."""
        self._folder, self._lock = locks.temporary_folder("tuner-trial-")
        self._log, self._position = self._folder / "process.log", 0
        folder = Experiment.at(self._folder).trial(number).folder
        apply(results, folder)
        self._watch = Watch(folder)
        self._watch.changes()  # the driver knows these
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tuner.search.ray.worker", str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._log.open("wb"),
            env=_environment() | {NODE_VARIABLE: self._name},
            start_new_session=True,
            pass_fds=[self._lock.fileno()],
            text=True,
        )
        self._write(json.dumps({"spec": spec, "trial": number}))

    def news(self, wanted: str) -> News:
        """What is new; where the trial has ended, for the last time: nothing of it is left here then."""
        if wanted == AFTER_LEVEL:
            self._write("end after the level that runs")
        elif wanted == AT_ONCE and self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        has_ended = self._process.poll() is not None  # before the files are read, so that none comes after
        news = News(self._watch.changes(), self._new_log(), has_ended, self._error() if has_ended else None)
        if has_ended:
            shutil.rmtree(self._folder, ignore_errors=True)
        return news

    def _write(self, line: str) -> None:
        stdin = self._process.stdin
        if stdin and not stdin.closed:
            with contextlib.suppress(OSError):  # it has ended
                stdin.write(line + "\n")
                stdin.flush()

    def _new_log(self) -> str:
        with open(self._log, "rb") as file:
            file.seek(self._position)
            new = file.read()
        self._position += len(new)
        return new.decode(errors="replace")

    def _error(self) -> Exception | None:
        if (path := self._folder / ERROR_FILE).exists():
            error = pickle.loads(path.read_bytes())  # noqa: S301 - our own process wrote it
            return error if isinstance(error, Exception) else None
        code = self._process.returncode
        last = "".join(f": {line}" for line in self._log.read_text(errors="replace").strip().splitlines()[-1:])
        return ClusterError(f"the trial's process on node {self._name} ended with {code}{last}") if code else None


def _environment() -> dict[str, str]:
    """Ours, without the number of threads that Ray sets for what it runs itself: it would slow a server down."""
    entries = Path("/proc/self/environ").read_bytes().split(b"\0")
    is_users = any(entry.startswith(b"OMP_NUM_THREADS=") for entry in entries)
    return {name: value for name, value in os.environ.items() if is_users or name != "OMP_NUM_THREADS"}
