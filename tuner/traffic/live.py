"""What a running level does at the moment, written once a second for whoever looks; never a result."""

import contextlib
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.sharedctypes import RawArray
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from tuner.core import files
from tuner.core.request_log import LIVE_FILE, SentRequest
from tuner.errors import PathError
from tuner.traffic.stream import Answer

_EVERY = 1.0  # seconds
_COUNTS = 4  # of a process: in flight; since the start tokens, first tokens, and seconds to them


class Live(msgspec.Struct):
    """A level's last seconds: output tokens/s, mean TTFT in seconds (None: no first token came), requests in flight."""

    in_flight: int
    output_throughput: float
    ttft: float | None = None

    def __str__(self) -> str:
        ttft = "" if self.ttft is None else f"TTFT {self.ttft:.2f} s, "
        return f"{self.output_throughput:.0f} tokens/s, {ttft}{self.in_flight} in flight"


class Gauge:
    """Counts the requests of a level's `processes` in memory that they share; made before they are forked."""

    def __init__(self, processes: int) -> None:
        self._shared = np.frombuffer(RawArray("d", _COUNTS * processes)).reshape(processes, _COUNTS)
        self._ended = np.zeros(_COUNTS)
        self._open: dict[int, tuple[SentRequest, Answer]] = {}

    def begin(self, request: SentRequest, answer: Answer) -> None:
        """Count a request that this process sends."""
        self._open[id(request)] = request, answer

    def end(self, request: SentRequest, answer: Answer) -> None:
        """Count it as ended; then usage knows its tokens better than its chunks do."""
        del self._open[id(request)]
        self._ended += _counts(request, answer, request.output_tokens, in_flight=0)

    def publish(self, process: int, sleep: Callable[[float], None]) -> None:
        """Tell the others of this process (from 0) once a second, for ever."""
        while True:
            self._shared[process] = sum((_counts(*one) for one in self._open.values()), self._ended)
            sleep(_EVERY)

    def write(self, folder: Path, sleep: Callable[[float], None]) -> None:
        """Write the sum of all processes into `folder` once a second, for ever."""
        seen: deque[NDArray[np.float64]] = deque(maxlen=6)  # five seconds, so that they neither jump nor lag
        while True:
            seen.append(np.append(self._shared.sum(axis=0), time.monotonic()))
            _, tokens, firsts, waited, seconds = (seen[-1] - seen[0]).tolist()
            if seconds:
                live = Live(int(seen[-1][0]), tokens / seconds, waited / firsts if firsts > 0 else None)
                with contextlib.suppress(PathError):  # a full disk shows where it matters
                    files.write_atomically(folder / LIVE_FILE, msgspec.json.encode(live), sync_it=False)
            sleep(_EVERY)


def _counts(request: SentRequest, answer: Answer, tokens: int | None = None, in_flight: int = 1) -> NDArray[np.float64]:
    first = (1.0, answer.arrivals[0] - request.sent) if answer.arrivals else (0.0, 0.0)
    return np.array([in_flight, tokens or len(answer.arrivals), *first])


def read_live(folder: Path) -> Live | None:
    """What was written last; None before."""
    return files.read_struct(folder / LIVE_FILE, Live)


def remove_live(folder: Path) -> None:
    """Leave nothing of it in a level that has ended, not what was being written when its process was killed either."""
    for path in folder.glob(f"*{LIVE_FILE}*"):
        path.unlink(missing_ok=True)
