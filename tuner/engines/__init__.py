"""Software that can be served: engines by name, also those of other packages (entry point `tuner.engines`)."""

import importlib
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from tuner.engines.base import Engine
from tuner.engines.parameters import suggest
from tuner.errors import EngineError

GROUP = "tuner.engines"

_OURS = {
    "llamacpp": "tuner.engines.llamacpp:LlamaCpp",
    "vllm": "tuner.engines.vllm:VLLM",
    "sglang": "tuner.engines.sglang:SGLang",
    "command": "tuner.engines.command:Command",
    "attach": "tuner.engines.command:Attach",
}


def names() -> list[str]:
    """The engines that can be asked for."""
    return sorted({*_OURS, *(point.name for point in entry_points(group=GROUP))})


def find(name: str) -> Engine:
    """The engine of this name.

    Raises:
        EngineError: there is none, with the nearest in the message; or another package's cannot be loaded.
    """
    if name in _OURS:
        module, _, attribute = _OURS[name].partition(":")
        return _checked(name, getattr(importlib.import_module(module), attribute))
    for point in entry_points(group=GROUP):
        if point.name == name:
            return _checked(name, _load(point))
    raise EngineError(f"there is no engine {name!r}; {suggest(name, names())}")


def _load(point: EntryPoint) -> Any:
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise EngineError(f"engine {point.name!r} cannot be loaded from {point.value}: {error}") from error


def _checked(name: str, found: Any) -> Engine:
    if isinstance(found, type) and issubclass(found, Engine):
        return found()
    raise EngineError(f"engine {name!r} is registered as {found!r}, which is no subclass of tuner.engines.base.Engine")
