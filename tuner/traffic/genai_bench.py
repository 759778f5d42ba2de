"""Measure one level with the real genai-bench: what it is asked, and how it ended.

The load generator lives in a host process of its own (`genai_bench_host`), since importing it takes seconds and hangs
a Jupyter kernel; each level is a forked child, so that a level's end, crash or kill touches no other.
"""

import contextlib
import json
import logging
import os
import select
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any, cast

import msgspec

from tuner.core import locks, timestamps
from tuner.errors import TunerError
from tuner.servers.supervised import Supervised
from tuner.traffic.course import Limits
from tuner.traffic.workload import SCENARIO, Workload, prompt_tokens

_log = logging.getLogger(__name__)

CLIENT_LOG = "client.log"


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
        self._environment = (_OFFLINE if offline else {}) | dict(network or {})
        self._host = _Host(self._environment)

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, load: Load, folder: Path, stop: threading.Event) -> Ended:
        """Measure one level; its files are in `folder`, which exists and is the level's own, afterwards."""
        self.wait_ready(stop)
        sha256 = load.workload.write(folder, load.scenario, load.limits.level, load.repeat, load.limits.most_requests)
        started_at, clock = timestamps.now(), time.monotonic()
        try:
            answer = self._host.run(self._request(load, folder), stop)
        except HostLost as lost:
            _log.warning("genai-bench's host process was lost: %s", lost)
            self._host.close()
            answer = {}
        return Ended(
            started_at=started_at,
            finished_at=timestamps.now(),
            duration=time.monotonic() - clock,
            exit_code=answer.get("ended"),
            timed_out=answer.get("timed_out", False),
            cpu_seconds=answer.get("cpu_seconds"),
            workload=sha256,
        )

    @property
    def scratch(self) -> Path:
        """A folder that goes with the host, however it ends."""
        self.wait_ready()
        return self._host.scratch

    def close(self) -> None:
        """End the host and the level that it runs; doing so again does no harm."""
        self._host.close()

    @property
    def is_ready(self) -> bool:
        """Whether a level can begin at once."""
        return self._host.is_ready and not self._host.is_lost

    def wait_ready(self, stop: threading.Event | None = None) -> None:
        """Have a host that has imported genai-bench, so that a level's start is not blurred by it."""
        if self._host.is_lost:
            self._host.close()
            self._host = _Host(self._environment)
        with contextlib.suppress(HostLost):  # `run` meets it again, and says so
            self._host.wait_ready(stop)

    def _request(self, load: Load, folder: Path) -> dict[str, Any]:
        return {
            "arguments": load.arguments(folder),
            "key": self._key,
            "tokenizer": load.workload.tokenizer,
            "scenario": load.scenario,
            "folder": str(folder),
            "workers": load.workers,
            "limits": msgspec.to_builtins(load.limits),
            "deadline": load.limits.longest_window + 2 * load.limits.seconds + MARGIN_SECONDS,
            "errors": str(folder / CLIENT_LOG),
        }


class Benches(contextlib.AbstractContextManager["Benches", None]):
    """Load generators that nobody uses just now, for who asks for the same: importing genai-bench takes seconds."""

    def __init__(self) -> None:
        self._idle: list[tuple[object, Bench]] = []

    def __exit__(self, *_: object) -> None:
        for _key, bench in self._idle:
            bench.close()

    @contextlib.contextmanager
    def bench(self, key: str, *, offline: bool, network: Mapping[str, str]) -> Iterator[Bench]:
        """One with these arguments of `Bench`, for as long as the with-block lasts."""
        kind = (key, offline, network)
        found = next((idle for idle in self._idle if idle[0] == kind), None)
        if found:
            self._idle.remove(found)
        bench, is_sound = found[1] if found else Bench(key, offline=offline, network=network), True
        try:
            yield bench
        except BaseException as error:
            is_sound = isinstance(error, TunerError)  # then it was between two levels
            raise
        finally:
            if is_sound:
                self._idle.append((kind, bench))
            else:
                bench.close()


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
_GRACE = 1.0  # seconds: nothing of a level that was cut off is kept
MARGIN_SECONDS = 30.0  # between a level's own limits and the end of our patience with it


class HostLost(Exception):
    """genai-bench's host process went away; the next level starts a new one."""


class _Host:
    """The host process and the JSON lines that go to and fro."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        self.is_ready = False
        self._buffer = b""
        self.scratch, self._lock = locks.temporary_folder("tuner-genai-bench-")
        self._errors = (self.scratch / "errors").open("w+b")  # which is read when its name is gone
        self._process = Supervised(
            [sys.executable, "-m", "tuner.traffic.genai_bench_host"],
            self.scratch / "errors",
            env={**passed_on, **_SET, **environment},
            grace=_GRACE,
            has_pipes=True,
            scratch=self.scratch,
            held=[self._lock.fileno()],
        ).start()
        self._requests = cast(IO[bytes], self._process.stdin)
        self._answers = cast(IO[bytes], self._process.stdout)

    @property
    def is_lost(self) -> bool:
        return not self._process.is_alive()

    def wait_ready(self, stop: threading.Event | None = None) -> None:
        """Return once genai-bench is imported, or nobody wants it any more."""
        deadline = time.monotonic() + _START_SECONDS
        while not (self.is_ready or (stop and stop.is_set())):
            self.is_ready = "ready" in self._next_message()
            if time.monotonic() > deadline:
                raise HostLost(f"it said nothing for {_START_SECONDS:.0f} s")

    def run(self, request: dict[str, Any], stop: threading.Event) -> dict[str, Any]:
        self.wait_ready(stop)
        if stop.is_set():
            return {}
        self._send(json.dumps(request))
        self._read("started", _START_SECONDS)
        return self._read("ended", request["deadline"] + MARGIN_SECONDS, stop)

    def close(self) -> None:
        self._process.stop()
        self._answers.close()
        self._errors.close()
        self._lock.close()

    def _send(self, line: str) -> None:
        try:
            self._requests.write(line.encode() + b"\n")
        except (BrokenPipeError, ValueError) as error:
            raise HostLost("it no longer reads") from error

    def _read(self, key: str, patience: float, stop: threading.Event | None = None) -> dict[str, Any]:
        """The next message with this `key`; asks the host to end its level once `stop` is set."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if stop is not None and stop.is_set():
                self._send("stop")
                stop = None
            message = self._next_message()
            if key in message:
                return message
        raise HostLost(f"it said nothing for {patience:.0f} s")

    def _next_message(self) -> dict[str, Any]:
        """A message, or {} where none came within a moment."""
        if b"\n" not in self._buffer and select.select([self._answers], [], [], 0.1)[0]:
            arrived = os.read(self._answers.fileno(), 65536)
            if not arrived:
                raise HostLost(self._last_words())
            self._buffer += arrived
        line, newline, rest = self._buffer.partition(b"\n")
        if not newline:
            return {}
        self._buffer = rest
        return dict(json.loads(line))

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it ended without a word"
