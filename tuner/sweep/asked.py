"""A spec as a person writes it: the command line to copy, and the YAML file."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from tuner.errors import SpecError
from tuner.sweep.spec import SweepSpec, make_spec

#: what says where a run lies, and nothing of what is measured
_PLACES = {"name", "runs"}


def as_text(value: Any) -> str:
    """A value as a flag or a form's field takes it; the spec reads it back."""
    if isinstance(value, list):
        return "; ".join(map(str, value)) if any(" " in str(part) for part in value) else " ".join(map(str, value))
    if isinstance(value, Mapping):
        return _mapping(dict(value)) if value else ""
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def as_lines(value: Any) -> str:
    """A mapping or a list with a line for each of its parts; the spec reads it back."""
    if isinstance(value, list):
        return "\n".join(map(str, value))
    if isinstance(value, Mapping):
        parts = [yaml.safe_dump({name: part}, default_flow_style=None, width=10**6) for name, part in value.items()]
        return "".join(parts).strip()
    return as_text(value)


def _mapping(value: dict[str, Any]) -> str:
    """As YAML in one line; as JSON, which is YAML too, where a shell would need YAML's own quotes quoted."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False).strip()
    return json.dumps(value, ensure_ascii=False) if "'" in text else text


def command_line(command: str, values: Mapping[str, Any]) -> str:
    """`tuner COMMAND` with a flag for each of `values`, as it can be pasted into a shell."""
    flags = [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", as_text(value))]
    return shlex.join(["tuner", command, *flags])


def unlike_default(spec: SweepSpec) -> dict[str, Any]:
    """What `spec` asks for and would not be so by itself."""
    return spec.model_dump(mode="json", exclude_defaults=True)


def sweep_of(searched: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of the sweep that measures one configuration of a search as the search did.

    Args:
        searched: the search's spec, as `experiment.json` has it.
        parameters: the engine's, of that configuration.
    """
    known = {name: value for name, value in searched.items() if name in SweepSpec.model_fields and name not in _PLACES}
    asked = known | {"parameters": dict(parameters)}
    try:
        return unlike_default(make_spec(asked))
    except SpecError:  # written by another version: as it stands there
        return asked
