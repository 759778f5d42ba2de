"""The owner's end of genai-bench's host process: start it, send it levels, hear how they ended."""

import json
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from typing import IO, Any, cast

#: what genai-bench sees of the environment; it writes every secret that it finds there into its files
_PASSED_ON = (
    *(
        "PATH",
        "HOME",
        "LANG",
        "TMPDIR",
        "TZ",
        "VIRTUAL_ENV",
        "PYTHONPATH",
        "PYTHONDONTWRITEBYTECODE",
        "LD_LIBRARY_PATH",
    ),
    *("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "HF_HOME", "HF_TOKEN"),
)
_SET = {
    "ENABLE_UI": "false",  # its dashboard ends the process at the first logged error
    "GENAI_BENCH_LOGGING_LEVEL": "WARNING",
    "MPLBACKEND": "Agg",
    "NO_PROXY": "127.0.0.1,localhost",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
_START_SECONDS = 120.0
MARGIN_SECONDS = 30.0  # between a level's own limit and the end of our patience with it


class HostLost(Exception):
    """genai-bench's host process went away; the next level starts a new one."""


class Host:
    """The host process and the JSON lines that go to and fro."""

    def __init__(self, offline: bool) -> None:
        passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        self._ready = False
        self._buffer = b""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the host
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tuner.traffic.genai_bench_host", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            env=passed_on | _SET | (_OFFLINE if offline else {}),
            start_new_session=True,
        )
        self._requests = cast(IO[bytes], self._process.stdin)
        self._answers = cast(IO[bytes], self._process.stdout)

    @property
    def lost(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def wait_ready(self) -> None:
        """Return once genai-bench is imported."""
        if not self._ready:
            self._read("ready", _START_SECONDS)
            self._ready = True

    def run(self, request: dict[str, Any], stop: threading.Event) -> dict[str, Any]:
        """Have the host run a level; returns its last word on it."""
        self.wait_ready()
        self._send(json.dumps(request))
        self._read("started", _START_SECONDS)
        return self._read("ended", request["deadline"] + MARGIN_SECONDS, stop)

    def close(self) -> None:
        """End the host and the level that it runs; doing so again does no harm."""
        for pipe in (self._requests, self._answers, self._errors):
            pipe.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, line: str) -> None:
        try:
            self._requests.write(line.encode() + b"\n")
        except BrokenPipeError as error:
            raise HostLost("it no longer reads") from error

    def _read(self, wanted: str, patience: float, stop: threading.Event | None = None) -> dict[str, Any]:
        """The next message with the key `wanted`; asks the host to end its level once `stop` is set."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if stop is not None and stop.is_set():
                self._send("stop")
                stop = None
            message = self._next_message()
            if wanted in message:
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
