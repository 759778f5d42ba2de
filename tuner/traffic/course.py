"""A level's course: the burst, the window that is judged, the end of what was sent in it; then its file.

A level begins when every user has finished its first request, which all sent at the same instant; requests that
were sent inside the window count, and may finish after it while the others keep up the load.
"""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from tuner.core import timestamps
from tuner.core.request_log import IN_FLIGHT, STEADY, WHOLE, LevelRecord, SentRequest, Window, decode_request, write

_POLL_SECONDS = 0.02


class Limits(msgspec.Struct):
    """What ends a level; seconds.

    Args:
        concurrency: users, each of whom has one request in flight.
        seconds: the window's length, and the most that the burst, and afterwards the drain, may take.
        requests: that end the window, if they come first.
        extend_to: the window's length while fewer than `enough` requests have ended; None: `seconds`.
        window: `steady`, or `whole`: all that ended within the level counts, from its first instant on.
    """

    concurrency: int
    seconds: float
    requests: int
    extend_to: float | None = None
    enough: int = 0
    window: Window = STEADY

    @property
    def longest_window(self) -> float:
        """The most seconds of a window."""
        return self.extend_to or self.seconds


class Spool:
    """Lines of requests, from whatever process of the level; a file without a name, that forked workers share."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile("a+b", buffering=0)  # noqa: SIM115 - closed with the level's process
        self._read = 0
        self.requests: list[SentRequest] = []

    def add(self, request: SentRequest) -> None:
        """Append its line, whole: the file is in append mode."""
        os.write(self._file.fileno(), msgspec.json.encode(request) + b"\n")

    def refresh(self) -> None:
        """Read what was added since."""
        added = os.pread(self._file.fileno(), os.fstat(self._file.fileno()).st_size - self._read, self._read)
        self._read += len(added)
        self.requests += map(decode_request, added.splitlines())


class SharedCount(Iterator[int]):
    """0, 1, 2 …: each number once, in whichever of the forked workers it is asked for."""

    def __init__(self) -> None:
        self._next = multiprocessing.Value("Q")

    def __next__(self) -> int:
        with self._next.get_lock():
            self._next.value += 1
            return int(self._next.value) - 1


class Course:
    """Follows a level, and knows its window.

    Args:
        limits: what ends it.
        spool: where its requests are told.
        sleep: lets the users work for so many seconds.
    """

    def __init__(self, limits: Limits, spool: Spool, sleep: Callable[[float], None]) -> None:
        self._limits, self._spool, self._sleep = limits, spool, sleep
        self._start = self._begin = self._end = time.monotonic()
        self._over = float("inf")

    def run(self) -> float:
        """Return when the level is over, with the seconds that it took."""
        limits, now = self._limits, time.monotonic
        self._start = self._begin = self._end = now()
        if limits.window == STEADY:
            first = self._wait(_user_of_first, lambda users: users >= limits.concurrency, limits.seconds)
            ends = [request.end or 0.0 for request in self._spool.requests if request.number == 1]
            self._begin = max(ends) if first == limits.concurrency else now()
            if not self._spool.requests:
                self._end = self._over = self._begin
                return self._over - self._start

        def is_over(done: int) -> bool:
            long_enough = now() - self._begin >= limits.seconds and done >= limits.enough
            return long_enough or done >= limits.requests

        self._wait(self._in_window, is_over, limits.longest_window - (now() - self._begin))
        self._end = now()
        if limits.window == STEADY:
            self._wait(self._user_past_window, lambda users: users >= limits.concurrency, limits.seconds)
        self._over = now()
        return self._over - self._start

    def requests(self) -> list[SentRequest]:
        """Every request, after the users have stopped; what ended while they did was in flight."""
        self._spool.refresh()
        for request in self._spool.requests:
            if (request.end or 0.0) > self._over:
                request.status, request.end = IN_FLIGHT, None
        return self._spool.requests

    def write(self, path: Path, scenario: str) -> None:
        """Write the level's file, after its users have stopped; none where nothing was sent."""
        if not self.requests():
            return
        level = LevelRecord(
            scenario=scenario,
            concurrency=self._limits.concurrency,
            window=self._limits.window,
            begin=self._begin,
            end=self._end,
            monotonic=time.monotonic(),
            utc=timestamps.now(),
        )
        if level.window == STEADY and not any(map(level.counts, self._spool.requests)):
            note = "no request was sent in the window and ended: all of them count"
            level = msgspec.structs.replace(level, window=WHOLE, begin=self._start, note=note)
        write(path, level, self._spool.requests)

    def _wait(self, key: Callable[[SentRequest], object], is_over: Callable[[int], bool], seconds: float) -> int:
        """Wait until as many different keys as wanted have come, or for so long; returns how many came."""
        until, keys, seen = time.monotonic() + seconds, set[object](), 0
        while True:
            keys |= set(map(key, self._spool.requests[seen:]))
            seen = len(self._spool.requests)
            count, left = len(keys - {None}), until - time.monotonic()
            if is_over(count) or left <= 0:
                return count
            self._sleep(min(left, _POLL_SECONDS))
            self._spool.refresh()

    def _in_window(self, request: SentRequest) -> object:
        return id(request) if request.sent >= self._begin else None

    def _user_past_window(self, request: SentRequest) -> object:
        """The request that a user had in flight at the window's end, or a later one."""
        return (request.worker, request.user) if (request.end or 0.0) >= self._end else None


def _user_of_first(request: SentRequest) -> object:
    return (request.worker, request.user) if request.number == 1 else None
