"""Documents that people write, read strictly: YAML or JSON, each key once, and messages that name the place."""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.errors import PathError, SLOError


@dataclass(frozen=True)
class Place:
    """Where in an SLO something stands, for messages such as `slo.yaml: ttft.p90.threshold must be …`."""

    name: str
    path: str = ""

    def below(self, key: str) -> "Place":
        """The place of `key` within this one."""
        return Place(self.name, f"{self.path}.{key}" if self.path else key)

    def error(self, message: str) -> SLOError:
        """An error that starts with this place."""
        return SLOError(": ".join(part for part in (self.name, self.path, message) if part))

    def must_be_mapping(self, value: Any, otherwise: str) -> None:
        """Refuse what is no mapping."""
        if not isinstance(value, Mapping):
            raise self.error(f"{otherwise}, not {value!r}")

    def must_know(self, value: Mapping[str, Any], known: list[str]) -> None:
        """Refuse keys that are none of `known`."""
        for key in value:
            if key not in known:
                raise self.error(f"unknown key {key!r}; known are {', '.join(known)}")


def load(file: Path) -> Any:
    """The one document in a file: JSON where its name ends so, else YAML.

    Raises:
        PathError: the file cannot be read.
        SLOError: it is no such document, or a key stands twice, so that one of them would be lost.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        return _from_json(text) if file.suffix == ".json" else _from_yaml(text)
    except OSError as error:
        raise PathError(f"cannot read the SLO {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SLOError(f"{file} is no UTF-8 text") from error
    except SLOError as error:
        raise SLOError(f"{file}: {error}") from error
    except RecursionError as error:
        raise SLOError(f"{file} is nested too deeply") from error


def number_and_unit(value: Any) -> tuple[float, str]:
    """A number and the unit behind it; NaN where it is no number."""
    if isinstance(value, str) and (match := re.fullmatch(r"\s*([+-]?[\d.]+(?:[eE][+-]?\d+)?)\s*([^\d\s.]*)\s*", value)):
        return _to_float(match[1]), match[2]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan, ""
    return _to_float(value), ""


def number_at(value: Mapping[str, Any], key: str, place: Place, default: Any, wrong: Callable[[float], str]) -> Any:
    """The number at `key`, or `default`.

    Raises:
        SLOError: `wrong` says what is wrong with it, or it is no number.
    """
    if key not in value:
        return default
    number, unit = number_and_unit(value[key])
    complaint = wrong(number) or ("" if math.isfinite(number) and not unit else wrong(math.nan))
    if complaint:
        raise place.below(key).error(f"{complaint}, not {value[key]!r}")
    return number


def positive(number: float) -> str:
    """What is wrong with a number that must be above 0."""
    return "" if number > 0 else "must be a number above 0"


def not_negative(number: float) -> str:
    """What is wrong with a number that must be 0 or more."""
    return "" if number >= 0 else "must be a number that is 0 or more"


def share(number: float) -> str:
    """What is wrong with a number that must lie between 0 and 1."""
    return "" if 0 < number < 1 else "must be a number between 0 and 1"


def _to_float(value: Any) -> float:
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def _from_json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except ValueError as error:
        if isinstance(error, SLOError):
            raise
        raise SLOError(f"is no JSON: {error}") from error


def _from_yaml(text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """SafeLoader that refuses a key given twice."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            """Check the keys, then build the mapping."""
            if isinstance(node, yaml.MappingNode):
                _unique([(key.value, None) for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader=Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise SLOError(f"is no YAML: {' '.join(str(error).split())}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    twice = [key for key in keys if keys.count(key) > 1]
    if twice:
        raise SLOError(f"the key {twice[0]!r} stands twice")
    return dict(pairs)
