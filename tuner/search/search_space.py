"""The configurations that a search may try: each parameter's values, and what must hold between them."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tuner.engines.base import Engine
from tuner.engines.parameters import Parameter, suggest
from tuner.errors import SpecError
from tuner.search.dimensions import COUNTABLE, Dimension, Scalar, spelt
from tuner.search.expressions import Constraint

#: the number of GPUs that a search has, as constraints name it
GPUS = "gpus"
DEFAULT = "default"
Point = dict[str, Scalar]


@dataclass(frozen=True)
class SearchSpace:
    """Every configuration that may be tried.

    Args:
        dimensions: the parameters that are searched, each after those that it is conditional on.
        constraints: what must hold between parameters.
        fixed: parameters that every trial has, unless they are searched.
        known: values of parameters where a configuration says nothing: the engine's defaults, as far as we know them.
    """

    dimensions: tuple[Dimension, ...]
    constraints: tuple[Constraint, ...]
    fixed: Mapping[str, Any]
    known: Mapping[str, Any]

    @classmethod
    def parse(
        cls,
        document: Any,
        engine: Engine,
        fixed: Mapping[str, Any],
        constraints: list[str] | tuple[str, ...] = (),
        gpus: int | None = None,
    ) -> "SearchSpace":
        """Read and check a search's `space`.

        Args:
            document: parameters with their values, or the name of one of the engine's presets.
            engine: what is to be tuned.
            fixed: the parameters of the baseline.
            constraints: between parameters, as text.
            gpus: how many there are, for constraints; None where nobody said.

        Raises:
            SpecError: one line that names the place, what is wrong and what would be right.
        """
        mapping = _preset(document, engine) if isinstance(document, str) else document
        if not isinstance(mapping, Mapping) or not mapping:
            raise SpecError("space: give parameters with their values, such as {max_num_seqs: [64, 128, 256]}")
        named = {str(name).lstrip("-").replace("-", "_"): values for name, values in mapping.items()}
        if engine.complete:
            _must_be_known(named, engine.tunables, f"space: {engine.name} has no parameter")
        found = {name: Dimension.parse(name, values, engine.tunables.get(name)) for name, values in named.items()}
        defaults = {name: known.default for name, known in engine.tunables.items() if known.default is not None}
        space = cls(
            _in_order(found, fixed, engine),
            tuple(Constraint.parse(text) for text in constraints),
            dict(fixed),
            defaults | ({GPUS: gpus} if gpus is not None else {}),
        )
        for constraint in space.constraints:
            names = [*found, *fixed, *engine.tunables, GPUS]
            _must_be_known(constraint.names, names, f"constraint {constraint.text!r} has")
        space.must_have_some()
        return space

    @cached_property
    def size(self) -> float:
        """How many configurations there are at most, before constraints; infinite where they cannot be counted."""
        return math.prod(dimension.size for dimension in self.dimensions)

    def is_small(self, most: int) -> bool:
        """Whether the grid goes through every configuration that is allowed, and they are at most `most`."""
        whole = all(dimension.choices or dimension.size <= COUNTABLE for dimension in self.dimensions)
        return whole and sum(1 for _ in itertools.islice(self.grid(), most + 1)) <= most

    def allows(self, point: Mapping[str, Any]) -> bool:
        """Whether every constraint holds for a point of the space; one that cannot be computed there does not."""
        try:
            return self._meets(point)
        except SpecError:  # such as a division by zero: it costs this point, not the search
            return False

    def _meets(self, point: Mapping[str, Any]) -> bool:
        values = {**self.known, **self.fixed, **point}
        return all(constraint.holds(values) for constraint in self.constraints)

    def active(self, point: Mapping[str, Any]) -> Point:
        """`point` without the parameters whose condition does not hold."""
        kept: Point = {}
        for dimension in self.dimensions:
            if dimension.name in point and dimension.is_active({**self.known, **self.fixed, **kept}):
                kept[dimension.name] = point[dimension.name]
        return kept

    def parameters(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """What an engine is asked for at a point: its values over the fixed ones."""
        return {**self.fixed, **point}

    def point_of(self, parameters: Mapping[str, Any]) -> Point:
        """The point of an engine's parameters; what lies outside of the space is left out."""
        if parameters == self.fixed and (baseline := self.baseline()):
            return baseline
        inside = {d.name: parameters[d.name] for d in self.dimensions if d.contains(parameters.get(d.name))}
        return self.active(inside)

    def baseline(self) -> Point | None:
        """The point of the defaults; None where they lie outside of the space, or nobody knows them."""
        values = {**self.known, **self.fixed}
        point = self.active({dimension.name: values.get(dimension.name) for dimension in self.dimensions})
        inside = all(d.contains(point[d.name]) for d in self.dimensions if d.name in point)
        return point if inside else None

    def grid(self) -> Iterator[Point]:
        """Every point that is allowed, once; wide ranges by a few values each."""
        seen = set()
        names = [dimension.name for dimension in self.dimensions]
        for values in itertools.product(*(dimension.values() for dimension in self.dimensions)):
            point = self.active(dict(zip(names, values, strict=True)))
            if (key := key_of(point)) not in seen and self.allows(point):
                seen.add(key)
                yield point

    def at(self, shares: list[float]) -> Point:
        """The point at these shares of the way (0 to 1) through each dimension."""
        return self.active({d.name: d.at(share) for d, share in zip(self.dimensions, shares, strict=True)})

    def must_have_some(self) -> None:
        """Refuse constraints that leave nothing of the grid."""
        if self.constraints and next(self.grid(), None) is None:
            self._meets(self.at([0.0] * len(self.dimensions)))  # says it where one cannot be computed
            raise SpecError(
                f"constraints: no configuration of the space meets {' and '.join(c.text for c in self.constraints)}"
            )


def key_of(point: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What makes two configurations the same."""
    return tuple(sorted((name, repr(value)) for name, value in point.items()))


def _must_be_known(names: Any, known: Any, message: str) -> None:
    for name in sorted(names):
        if name not in known:
            raise SpecError(f"{message} {name!r}; {suggest(name, known)}")


def _preset(name: str, engine: Engine) -> Mapping[str, Any]:
    presets = engine.spaces
    if name not in presets:
        have = suggest(name, presets) if presets else f"engine {engine.name} has no presets; give parameters"
        raise SpecError(f"space: there is no preset {name!r}; {have}")
    return presets[name]


def _in_order(found: dict[str, Dimension], fixed: Mapping[str, Any], engine: Engine) -> tuple[Dimension, ...]:
    """The dimensions, each after those that it is conditional on."""
    placed: dict[str, Dimension] = {}
    waiting = {name: _with_conditions(dimension, found, fixed, engine) for name, dimension in found.items()}
    while waiting:
        ready = [name for name, one in waiting.items() if not {*one.when} & {*waiting}]
        if not ready:
            raise SpecError(f"space: {next(iter(waiting))}: its condition leads back to itself")
        placed |= {name: waiting.pop(name) for name in ready}
    return tuple(placed.values())


def _with_conditions(
    dimension: Dimension, found: Mapping[str, Dimension], fixed: Mapping[str, Any], engine: Engine
) -> Dimension:
    """`dimension` with its condition checked and spelt as the engine has it."""
    place = f"space: {dimension.name}: when"
    _must_be_known(dimension.when, [*found, *fixed], f"{place} names no searched or fixed parameter:")
    when = {}
    for other, values in dimension.when.items():
        known: Parameter | None = engine.tunables.get(other)
        when[other] = tuple(spelt(value, known) for value in values)
        if other in found and (never := [value for value in when[other] if not found[other].contains(value)]):
            raise SpecError(f"{place}: {other} never is {never[0]!r}")
    return replace(dimension, when=when)
