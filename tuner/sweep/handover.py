"""What one panel hands on to another, as a file of parameters: a server that runs, and a search to go on with."""

import contextlib
from pathlib import Path
from typing import Any

import yaml

from tuner.core import files
from tuner.core.records import ServerRecord
from tuner.errors import TunerError
from tuner.servers import http
from tuner.sweep.prepare import tokenizer_of
from tuner.sweep.spec import read_spec

FILE, SEARCH = "handover.yaml", "next-search.yaml"


def write(record: ServerRecord, key: str | None) -> None:
    """Write down the sweep that attaches to a server which runs; `key` names the variable with its API key."""
    tokenizer = tokenizer_of(record.engine, record.model) if record.model else ""
    values = {"engine": "attach", "model": record.served_name, "base_url": record.base_url, "tokenizer": tokenizer}
    files.write_atomically(Path(FILE), yaml.safe_dump(values | ({"api_key_env": key} if key else {})))


def read() -> dict[str, Any]:
    """The parameters of the sweep, as long as its server answers; else none."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        values = read_spec(Path(FILE))
        with http.client(values["base_url"], timeout=1) as client:
            return values if http.is_there(client) else {}
    return {}


def take_search() -> dict[str, Any]:
    """The parameters of the search that was handed on, once; else none."""
    with contextlib.suppress(OSError, TunerError):
        values = read_spec(Path(SEARCH))
        Path(SEARCH).unlink()
        return values
    return {}
