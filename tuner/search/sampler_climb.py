"""The default: step by step from the baseline, by what earlier steps were worth, and TPE where that leads no further.

A server's defaults are rarely bad everywhere, and most parameters act much alike wherever the others stand. So the best
configuration so far is changed in one parameter at a time (as pattern search does: Hooke & Jeeves, 1961), first where
the same step gained most before. Where nothing was gained for a while, every second trial is TPE's, which sees all of
the space and all parameters together.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import permutations

from tuner.search.dimensions import Dimension, Scalar
from tuner.search.sampler_base import Seen, gain
from tuner.search.sampler_model import TPE, violation
from tuner.search.search_space import Point

#: Trials without gain after which every second one is TPE's; found with `benchmarks/search_efficiency.py`.
STALLED = 4
#: What a step is thought to gain that nobody has tried, and the chance that decides between equals.
UNTRIED, CHANCE = 0.1, 0.02
#: The share of a range that one step takes.
STEP = 0.15
#: How much worse than the worst that counts a trial is that does not, and by how much more for each unit that it
#: breaks the constraint by.
BELOW, BELOW_EACH = 0.2, 0.02
#: (parameter, up or down, or the value that it is set to)
Step = tuple[str, object]


class Climb(TPE):
    """Local steps from the best configuration so far, and TPE where they gain nothing."""

    def _proposals(self, seen: Sequence[Seen]) -> Iterable[Point]:
        known = [one for one in seen if one.state != "running"]
        bases = [one for one in known if one.values or one.state == "infeasible"]
        if not bases:
            return self._spread(seen)
        worth = self._worth(known)
        best = max(bases, key=lambda one: worth[id(one)])
        since = len(known) - 1 - known.index(best)
        if since >= STALLED and since % 2 == 0:
            return super()._proposals(seen)
        return self._then_model(self._steps(known, best, worth), seen)

    def _then_model(self, steps: Iterable[Point], seen: Sequence[Seen]) -> Iterator[Point]:
        yield from steps
        yield from super()._proposals(seen)

    def _worth(self, known: Sequence[Seen]) -> dict[int, float]:
        """What each trial is worth on a logarithmic scale; what does not count lies below all that does."""
        gains = {id(one): gain(one, self.objectives) for one in known}
        worst = min((value for value in gains.values() if not math.isnan(value)), default=0.0)
        below = {id(one): worst - BELOW - BELOW_EACH * violation(one) for one in known}
        return {key: below[key] if math.isnan(value) else value for key, value in gains.items()}

    def _steps(self, known: Sequence[Seen], best: Seen, worth: dict[int, float]) -> list[Point]:
        """The neighbours of the best, most promising first."""
        gained: dict[Step, list[float]] = defaultdict(list)
        for one, other in permutations(known, 2):
            steps = self._between(one.point, other.point)
            if len(steps) == 1:
                gained[steps[0]].append(worth[id(other)] - worth[id(one)])
        dice = self._dice(known, "steps")
        hopes = [
            (sum(_hope(gained.get(step)) for step in self._between(best.point, point)) + CHANCE * dice.random(), point)
            for point in self._neighbours(best.point)
        ]
        return [point for _, point in sorted(hopes, key=lambda hope: -hope[0])]

    def _between(self, one: Point, other: Point) -> list[Step]:
        """The steps that lead from one point to another, where both have the parameter."""
        both = [d for d in self.space.dimensions if d.name in one and d.name in other]
        return [(d.name, _direction(d, one[d.name], other[d.name])) for d in both if one[d.name] != other[d.name]]

    def _neighbours(self, point: Point) -> Iterator[Point]:
        """The points that differ in one parameter, by one step where it is ordered."""
        for dimension in self.space.dimensions:
            if dimension.name in point:
                for value in _next_values(dimension, point[dimension.name]):
                    yield self._completed({**point, dimension.name: value})

    def _completed(self, point: Point) -> Point:
        """`point` with parameters that its change has made active, each with its middle value."""
        middle = {d.name: d.at(0.5) for d in self.space.dimensions}
        return self.space.active({**middle, **point})


def _hope(gained: list[float] | None) -> float:
    """What a step may gain: the mean of what it gained before, less where that was seldom."""
    return sum(gained) / (len(gained) + 1) if gained else UNTRIED


def _direction(dimension: Dimension, one: Scalar, other: Scalar) -> object:
    if not dimension.is_ordered:
        return other
    return "up" if dimension.place(other) > dimension.place(one) else "down"


def _next_values(dimension: Dimension, value: Scalar) -> list[Scalar]:
    if not dimension.is_ordered:
        return [other for other in dimension.choices if other != value]
    step = max(STEP, 1 / (dimension.size - 1)) if not dimension.choices and dimension.size > 1 else 0
    if not step:
        place = dimension.choices.index(value)
        return list(dimension.choices[max(place - 1, 0) : place]) + list(dimension.choices[place + 1 : place + 2])
    place_in_range = dimension.place(value)
    near = [dimension.at(min(max(place_in_range + change, 0.0), 1.0)) for change in (-step, step)]
    return [other for other in near if other != value]
