"""Documents that people write, YAML and JSON, read strictly: what is ambiguous or too large is refused in one line."""

import contextlib
import json
import re
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from tuner.core.files import DEEPEST, DOCUMENT, must_be_plain, read_bytes
from tuner.core.text import shorten
from tuner.errors import PathError, RequestError

_MOST_VALUES = 5_000  # nobody writes so many values, aliases counted
_NO_TEXT = re.compile("[\0\ud800-\udfff]")


def read_document(path: Path, what: str, error: type[RequestError]) -> Any:
    """Read strictly what a person wrote: JSON where the file's name ends so, else YAML.

    `error` is raised where it is damaged, or a key stands twice, so that one would be lost; PathError where the file
    cannot be read, with `what` it is (`the SLO`).
    """
    try:
        text = read_bytes(path, DOCUMENT).decode("utf-8-sig")
        return must_be_plain(_parse_json(text), _NO_TEXT) if path.suffix == ".json" else parse_yaml(text)
    except PathError as failure:
        raise PathError(str(failure).replace("cannot read ", f"cannot read {what} ", 1)) from failure
    except UnicodeDecodeError as failure:
        raise error(f"{path} is no UTF-8 text") from failure
    except ValueError as failure:
        raise error(f"{path}: {failure}") from failure


def parse_yaml(text: str) -> Any:
    """The one YAML document in `text`, as plain values; ValueError: it is none, too deep, or a key stands twice."""
    if len(text) > DOCUMENT:
        raise ValueError(f"it is longer than {DOCUMENT} characters")
    with contextlib.suppress(ValueError):  # all JSON is meant, also where tabs indent it, which YAML forbids
        return must_be_plain(_parse_json(text), _NO_TEXT)
    try:
        loader = _StrictLoader(text)
        node = loader.get_single_node()
        _must_be_small(node)
        return must_be_plain(None if node is None else loader.construct_document(node), _NO_TEXT)
    except RecursionError:
        raise ValueError("not valid YAML: it is nested too deeply") from None
    except (yaml.YAMLError, ArithmeticError, LookupError, TypeError, AttributeError) as error:
        words = "a value that its tag does not fit" if isinstance(error, LookupError) else " ".join(str(error).split())
        raise ValueError(f"not valid YAML: {words}") from None


def _must_be_small(document: Any) -> None:
    """Refuse a key that stands twice, before one can replace the other, and what aliases make endless."""
    rest = [document]
    for values in count():
        if not rest:
            return
        if values + len(rest) > _MOST_VALUES:
            raise ValueError("it holds too many values, those that aliases name counted")
        node = rest.pop()
        if isinstance(node, yaml.MappingNode):
            keys = [(key.tag, key.value) for key, _ in node.value]
            _must_be_unique(keys, f" in the mapping that begins in line {node.start_mark.line + 1}")
            rest += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            rest += node.value


class _StrictLoader(yaml.SafeLoader):
    """Refuses numbers which people and YAML 1.1 read differently, types that JSON has not, and what is too deep."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > DEEPEST + 1:
            raise RecursionError
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def number(self, node: Any) -> Any:
        kind = node.tag.rpartition(":")[2]
        value, line = getattr(self, f"construct_yaml_{kind}")(node), node.start_mark.line + 1
        if ":" in node.value or (kind == "int" and re.match(r"[+-]?0[0-7_]+$", node.value)):
            told = f"line {line}: {node.value} is ambiguous (YAML 1.1 reads it as {value})"
            raise yaml.YAMLError(f"{told}: write a plain decimal number, or quote it if it is a text")
        return value


for _name, _construct in {
    **dict.fromkeys(("int", "float"), _StrictLoader.number),
    **dict.fromkeys(("binary", "set", "omap", "pairs"), _StrictLoader.construct_undefined),
    "timestamp": _StrictLoader.construct_yaml_str,
}.items():
    _StrictLoader.add_constructor(f"tag:yaml.org,2002:{_name}", _construct)


def _parse_json(text: str) -> Any:
    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _must_be_unique([("", key) for key, _ in pairs])
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=mapping)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _must_be_unique(keys: list[tuple[str, Any]], where: str = "") -> None:
    seen: set[tuple[str, str]] = set()
    for key in (key for key in keys if isinstance(key[1], str)):
        if key in seen:
            raise ValueError(f"the key {shorten(repr(key[1]), 60)} stands twice{where}")
        seen.add(key)
