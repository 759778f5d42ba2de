"""Measure one level with the real genai-bench: what it is asked, and how it ended.

The load generator lives in a host process of its own (`genai_bench_host`), since importing it takes seconds and hangs
a Jupyter kernel; each level is a forked child, so that a level's end, crash or kill touches no other.
"""

import contextlib
import json
import logging
import socket
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tuner.core import timestamps
from tuner.traffic.genai_bench_link import MARGIN_SECONDS, Host, HostLost

_log = logging.getLogger(__name__)

CLIENT_LOG = "client.log"


@dataclass(frozen=True)
class Load:
    """What genai-bench is asked to do at one level.

    `max_seconds` and `max_requests` end the level, whichever comes first; with fewer than `enough_requests` it goes on
    until `extend_to` seconds. `request_parameters` go into every request's body as they are.
    """

    base_url: str
    model_name: str
    tokenizer: str
    scenario: str
    concurrency: int
    max_seconds: float
    max_requests: int
    extend_to: float | None = None
    enough_requests: int = 0
    workers: int = 0
    repeat: int = 1  # which measurement of this level it is
    api_backend: str = "vllm"  # the OpenAI API with `ignore_eos`, so that output lengths hold
    request_parameters: dict[str, Any] = field(default_factory=dict)

    def arguments(self, folder: Path) -> list[str]:
        """The command line behind `genai-bench benchmark`; the order matters to it, and the key is not in it."""
        options = {
            "api-backend": self.api_backend,
            "api-base": self.base_url,
            "api-key": "handed-over-separately",
            "api-model-name": self.model_name,
            "model-tokenizer": self.tokenizer,
            "task": "text-to-text",
            "max-time-per-run": max(1, round(self.max_seconds / 60)),
            "max-requests-per-run": self.max_requests,
            "num-concurrency": self.concurrency,
            "traffic-scenario": self.scenario,
            "additional-request-params": json.dumps(self.request_parameters),
            "experiment-base-dir": folder.parent,
            "experiment-folder-name": folder.name,
            "log-dir": folder,
        }
        if self.workers:
            options |= {"num-workers": self.workers, "master-port": _free_port()}
        return [text for name, value in options.items() for text in (f"--{name}", str(value))]


@dataclass(frozen=True)
class Ended:
    """How a level's process ended; instants are UTC, `duration` is in seconds on the monotonic clock."""

    started_at: datetime
    finished_at: datetime
    duration: float
    exit_code: int | None = None  # None where the host itself was lost; negative for a signal
    timed_out: bool = False
    cpu_seconds: float | None = None


def _free_port() -> int:
    """A port for genai-bench's workers to meet at; it takes no socket, only a number."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Bench:
    """genai-bench, imported once, for as many levels as wanted; a context manager.

    Args:
        key: the API key; it reaches the HTTP headers alone.
        offline: whether the tokenizer is a local folder, so that nothing is looked up on the model hub.
    """

    def __init__(self, key: str = "", *, offline: bool = True) -> None:
        self._key = key or "none"
        self._offline = offline
        self._host = Host(offline)

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, load: Load, folder: Path, stop: threading.Event) -> Ended:
        """Measure one level; its files are in `folder` afterwards.

        Args:
            load: what to do.
            folder: an existing folder of the level's own.
            stop: ends the level at once when it is set.
        """
        self._revive()
        started_at, clock = timestamps.now(), time.monotonic()
        try:
            answer = self._host.run(self._request(load, folder), stop)
        except HostLost as lost:
            _log.warning("genai-bench's host process was lost: %s", lost)
            answer = {}
        return Ended(
            started_at=started_at,
            finished_at=timestamps.now(),
            duration=time.monotonic() - clock,
            exit_code=answer.get("ended"),
            timed_out=answer.get("timed_out", False),
            cpu_seconds=answer.get("cpu_seconds"),
        )

    def close(self) -> None:
        """End the host and the level that it runs; doing so again does no harm."""
        self._host.close()

    def _revive(self) -> None:
        """Have a host that has imported genai-bench, so that a level's start is not blurred by it."""
        if self._host.lost:
            self._host.close()
            self._host = Host(self._offline)
        with contextlib.suppress(HostLost):  # `run` meets it again, and says so
            self._host.wait_ready()

    def _request(self, load: Load, folder: Path) -> dict[str, Any]:
        return {
            "arguments": load.arguments(folder),
            "key": self._key,
            "seconds": load.max_seconds,
            "extend_to": load.extend_to or load.max_seconds,
            "enough": load.enough_requests,
            "deadline": (load.extend_to or load.max_seconds) + MARGIN_SECONDS,
            "errors": str(folder / CLIENT_LOG),
        }
