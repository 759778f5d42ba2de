"""Servers that are not software we know: any command, and an endpoint that already runs."""

import re
import shutil
from urllib.parse import urlsplit

from tuner.engines.base import Engine, Placement, ServerSpec, without_tilde
from tuner.engines.parameters import as_text
from tuner.errors import EngineError, SpecError

_PLACE = re.compile(r"\{(\w+)\}")


class Command(Engine):
    """The engine `command`; `{port}`, `{model}`, `{gpus}`, `{name}` and each parameter are filled in.

    `{gpus}` are the UUIDs of the chosen GPUs, separated by commas. `{name}` is a name of this one server, as for
    `docker run --rm --name {name} …` with the stop command `docker kill {name}`: a container's processes belong
    to its daemon, so that nothing else can end them.
    """

    name = "command"

    def check(self, spec: ServerSpec) -> None:
        """Refuse a command that is missing, not found, or names what nobody can fill in."""
        super().check(spec)
        names = _PLACE.findall(" ".join([*(spec.command or []), *(spec.stop_command or [])]))
        values = ["port", "model", "gpus", "name", *spec.parameters]
        if unknown := [name for name in names if name not in values]:
            raise SpecError(f"command has {{{unknown[0]}}}, which is none of {', '.join(values)}")
        for name in ("port", *spec.parameters):
            if name not in names:
                raise SpecError(f"command has no {{{name}}} in it, so that it would change nothing")

    def find(self, spec: ServerSpec) -> str:
        """The program, which is the command's first word."""
        if not spec.command:
            raise SpecError("engine command needs command, a list such as [my-server, --port, '{port}']")
        if program := shutil.which(without_tilde(spec.command[0])):
            return program
        raise EngineError(f"engine command: there is no program {spec.command[0]} on PATH")

    def command(self, spec: ServerSpec, place: Placement) -> list[str]:
        """The command with everything filled in."""
        return [self.find(spec), *_fill(spec.command, spec, place)[1:]]

    def stop_command(self, spec: ServerSpec, place: Placement) -> list[str]:
        """The stop command with everything filled in."""
        return _fill(spec.stop_command, spec, place)


def _fill(words: list[str] | None, spec: ServerSpec, place: Placement) -> list[str]:
    values = {name: as_text(value) for name, value in spec.parameters.items()}
    values |= {"port": str(place.port), "model": spec.model, "gpus": ",".join(place.gpus), "name": place.name}
    return [_PLACE.sub(lambda match: values[match[1]], word) for word in words or []]


_PAGE = re.compile(  # the ends of URLs that people paste: of the API itself, and of pages beside it
    r"(/v1)?(/(chat/completions|completions|embeddings|responses|models)|/(health|metrics|docs|version))?/*$"
)
#: an endpoint that no load generator of ours asks
_OTHER_PATH = re.compile(r"(?<!/v1)/(chat/completions|generate_stream|generate|invocations|api/(chat|generate))/*$")


def api_root(url: str) -> str:
    """The base URL of an API, whichever of its endpoints was given: `http://host:8000`, without `/v1`."""
    return _PAGE.sub("", url.strip(), count=1)


class Attach(Engine):
    """The engine `attach`; `base_url` says where, `model` which of its models (the first where not given)."""

    name = "attach"
    owned = False
    ready_timeout = 10.0

    def check(self, spec: ServerSpec) -> None:
        """Refuse a URL that cannot be one, and parameters, which nobody could apply."""
        url = urlsplit((spec.base_url or "").strip())
        if url.scheme not in ("http", "https") or not re.fullmatch(
            r"[^\s:]+(:\d{1,5})?|\[\S+\](:\d{1,5})?", url.netloc
        ):
            raise SpecError(f"engine attach needs base_url, as in http://127.0.0.1:8000; got {spec.base_url!r}")
        if url.query or url.fragment:
            raise SpecError("base_url ends at ? or #: give it up to /v1, without what follows")
        if match := _OTHER_PATH.search(url.path):
            raise SpecError(
                f"base_url ends in {match[0]}: only servers that answer at /v1/chat/completions are measured"
            )
        if spec.parameters:
            raise SpecError("engine attach takes no parameters: the server already runs")

    def served_name(self, spec: ServerSpec) -> str:
        """The model asked for, or nothing: then the server's first."""
        return spec.served_name or spec.model
