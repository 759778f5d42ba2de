"""Whose a run directory is: one that somebody sent is a program, and is resumed only by one who knows what it does."""

import contextlib
import getpass
import hashlib
import hmac
import json
import logging
import os
import platform
import secrets
import shlex
import tempfile
from typing import Any

from tuner.core.run_directory import Experiment
from tuner.errors import RequestError, SpecError
from tuner.servers.server import preview
from tuner.sweep.spec import SweepSpec

_log = logging.getLogger(__name__)


def signed(spec: SweepSpec) -> dict[str, Any]:
    """What `experiment.json` keeps of a request: the spec, and who has made it where."""
    values = spec.model_dump(mode="json", exclude_none=True)
    return {"spec": values, "made_by": _here() | {"signature": _signature(values)}}


def check_trust(spec: SweepSpec, experiment: Experiment, *, trusts: bool) -> None:
    """Refuse (a SpecError) to go on with a run that was not made by this user on this host, unless it is trusted.

    Either way it is said what it would run, and where it would send which key.
    """
    facts = experiment.facts
    made_by = facts.get("made_by") if isinstance(facts.get("made_by"), dict) else {}
    ours = _here() | {"signature": _signature(facts.get("spec"))}
    if experiment.is_new or (made_by == ours and ours["signature"]):
        return
    does = f"{experiment.folder} was not made here, or was changed since: it will {_what_it_does(spec)}"
    if not trusts:
        raise SpecError(f"{does}; where that is right, --trust goes on with it")
    _log.warning("%s", does)


def _what_it_does(spec: SweepSpec) -> str:
    """All that is run and sent, in which nothing hides from the one who reads it."""
    try:
        command = preview(spec, spec.port or 0)
    except RequestError:  # it is installed elsewhere
        command = [spec.engine, spec.model]
    variables = [f"{name}={value}" for name, value in spec.environment.items()]
    where = f"to {spec.base_url}" if spec.base_url else "to that server"
    space = getattr(spec, "space", None)  # of a search
    deeds = {
        f"run `{shlex.join([*variables, *command])}`": bool(command),
        f"run `{shlex.join(spec.stop_command or [])}` after it": bool(spec.stop_command),
        f"try, one after the other, {space}": isinstance(space, dict),  # which may name programs too
        f"send requests {where}": bool(spec.base_url),
        f"give the key in {spec.api_key_env} {where}": bool(spec.api_key_env),
    }
    text = ", ".join(deed for deed, is_done in deeds.items() if is_done)
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _here() -> dict[str, str]:
    user = str(os.getuid())
    with contextlib.suppress(OSError, KeyError):  # a user without a name, as in containers
        user = getpass.getuser()
    return {"host": platform.node(), "user": user}


def _signature(spec: Any) -> str:
    """By which only this user's tuner can say that it was asked for `spec`; empty where no token can be kept."""
    try:
        return hmac.new(_token(), json.dumps([_here(), spec], sort_keys=True).encode(), hashlib.sha256).hexdigest()
    except OSError as error:
        _log.warning("runs are not signed, --resume will ask for --trust: %s", error)
        return ""


def _token() -> bytes:
    """The user's secret, made where there is none; of two who make it at once, the first counts."""
    import platformdirs

    path = platformdirs.user_state_path("tuner", ensure_exists=True) / "token"
    if not path.exists():
        with tempfile.NamedTemporaryFile(dir=path.parent) as aside:  # that only the user can read
            aside.write(secrets.token_bytes(32))
            aside.flush()
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(aside.name)
    return path.read_bytes()
