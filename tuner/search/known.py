"""Trials of earlier runs that a search takes as known: of the same load on the same machine, in its space."""

import logging
import shlex
from collections.abc import Iterator
from typing import Any

import msgspec

from tuner.core.records import ENDED, FAILED, PRUNED, SWEEP, TrialRecord
from tuner.core.run_directory import Experiment, Trial
from tuner.errors import SpecError
from tuner.search.spec import TuneSpec
from tuner.search.state import SearchTrial
from tuner.sweep.prepare import fingerprint
from tuner.sweep.spec import SERVER_FIELDS, SweepSpec, server_of
from tuner.sweep.sweep import MAY_DIFFER, machine, recorded_spec

_log = logging.getLogger(__name__)

#: failures that say nothing about a configuration
NOT_ITS_DOING = ("port_in_use", "gpu_unavailable", "unreachable", "unauthorized", "model_not_found")
#: what each trial has of its own, beside what may differ
_ITS_OWN = (*MAY_DIFFER, *SERVER_FIELDS, "parameters", "served_name", "stop_command")


def known_trials(spec: TuneSpec) -> list[SearchTrial]:
    """The trials of `spec.from_runs` that are of use, each where it lies and with what this search notes of it.

    A log line tells of each that is not; a SpecError of another load.
    """
    return [known for folder in spec.from_runs for known in _of_run(spec, Experiment.open(folder))]


def _of_run(spec: TuneSpec, run: Experiment) -> Iterator[SearchTrial]:
    if what := next((name for name, here, there in _compared(spec, run) if here != there), ""):
        raise SpecError(f"from: {run.folder} cannot be taken as known, it differs in {what}; leave it out")
    for trial in map(Trial, run.trial_folders):
        record = trial.record
        server = run.record.spec | server_of(run.record.spec.get("engine", ""), record.parameters)
        configuration = _configuration(spec, server)
        if record.role == "confirmation" or configuration == spec.search_space.fixed:  # which are measured anyway
            continue
        ended = run.record.kind != SWEEP or run.record.state == "done"
        if why := _why_not(spec, record, configuration, server) if ended else "it did not end":
            _log.warning("from: trial %d of %s is left out: %s", trial.number, run.folder, why)
            continue
        source = record.known_from or f"{run.folder.name}, trial {trial.number}"
        own = {"role": "candidate", "parameters": configuration, "seconds": 0.0, "known_from": source}
        yield SearchTrial(trial, msgspec.structs.replace(record, **own))


def _compared(spec: TuneSpec, run: Experiment) -> Iterator[tuple[str, Any, Any]]:
    for name, here in ({"workload": fingerprint(spec)} | machine()).items():
        yield name, here, run.facts.get(name)
    asked, before = spec.model_dump(mode="json", exclude_none=True), recorded_spec(run)
    for name, field in SweepSpec.model_fields.items():
        if name not in _ITS_OWN:
            yield name, asked.get(name, field.default), before.get(name, field.default)


def _configuration(spec: TuneSpec, server: dict[str, Any]) -> dict[str, Any]:
    searched = {dimension.parameter for dimension in spec.search_space.dimensions}
    texts = server | {"command": shlex.join(server.get("command") or [])}
    fields = {name: texts[name] for name in SERVER_FIELDS if name in searched and texts.get(name)}
    return {**fields, **server["parameters"]}


def _why_not(spec: TuneSpec, record: TrialRecord, configuration: dict[str, Any], server: dict[str, Any]) -> str:
    space = spec.search_space
    point = space.point_of(configuration)
    if record.state not in (ENDED, FAILED, PRUNED):
        return "it did not end"
    if record.kind in NOT_ITS_DOING or (record.state == PRUNED and spec.objective != ["max_throughput"]):
        return f"it tells nothing: {record.cause}"
    if space.parameters(point) != configuration or not space.allows(point):
        return "it is not in the space"
    here = spec.of_trial(configuration)
    unlike = [name for name in SERVER_FIELDS if (getattr(here, name) or None) != (server.get(name) or None)]
    return f"its {unlike[0]} was another" if unlike else ""
