"""Measure one level with the real genai-bench: what it is asked, and how it ended.

The load generator lives in a host process of its own (`genai_bench_host`), since importing it takes seconds and hangs
a Jupyter kernel; each level is a forked child, so that a level's end, crash or kill touches no other.
"""

import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tuner.core import locks, timestamps
from tuner.errors import TunerError
from tuner.servers.supervised import Supervised
from tuner.traffic.course import Limits
from tuner.traffic.workload import SCENARIO, Workload, prompt_tokens

_log = logging.getLogger(__name__)

CLIENT_LOG = "client.log"
#: what genai-bench sees of the environment; it writes every secret that it finds there into its files
_PASSED_ON = (
    *("PATH", "HOME", "LANG", "TMPDIR", "TZ", "VIRTUAL_ENV"),
    *("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "LD_LIBRARY_PATH"),
    *("HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_TOKEN"),
)
_SET = {
    "ENABLE_UI": "false",  # its dashboard ends the process at the first logged error
    "GENAI_BENCH_LOGGING_LEVEL": "WARNING",
    "MPLBACKEND": "Agg",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
_START_SECONDS = 120.0
_MARGIN = 30.0  # seconds between a level's own limits and the end of our patience with it


@dataclass(frozen=True)
class Load:
    """One level: who is sent what, and what ends it; `request_parameters` go into every request's body as they are."""

    base_url: str
    model_name: str
    scenario: str
    workload: Workload
    limits: Limits
    workers: int = 1  # processes that share the level's users; one needs no others
    repeat: int = 1  # which measurement of this level it is
    api_backend: str = "vllm"  # the OpenAI API with `ignore_eos`, so that output lengths hold
    request_parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def prefix_share(self) -> float | None:
        """Share of the prompt tokens that are a prefix that many requests have; None where there is none."""
        prefix = self.workload.prefix
        return prefix.tokens / (prefix.tokens + prompt_tokens(self.scenario)) if prefix else None

    def arguments(self, folder: Path) -> list[str]:
        """The command line behind `genai-bench benchmark`; the order matters to it, and the key is not in it."""
        options = {
            "api-backend": self.api_backend,
            "api-base": self.base_url,
            "api-key": "handed-over-separately",
            "api-model-name": self.model_name,
            "model-tokenizer": self.workload.tokenizer,
            "task": "text-to-text",
            "max-time-per-run": max(1, round(self.limits.seconds / 60)),
            "max-requests-per-run": self.limits.requests,
            "num-concurrency": self.limits.concurrency,
            "traffic-scenario": found[0] if (found := SCENARIO.match(self.scenario)) else "dataset",
            "metrics-refresh-interval": 10**9,  # nobody looks at what it would compute anew after each request
            "additional-request-params": json.dumps(self.request_parameters),
            "experiment-base-dir": folder.parent,
            "experiment-folder-name": folder.name,
            "log-dir": folder,
        }
        if self.workers > 1:
            options |= {"num-workers": self.workers, "master-port": locks.free_port()}
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
    workload: str = ""  # the SHA-256 of the requests


class Bench(contextlib.AbstractContextManager["Bench", None]):
    """genai-bench, imported once, for as many levels as wanted; a context manager.

    The API key reaches the HTTP headers alone. `offline`: nothing is looked up on the model hub. `network`: variables
    that say which way to the server, and whom to trust (`servers.http.environment`).
    """

    def __init__(self, key: str = "", *, offline: bool = True, network: Mapping[str, str] | None = None) -> None:
        self._key = key or "none"
        passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        self._environment = {**passed_on, **_SET, **(_OFFLINE if offline else {}), **(network or {})}
        self._start()

    def _start(self) -> None:
        self._has_imported = False
        self._scratch, self._lock = locks.temporary_folder("tuner-genai-bench-")
        self._errors = (self._scratch / "errors").open("w+b")  # which is read when its name is gone
        self._host = Supervised(
            [sys.executable, "-m", "tuner.traffic.genai_bench_host"],
            self._scratch / "errors",
            env=self._environment,
            grace=1.0,  # nothing of a level that was cut off is kept
            has_pipes=True,
            scratch=self._scratch,
            held=[self._lock.fileno()],
        ).start()
        to_host, of_host = (os.dup(pipe.fileno()) for pipe in (self._host.stdin, self._host.stdout) if pipe)
        self._orders, self._answers = Connection(to_host, readable=False), Connection(of_host, writable=False)

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the host and the level that it runs; doing so again does no harm."""
        self._orders.close()
        self._host.__exit__()
        for one in (self._answers, self._errors, self._lock):
            one.close()

    @property
    def scratch(self) -> Path:
        """A folder that goes with the host, however it ends."""
        self.wait_ready()
        return self._scratch

    @property
    def is_ready(self) -> bool:
        """Whether a level can begin at once."""
        return self._has_imported and self._host.is_alive()

    def wait_ready(self, stop: threading.Event | None = None) -> None:
        """Have a host that has imported genai-bench, so that a level's start is not blurred by it."""
        if not self._host.is_alive():
            self.close()
            self._start()
        messages = self._messages(_START_SECONDS)
        with contextlib.suppress(HostLost):  # `run` meets it again, and says so
            while not (self._has_imported or (stop and stop.is_set())):
                next(messages)

    def run(self, load: Load, folder: Path, stop: threading.Event) -> Ended:
        """Measure one level; its files are in `folder`, which exists and is the level's own, afterwards."""
        self.wait_ready(stop)
        sha256 = load.workload.write(folder, load.scenario, load.limits.level, load.repeat, load.limits.most_requests)
        started_at, clock = timestamps.now(), time.monotonic()
        try:
            end = {} if stop.is_set() else self._measure(load, folder, stop)
        except HostLost as lost:
            _log.warning("genai-bench's host process was lost: %s", lost)
            self.close()
            end = {}
        seconds = time.monotonic() - clock
        return Ended(started_at=started_at, finished_at=timestamps.now(), duration=seconds, workload=sha256, **end)

    def _measure(self, load: Load, folder: Path, stop: threading.Event) -> dict[str, Any]:
        seconds = load.limits.longest + _MARGIN
        request = {"arguments": load.arguments(folder), "folder": folder, "errors": folder / CLIENT_LOG}
        request |= {"key": self._key, "tokenizer": load.workload.tokenizer, "scenario": load.scenario}
        self._send(request | {"workers": load.workers, "limits": load.limits, "seconds": seconds})
        orders = ["stop"]
        for message in self._messages(_START_SECONDS + seconds + _MARGIN):
            if "exit_code" in message:
                return message
            if orders and stop.is_set():
                self._send(orders.pop())
        return {}

    def _send(self, order: object) -> None:
        with contextlib.suppress(OSError):  # it no longer reads: why, its last words say
            self._orders.send(order)

    def _messages(self, patience: float) -> Iterator[dict[str, Any]]:
        """What the host says, and {} where it said nothing for a moment; HostLost: it has ended, or is silent."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            try:
                message = self._answers.recv() if self._answers.poll(0.1) else {}
            except (EOFError, OSError):
                self._errors.seek(0)
                lines = self._errors.read().decode(errors="replace").strip().splitlines()
                raise HostLost(lines[-1] if lines else "it ended without a word") from None
            self._has_imported |= bool(message)
            yield message
        raise HostLost(f"it said nothing for {patience:.0f} s")


class HostLost(Exception):
    """genai-bench's host process went away; the next level starts a new one."""


class Benches(contextlib.AbstractContextManager["Benches", None]):
    """Load generators that nobody uses just now, for who asks for the same: importing genai-bench takes seconds."""

    def __init__(self) -> None:
        self._idle: list[tuple[object, Bench]] = []
        self._choice = threading.Lock()  # trials run in threads

    def __exit__(self, *_: object) -> None:
        for _kind, bench in self._idle:
            bench.close()

    @contextlib.contextmanager
    def bench(self, key: str, **options: Any) -> Iterator[Bench]:
        """One with these arguments of `Bench`, for as long as the with-block lasts."""
        kind, is_sound = (key, options), False
        with self._choice:
            if found := next((idle for idle in self._idle if idle[0] == kind), None):
                self._idle.remove(found)
        bench = found[1] if found else Bench(key, **options)
        try:
            yield bench
            is_sound = True
        except TunerError:  # which comes between two levels
            is_sound = True
            raise
        finally:
            if is_sound:
                self._idle.append((kind, bench))
            else:
                bench.close()
