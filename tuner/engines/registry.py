"""Engines by name: ours, and those that other packages register under the entry point group `tuner.engines`."""

import importlib
from importlib.metadata import entry_points

from tuner.engines.base import Engine
from tuner.engines.parameters import suggest
from tuner.errors import EngineError

GROUP = "tuner.engines"

_OURS = {
    "llamacpp": "tuner.engines.llamacpp:LlamaCpp",
    "vllm": "tuner.engines.vllm:VLLM",
    "sglang": "tuner.engines.sglang:SGLang",
    "command": "tuner.engines.command:Command",
    "attach": "tuner.engines.attach:Attach",
}


def names() -> list[str]:
    """The engines that can be asked for."""
    return sorted({*_OURS, *(point.name for point in entry_points(group=GROUP))})


def find(name: str) -> Engine:
    """The engine of this name.

    Raises:
        EngineError: there is none; the message names the nearest.
    """
    if name in _OURS:
        module, _, cls = _OURS[name].partition(":")
        return _made(getattr(importlib.import_module(module), cls), name)
    for point in entry_points(group=GROUP, name=name):
        return _made(point.load(), name)
    raise EngineError(f"there is no engine {name!r}; {suggest(name, names())}")


def _made(cls: type[Engine], name: str) -> Engine:
    if not issubclass(cls, Engine):
        raise EngineError(f"engine {name!r} is registered as {cls!r}, which is no tuner Engine")
    return cls()
