"""What a run directory says of how its levels and its server ended, besides genai-bench's own files."""

import re
from pathlib import Path

import msgspec

from tuner.batches.batch import client
from tuner.batches.results import one_line
from tuner.core import files
from tuner.core.files import is_regular
from tuner.core.run_directory import Sidecar, Trial
from tuner.core.timestamps import read as read_time

LOG_TAIL = 64 * 1024
#: Lines of a server's log that say why it ended: PyTorch's (vLLM, SGLang), vLLM's, llama.cpp's and the kernel's.
LOG_SIGNS = re.compile(
    rb"[^\n]*(?:torch\.OutOfMemoryError|(?:CUDA|HIP) out of memory|cudaErrorMemoryAllocation"
    rb"|No available memory for the cache blocks|failed to allocate buffer|Out of memory: Killed)[^\n]*"
)
#: Share of one core above which the load generator, and not the server, may be what was measured.
CLIENT_BUSY = 0.9
#: Seconds by which the wall clock and the monotonic clock may differ over one level.
CLOCK_DRIFT = 2.0


class ServerFailure(msgspec.Struct):
    """What `server.json` says of a server that failed."""

    kind: str = ""
    detail: str = ""

    @property
    def outcome(self) -> str:
        """What it makes of a batch that was not run for it."""
        return "out_of_memory" if self.kind == "out_of_memory" else "server_died"

    @property
    def reason(self) -> str:
        """The same as a sentence."""
        return f"the server failed ({self.kind}): {one_line(self.detail)}".removesuffix(": ")


class ServerFacts(msgspec.Struct):
    """The wanted key of `server.json`."""

    failure: ServerFailure | None = None


def failure_of(folder: Path) -> ServerFailure | None:
    """Why the server of the trial in `folder` failed, by `server.json` or else its log; None where neither says."""
    trial = Trial(folder)
    facts: ServerFacts | None = files.decoded(trial.server_file, ServerFacts)
    if facts and facts.failure:
        return facts.failure
    line = LOG_SIGNS.search(_tail(trial.server_log))
    return ServerFailure("out_of_memory", line[0].decode(errors="replace")) if line else None


def doubts(sidecar: Sidecar | None) -> list[str]:
    """What the sidecar gives cause to doubt."""
    busy, drift = client(sidecar, "client_cpu_share"), _drift(sidecar)
    notes = [f"the load generator used {busy:.0%} of a core: it may be what was measured"] if busy > CLIENT_BUSY else []
    if abs(drift) > CLOCK_DRIFT:
        notes.append(f"the clock was set during the level: its start and end are {drift:+.1f} s off")
    return notes


def _drift(sidecar: Sidecar | None) -> float:
    """Seconds between the recorded times beyond what the monotonic clock counted; 0 where nobody knows."""
    if sidecar is None or sidecar.duration is None:
        return 0.0
    try:
        (start, _), (end, _) = (read_time(text) for text in (sidecar.started_at, sidecar.finished_at))
    except ValueError:
        return 0.0
    return (end - start).total_seconds() - sidecar.duration


def _tail(path: Path) -> bytes:
    """The last `LOG_TAIL` bytes of a log; nothing where there is none."""
    if not is_regular(path):
        return b""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_TAIL))
            return file.read(LOG_TAIL)
    except OSError:
        return b""
