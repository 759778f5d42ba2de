"""How the fields of a spec are written: a person's text → the value, and the value → the text of a flag or a form."""

import contextlib
import json
import math
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field

from tuner.core import documents
from tuner.core.level import PER_SECOND, Level, Rate
from tuner.errors import SpecError
from tuner.traffic.workload import SCENARIO, Prefix

#: prompts out of a file, as genai-bench calls them; then they are called by the file's name and hash
DATASET = "dataset"
_FROM_FILE = re.compile(r"[\w.-]+#[0-9a-f]{8}")
_PREFIX = re.compile(r"\+prefix\(\d+,\d+\)$")
#: what else genai-bench can be asked for, by the first letter of its notation
_NOT_TEXT = {"E": "embeddings", "R": "reranking", "I": "images", "A": "audio"}
AUTO, RANDOM = "auto", "random"
#: requests per second
LOWEST_RATE, HIGHEST_RATE = 0.001, 100_000.0
IN_FLIGHT = 256  # requests of an open loop in flight at most, where nothing else is asked for
_BETWEEN = re.compile(r"[\s;]+|,(?![^(]*\))")


def split(value: Any) -> Any:
    """`"1,2 4"` as `["1", "2", "4"]`; a comma inside parentheses does not separate."""
    if not isinstance(value, str):
        return [value] if isinstance(value, int | float) else value
    return [part for part in _BETWEEN.split(value.strip().strip("[]")) if part]


def mapping(value: Any) -> Any:
    """`"{n_parallel: 8}"` or `"n_parallel: 8"` as a dict."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    try:
        return documents.parse_yaml(text if text.startswith("{") else f"{{{text}}}")
    except ValueError as error:
        raise ValueError(f"{value!r} is no mapping such as {{name: value}}: {error}") from None


def command_words(value: Any) -> Any:
    """`"vllm serve {model}"` as its words; they are never given to a shell."""
    return shlex.split(value) if isinstance(value, str) else value


def some_gpus(value: Any) -> Any:
    """`"2"` is how many, `"0,1"` is which."""
    return value if not isinstance(value, str) or value.isdigit() else split(value)


def _scenario(value: Any) -> str:
    """A scenario in genai-bench's notation; what a run has recorded of a file or a prefix is read again too."""
    if isinstance(value, str) and (other := re.match(r"([ERIA])\(\d", value)):
        raise ValueError(f"{value!r} asks for {_NOT_TEXT[other[1]]}; only text to text is measured, as by D(100,32)")
    base = base_of(str(value))
    if not isinstance(value, str) or (base != DATASET and not any(p.fullmatch(base) for p in (SCENARIO, _FROM_FILE))):
        raise ValueError(f"{value!r} is no traffic scenario; write one such as D(100,32): 100 tokens in, 32 out")
    return value


def base_of(scenario: str) -> str:
    """`D(100,32)` of `D(100,32)+prefix(1500,8)`."""
    return _PREFIX.sub("", scenario)


def _each(read: Callable[[Any], float], example: str) -> BeforeValidator:
    """`"auto"`, or numbers as `read` takes them, each once."""

    def numbers(value: Any) -> Any:
        parts = split(value)
        if parts in (AUTO, [AUTO]):
            return AUTO
        if not isinstance(parts, list) or not parts:
            raise ValueError(f"{value!r} is none; give at least 1, such as {example}, or {AUTO}")
        return list(dict.fromkeys(map(read, parts)))

    return BeforeValidator(numbers)


def _level(part: Any) -> int:
    number = int(part) if isinstance(part, str) and part.isdecimal() else part
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(f"{part!r} is no concurrency level: it must be a whole number greater than 0, or {AUTO}")
    return number


def _rate(part: Any) -> float:
    rate = math.nan
    with contextlib.suppress(TypeError, ValueError):
        rate = math.nan if isinstance(part, bool) else float(part)
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        limits = f"from {LOWEST_RATE:g} to {HIGHEST_RATE:g}"
        raise ValueError(f"{part!r} is no rate: it must be a number of requests per second {limits}, or {AUTO}")
    return float(f"{rate:g}")


def _arrivals(value: Any) -> Any:
    match parts := value if value in ("poisson", "constant") else mapping(value):
        case str() | None:
            return parts
        case {"gamma": {"cv": float() | int() as cv, **others}, **more} if 0 < cv <= 10 and not (others or more):
            return {"gamma": {"cv": float(cv)}}
    words = "write poisson, constant or gamma: {cv: 2}, with a cv above 0 and at most 10"
    raise ValueError(f"{value!r} are no arrivals; {words}")


def prefix_parts(value: Any) -> Any:
    """`"tokens: 1500, groups: 8"` or a mapping of these."""
    parts = mapping(value)
    if isinstance(parts, Mapping) and not ("tokens" in parts and {*parts} <= {*Prefix.model_fields}):
        raise ValueError(f"{value!r} is no prefix; write one such as {{tokens: 1500, groups: 8}}")
    return parts


def seed_value(value: Any) -> Any:
    """A whole number from 0, or `random`."""
    if value == RANDOM or (isinstance(value, int) and value >= 0) or str(value).isdecimal():
        return value
    raise ValueError(f"{value!r} is no seed: it must be a whole number from 0, or {RANDOM}")


ConcurrencyLevels = Annotated[list[int] | Literal["auto"] | None, _each(_level, "1,2,4")]
Rates = Annotated[list[float] | Literal["auto"] | None, _each(_rate, "1,2.5,4")]
Process = Annotated[str | dict[str, dict[str, float]] | None, BeforeValidator(_arrivals)]
Scenarios = Annotated[list[Annotated[str, BeforeValidator(_scenario)]], BeforeValidator(split), Field(min_length=1)]


def as_text(value: Any) -> str:
    """A value as a flag or a form's field takes it; the spec reads it back."""
    if isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(part, dict) for part in value)):
        text = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False).strip()
        if "'" in text:  # which a shell would need quoted; JSON is YAML too
            text = json.dumps(value, ensure_ascii=False)
        return text if value else ""
    if isinstance(value, list):
        return ("; " if any(" " in str(part) for part in value) else " ").join(map(str, value))
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def as_lines(value: Any) -> str:
    """A mapping or a list with a line for each of its parts; the spec reads it back."""
    if isinstance(value, list):
        return "\n".join(map(str, value))
    if isinstance(value, Mapping):
        parts = [yaml.safe_dump({name: part}, default_flow_style=None, width=10**6) for name, part in value.items()]
        return "".join(parts).strip()
    return as_text(value)


def command_line(command: str, values: Mapping[str, Any]) -> str:
    """`tuner COMMAND` with a flag for each of `values`, as it can be pasted into a shell."""
    flags = [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", as_text(value))]
    return shlex.join(["tuner", command, *flags])


def read_levels(text: str) -> list[Level]:
    """Levels and rates as people write them together, such as `1,8,2.5/s`; a SpecError names what is none."""
    parts = split(text) or [text]
    try:
        return [Rate(_rate(one.removesuffix(PER_SECOND))) if one.endswith(PER_SECOND) else _level(one) for one in parts]
    except ValueError as error:
        raise SpecError(str(error)) from None
