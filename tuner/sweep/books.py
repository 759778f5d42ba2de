"""A run directory's books: who may write into it, what was asked of it, and how it ended."""

import contextlib
import hashlib
import socket
from collections.abc import Iterator
from typing import Any

from tuner.core import claims
from tuner.core.run_directory import SWEEP, Experiment
from tuner.core.timestamps import now, to_text
from tuner.core.versions import environment
from tuner.errors import PathError, SpecError
from tuner.servers import gpus
from tuner.sweep.spec import SweepSpec

#: what may differ when a run is resumed: where it lies, and how a server is reached
_MAY_DIFFER = (
    *("runs", "name", "port", "ready_timeout", "max_restarts"),
    *("trials", "patience", "max_minutes", "max_cost", "price_per_gpu_hour", "parallel", "on", "confirm"),
)


class Stopped(Exception):
    """Somebody asked the sweep to end before its last level."""


def check_kind(kind: str, experiment: Experiment) -> Experiment:
    """Refuse to go on with a run that another command made; returns the run.

    Raises:
        SpecError: it is a sweep and a search is asked for, or the other way round.
    """
    made_by = experiment.facts.get("kind", kind)
    if made_by != kind:
        raise SpecError(f"{experiment.folder} is no run of tuner {kind}: tuner {made_by} --resume goes on with it")
    return experiment


def check_same(spec: SweepSpec, experiment: Experiment) -> None:
    """Refuse to go on with a run that was made with another configuration.

    Raises:
        SpecError: the first difference, with both values.
    """
    if experiment.is_new:
        return
    before, asked = (experiment.facts.get("spec", {}), _plain(spec))
    for name in sorted({*before, *asked} - {*_MAY_DIFFER}):
        if before.get(name) != asked.get(name):
            raise SpecError(
                f"{experiment.folder} was made with {name} {before.get(name)!r}, now {asked.get(name)!r} is asked: "
                "start a new run, or leave that out"
            )


@contextlib.contextmanager
def only_writer(experiment: Experiment) -> Iterator[None]:
    """Hold the run directory, so that two sweeps on this host never write into one; the kernel lets go with us."""
    try:
        claim = _claim(experiment)
    except claims.Taken:
        raise PathError(f"{experiment.folder} is being written by another sweep; wait for its end") from None
    with claim:
        yield


def _claim(experiment: Experiment) -> socket.socket:
    name = hashlib.sha256(str(experiment.folder.resolve()).encode()).hexdigest()[:32]
    return claims.claim(f"run-{name}")


def is_running(experiment: Experiment) -> bool:
    """Whether a sweep, of this process or another one of this host, writes into the run directory."""
    try:
        _claim(experiment).close()
    except claims.Taken:
        return True
    return False


@contextlib.contextmanager
def recorded(experiment: Experiment, spec: SweepSpec, kind: str = SWEEP) -> Iterator[None]:
    """Keep in `experiment.json` what was asked, and how it ended whatever happens; `kind` is sweep or tune."""
    experiment.stop_file.unlink(missing_ok=True)
    started = "started_at" if experiment.is_new else "resumed_at"
    asked = {"kind": kind, "name": spec.name, "spec": _plain(spec)} if experiment.is_new else {}
    hardware = {"gpus": [gpu.name for gpu in gpus.gpus()]}
    experiment.describe(**asked, **environment(), **hardware, **{started: to_text(now())}, state="running")
    state = "failed"
    try:
        yield
        state = "done"
    except (KeyboardInterrupt, Stopped) as end:
        state = "interrupted"
        if not isinstance(end, Stopped):
            raise
    finally:
        experiment.describe(state=state, finished_at=to_text(now()))


def _plain(spec: SweepSpec) -> dict[str, Any]:
    return spec.model_dump(mode="json", exclude_none=True)
