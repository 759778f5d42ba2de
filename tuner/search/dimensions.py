"""One parameter that is searched: its choices, or its range, and the condition under which it is there."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tuner.engines.parameters import Parameter, suggest
from tuner.errors import SpecError

Scalar = bool | int | float | str
#: values of a range that are all gone through by a grid, and into how many a longer one is divided
COUNTABLE, DIVISIONS = 12, 5
_KEYS = ("low", "high", "step", "log", "choices", "when")
_WORDS = {True: ("on", "true", "yes"), False: ("off", "false", "no")}


@dataclass(frozen=True)
class Dimension:
    """A parameter with the values it may take: choices, or a range.

    Args:
        name: the engine's parameter.
        choices: the values, where they are listed; otherwise empty.
        low: the smallest value of a range.
        high: the largest, included.
        step: between the values of a range; None for every number, or every whole number.
        log: whether ratios count, not differences.
        integer: whether a range is of whole numbers.
        when: the condition: other parameters, each with the values under which this one is there.
    """

    name: str
    choices: tuple[Scalar, ...] = ()
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False
    integer: bool = False
    when: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)

    @classmethod
    def parse(cls, name: str, document: Any, known: Parameter | None) -> "Dimension":
        """Read what a search's `space` says of one parameter.

        Args:
            name: the parameter.
            document: a list of choices, or a mapping with `choices`, or with `low`, `high` and perhaps `step`, `log`;
                with `when` in both.
            known: what the engine knows of it; None where it is a name that we do not know.

        Raises:
            SpecError: it is none of these, or holds a value that the engine would refuse.
        """
        asked = {"choices": document} if isinstance(document, list) else document
        if not isinstance(asked, Mapping) or not asked:
            raise _wrong(name, f"give choices as [1, 2, 4] or a range as {{low: 1, high: 8}}, not {document!r}")
        for key in asked:
            if key not in _KEYS:
                raise _wrong(name, f"unknown key {key!r}; {suggest(str(key), _KEYS)}")
        made = _of_choices(name, asked, known) if "choices" in asked else _of_range(name, asked, known)
        for value in made.choices or (made.low, made.high):
            if known and (problem := known.problem(value)):
                raise _wrong(name, f"{value!r} {problem}")
        return made

    @property
    def is_ordered(self) -> bool:
        """Whether its values are numbers, so that near ones behave alike."""
        return not self.choices or all(
            isinstance(value, (int, float)) and not isinstance(value, bool) for value in self.choices
        )

    @property
    def size(self) -> float:
        """How many values it has; infinite where they cannot be counted."""
        if self.choices:
            return len(self.choices)
        step = self.step or (1 if self.integer else 0)
        return math.floor((self.high - self.low) / step + 1e-9) + 1 if step else math.inf

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
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        stepped = self.integer or self.step is not None
        return self.low <= value <= self.high and (not stepped or math.isclose(self.nearest(value), value))

    def is_active(self, values: Mapping[str, Any]) -> bool:
        """Whether the parameter is there beside these others."""
        return all(values.get(other) in allowed for other, allowed in self.when.items())

    def nearest(self, value: float) -> int | float:
        """The value of the range that is nearest to `value`, with six digits at most."""
        step = self.step or (1 if self.integer else None)
        if step:
            steps = round((value - self.low) / step)
            value = self.low + min(steps, math.floor((self.high - self.low) / step + 1e-9)) * step
        shown = value if self.integer else float(f"{value:.6g}")
        clipped = min(max(shown, self.low), self.high)
        return round(clipped) if self.integer else clipped


def _wrong(name: str, message: str) -> SpecError:
    return SpecError(f"space: {name}: {message}")


def _of_choices(name: str, asked: Mapping[str, Any], known: Parameter | None) -> Dimension:
    choices = asked["choices"]
    if wrong := [key for key in asked if key not in ("choices", "when")]:
        raise _wrong(name, f"choices have no {wrong[0]}")
    if not isinstance(choices, list) or not choices:
        raise _wrong(name, f"choices must be a list of values, not {choices!r}")
    if strange := [value for value in choices if not isinstance(value, (bool, int, float, str))]:
        raise _wrong(name, f"{strange[0]!r} is no number, text, true or false")
    if endless := [value for value in choices if not _is_finite(value)]:
        raise _wrong(name, f"{endless[0]!r} is not finite")
    words = [spelt(value, known) for value in choices]
    distinct = {(type(value), value): value for value in words}
    made = Dimension(name, tuple(distinct.values()), when=_conditions(name, asked))
    return replace(made, choices=tuple(sorted(made.choices, key=float))) if made.is_ordered else made


def _is_finite(value: Scalar) -> bool:
    """Whether it is a text, or a number that floating point has room for."""
    try:
        return isinstance(value, str) or math.isfinite(value)
    except OverflowError:
        return False


def spelt(value: Scalar, known: Parameter | None) -> Scalar:
    """`on` and `off` as the engine has them: YAML reads them as true and false."""
    if isinstance(value, bool) and known and known.choices:
        return next((word for word in _WORDS[value] if word in known.choices), value)
    return value


def _of_range(name: str, asked: Mapping[str, Any], known: Parameter | None) -> Dimension:
    low, high, step = (asked.get(key) for key in ("low", "high", "step"))
    if low is None or high is None:
        raise _wrong(name, "a range needs low and high, as in {low: 1, high: 8}")
    for key, value in (("low", low), ("high", high), ("step", step)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise _wrong(name, f"{key} must be a number, not {value!r}")
        if value is not None and not _is_finite(value):
            raise _wrong(name, f"{key} must be finite")
    log = asked.get("log", False)
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
    if known and known.kind is int and not integer:
        raise _wrong(name, "must be whole numbers")
    return Dimension(name, low=low, high=high, step=step, log=log, integer=integer, when=_conditions(name, asked))


def _conditions(name: str, asked: Mapping[str, Any]) -> dict[str, tuple[Scalar, ...]]:
    when = asked.get("when", {})
    if not isinstance(when, Mapping):
        raise _wrong(name, f"when must name other parameters with their values, as {{flash_attn: 'on'}}, not {when!r}")
    return {str(other): tuple(values if isinstance(values, list) else [values]) for other, values in when.items()}
