"""The parameters of an engine: which names it knows, which values they take, how they are spelt as flags."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Parameter:
    """One parameter of an engine."""

    kind: type[int] | type[float] | type[bool] | type[str]  # of its value
    low: float | None = None  # the smallest number allowed
    high: float | None = None  # the largest
    choices: tuple[Any, ...] = ()  # the values allowed, where they are few
    default: Any = None  # what it is where nothing is said, as far as it is the same everywhere
    help: str = ""  # what it does, in a few words
    # another value may make the model answer otherwise, beyond rounding; no preset but `quantised` has it
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

    True is the bare flag, a list is several values after one flag, an object is JSON text. With `no_prefix` false is
    `--no-flag` (as argparse's BooleanOptionalAction wants it); otherwise it is left out.
    """
    words: list[str] = []
    for name, value in values.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words += [f"--{'' if value else 'no-'}{flag}"] * (value or no_prefix)
        else:
            words += [f"--{flag}", *map(as_text, value if isinstance(value, list) else [value])]
    return words


def as_text(value: Any) -> str:
    """A value as a command's argument: a text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)
