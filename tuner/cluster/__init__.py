"""Trials on the nodes of a Ray cluster, their files in the run directory here; no disk in common is needed."""

import logging
import math
import os
import signal
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tuner.books import Stopped
from tuner.cluster.changes import apply, results
from tuner.cluster.node import AFTER_LEVEL, AT_ONCE, GO_ON, News, Node, versions
from tuner.engines import registry
from tuner.errors import ClusterError, SpecError
from tuner.experiment import Trial
from tuner.spec import SweepSpec
from tuner.sweep import Wish

__all__ = ["RayExecutor", "is_address"]

_log = logging.getLogger(__name__)

RAY = "ray"
_ASK = 0.5  # seconds between two questions to a node
_PATIENCE = 45.0  # seconds in which a trial that shall end at once has ended, or is killed
_TRIES = 4  # a trial whose nodes are lost again and again may be what kills them
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}


def is_address(on: str) -> bool:
    """Whether `on` names a cluster: `ray`, `ray://HOST:PORT` or `HOST:PORT`."""
    host, _, port = on.removeprefix("ray://").rpartition(":")
    return on == RAY or (bool(host) and port.isdecimal())


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
        self._is_ours = _connect(on)
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
            try:
                return _Run(trial, wish, self._closing).on_a_node(_portable(spec), takes)
            except _Lost as lost:
                if not tries_left:
                    raise ClusterError(f"trial {trial.number} was lost {_TRIES} times, the last time: {lost}") from None
                _log.warning("trial %d: %s; it goes on elsewhere", trial.number, lost)
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


class _Lost(Exception):
    """The node, or Ray's worker on it, has gone away in the middle of a trial."""


class _Run:
    """One try of a trial on one node."""

    def __init__(self, trial: Trial, wish: Wish, closing: threading.Event) -> None:
        self._trial, self._wish, self._closing = trial, wish, closing
        self._deadline = math.inf
        self._name = "?"

    def on_a_node(self, spec: Mapping[str, Any], takes: Mapping[str, float]) -> None:
        """Run it to its end.

        Raises:
            _Lost: somebody else must.
        """
        import ray

        node = _actor(takes)
        try:
            self._name = self._introduced(node)
            _log.info("trial %d runs on node %s", self._trial.number, self._name)
            self._answer(node.start.remote(spec, self._trial.number, results(self._trial.folder)))
            self._follow(node)
        finally:
            ray.kill(node)

    def _introduced(self, node: Any) -> str:
        """The node's name, once Ray has found room.

        Raises:
            ClusterError: it has other versions than we.
        """
        name, there = self._answer(node.introduce.remote(), may_wait=True)
        for what, here in versions().items():
            if there.get(what) != here:
                raise ClusterError(f"node {name} has {what} {there.get(what)}, here is {here}: install the same there")
        return str(name)

    def _follow(self, node: Any) -> None:
        """Fetch what is new until the trial has ended."""
        while True:
            news: News = self._answer(node.news.remote(self._wanted()))
            apply(news.changes, self._trial.folder)
            for line in news.said.splitlines():
                _log.warning("trial %d on node %s: %s", self._trial.number, self._name, line)
            if news.error:
                raise news.error
            if news.ended:
                return
            if time.monotonic() > self._deadline:
                raise Stopped
            self._closing.wait(0.1 if self._closing.is_set() else _ASK)

    def _wanted(self) -> str:
        if not (self._closing.is_set() or self._wish):
            return GO_ON
        if not (self._closing.is_set() or self._wish.stop.at_once.is_set()):
            return AFTER_LEVEL
        self._deadline = min(self._deadline, time.monotonic() + _PATIENCE)
        return AT_ONCE

    def _answer(self, question: Any, *, may_wait: bool = False) -> Any:
        """What the node answers.

        Raises:
            _Lost: it is gone.
            Stopped: nobody wants to know any more while it `may_wait` for room.
        """
        import ray

        while not ray.wait([question], timeout=_ASK)[0]:
            if may_wait and self._wanted() != GO_ON:
                raise Stopped
            if time.monotonic() > self._deadline:
                raise Stopped
        try:
            return ray.get(question)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise _lost(error) from None


def _lost(error: Exception) -> Exception:
    said = str(error)
    if "No module named 'tuner" in said:
        return ClusterError(f"tuner is not installed on every node: pip install 'tuner[ray]=={versions()['tuner']}'")
    return _Lost(said.strip().splitlines()[0])


def _actor(takes: Mapping[str, float]) -> Any:
    import ray

    more = {name: amount for name, amount in takes.items() if name not in ("CPU", "GPU")}
    options = {"num_cpus": takes.get("CPU", 0), "num_gpus": takes.get("GPU", 0), "resources": more}
    return ray.remote(Node).options(**options, max_restarts=0, scheduling_strategy="SPREAD").remote()


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


def _connect(on: str) -> bool:
    """Join the cluster, or start one; whether the connection is ours to end.

    Raises:
        ClusterError: Ray is not installed, or nobody answers.
    """
    try:
        import ray
    except ImportError:
        raise ClusterError("Ray is not installed here: pip install 'tuner[ray]'") from None
    if ray.is_initialized():
        return False
    before = signal.getsignal(signal.SIGTERM)
    try:
        _init(on)
    except (ConnectionError, RuntimeError, ValueError, ImportError) as error:
        told = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ClusterError(f"cannot join the Ray cluster {on}: {told}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray sets its own, after which SIGTERM is no 143 any more
    return True


def _init(on: str) -> None:
    import ray

    address = os.environ.get("RAY_ADDRESS", "auto") if on == RAY else on
    try:
        ray.init(address, **_QUIET)
    except ConnectionError:
        if address != "auto":
            raise
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
        ray.init("local", include_dashboard=False, _node_ip_address="127.0.0.1", **_QUIET)
