"""The bytes of a file as documents: one of JSON, YAML or CSV, or one a line; what is damaged stays as Damage."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec

from tuner.batches.results import Damage

NO_NUMBER = re.compile(rb"([:,\[]\s*)(?:-?Infinity|NaN)(?=\s*[],}])")
#: Levels of nesting in YAML; files of the tools have a dozen.
DEEPEST = 200
#: Stands for a document that ends in its middle.
CUT = object()


def documents(path: Path, data: bytes) -> list[Any]:
    """What the file `path` with the content `data` holds.

    Returns:
        Objects of JSON or YAML, or the text of a CSV file; a Damage for each that cannot be read.
    """
    if path.suffix in (".yaml", ".yml"):
        return [_yaml(data, path.name)]
    if path.suffix == ".csv":
        return [data.decode("utf-8", "replace")]
    whole = _json(data, path.name)
    lines = [line for line in data.splitlines() if line.strip()]
    if not isinstance(whole, Damage) or len(lines) < 2 or isinstance(_json(lines[0], ""), Damage):
        return [whole]
    return [_json(line, f"{path.name}#{number}") for number, line in enumerate(lines, 1)]


def _json(data: bytes, name: str) -> Any:
    """An object."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        value = _loosely(data)
    if value is CUT:
        return Damage("truncated", f"{name} ends in the middle ({len(data)} bytes)")
    return value if isinstance(value, dict) else Damage("unreadable", f"{name} is not valid JSON")


def _loosely(data: bytes) -> Any:
    """The slow way, for NaN and Infinity, which tools write though JSON has them not; and for what is cut off."""
    try:
        return msgspec.json.decode(NO_NUMBER.sub(rb"\1null", data))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        if "truncated" in str(error):
            return CUT
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _yaml(data: bytes, name: str) -> Any:
    """An object; libyaml reads it some ten times faster than Python, where it is there."""
    import yaml

    try:
        value = yaml.load(data, Loader=_shallow(getattr(yaml, "CSafeLoader", yaml.SafeLoader)))  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else Damage("unreadable", f"{name} is damaged, or no YAML that can be read")


def _shallow(loader: Any) -> Any:
    """A YAML loader that gives up before libyaml's recursion overflows the stack, which would end the whole process."""

    class Shallow(loader):  # type: ignore[misc]
        depth = 0

        def descend_resolver(self, *_: Any) -> None:
            self.depth += 1
            if self.depth > DEEPEST:
                raise RecursionError

        def ascend_resolver(self) -> None:
            self.depth -= 1

    return Shallow
