"""What every sampler has in common: what it knows, and how it avoids what was tried."""

import itertools
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tuner.judging.score import maximised
from tuner.search.search_space import Point, SearchSpace, key_of

#: draws until what is left is gone through
_DRAWS = 300


@dataclass(frozen=True)
class Seen:
    """A trial as a sampler sees it.

    Args:
        point: its place in the space.
        state: `complete`, `infeasible`, `failed`, `pruned`, or `running` where nobody knows yet.
        values: of the objectives; empty where there are none.
        penalty: of an infeasible trial: how far it is from being feasible; NaN where nobody knows.
    """

    point: Point
    state: str
    values: tuple[float, ...] = ()
    penalty: float = math.nan


@dataclass(frozen=True)
class Sampler:
    """Chooses configurations.

    Args:
        space: what may be tried.
        objectives: what is wanted.
        seed: the same seed and the same trials give the same choice.
    """

    space: SearchSpace
    objectives: tuple[str, ...]
    seed: int

    def next(self, seen: Sequence[Seen]) -> Point | None:
        """A configuration that none of the trials seen has; None where there is none left.

        Args:
            seen: every trial so far, in the order they were asked for.
        """
        tried = {key_of(one.point) for one in seen}
        return next(self._new(itertools.chain(self._proposals(seen), self._any(seen)), tried), None)

    def _proposals(self, seen: Sequence[Seen]) -> Iterable[Point]:
        """Configurations to try, the best first; some may have been tried, or not be allowed."""
        raise NotImplementedError

    def _any(self, seen: Sequence[Seen]) -> Iterable[Point]:
        dice = self._dice(seen, "any")
        return itertools.chain((self._drawn(dice) for _ in range(_DRAWS)), self.space.grid())

    def _new(self, points: Iterable[Point], tried: set[tuple[tuple[str, str], ...]]) -> Iterator[Point]:
        return (point for point in points if key_of(point) not in tried and self.space.allows(point))

    def _drawn(self, dice: random.Random) -> Point:
        return self.space.at([dice.random() for _ in self.space.dimensions])

    def _dice(self, seen: Sequence[Seen], use: str) -> random.Random:
        """Chance that follows from the seed and the number of trials."""
        return random.Random(f"{self.seed} {len(seen)} {use}")  # noqa: S311 - no secret

    def _spread(self, seen: Sequence[Seen]) -> Iterable[Point]:
        """The next points of a sequence that fills the space evenly, from a start that the seed gives.

        The additive recurrence on powers of the generalised golden ratio (Roberts 2018, "The unreasonable
        effectiveness of quasirandom sequences").
        """
        count = len(self.space.dimensions)
        ratio = 2.0
        for _ in range(40):
            ratio = (1 + ratio) ** (1 / (count + 1))
        dice = self._dice([], "start")
        starts = [dice.random() for _ in range(count)]
        for number in range(len(seen), len(seen) + _DRAWS):
            yield self.space.at([(start + (number + 1) * ratio ** -(n + 1)) % 1 for n, start in enumerate(starts)])


def gain(one: Seen, objectives: Sequence[str]) -> float:
    """The logarithm of the first objective, so that more is better and shares count; NaN where it has no value."""
    if not one.values or not one.values[0] > 0:
        return math.nan
    return math.log(one.values[0]) * (1 if maximised(objectives[0]) else -1)
