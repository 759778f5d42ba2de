"""A level's course: the burst, the window that is judged, the end of what was sent in it; then its file.

The window begins when every user has finished its first request, which all sent at the same instant; of an open loop,
when the requests of the first second have ended. Requests that were due inside the window count, and may finish after
it while the others keep up the load.
"""

import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import takewhile
from multiprocessing.sharedctypes import RawValue
from pathlib import Path
from typing import Any

import msgspec

from tuner.core import request_log, timestamps
from tuner.core.level import Level, Rate
from tuner.core.request_log import STEADY, LevelRecord, SentRequest, Window


class Arrivals(msgspec.Struct, frozen=True):
    """Arrivals whose gaps are independent and of a gamma distribution, which has the usual processes as its cases.

    `rate` is in requests per second; `cv` the gaps' standard deviation over their mean: 1 is a Poisson process, 0 is
    constant, above 1 is bursty.
    """

    rate: float
    cv: float
    seed: str

    def instants(self) -> Iterator[float]:
        """Seconds since the level's start, without end; the first request is due at the start."""
        dice, instant = random.Random(self.seed), 0.0  # noqa: S311 - no secret
        while True:
            yield instant
            instant += dice.gammavariate(self.cv**-2, self.cv**2 / self.rate) if self.cv else 1 / self.rate

    def due(self, start: float, begin: float, end: float) -> dict[int, float]:
        """The numbers, from 1, of what is due from `begin` until `end`, and when, for a level that began at `start`."""
        instants = takewhile(lambda instant: instant < end, (start + after for after in self.instants()))
        return {number: instant for number, instant in enumerate(instants, 1) if instant >= begin}


class Limits(msgspec.Struct):
    """What ends a level; seconds."""

    concurrency: int  # users, each of whom has one request in flight; of an open loop the most that are in flight
    seconds: float  # the window's length, and the most that the burst, and afterwards the drain, may take
    requests: int  # that end the window, if they come first
    extend_to: float | None = None  # the window's length while fewer than `enough` requests have ended; None: `seconds`
    enough: int = 0
    window: Window = STEADY  # `steady`, or `whole`: all that ended within the level counts, from its first instant on
    # of an open loop; None: each user sends a request as soon as the one before has ended
    arrivals: Arrivals | None = None

    @property
    def level(self) -> Level:
        """The level that is measured within these limits."""
        return Rate(self.arrivals.rate) if self.arrivals else self.concurrency

    @property
    def most_requests(self) -> int:
        """So many can be sent at most: with those that begin the level, and those in flight at its end."""
        return int(self.arrivals.rate * self.longest) + 1 if self.arrivals else self.requests + 2 * self.concurrency

    @property
    def longest_window(self) -> float:
        """The most seconds of a window, and of the wait for the first request that ends."""
        return self.extend_to or self.seconds

    @property
    def longest(self) -> float:
        """The most seconds of the whole level."""
        return 2 * self.longest_window + self.seconds


class Spool:
    """Lines of requests, from whatever process of the level; a file without a name, that forked workers share."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile("a+b", buffering=0)  # noqa: SIM115 - closed with the level's process
        self._read = 0
        self._start = RawValue("d", 0.0)
        self.requests: list[SentRequest] = []

    @property
    def start(self) -> float:
        """When the level began, on the monotonic clock, for every process of it; 0 before."""
        return float(self._start.value)

    def begin(self, lead: float) -> float:
        """Begin the level, `lead` seconds from now; returns when that is."""
        self._start.value = time.monotonic() + lead
        return self.start

    def add(self, request: SentRequest) -> None:
        """Append its line, whole: the file is in append mode."""
        os.write(self._file.fileno(), msgspec.json.encode(request) + b"\n")

    def refresh(self) -> None:
        """Read what was added since."""
        added = os.pread(self._file.fileno(), os.fstat(self._file.fileno()).st_size - self._read, self._read)
        self._read += len(added)
        self.requests += map(request_log.decode_request, added.splitlines())


class SharedCount(Iterator[int]):
    """0, 1, 2 …: each number once, in whichever of the forked workers it is asked for."""

    def __init__(self) -> None:
        self._next = multiprocessing.Value("Q")

    def __next__(self) -> int:
        with self._next.get_lock():
            self._next.value += 1
            return int(self._next.value) - 1


class Course:
    """Follows a level and knows its window; `sleep` lets the users work for so many seconds."""

    def __init__(self, limits: Limits, spool: Spool, sleep: Callable[[float], None]) -> None:
        self._limits, self._spool, self._sleep = limits, spool, sleep
        self._start = self._begin = self._end = time.monotonic()
        self._over = float("inf")
        self._firsts = limits.concurrency  # requests that must have ended before the window begins

    def run(self) -> float:
        """Return when the level is over, with the seconds that it took."""
        limits, now = self._limits, time.monotonic
        lead = 0.1 if limits.arrivals else 0.0  # in which each user learns when it begins; else they send at once
        self._start = self._begin = self._end = self._spool.begin(lead)
        due = limits.arrivals and limits.arrivals.due(self._start, self._start, self._start + 1.0)
        self._firsts = len(due) if due else limits.concurrency
        if limits.window == STEADY:
            begun = self._wait(self._first, lambda done: done >= self._firsts, limits.seconds) >= self._firsts
            if not self._spool.requests:  # then more time is of use to it, as to a window with too few
                self._wait(id, lambda done: done > 0, limits.longest_window - limits.seconds)
            ends = [request.end or 0.0 for request in self._spool.requests if self._first(request)]
            self._begin = max(ends) if begun else now()
            if not self._spool.requests:
                self._end = self._over = self._begin
                return self._over - self._start

        def is_over(done: int) -> bool:
            long_enough = now() - self._begin >= limits.seconds and done >= limits.enough
            return long_enough or done >= limits.requests

        left = limits.longest_window - (now() - self._begin)
        self._wait(lambda request: id(request) if request.scheduled >= self._begin else None, is_over, left)
        self._end = now()
        if limits.window == STEADY:
            wanted = len(self._due(self._begin)) if limits.arrivals else limits.concurrency
            self._wait(self._past_window, lambda done: done >= wanted, limits.seconds)
        self._over = now()
        return self._over - self._start

    def requests(self) -> list[SentRequest]:
        """Every request, after the users have stopped; what ended while they did was in flight."""
        self._spool.refresh()
        for request in self._spool.requests:
            if (request.end or 0.0) > self._over:
                request.status, request.end = request_log.IN_FLIGHT, None
        return self._spool.requests

    def write(self, path: Path, scenario: str) -> None:
        """Write the level's file, after its users have stopped; none where nothing was sent."""
        requests, limits = self.requests(), self._limits
        if not requests:
            return
        load: dict[str, Any] = {"concurrency": limits.concurrency}
        if limits.arrivals:
            load = {"rate": limits.arrivals.rate, "cv": limits.arrivals.cv, "max_in_flight": limits.concurrency}
            requests = [*requests, *self._never_sent()]
        load |= {"start": self._start, "begin": self._begin, "end": self._end, "monotonic": time.monotonic()}
        level = LevelRecord(scenario=scenario, window=limits.window, utc=timestamps.now(), **load)
        if level.window == STEADY and not any(map(level.counts, requests)):
            note = "no request was sent in the window and ended: all of them count"
            level = msgspec.structs.replace(level, window=request_log.WHOLE, begin=self._start, note=note)
        request_log.write(path, level, requests)

    def _due(self, begin: float) -> dict[int, float]:
        return self._limits.arrivals.due(self._start, begin, self._end) if self._limits.arrivals else {}

    def _never_sent(self) -> list[SentRequest]:
        """What was due, and waited for one of those in flight to end until the level did."""
        unsent = self._due(self._start)
        for request in self._spool.requests:
            unsent.pop(request.number, None)
        return [SentRequest(status=request_log.NEVER_SENT, number=n, scheduled=at) for n, at in unsent.items()]

    def _first(self, request: SentRequest) -> object:
        """What tells apart the requests that must have ended before the window begins; None for others."""
        if self._limits.arrivals:
            return request.number if request.turn == 1 and request.number <= self._firsts else None
        return (request.worker, request.user) if request.number == 1 else None

    def _wait(self, key: Callable[[SentRequest], object], is_over: Callable[[int], bool], seconds: float) -> int:
        """Wait until as many different keys as wanted have come, or for so long; returns how many came."""
        until, keys, seen = time.monotonic() + seconds, set[object](), 0
        while True:
            keys |= set(map(key, self._spool.requests[seen:]))
            seen = len(self._spool.requests)
            count, left = len(keys - {None}), until - time.monotonic()
            if is_over(count) or left <= 0:
                return count
            self._sleep(min(left, 0.02))
            self._spool.refresh()

    def _past_window(self, request: SentRequest) -> object:
        """A user whose request was in flight at the window's end, or is a later one; of an open loop, what was due."""
        if self._limits.arrivals:
            return request.number if self._begin <= request.scheduled < self._end and request.turn == 1 else None
        return (request.worker, request.user) if (request.end or 0.0) >= self._end else None
