"""The parameters of an engine: which names it knows, which values they take, how they are spelt as flags."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tuner.errors import SpecError


@dataclass(frozen=True)
class Parameter:
    """One parameter of an engine.

    Args:
        kind: the type of its value.
        low: the smallest number allowed.
        high: the largest number allowed.
        choices: the values allowed, where they are few.
        default: what it is where nothing is said, as far as it is the same everywhere.
        help: what it does, in a few words.
        changes_answers: another value than the default may make the model answer otherwise, beyond rounding; no preset
            but `quantised` has it.
    """

    kind: type[int] | type[float] | type[bool] | type[str]
    low: float | None = None
    high: float | None = None
    choices: tuple[Any, ...] = ()
    default: Any = None
    help: str = ""
    changes_answers: bool = False

    def problem(self, value: Any) -> str | None:
        """What is wrong with `value`, or None."""
        if self.choices:
            return None if value in self.choices else f"must be one of {', '.join(map(str, self.choices))}"
        kinds: Any = (int, float) if self.kind is float else self.kind
        # a bool is an int to Python, but not to a user
        if isinstance(value, bool) != (self.kind is bool) or not isinstance(value, kinds):
            return f"must be {_KIND_NAMES[self.kind]}"
        if self.low is not None and value < self.low:
            return f"must be at least {self.low:g}"
        if self.high is not None and value > self.high:
            return f"must be at most {self.high:g}"
        return None


_KIND_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def check(engine: str, values: Mapping[str, Any], table: Mapping[str, Parameter]) -> None:
    """Refuse a value that the engine would refuse, before minutes are spent on starting it.

    Raises:
        SpecError: a parameter of the table has a value that it cannot take.
    """
    for name, value in values.items():
        if name in table and (problem := table[name].problem(value)):
            raise SpecError(f"{engine} parameter {name} = {value!r}: {problem}")


def names_in(source: str) -> set[str]:
    """The parameters that a module's source declares: flags as texts, and fields of classes."""
    found = re.findall(r'"--([\w-]+)"', source) + re.findall(r"^    ([a-z]\w*): ", source, re.MULTILINE)
    return {name.replace("-", "_") for name in found}


def is_among(name: str, names: Iterable[str]) -> bool:
    """Whether a command line takes a parameter: argparse takes beginnings and `--no-…`, vLLM `config.part` too."""
    beginnings = (name.partition(".")[0], name.removeprefix("no_"))
    return any(one.startswith(beginnings) for one in names)


def flags(values: Mapping[str, Any], *, no_prefix: bool) -> list[str]:
    """`{"max_num_seqs": 64, "enforce_eager": True}` → `["--max-num-seqs", "64", "--enforce-eager"]`.

    Args:
        values: parameters; true is the bare flag, a list is several values after one flag, an object is JSON text.
        no_prefix: false is `--no-flag` (as argparse's BooleanOptionalAction wants it); otherwise it is left out.
    """
    return [part for name, value in values.items() for part in _flag(name.replace("_", "-"), value, no_prefix)]


def _flag(name: str, value: Any, no_prefix: bool) -> list[str]:
    match value:
        case True:
            return [f"--{name}"]
        case False:
            return [f"--no-{name}"] if no_prefix else []
        case list():
            return [f"--{name}", *map(as_text, value)]
    return [f"--{name}", as_text(value)]


def as_text(value: Any) -> str:
    """A value as a command's argument: a text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)
