"""A server that already runs: used, never started, never stopped, never signalled."""

from urllib.parse import urlsplit

from tuner.engines.base import Engine, ServerSpec
from tuner.errors import SpecError


class Attach(Engine):
    """The engine `attach`; `base_url` says where, `model` which of its models (the first where not given)."""

    name = "attach"
    owned = False
    ready_timeout = 10.0

    def check(self, spec: ServerSpec) -> None:
        """Refuse a URL that cannot be one, and parameters, which nobody could apply."""
        url = urlsplit(spec.base_url or "")
        if url.scheme not in ("http", "https") or not url.hostname:
            raise SpecError(
                f"engine attach needs base_url, as in http://127.0.0.1:8000; got {_without_secrets(spec)!r}"
            )
        if url.username or url.password:
            raise SpecError("base_url holds a user or password; name the key's environment variable in api_key_env")
        if spec.parameters:
            raise SpecError("engine attach takes no parameters: the server already runs")

    def served_name(self, spec: ServerSpec) -> str:
        """The model asked for, or nothing: then the server's first."""
        return spec.served_name or spec.model


def _without_secrets(spec: ServerSpec) -> str:
    return (spec.base_url or "").rpartition("@")[2]
