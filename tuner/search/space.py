"""What a search may try: parameters, ranges, conditions, and the constraints between them."""

import contextlib
import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from tuner.core.text import suggest
from tuner.engines.base import Engine
from tuner.engines.parameters import Parameter
from tuner.errors import SpecError
from tuner.search.expressions import Relation

Scalar = bool | int | float | str
Point = dict[str, Scalar]
DEFAULT = "default"
#: the number of GPUs that a search has, as constraints name it
GPUS = "gpus"
#: as many as one machine has at most, where nobody said how many there are
MOST_GPUS = 8
#: values of a range that are all gone through by a grid, and into how many a longer one is divided
COUNTABLE, DIVISIONS = 12, 5
_KEYS = ("low", "high", "step", "log", "choices", "when")
_WORDS = {True: ("on", "true", "yes"), False: ("off", "false", "no")}


@dataclass(frozen=True)
class Dimension:
    """A parameter with the values it may take: choices, or a range."""

    name: str  # the engine's parameter
    choices: tuple[Scalar, ...] = ()  # the values, where they are listed; otherwise empty
    low: float = 0  # the smallest value of a range
    high: float = 0  # the largest, included
    step: float | None = None  # between the values of a range; None for every number, or every whole number
    log: bool = False  # whether ratios count, not differences
    integer: bool = False  # whether a range is of whole numbers
    # the condition: other parameters, each with the values under which this one is there
    when: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)

    @classmethod
    def parse(cls, name: str, document: Any, parameter: Parameter | None) -> "Dimension":
        """Read what a search's `space` says of one parameter.

        Args:
            name: the parameter.
            document: a list of choices, or a mapping with `choices`, or with `low`, `high` and perhaps `step`, `log`;
                with `when` in both.
            parameter: what the engine knows of it; None where it is a name that we do not know.

        Raises:
            SpecError: it is none of these, or holds a value that the engine would refuse.
        """
        fields = {"choices": document} if isinstance(document, list) else document
        if not isinstance(fields, Mapping) or not fields:
            raise _wrong(name, f"give choices as [1, 2, 4] or a range as {{low: 1, high: 8}}, not {document!r}")
        if strange := [key for key in fields if key not in _KEYS]:
            raise _wrong(name, f"unknown key {strange[0]!r}; {suggest(str(strange[0]), _KEYS)}")
        dimension = _of_choices(name, fields, parameter) if "choices" in fields else _of_range(name, fields, parameter)
        for value in dimension.choices or (dimension.low, dimension.high):
            if parameter and (problem := parameter.problem(value)):
                raise _wrong(name, f"{value!r} {problem}")
        return dimension

    @property
    def is_ordered(self) -> bool:
        """Whether its values are numbers, so that near ones behave alike."""
        return all(_is_number(value) for value in self.choices)

    @property
    def size(self) -> float:
        """How many values it has; infinite where they cannot be counted."""
        return len(self.choices) or self._steps + 1

    def values(self) -> list[Scalar]:
        """All its values where they are few, or some evenly over the range, both ends included."""
        if self.choices:
            return list(self.choices)
        if self.size <= COUNTABLE:
            return [self.nearest(self.low + n * (self.step or 1)) for n in range(int(self.size))]
        return list(dict.fromkeys(self.at(n / (DIVISIONS - 1)) for n in range(DIVISIONS)))

    def at(self, share: float) -> Scalar:
        """The value that a share (0 to 1) of the way through it has."""
        if self.choices:
            return self.choices[min(int(share * len(self.choices)), len(self.choices) - 1)]
        if self.log:
            return self.nearest(self.low * (self.high / self.low) ** share)
        return self.nearest(self.low + (self.high - self.low) * share)

    def place(self, value: Scalar) -> float:
        """How far through it an ordered dimension's value lies: what `at` makes it of, 0 to 1."""
        if self.choices:
            return self.choices.index(value) / max(len(self.choices) - 1, 1)
        if self.log:
            return math.log(float(value) / self.low) / math.log(self.high / self.low)
        return (float(value) - self.low) / (self.high - self.low)

    def contains(self, value: Any) -> bool:
        """Whether it can take `value`."""
        if self.choices:
            return any(value == choice and type(value) is type(choice) for choice in self.choices)
        if not _is_number(value) or not self.low <= value <= self.high:
            return False
        return not self._step or math.isclose(self.nearest(value), value)

    def stand_in(self, value: Any) -> Scalar | None:
        """`value`, or what is nearest to it; where it is no number halfway through, None where there is no order."""
        if self.contains(value) or not self.is_ordered:
            return value if self.contains(value) else None
        if not _is_number(value):
            return self.at(0.5)
        return min(self.choices, key=lambda one: abs(float(one) - value)) if self.choices else self.nearest(value)

    def nearest(self, value: float) -> int | float:
        """The value of the range that is nearest to `value`, with six digits at most."""
        if self._step:
            value = self.low + min(round((value - self.low) / self._step), self._steps) * self._step
        shown = value if self.integer else float(f"{value:.6g}")
        clipped = min(max(shown, self.low), self.high)
        return round(clipped) if self.integer else clipped

    @property
    def _step(self) -> float | None:
        return self.step or (1 if self.integer else None)

    @property
    def _steps(self) -> float:
        """How many steps a range has; infinite where it has no step."""
        return math.floor((self.high - self.low) / self._step + 1e-9) if self._step else math.inf


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _wrong(name: str, message: str) -> SpecError:
    return SpecError(f"space: {name}: {message}")


def _of_choices(name: str, fields: Mapping[str, Any], parameter: Parameter | None) -> Dimension:
    choices = fields["choices"]
    if wrong := [key for key in fields if key not in ("choices", "when")]:
        raise _wrong(name, f"choices have no {wrong[0]}")
    if not isinstance(choices, list) or not choices:
        raise _wrong(name, f"choices must be a list of values, not {choices!r}")
    if strange := [value for value in choices if not isinstance(value, (bool, int, float, str))]:
        raise _wrong(name, f"{strange[0]!r} is no number, text, true or false")
    if endless := [value for value in choices if not _is_finite(value)]:
        raise _wrong(name, f"{endless[0]!r} is not finite")
    words = [engine_word(value, parameter) for value in choices]
    distinct = list({(type(value), value): value for value in words}.values())
    if all(map(_is_number, distinct)):
        distinct.sort(key=float)
    return Dimension(name, tuple(distinct), when=_conditions(name, fields))


def _is_finite(value: Scalar) -> bool:
    """Whether it is a text, or a number that floating point has room for."""
    try:
        return isinstance(value, str) or math.isfinite(value)
    except OverflowError:
        return False


def engine_word(value: Scalar, parameter: Parameter | None) -> Scalar:
    """`on` and `off` as the engine has them: YAML reads them as true and false."""
    if isinstance(value, bool) and parameter and parameter.choices:
        return next((word for word in _WORDS[value] if word in parameter.choices), value)
    return value


def _of_range(name: str, fields: Mapping[str, Any], parameter: Parameter | None) -> Dimension:
    low, high, step = (fields.get(key) for key in ("low", "high", "step"))
    if low is None or high is None:
        raise _wrong(name, "a range needs low and high, as in {low: 1, high: 8}")
    for key, value in (("low", low), ("high", high), ("step", 1 if step is None else step)):
        if not _is_number(value):
            raise _wrong(name, f"{key} must be a number, not {value!r}")
        if not _is_finite(value):
            raise _wrong(name, f"{key} must be finite")
    log = fields.get("log", False)
    problems = (
        (not isinstance(log, bool), f"log must be true or false, not {log!r}"),
        (low >= high, f"low must be less than high, got {low} and {high}"),
        (step is not None and step <= 0, f"step must be greater than 0, got {step}"),
        (bool(log) and low <= 0, f"a logarithmic range starts above 0, not at {low}"),
        (bool(log) and step is not None, "give step or log, not both"),
    )
    if problem := next((text for fits, text in problems if fits), None):
        raise _wrong(name, problem)
    integer = all(isinstance(value, int) for value in (low, high, step or 1))
    if parameter and parameter.kind is int and not integer:
        raise _wrong(name, "must be whole numbers")
    return Dimension(name, low=low, high=high, step=step, log=log, integer=integer, when=_conditions(name, fields))


def _conditions(name: str, fields: Mapping[str, Any]) -> dict[str, tuple[Scalar, ...]]:
    when = fields.get("when", {})
    if not isinstance(when, Mapping):
        raise _wrong(name, f"when must name other parameters with their values, as {{flash_attn: 'on'}}, not {when!r}")
    return {str(other): tuple(values if isinstance(values, list) else [values]) for other, values in when.items()}


@dataclass(frozen=True)
class SearchSpace:
    """Every configuration that may be tried."""

    dimensions: tuple[Dimension, ...]  # the parameters that are searched, each after those that it is conditional on
    constraints: tuple[Relation, ...]  # what must hold between parameters
    fixed: Mapping[str, Any]  # parameters that every trial has, unless they are searched
    # the engine's, as far as we know them, and `gpus`: for parameters that a configuration does not name
    defaults: Mapping[str, Any]

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
            gpus: how many there are, for constraints; None where nobody said, which stands for `MOST_GPUS`.

        Raises:
            SpecError: one line that names the place, what is wrong and what would be right.
        """
        mapping = _preset(document, engine) if isinstance(document, str) else document
        if not isinstance(mapping, Mapping) or not mapping:
            raise SpecError("space: give parameters with their values, such as {max_num_seqs: [64, 128, 256]}")
        named = {str(name).lstrip("-").replace("-", "_"): values for name, values in mapping.items()}
        if engine.complete:
            _check_names(named, engine.tunables, f"space: {engine.name} has no parameter")
        dimensions = {name: Dimension.parse(name, values, engine.tunables.get(name)) for name, values in named.items()}
        defaults = {name: parameter.default for name, parameter in engine.tunables.items()} | {GPUS: gpus or MOST_GPUS}
        other_names = ({*fixed} | {*named}) & {*getattr(engine, "sizes", ())} - {*engine.tunables}  # of the same sizes
        conditions = () if other_names else engine.conditions
        relations = tuple(Relation.parse(text) for text in (*constraints, *conditions))
        known_defaults = {name: value for name, value in defaults.items() if value is not None}
        space = cls(_in_order(dimensions, fixed, engine), relations, dict(fixed), known_defaults)
        for relation in relations:
            names = [*dimensions, *fixed, *engine.tunables, GPUS]
            _check_names(relation.names, names, f"constraint {relation.text!r} has")
        space._check_not_empty()
        return space

    @cached_property
    def known_values(self) -> Mapping[str, Any]:
        """What parameters are that a configuration does not name, as far as we know it."""
        return {**self.defaults, **self.fixed}

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
        with contextlib.suppress(SpecError):  # such as a division by zero: it costs this point, not the search
            return self._meets(point)
        return False

    def _meets(self, point: Mapping[str, Any]) -> bool:
        values = {**self.known_values, **point}
        return all(constraint.holds(values) for constraint in self.constraints)

    def active(self, point: Mapping[str, Any]) -> Point:
        """`point` without the parameters whose condition does not hold."""
        active: Point = {}
        for dimension in self.dimensions:
            others = {**self.known_values, **active}
            is_active = all(others.get(other) in allowed for other, allowed in dimension.when.items())
            if dimension.name in point and is_active:
                active[dimension.name] = point[dimension.name]
        return active

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
        point = self.active({d.name: self.known_values.get(d.name) for d in self.dimensions})
        return point if all(d.contains(point[d.name]) for d in self.dimensions if d.name in point) else None

    def values_in_force(self, point: Mapping[str, Any]) -> Mapping[str, Scalar | None]:
        """`point` with what it leaves to the engine where the engine's default stands, as near as the space has it."""
        return self.active(
            {d.name: point.get(d.name, d.stand_in(self.known_values.get(d.name))) for d in self.dimensions}
        )

    def grid(self) -> Iterator[Point]:
        """Every point that is allowed, once; wide ranges by a few values each."""
        earlier = set()
        names = [dimension.name for dimension in self.dimensions]
        for values in itertools.product(*(dimension.values() for dimension in self.dimensions)):
            point = self.active(dict(zip(names, values, strict=True)))
            if (key := key_of(point)) not in earlier and self.allows(point):
                earlier.add(key)
                yield point

    def at(self, shares: list[float]) -> Point:
        """The point at these shares of the way (0 to 1) through each dimension."""
        return self.active({d.name: d.at(share) for d, share in zip(self.dimensions, shares, strict=True)})

    def _check_not_empty(self) -> None:
        """Refuse constraints that leave nothing of the grid."""
        if self.constraints and next(self.grid(), None) is None:
            self._meets(self.at([0.0] * len(self.dimensions)))  # says it where one cannot be computed
            texts = " and ".join(constraint.text for constraint in self.constraints)
            raise SpecError(f"constraints: no configuration of the space meets {texts}")


def key_of(point: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What makes two configurations the same."""
    return tuple(sorted((name, repr(value)) for name, value in point.items()))


def _check_names(names: Iterable[str], allowed: Collection[str], message: str) -> None:
    if wrong := sorted({*names} - {*allowed}):
        raise SpecError(f"{message} {wrong[0]!r}; {suggest(wrong[0], allowed)}")


def _preset(name: str, engine: Engine) -> Mapping[str, Any]:
    if not name.strip():
        known = ", ".join(engine.spaces)
        raise SpecError(
            f"space: empty; write parameters with their values, or a preset{f' ({known})' if known else ''}"
        )
    if name in engine.spaces:
        return engine.spaces[name]
    advice = suggest(name, engine.spaces) if engine.spaces else f"engine {engine.name} has no presets; give parameters"
    raise SpecError(f"space: there is no preset {name!r}; {advice}")


def _in_order(dimensions: dict[str, Dimension], fixed: Mapping[str, Any], engine: Engine) -> tuple[Dimension, ...]:
    """The dimensions, each after those that it is conditional on."""
    order: list[Dimension] = []
    waiting = {name: _with_conditions(dimension, dimensions, fixed, engine) for name, dimension in dimensions.items()}
    while waiting:
        ready = [name for name, one in waiting.items() if not {*one.when} & {*waiting}]
        if not ready:
            raise SpecError(f"space: {next(iter(waiting))}: its condition leads back to itself")
        order += [waiting.pop(name) for name in ready]
    return tuple(order)


def _with_conditions(
    dimension: Dimension, dimensions: Mapping[str, Dimension], fixed: Mapping[str, Any], engine: Engine
) -> Dimension:
    """`dimension` with its condition checked and spelt as the engine has it."""
    place = f"space: {dimension.name}: when"
    _check_names(dimension.when, [*dimensions, *fixed], f"{place} names no searched or fixed parameter:")
    when = {}
    for other, values in dimension.when.items():
        when[other] = tuple(engine_word(value, engine.tunables.get(other)) for value in values)
        if other in dimensions and (never := [value for value in when[other] if not dimensions[other].contains(value)]):
            raise SpecError(f"{place}: {other} never is {never[0]!r}")
    return replace(dimension, when=when)
