"""One parameter of a search, with the values that it may take."""

import math
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from tuner.core.text import suggest
from tuner.engines.parameters import Parameter
from tuner.errors import SpecError

Scalar = bool | int | float | str
#: values of a range that are all gone through by a grid, and into how many a longer one is divided
COUNTABLE, DIVISIONS = 12, 5
_RANGE = {"low": None, "high": None, "step": None, "log": False}
KEYS = (*_RANGE, "choices", "when")
_WORDS = {True: ("on", "true", "yes"), False: ("off", "false", "no")}


@dataclass(frozen=True)
class Dimension:
    """A parameter with the values it may take: choices, or a range."""

    name: str  # the parameter; `engine.parameter` where it was said of one engine of several
    parameter: str  # as the engine has it
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
        """Read what a search's `space` says of one parameter, of which the engine may know more.

        A SpecError refuses what is neither a list of choices nor a mapping with `choices`, or with `low`, `high` and
        perhaps `step`, `log`, with `when` in both; and values that the engine would refuse.
        """
        content = {"choices": document} if isinstance(document, list) else document
        if not isinstance(content, Mapping) or not content:
            raise _wrong(name, f"give choices as [1, 2, 4] or a range as {{low: 1, high: 8}}, not {document!r}")
        # `values` is how many people say it
        fields = {("choices" if key == "values" else key): value for key, value in content.items()}
        if strange := [key for key in fields if key not in KEYS]:
            raise _wrong(name, f"unknown key {strange[0]!r}; {suggest(str(strange[0]), KEYS)}")
        dimension = _of_choices(name, fields, parameter) if "choices" in fields else _of_range(name, fields, parameter)
        for value in dimension.choices or (dimension.low, dimension.high):
            if parameter and (problem := parameter.problem(value)):
                raise _wrong(name, f"{value!r} {problem}")
        return dimension

    def is_of(self, engine: str) -> bool:
        """Whether servers of this engine have it."""
        return engine in self.when.get("engine", (engine,))

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
            return [*self.choices]
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
    for value in choices:
        if not isinstance(value, Scalar):
            raise _wrong(name, f"{value!r} is no number, text, true or false")
        if not _is_finite(value):
            raise _wrong(name, f"{value!r} is not finite")
    words = [engine_word(value, parameter.choices if parameter else ()) for value in choices]
    distinct = list({(type(value), value): value for value in words}.values())
    if all(map(_is_number, distinct)):
        distinct.sort(key=float)
    return Dimension(name, name, tuple(distinct), when=_conditions(name, fields))


def _is_finite(value: Scalar) -> bool:
    return isinstance(value, str) or abs(value) <= sys.float_info.max  # there are larger whole numbers


def engine_word(value: Scalar, choices: Collection[Any]) -> Scalar:
    """`on` and `off` as an engine's choices have them: YAML reads them as true and false."""
    return next((word for word in _WORDS[value] if word in choices), value) if isinstance(value, bool) else value


def _of_range(name: str, fields: Mapping[str, Any], parameter: Parameter | None) -> Dimension:
    low, high, step, log = (fields.get(key, default) for key, default in _RANGE.items())
    if low is None or high is None:
        raise _wrong(name, "a range needs low and high, as in {low: 1, high: 8}")
    for key, value in (("low", low), ("high", high), ("step", 1 if step is None else step)):
        if not _is_number(value) or not _is_finite(value):
            raise _wrong(name, f"{key} must be a finite number")
    integer = all(isinstance(value, int) for value in (low, high, step or 1))
    problems = {
        f"log must be true or false, not {log!r}": not isinstance(log, bool),
        f"low must be less than high, got {low} and {high}": low >= high,
        f"step must be greater than 0, got {step}": step is not None and step <= 0,
        f"a logarithmic range starts above 0, not at {low}": log and low <= 0,
        "give step or log, not both": log and step is not None,
        "must be whole numbers": parameter is not None and parameter.kind is int and not integer,
    }
    if problem := next((text for text, is_wrong in problems.items() if is_wrong), ""):
        raise _wrong(name, problem)
    return Dimension(name, name, (), low, high, step, log, integer, _conditions(name, fields))


def _conditions(name: str, fields: Mapping[str, Any]) -> dict[str, tuple[Scalar, ...]]:
    when = fields.get("when", {})
    if not isinstance(when, Mapping):
        raise _wrong(name, f"when must name other parameters with their values, as {{flash_attn: 'on'}}, not {when!r}")
    return {str(other): tuple(values if isinstance(values, list) else [values]) for other, values in when.items()}
