"""Flags of the command line that come from a spec's fields."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer
from pydantic import BaseModel


def takes(spec: type[BaseModel]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command a flag for each field of `spec`; they reach it, as text, in `flags`."""

    def with_flags(command: Callable[..., None]) -> Callable[..., None]:
        own = [part for name, part in inspect.signature(command).parameters.items() if name != "flags"]
        made = [_flag(name, field) for name, field in spec.model_fields.items()]

        @functools.wraps(command)
        def wrapped(**given: Any) -> None:
            flags = {part.name: given.pop(part.name) for part in made}
            command(**given, flags={name: text for name, text in flags.items() if text is not None})

        wrapped.__signature__ = inspect.Signature([*own, *made])  # type: ignore[attr-defined]
        wrapped.__annotations__ = {part.name: part.annotation for part in [*own, *made]}
        return wrapped

    return with_flags


def _flag(name: str, field: Any) -> inspect.Parameter:
    default = field.get_default(call_default_factory=True)
    shown = (
        None if default in (None, "", {}, []) else " ".join(map(str, default)) if isinstance(default, list) else default
    )
    text = (field.description or "") + (f" [default: {shown}]" if shown is not None else "")
    option = typer.Option(f"--{name.replace('_', '-')}", metavar="VALUE", help=text, show_default=False)
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=None, annotation=Annotated[str | None, option])
