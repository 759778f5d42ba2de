"""What a running level does at the moment, written once a second for whoever looks; never a result."""

import contextlib
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import ClassVar

import msgspec

from tuner.core import files
from tuner.core.request_log import LIVE_FILE, SentRequest
from tuner.errors import PathError
from tuner.traffic.stream import Answer

_EVERY = 1.0  # seconds
_SPAN = 5  # seconds that throughput and TTFT are of, so that they neither jump nor lag


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

    _COUNTS: ClassVar[int] = 4  # in flight; since the start: tokens, first tokens, seconds to them

    def __init__(self, processes: int) -> None:
        self._shared = RawArray("d", self._COUNTS * max(1, processes))
        self._ended: tuple[float, ...] = (0.0, 0.0, 0.0)
        self._open: dict[int, tuple[SentRequest, Answer]] = {}

    def begin(self, request: SentRequest, answer: Answer) -> None:
        """Count a request that this process sends."""
        self._open[id(request)] = request, answer

    def end(self, request: SentRequest, answer: Answer) -> None:
        """Count it as ended; then usage knows its tokens better than its chunks do."""
        del self._open[id(request)]
        self._ended = _add(self._ended, _counts(request, answer, request.output_tokens))

    def publish(self, process: int, sleep: Callable[[float], None]) -> None:
        """Tell the others of this process (from 0) once a second, for ever."""
        here = slice(self._COUNTS * process, self._COUNTS * (process + 1))
        while True:
            totals = _add(self._ended, *(_counts(*one) for one in self._open.values()))
            self._shared[here] = (len(self._open), *totals)
            sleep(_EVERY)

    def write(self, folder: Path, sleep: Callable[[float], None]) -> None:
        """Write the sum of all processes into `folder` once a second, for ever."""
        seen: deque[tuple[float, ...]] = deque(maxlen=_SPAN + 1)
        while True:
            in_flight, *totals = (sum(self._shared[count :: self._COUNTS]) for count in range(self._COUNTS))
            seen.append((time.monotonic(), *totals))
            seconds, tokens, firsts, waited = (new - old for new, old in zip(seen[-1], seen[0], strict=True))
            if seconds:
                live = Live(int(in_flight), tokens / seconds, waited / firsts if firsts > 0 else None)
                with contextlib.suppress(PathError):  # a full disk shows where it matters
                    files.write_atomically(folder / LIVE_FILE, msgspec.json.encode(live), sync_it=False)
            sleep(_EVERY)


def _counts(request: SentRequest, answer: Answer, tokens: int | None = None) -> tuple[float, ...]:
    arrivals = answer.arrivals
    first = (1.0, arrivals[0] - request.sent) if arrivals else (0.0, 0.0)
    return (tokens or len(arrivals), *first)


def _add(*counts: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(map(sum, zip(*counts, strict=True)))


def read_live(folder: Path) -> Live | None:
    """What was written last; None before."""
    return files.read_struct(folder / LIVE_FILE, Live)


def remove_live(folder: Path) -> None:
    """Leave nothing of it in a level that has ended, not what was being written when its process was killed either."""
    for path in folder.glob(f"*{LIVE_FILE}*"):
        path.unlink(missing_ok=True)
