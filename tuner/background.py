"""What stands beside the batches: what was asked, the servers and what they used, how requests were spread, code."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from tuner import carried, files, telemetry, tried
from tuner.books import is_running
from tuner.errors import PathError
from tuner.experiment import EXPERIMENT_FILE, SERVER_FILE, SERVER_LOG, Experiment
from tuner.kinds import SEARCH
from tuner.scores import load_trials
from tuner.secrecy import Guard
from tuner.slo import SLO
from tuner.spreads import Spreads, spreads
from tuner.timestamps import to_utc

NOTEBOOK = "report.ipynb"
_TEXTS = ("experiment", "engine", "model", "scenario", "reason", "warnings")


@dataclass(frozen=True)
class Background:
    """All of a run that is shown and is no batch.

    Args:
        facts: `experiment.json`, empty where there is none.
        servers: each trial's `server.json`.
        telemetry: `at` (UTC) and what was sampled, of all trials; perhaps empty.
        spreads: quantiles of each batch's requests, by latency, in the order of the batches.
        code: the cells of the notebook that ran.
        trials: of a search, as from `load_trials`; empty where the run is none.
        slo: the SLO document that was asked for, or that a report judged by.
        known_attainment: of each batch under the run's own SLO, where a report carries it.
        folders: the run directories; empty where all this comes from a report.
    """

    facts: dict[str, Any]
    servers: list[dict[str, Any]]
    telemetry: pd.DataFrame
    spreads: Spreads
    code: list[str]
    trials: pd.DataFrame
    slo: dict[str, Any] | None = None
    known_attainment: list[float | None] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)

    def must_hold_no_secret(self, batches: pd.DataFrame) -> None:
        """Search everything that a report shows, and the logs that lie beside it.

        Raises:
            SecretFound: a key stands somewhere; the message names the place.
        """
        asked = self.facts.get("spec", {})
        guard = Guard(filter(None, [asked.get("api_key_env")]) if isinstance(asked, dict) else ())
        guard.check_values(self.facts, EXPERIMENT_FILE)
        guard.check_values(self.servers, SERVER_FILE)
        guard.check_values(self.code, NOTEBOOK)
        for trial in tried.to_records(self.trials):
            guard.check_values(trial, f"trial {trial['trial']}")
        for row in batches[list(_TEXTS)].assign(level=batches["concurrency"].astype(str)).to_dict("records"):
            level = row.pop("level")
            guard.check_values({str(name): text for name, text in row.items()}, f"the batch at concurrency {level}")
        for folder in self.folders:
            for log in [*sorted(folder.glob(f"trials/*/{SERVER_LOG}")), *sorted(folder.glob("*.log"))]:
                guard.check_file(log, str(log.relative_to(folder)))


def background(paths: Sequence[Path], batches: pd.DataFrame, slo: SLO | None = None) -> Background:
    """What stands beside the batches of `paths`; the first one's facts are those of all.

    Args:
        paths: run directories, genai-bench folders, files or reports.
        batches: what they hold.
        slo: scores the trials of a search; by default its own. Those of a report stay as they are.

    Raises:
        PathError: a report is damaged.
    """
    if len(paths) == 1 and carried.is_page(paths[0]):
        return _of_report(carried.unpack(paths[0]))
    folders = [Path(folder) for folder in batches["run_folder"].dropna().unique() if Path(folder).is_dir()]
    facts_file = paths[0] / EXPERIMENT_FILE
    facts = files.read_json(facts_file) if facts_file.exists() else {}
    return Background(
        facts=facts | _state(facts, paths[0]),
        servers=[
            files.read_json(path) for folder in folders for path in sorted(folder.glob(f"trials/*/{SERVER_FILE}"))
        ],
        telemetry=_telemetry(folders if facts.get("kind") != SEARCH.name else []),  # no figure of a search shows it
        spreads=spreads(source if isinstance(source, str) else None for source in batches["source"]),
        code=_code(paths[0] / NOTEBOOK),
        trials=_trials(paths, facts, slo),
        slo=facts.get("spec", {}).get("slo"),
        folders=folders,
    )


def _state(facts: dict[str, Any], folder: Path) -> dict[str, str]:
    """A run that nobody writes any more is not running, whatever its file says: it was cut off."""
    cut_off = facts.get("state") == "running" and not is_running(Experiment(folder))
    return {"state": "interrupted"} if cut_off else {}


def _of_report(content: carried.Carried) -> Background:
    samples = pd.DataFrame(content.telemetry)
    if len(samples):
        samples = samples.assign(at=to_utc(samples["at"]))
    return Background(
        facts=content.facts,
        servers=content.servers,
        telemetry=samples,
        spreads=content.spreads,
        code=content.code,
        trials=tried.from_records(msgspec.to_builtins(content.trials)),
        slo=content.slo,
        known_attainment=content.attainment,
    )


def _trials(paths: Sequence[Path], facts: dict[str, Any], slo: SLO | None) -> pd.DataFrame:
    """The trials of the one search that is shown; none where it is no search, or one of several runs."""
    is_search = len(paths) == 1 and facts.get("kind") == SEARCH.name
    return load_trials(paths[0], slo) if is_search else tried.from_records([])


def _telemetry(folders: list[Path]) -> pd.DataFrame:
    """The samples of all trials; nothing where nothing was recorded."""
    found = []
    for trial in (trial for folder in folders for trial in sorted(folder.glob("trials/*"))):
        try:
            found.append(telemetry.load(trial))
        except (PathError, ValueError):  # none, or damaged: a report of the batches is worth having all the same
            continue
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame({"at": []})


def _code(notebook: Path) -> list[str]:
    """The code of the notebook that ran, a cell each."""
    try:
        cells = files.read_json(notebook)["cells"] if notebook.exists() else []
        return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (PathError, KeyError, TypeError):
        return []
