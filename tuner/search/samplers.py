"""Which configuration comes next: grid, random, Optuna's TPE, and climb."""

import itertools
import math
import random
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tuner.core.text import suggest
from tuner.errors import SpecError
from tuner.judging.scores import maximised
from tuner.search import optuna_study
from tuner.search.dimension import COUNTABLE, Dimension, Scalar
from tuner.search.space import Point, SearchSpace, key_of

if TYPE_CHECKING:
    import optuna

#: draws until what is left is gone through; proposals of TPE before that
_DRAWS, _PROPOSALS = 300, 30
#: By how much a trial breaks the constraint that failed (the worst penalty of an SLO comes to 20), or is not judged.
FAILED_BY, UNKNOWN_BY = 25.0, 10.0
STARTUP = 6  # trials before the model has something to learn from
#: Trials without gain after which every second one is TPE's; found with `benchmarks/search_efficiency.py`.
STALLED = 4
#: What a step is thought to gain that nobody has tried, and the chance that decides between equals.
UNTRIED, CHANCE = 0.1, 0.02
STEP = 0.15  # the share of a range that one step takes
#: How much worse than the worst that counts a trial is that does not, and by how much more for each unit of violation.
BELOW, BELOW_EACH = 0.2, 0.02
Step = tuple[str, object]  # (parameter, up or down, or the value that it is set to)
#: a point with what it leaves to the engine, as `SearchSpace.values_in_force` has it
Standing = Mapping[str, Scalar | None]


@dataclass(frozen=True)
class Observation:
    """A trial as a sampler sees it."""

    point: Point  # its place in the space
    state: str  # `complete`, `infeasible`, `failed`, `pruned`, or `running` where nobody knows yet
    values: tuple[float, ...] = ()  # of the objectives; empty where there are none
    penalty: float = math.nan  # of an infeasible trial: how far it is from being feasible; NaN where nobody knows


@dataclass(frozen=True)
class Sampler:
    """Chooses configurations; this one any, all as likely."""

    space: SearchSpace  # what may be tried
    objectives: tuple[str, ...]  # what is wanted
    seed: int  # the same seed and the same trials give the same choice

    def next(self, observations: Sequence[Observation]) -> Point | None:
        """A configuration that none of the trials so far, in their order, has; None where there is none left."""
        tried, dice = {key_of(one.point) for one in observations}, self._dice(observations, "any")
        drawn = (self.space.at([dice.random() for _ in self.space.dimensions]) for _ in range(_DRAWS))
        points = itertools.chain(self._proposals(observations), drawn, self.space.grid())
        return next((point for point in points if key_of(point) not in tried and self.space.allows(point)), None)

    def _proposals(self, observations: Sequence[Observation]) -> Iterable[Point]:
        """Configurations to try, the best first; some may have been tried, or not be allowed."""
        return ()

    def _dice(self, observations: Sequence[Observation], use: str) -> random.Random:
        return random.Random(f"{self.seed} {len(observations)} {use}")  # noqa: S311 - no secret

    def _spread(self, observations: Sequence[Observation]) -> Iterable[Point]:
        """The next points of a sequence that fills the space evenly: Roberts' additive recurrence (2018)."""
        count, ratio, dice = len(self.space.dimensions), 2.0, self._dice([], "start")
        for _ in range(40):
            ratio = (1 + ratio) ** (1 / (count + 1))
        steps = [(dice.random(), ratio ** -(n + 1)) for n in range(count)]
        for number in range(len(observations) + 1, len(observations) + 1 + _DRAWS):
            yield self.space.at([(start + number * step) % 1 for start, step in steps])


class Grid(Sampler):
    """Every configuration in turn; wide ranges by a few values each."""

    def _proposals(self, observations: Sequence[Observation]) -> Iterable[Point]:
        return self.space.grid()


class TPE(Sampler):
    """The tree-structured Parzen estimator, over all parameters together, by groups where some are conditional."""

    def _proposals(self, observations: Sequence[Observation]) -> Iterable[Point]:
        if len(observations) < STARTUP or not any(one.values for one in observations):
            yield from self._spread(observations)
        study = self._study(observations)
        for _ in range(_PROPOSALS):
            yield self.space.active(optuna_study.ask(study, self.space))

    def _study(self, observations: Sequence[Observation]) -> "optuna.Study":
        import optuna

        seed = self._dice(observations, "model").getrandbits(31)
        conditional = any(dimension.when for dimension in self.space.dimensions)
        with warnings.catch_warnings():  # `group` calls itself experimental
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            estimator = optuna.samplers.TPESampler(seed=seed, n_startup_trials=0, group=conditional)
        study = optuna_study.new_study(self.objectives, sampler=estimator)
        known = [one.values for one in observations if one.values] or [(1.0,) * len(self.objectives)]
        columns = zip(self.objectives, zip(*known, strict=True), strict=True)
        worst = [min(column) if maximised(objective) else max(column) for objective, column in columns]
        for one in observations:
            facts = {"values": list(one.values or worst), "constraints": {"slo": violation(one)}}
            state, facts = ("RUNNING", {}) if one.state == "running" else ("COMPLETE", facts)
            study.add_trial(optuna_study.as_trial(self.space, one.point, state, by_place=True, **facts))
        return study


def violation(one: Observation) -> float:
    """By how much a trial breaks the constraint that it must be feasible; at most 0 where it is."""
    if one.values:
        return 0.0
    if one.state == "failed":
        return FAILED_BY
    return UNKNOWN_BY if math.isnan(one.penalty) else max(math.log1p(one.penalty), 1e-3)


class Climb(TPE):
    """Local steps from the best configuration so far, and TPE where they gain nothing."""

    def _proposals(self, observations: Sequence[Observation]) -> Iterable[Point]:
        trials = [one for one in observations if one.state != "running"]
        bases = [one for one in trials if one.values or one.state == "infeasible"]
        if not bases:
            return self._spread(observations)
        worth = self._worth(trials)
        best = max(bases, key=lambda one: worth[id(one)])
        since = len(trials) - 1 - trials.index(best)
        if since >= STALLED and since % 2 == 0:
            return super()._proposals(observations)
        return itertools.chain(self._steps(trials, best, worth), super()._proposals(observations))

    def _worth(self, trials: Sequence[Observation]) -> dict[int, float]:
        """What each trial is worth, as a logarithm, since shares count; what has no value lies below all that does."""
        sign = 1 if maximised(self.objectives[0]) else -1
        known = {id(one): sign * math.log(one.values[0]) for one in trials if one.values and one.values[0] > 0}
        worst = min(known.values(), default=0.0)
        return {id(one): known.get(id(one), worst - BELOW - BELOW_EACH * violation(one)) for one in trials}

    def _steps(self, trials: Sequence[Observation], best: Observation, worth: dict[int, float]) -> list[Point]:
        gains: dict[Step, list[float]] = defaultdict(list)
        standing = {id(one): self.space.values_in_force(one.point) for one in trials}
        for one, other in itertools.permutations(trials, 2):
            steps = self._between(standing[id(one)], standing[id(other)])
            if len(steps) == 1:
                gains[steps[0]].append(worth[id(other)] - worth[id(one)])
        dice = self._dice(trials, "steps")

        def expected_gain(point: Point) -> float:  # the mean of what each step gained, less of few tries
            tries = [gains.get(step) for step in self._between(standing[id(best)], self.space.values_in_force(point))]
            steps = (sum(gained) / (len(gained) + 1) if gained else UNTRIED for gained in tries)
            return sum(steps) + CHANCE * dice.random()

        return sorted(self._neighbours(best.point), key=expected_gain, reverse=True)

    def _between(self, one: Standing, other: Standing) -> list[Step]:
        both = [d for d in self.space.dimensions if d.name in one and d.name in other]
        return [(d.name, _direction(d, one[d.name], other[d.name])) for d in both if one[d.name] != other[d.name]]

    def _neighbours(self, point: Point) -> Iterator[Point]:
        """The points one step away in one parameter; those that this makes active have a middle value.

        Of what a point leaves to the engine, only what is stepped is named, perhaps where it is thought to stand.
        """
        middle = {d.name: d.at(0.5) for d in self.space.dimensions}
        standing = self.space.values_in_force(point)
        unnamed = {*standing} - {*point}
        for dimension in self.space.dimensions:
            name = dimension.name
            if name in standing:
                guess = name in unnamed and not dimension.contains(self.space.known_values.get(name))
                for value in _next_values(dimension, standing[name], stay=guess):
                    stepped = self.space.active({**middle, **standing, name: value})
                    yield {each: stepped[each] for each in stepped if each == name or each not in unnamed}


def _direction(dimension: Dimension, one: Scalar | None, other: Scalar | None) -> object:
    if one is None or other is None or not dimension.is_ordered:
        return other
    return "up" if dimension.place(other) > dimension.place(one) else "down"


def _next_values(dimension: Dimension, value: Scalar | None, *, stay: bool) -> list[Scalar]:
    """The values one step away from `value`; with itself where it is only a guess."""
    if value is None or not dimension.is_ordered:
        return [other for other in dimension.choices if other != value]
    own = [value] if stay else []
    if dimension.choices:
        at = dimension.choices.index(value)
        return [*dimension.choices[max(at - 1, 0) : at], *dimension.choices[at + 1 : at + 2], *own]
    place, step = dimension.place(value), max(STEP, 1 / max(dimension.size - 1, 1))
    near = (dimension.at(min(max(place + change, 0.0), 1.0)) for change in (-step, step))
    return [*(other for other in near if other != value), *own]


SAMPLERS: dict[str, type[Sampler]] = {"grid": Grid, "random": Sampler, "tpe": TPE, "climb": Climb}


def choose(name: str, space: SearchSpace, objectives: Sequence[str], trials: int) -> str:
    """The sampler that `auto` stands for: what `benchmarks/search_efficiency.py` shows best.

    A grid where so many `trials` are enough for the whole space; only TPE weighs two objectives against each other.
    """
    if name != "auto":
        return name
    is_whole = all(one.choices or one.size <= COUNTABLE for one in space.dimensions)
    if is_whole and sum(1 for _ in itertools.islice(space.grid(), trials + 1)) <= trials:
        return "grid"
    return "climb" if len(objectives) == 1 else "tpe"


def make(name: str, space: SearchSpace, objectives: Sequence[str], seed: int = 0) -> Sampler:
    """A sampler by name; a SpecError where there is none, as a run's file may say, or not for these objectives."""
    if name not in SAMPLERS:
        raise SpecError(f"there is no sampler {name!r}; {suggest(name, SAMPLERS)}")
    if name == "climb" and len(objectives) > 1:
        raise SpecError("sampler climb has one objective; use tpe for two")
    return SAMPLERS[name](space, tuple(objectives), seed)
