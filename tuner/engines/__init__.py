"""Software that can be served: engines by name, also those of other packages (entry point `tuner.engines`)."""

from importlib.metadata import EntryPoint, entry_points

from tuner.core.text import suggest
from tuner.engines.base import Engine
from tuner.errors import EngineError

GROUP = "tuner.engines"

_OURS = {
    "llamacpp": "llamacpp:LlamaCpp",
    "vllm": "vllm:VLLM",
    "sglang": "sglang:SGLang",
    "command": "command:Command",
    "attach": "command:Attach",
}


def names() -> list[str]:
    """The engines that can be asked for."""
    return sorted({*_OURS, *(point.name for point in entry_points(group=GROUP))})


def find(name: str) -> Engine:
    """The engine of this name; an EngineError names the nearest, or says why another package's cannot be loaded."""
    ours = [EntryPoint(name, f"{__name__}.{_OURS[name]}", GROUP)] if name in _OURS else []
    point = next((point for point in ours or entry_points(group=GROUP) if point.name == name), None)
    if point is None:
        raise EngineError(f"there is no engine {name!r}; {suggest(name, names())}")
    try:
        engine = point.load()
    except (ImportError, AttributeError) as error:
        raise EngineError(f"engine {name!r} cannot be loaded from {point.value}: {error}") from error
    if isinstance(engine, type) and issubclass(engine, Engine):
        return engine()
    raise EngineError(f"engine {name!r} is registered as {engine!r}, which is no subclass of tuner.engines.base.Engine")
