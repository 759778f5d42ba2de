"""What lies in a run directory beside the batches: the servers, versions and parameters, telemetry, code."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from tuner.batches.batch import printable
from tuner.batches.run_folder import subfolders
from tuner.core import files
from tuner.core.run_directory import SERVER_FILE, Experiment
from tuner.errors import PathError

logger = logging.getLogger(__name__)

#: versions that shape the page, and not what was measured
_OF_THE_PAGE = ("python", "pandas", "plotly")


def servers(folder: Path) -> Iterator[dict[str, Any]]:
    """What each trial's `server.json` says, with its `run_folder` and `trial`."""
    for number, trial in enumerate(subfolders(folder / "trials"), start=1):
        if server := read(trial / SERVER_FILE):
            place = {"run_folder": printable(folder), "trial": int(trial.name) if trial.name.isdecimal() else number}
            yield server | place


def made_with(folder: Path, facts: dict[str, Any], servers: list[dict[str, Any]]) -> dict[str, Any]:
    """The versions, the machine, the server's parameters and GPUs, where the run had one server."""
    server = servers[0] if len(servers) == 1 else {}
    versions, host, parameters = (
        _mapping(part) for part in (facts.get("versions"), facts.get("host"), server.get("parameters"))
    )
    return {
        **{"run_folder": printable(folder), "started_at": facts.get("started_at"), "host": host.get("name")},
        **{name: str(value) for name, value in parameters.items()},
        **{name: version for name, version in versions.items() if name not in _OF_THE_PAGE},
        **({"GPUs": len(server["gpus"])} if server.get("gpus") else {}),
    }


def slo_of(asked: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The SLO that all of the runs were asked to meet; None where they differ or nobody asked."""
    documents = [_mapping(facts.get("spec")).get("slo") for facts in asked]
    same = bool(documents) and all(document == documents[0] for document in documents)
    return documents[0] if same and documents[0] else None


def state(facts: dict[str, Any], folder: Path) -> dict[str, str]:
    """A run that nobody writes any more is not running, whatever its file says: it was cut off."""
    if facts.get("state") != "running":
        return {}
    from tuner.sweep.books import is_running

    return {} if is_running(Experiment(folder)) else {"state": "interrupted"}


def telemetry(folders: list[Path]) -> pd.DataFrame:
    """The samples of all trials; nothing where nothing was recorded."""
    from tuner.servers.telemetry import load

    found = []
    for trial in (trial for folder in folders for trial in subfolders(folder / "trials")):
        try:
            found.append(load(trial))
        except (PathError, ValueError):  # none, or damaged: a report of the batches is worth having all the same
            continue
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame({"at": []})


def code(notebook: Path) -> list[str]:
    """The code of the notebook that ran, a cell each."""
    try:
        cells = files.read_json(notebook)["cells"] if notebook.exists() else []
        return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (PathError, KeyError, TypeError):
        return []


def read(file: Path) -> dict[str, Any]:
    """What a JSON file says; nothing where it is missing, damaged or no mapping."""
    try:
        found = files.read_json(file) if file.exists() else {}
    except PathError as error:
        logger.warning("%s", error)
        return {}
    return found if isinstance(found, dict) else {}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
