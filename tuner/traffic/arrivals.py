"""When the requests of an open loop are due: drawn from a seed before any is sent."""

import random
from collections.abc import Iterator
from itertools import takewhile

import msgspec


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
