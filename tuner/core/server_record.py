"""`server.json`: what was started in a trial, when it was ready, and how it ended."""

import os
import platform
from typing import Any

import msgspec

from tuner.core import files, timestamps
from tuner.core.run_directory import Trial

#: how a cluster's node is called, where it is known by more than its host name
NODE_VARIABLE = "TUNER_NODE"
STARTING, READY, STOPPED, FAILED = "starting", "ready", "stopped", "failed"


class ServerRecord(msgspec.Struct, kw_only=True):
    """One start of a server; instants are UTC with a `Z`, durations seconds. No secret is in it."""

    state: str = STARTING
    engine: str
    model: str
    served_name: str
    version: str = ""  # as the server itself says
    parameters: dict[str, Any] = {}
    command: list[str] = []
    base_url: str
    host: str = msgspec.field(default_factory=lambda: os.environ.get(NODE_VARIABLE) or platform.node())
    gpus: list[str] = []  # UUIDs
    gpu_memory: dict[str, dict[str, int]] = {}  # bytes in use before, ready and after, by UUID
    pid: int | None = None
    started_at: str = msgspec.field(default_factory=lambda: timestamps.to_text(timestamps.now()))
    ready_at: str = ""
    finished_at: str = ""
    ready_seconds: float | None = None
    exit_code: int | None = None
    failure: dict[str, Any] | None = None  # kind, detail, log_tail
    warnings: list[str] = []
    previous: list[dict[str, Any]] = []  # earlier starts in the same trial, the oldest first

    def write(self, trial: Trial) -> None:
        """Replace the trial's `server.json`."""
        files.write_json(trial.server_file, msgspec.to_builtins(self))


def earlier_starts(trial: Trial) -> list[dict[str, Any]]:
    """The records of servers that were started in this trial before, the oldest first."""
    if not trial.server_file.exists():
        return []
    last = dict(files.read_json(trial.server_file))
    return [*last.pop("previous", []), last]
