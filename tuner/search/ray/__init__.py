"""Trials on the nodes of a Ray cluster, their files in the run directory here; no disk in common is needed."""

import logging
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tuner.core.run_directory import Trial
from tuner.engines import registry
from tuner.errors import ClusterError, SpecError
from tuner.search.ray.driver import Lost, Run
from tuner.search.ray.joining import is_address, join
from tuner.sweep.spec import SweepSpec
from tuner.sweep.sweep import Wish

__all__ = ["RayExecutor", "is_address"]

_log = logging.getLogger(__name__)

_TRIES = 4  # a trial whose nodes are lost again and again may be what kills them


class RayExecutor:
    """Trials on a Ray cluster, each on a node that has what it takes.

    A trial whose node is lost goes on elsewhere with the levels that had come back; one that fails is not run again.
    Leaving the executor ends what still runs, at once. API keys are not handed over: the variable that
    `spec.api_key_env` names must be set where `ray start` runs.

    Args:
        on: `ray` (the cluster in RAY_ADDRESS, or a new one on this machine), `HOST:PORT`, or `ray://HOST:PORT`.
        slots: how many trials at once; 0 for as many as the nodes have GPUs for, or one a node without GPUs.
        spec: what trials have in common.
        resources: what Ray shall reserve for a trial instead of the GPUs that it takes, such as {"GPU": 1}.

    Raises:
        ClusterError: Ray is not installed, the cluster does not answer, or no node has what a trial takes.
        SpecError: GPUs are named, which only makes sense on one machine.
    """

    def __init__(self, on: str, slots: int, spec: SweepSpec, resources: Mapping[str, float] | None = None) -> None:
        self._is_ours = join(on)
        self._resources = resources
        self._closing = threading.Event()
        try:
            self.slots = slots or self._fitting(spec)
        except BaseException:
            self._leave()
            raise
        self._pool = ThreadPoolExecutor(self.slots, "trial")

    def submit(self, spec: SweepSpec, trial: Trial, wish: Wish) -> "Future[None]":
        """Run a trial as soon as a slot and a node are free; `spec` is prepared on the node."""
        return self._pool.submit(self._run, spec, trial, wish)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._pool.shutdown(cancel_futures=True)
        self._leave()

    def _leave(self) -> None:
        import ray

        if self._is_ours:
            ray.shutdown()

    def _run(self, spec: SweepSpec, trial: Trial, wish: Wish) -> None:
        takes = self._takes(spec)
        if not self._nodes_for(takes):
            raise ClusterError(f"no node of the cluster has what a trial takes: {_in_words(takes)}")
        for tries_left in reversed(range(_TRIES)):
            run = Run(trial, wish, self._closing)
            try:
                return run.on_a_node(_portable(spec), takes)
            except Lost as lost:
                if not tries_left:
                    raise ClusterError(f"trial {trial.number} was lost {_TRIES} times, the last time: {lost}") from None
                _log.warning("trial %d was lost on node %s and is run again: %s", trial.number, run.name, lost)
                run.await_loss()
        return None

    def _takes(self, spec: SweepSpec) -> dict[str, float]:
        """What Ray reserves for a trial: its GPUs, or else a CPU."""
        if self._resources is not None:
            return dict(self._resources)
        if isinstance(spec.gpus, list):
            raise SpecError(f"gpus: on a cluster say how many, not which; got {spec.gpus}")
        number = registry.find(spec.engine).gpus(spec) if spec.gpus is None else spec.gpus
        has_any = spec.gpus or self._nodes_for({"GPU": 1})
        return {"GPU": number} if number and has_any else {"CPU": 1}

    def _fitting(self, spec: SweepSpec) -> int:
        takes = self._takes(spec)
        fitting = sum(_times(takes, node) if "GPU" in takes else 1 for node in self._nodes_for(takes))
        if not fitting:
            raise ClusterError(f"no node of the cluster has what a trial takes: {_in_words(takes)}")
        return fitting

    def _nodes_for(self, takes: Mapping[str, float]) -> list[Mapping[str, float]]:
        """The resources of each living node that has room for a trial when nothing else runs there."""
        import ray

        return [node["Resources"] for node in ray.nodes() if node["Alive"] and _times(takes, node["Resources"])]


def _times(takes: Mapping[str, float], has: Mapping[str, float]) -> int:
    """How many trials' worth a node has."""
    return int(min((has.get(name, 0) // amount for name, amount in takes.items() if amount), default=1))


def _in_words(takes: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in takes.items())


def _portable(spec: SweepSpec) -> dict[str, Any]:
    """A SweepSpec as plain values; paths that exist here are absolute, as a node has another working directory."""
    values = {name: value for name, value in spec.model_dump(mode="json").items() if name in SweepSpec.model_fields}
    for name in ("model", "tokenizer"):
        path = Path(values[name] or "").expanduser()
        if values[name] and path.exists():
            values[name] = str(path.absolute())
    return values
