"""What stands beside the batches of a run: what was asked, servers, telemetry, logs."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from tuner.batches import report_data
from tuner.batches.genai_bench_folder import genai_bench_facts
from tuner.batches.load import readings_of
from tuner.batches.result_file import Floats
from tuner.core.metrics import LATENCIES
from tuner.core.records import RUNNING, SEARCH, sound
from tuner.core.run_directory import Experiment, Trial
from tuner.core.secrets import keep_out, redactor
from tuner.core.text import printable
from tuner.core.timestamps import to_utc
from tuner.errors import PathError
from tuner.judging.intervals import CONFIDENCE, intervals
from tuner.judging.slo import SLO
from tuner.judging.trials import load_trials, trials_from_records

_log = logging.getLogger(__name__)
#: versions that shape the page, and not what was measured
_OF_THE_PAGE = ("python", "pandas", "plotly")


def _server_records(folder: Path) -> Iterator[dict[str, Any]]:
    """What each trial's `server.json` says, with its `run_folder` and `trial`."""
    for number, trial in enumerate(Experiment(folder).trial_folders, start=1):
        if server := Trial(trial).server:
            place = {"run_folder": printable(folder), "trial": int(trial.name) if trial.name.isdecimal() else number}
            yield msgspec.to_builtins(server) | place


def _conditions_of_run(folder: Path, facts: dict[str, Any], servers: list[dict[str, Any]]) -> dict[str, Any]:
    """The versions, the machine, the server's parameters and GPUs, where the run had one server."""
    server = servers[0] if len(servers) == 1 else {}
    versions, host, parameters = map(mapping, (facts.get("versions"), facts.get("host"), server.get("parameters")))
    return {
        **{"run_folder": printable(folder), "started_at": facts.get("started_at"), "host": host.get("name")},
        **{name: str(value) for name, value in parameters.items()},
        **{name: version for name, version in versions.items() if name not in _OF_THE_PAGE},
        **({server["engine"]: server["version"]} if server.get("version") else {}),
        **({"GPUs": len(server["gpus"])} if server.get("gpus") else {}),
    }


def _telemetry(folders: list[Path]) -> pd.DataFrame:
    """The samples of all trials; nothing where nothing was recorded."""
    from tuner.servers.telemetry import load

    samples = []
    for trial in (trial for folder in folders for trial in Experiment(folder).trial_folders):
        try:
            samples.append(load(trial))
        except (PathError, ValueError):  # none, or damaged: a report of the batches is worth having all the same
            continue
    return pd.concat(samples, ignore_index=True) if samples else pd.DataFrame({"at": []})


def mapping(value: Any) -> dict[str, Any]:
    """`value` where it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


#: per cent; the quartiles make a box, the outer ones its whiskers and its mark
QUANTILES = (5, 25, 50, 75, 95, 99)
#: by latency: for each batch its quantiles in seconds; None where its requests are gone
Spreads = dict[str, list[list[float] | None]]


def _quantiles(values: Floats) -> list[float] | None:
    known = values[np.isfinite(values)]
    return np.percentile(known, QUANTILES).tolist() if len(known) else None


#: so many batches are not looked at one by one
_MANY = 200


@dataclass(frozen=True)
class RunFacts:
    """All of a run that is shown and is no batch."""

    facts: dict[str, Any]  # `experiment.json`, empty where there is none
    # each trial's `server.json`, with its `run_folder` and `trial`
    servers: list[dict[str, Any]] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)  # what each run was made with, as `figures.trend` takes it
    # confidence intervals of each batch's numbers, as `judging.intervals` gives; perhaps without columns
    intervals: pd.DataFrame = field(default_factory=pd.DataFrame)
    # of a search, as from `load_trials`; empty where the run is none
    trials: pd.DataFrame = field(default_factory=lambda: trials_from_records([]))
    # the SLO document that was asked for, of several runs if it is the same; or that a report judged by
    slo: dict[str, Any] | None = None
    # of each batch under the run's own SLO, where a report carries it
    carried_attainment: list[float | None] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)  # the run directories; empty where all this comes from a report
    report: report_data.ReportData | None = None
    batches: pd.DataFrame = field(default_factory=pd.DataFrame)

    @cached_property
    def telemetry(self) -> pd.DataFrame:
        """`at` (UTC) and what was sampled, of all trials; perhaps empty; of a search, no figure of which shows it."""
        if self.report:
            return _carried_telemetry(self.report.telemetry)
        return _telemetry([] if self.facts.get("kind") == SEARCH else self.folders)

    @cached_property
    def spreads(self) -> Spreads:
        """Quantiles of each batch's requests, by latency, in the order of the batches."""
        if self.report:
            return {name: known for name, known in self.report.spreads.items() if len(known) == len(self.batches)}
        read = readings_of(self.batches)
        return {name: [_quantiles(one.latencies[name]) if one else None for one in read] for name in LATENCIES}

    def without_secrets(self) -> "RunFacts":
        """The same with `[redacted]` for each key that stands in what is shown."""
        keep_out(os.environ.get(str(mapping(self.facts.get("spec")).get("api_key_env")), ""))
        redact = redactor()
        texts = {name: self.trials[name].map(redact) for name in ("parameters", "cause")}
        return replace(
            self,
            facts=redact(self.facts),
            servers=redact(self.servers),
            runs=redact(self.runs),
            trials=self.trials.assign(**texts),
            slo=redact(self.slo),
        )


#: a run, and the batches that are looked at of it
Run = tuple[RunFacts, pd.DataFrame]


def read_run_facts(paths: Sequence[Path], batches: pd.DataFrame, slo: SLO | None = None) -> RunFacts:
    """What stands beside the `batches` of `paths`; the first one's facts are those of all.

    `slo` judges them: its confidence is that of the intervals, and it scores the trials of a search; by default it is
    their own. What a report says of trials stays as it is.

    Raises:
        PathError: a report is damaged.
    """
    if len(paths) == 1 and report_data.is_page(paths[0]):
        return _of_report(paths[0], batches, slo.to_dict() if slo else None)
    folders = [Path(folder) for folder in batches["run_folder"].dropna().unique() if Path(folder).is_dir()]
    first = _of_folder(paths[0], batches)
    sure = _confidence(slo.to_dict() if slo else first.slo)
    servers = [list(_server_records(folder)) for folder in folders]
    documents = [Experiment(folder).facts for folder in folders]
    is_search = first.facts.get("kind") == SEARCH
    slos = [mapping(facts.get("spec")).get("slo") for facts in documents]
    return replace(
        first,
        servers=[server for own in servers for server in own],
        runs=[_conditions_of_run(*run) for run in zip(folders, documents, servers, strict=True)],
        # of very many batches only what the verdicts need, which `judge` finds by itself
        intervals=pd.DataFrame(index=batches.index) if len(batches) > _MANY else intervals(batches, confidence=sure),
        trials=load_trials(paths[0], slo) if is_search and len(paths) == 1 else first.trials,
        slo=slos[0] if slos and all(slos) and all(one == slos[0] for one in slos) else None,
        folders=folders,
        batches=batches,
    ).without_secrets()


def runs_at(path: Path, batches: pd.DataFrame) -> list[Run]:
    """Each run at `path` with its own of the `batches` there, without what only figures show.

    Raises:
        PathError: a report is damaged.
    """
    if report_data.is_page(path):
        return [(_of_report(path, batches), batches)]
    each = [(Path(str(folder)), own) for folder, own in batches.groupby("run_folder", sort=False)]
    return [
        (replace(_of_folder(run, own), servers=list(_server_records(run)), folders=[run]).without_secrets(), own)
        for run, own in each
    ]


def _of_folder(folder: Path, batches: pd.DataFrame) -> RunFacts:
    """What was asked of a run, of a plain genai-bench folder or of another tool."""
    facts: dict[str, Any] = Experiment(folder).facts or genai_bench_facts(folder) | _tool(batches)
    if facts.get("state") == RUNNING and not Experiment(folder).is_running:
        facts["state"] = "interrupted"  # a run that nobody writes any more was cut off, whatever its file says
    return RunFacts(facts, slo=mapping(facts.get("spec")).get("slo"))


def _tool(batches: pd.DataFrame) -> dict[str, Any]:
    """What was asked of another tool, each value once, under `tool`."""
    values: dict[str, list[Any]] = {}
    for reading in readings_of(batches):
        for name, value in (reading.batch.origin.settings if reading and reading.batch.origin else {}).items():
            values.setdefault(name, []).append(value)
    return {"tool": {name: list(dict.fromkeys(every)) for name, every in values.items()}} if values else {}


def _confidence(slo: Any) -> float:
    """The SLO's own confidence, where its document names one."""
    confidence = mapping(slo).get("confidence")
    return confidence if isinstance(confidence, float) and 0 < confidence < 1 else CONFIDENCE


def _of_report(path: Path, batches: pd.DataFrame, slo: dict[str, Any] | None = None) -> RunFacts:
    """Its intervals are those of its own confidence, and of no use for another."""
    content, index = report_data.unpack(path), batches.index
    same = slo is None or _confidence(slo) == _confidence(content.slo)
    return RunFacts(
        facts=sound(content.facts, "the report"),
        servers=content.servers,
        runs=content.runs,
        intervals=_carried_intervals(content.intervals, index) if same else pd.DataFrame(index=index),
        trials=trials_from_records(msgspec.to_builtins(content.trials)),
        slo=content.slo,
        carried_attainment=content.attainment if len(content.attainment) == len(index) else [],
        report=content,
        batches=batches,
    ).without_secrets()


def _carried_telemetry(content: dict[str, list[Any]]) -> pd.DataFrame:
    """The samples of a report; none, with a warning, where they are damaged."""
    try:
        samples = pd.DataFrame(content)
        return samples.assign(at=to_utc(samples["at"])) if len(samples) else samples
    except (ValueError, TypeError, KeyError) as error:
        _log.warning("the telemetry in the report is damaged: %s", error)
        return pd.DataFrame({"at": []})


def _carried_intervals(content: dict[str, list[Any]], index: "pd.Index[Any]") -> pd.DataFrame:
    """The intervals of a report, with the index of its batches; without columns where it carries none."""
    ends = {name.removesuffix("_low").removesuffix("_high") for name in content} - {"interval_over"}
    is_whole = all(f"{name}_{side}" in content for name in ends for side in ("low", "high"))
    types = {name: "str" if name == "interval_over" else "float64" for name in content}
    try:
        return pd.DataFrame(content if is_whole else {}, index).astype(types if is_whole else {})
    except (ValueError, TypeError, OverflowError) as error:
        _log.warning("the intervals in the report are damaged: %s", error)
        return pd.DataFrame(index=index)
