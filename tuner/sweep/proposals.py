"""What to try next after a sweep: the parameters that move what limits it, as a search that begins with them."""

import os
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, JsonValue

from tuner import engines
from tuner.batches.load import load_batches
from tuner.core import files
from tuner.core.bottleneck import CPU_BOUND
from tuner.core.run_directory import Experiment
from tuner.engines.parameters import Parameter
from tuner.judging.slo import SLO
from tuner.judging.summary import limiting_level, summarize
from tuner.judging.verdicts import judge
from tuner.sweep.spec import SweepSpec, sweep_of

SEARCH_FILE = "search.yaml"
MOST = 3
#: by how much a share of memory is raised, and how far
_SHARE_STEP, _SHARE_MOST = 0.03, 0.95


class Proposal(BaseModel):
    """A configuration to try."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    parameters: dict[str, JsonValue]  # those that change
    because: str = ""  # what limited the server that was measured


def write_proposals(spec: SweepSpec, experiment: Experiment) -> None:
    """Note in a finished sweep's run directory what to try next; nothing where nobody knows what limits it."""
    summary = summarize(judge(load_batches(experiment.folder), SLO.parse(spec.slo or {})))
    level = limiting_level(summary)
    proposals = [] if level is None else propose(spec, str(level["limit"]), str(level["limit_evidence"]))
    experiment.describe(proposals=[proposal.model_dump() for proposal in proposals])
    if proposals:
        document = yaml.safe_dump(search_of(spec, proposals), sort_keys=False)
        files.write_atomically(experiment.folder / SEARCH_FILE, document)


def propose(spec: SweepSpec, limit: str, evidence: str) -> list[Proposal]:
    """The configurations that may move a limit, `MOST` at most, the smallest step first."""
    engine = engines.find(spec.engine)
    steps = [
        Proposal(parameters={name: value}, because=evidence)
        for name in engine.levers.get(limit, ())
        for value in _steps(name, engine.tunables[name], engine.value_of(spec, name), is_of_cores=limit == CPU_BOUND)
    ]
    return steps[:MOST]


def _steps(name: str, parameter: Parameter, value: Any, *, is_of_cores: bool) -> Iterator[Any]:
    """Values that give more of what a parameter gives than the one in force; none where nobody knows that."""
    most = len(os.sched_getaffinity(0)) if is_of_cores else parameter.high or float("inf")
    match value:
        case bool():
            yield from [not value] * (value == name.startswith("disable"))
        case float() if parameter.high == 1 and value + _SHARE_STEP <= _SHARE_MOST:
            yield round(value + _SHARE_STEP, 2)
        case int():
            yield from (value * factor for factor in (2, 4) if 0 < value * factor <= most)


def search_of(spec: SweepSpec, proposals: list[Proposal]) -> dict[str, Any]:
    """The search around the configuration that a sweep measured, which begins with the proposals."""
    space: dict[str, list[Any]] = {}
    for proposal in proposals:
        for name, value in proposal.parameters.items():
            space.setdefault(name, [engines.find(spec.engine).value_of(spec, name)]).append(value)
    searched = sweep_of(spec.model_dump(mode="json", exclude_none=True), spec.parameters)
    return searched | {"space": space, "first": [proposal.model_dump() for proposal in proposals]}
