"""Trials on the nodes of a Ray cluster, their files in the run directory here; no disk in common is needed."""

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tuner import engines
from tuner.core.run_directory import Trial
from tuner.core.text import one_line
from tuner.errors import ClusterError, SpecError
from tuner.search.ray.driver import Lost, Run
from tuner.sweep.quality import TrialSpec
from tuner.sweep.spec import SweepSpec
from tuner.sweep.sweep import StopRequest

_log = logging.getLogger(__name__)

RAY, _LOCAL = "ray", "local"
#: for a cluster that we start, read when Ray is imported: on loopback alone, and nothing is sent to Ray's makers
_ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
_CONNECT = 5.0  # seconds in which a cluster's address must answer
_TRIES = 4  # a trial whose nodes are lost again and again may be what kills them


class RayExecutor(contextlib.AbstractContextManager["RayExecutor", None]):
    """Trials on a Ray cluster, each on a node that has what it takes.

    A trial whose node is lost goes on elsewhere with the levels that had come back; one that fails is not run again.
    Leaving the executor ends what still runs, at once. API keys are not handed over: the variable that
    `spec.api_key_env` names must be set where `ray start` runs. Where `slots` is 0, as many run at once as the nodes
    have GPUs for, or one a node without. Ray reserves a trial's GPUs for it, or `resources`, such as {"GPU": 1}. It
    raises ClusterError without Ray, an answer, or a node with what a trial takes, SpecError where GPUs are named.
    """

    def __init__(self, on: str, slots: int, spec: SweepSpec, resources: Mapping[str, float] | None = None) -> None:
        self._leave = join(on)
        self._resources = resources
        self._closing = threading.Event()
        try:
            takes = self._takes(spec)
            room = self._must_fit(takes)
            self.slots = slots or (sum(room) if "GPU" in takes else len(room))
        except BaseException:
            self._leave()
            raise
        self._pool = ThreadPoolExecutor(self.slots, "trial")

    def submit(self, spec: SweepSpec, trial: Trial, stop: StopRequest) -> "Future[None]":
        """Run a trial as soon as a slot and a node are free, as `LocalExecutor.submit` does here."""
        return self._pool.submit(self._run, spec, trial, stop)

    def __exit__(self, *raised: object) -> None:
        self._closing.set()
        self._pool.shutdown(cancel_futures=True)
        self._leave()

    def _run(self, spec: SweepSpec, trial: Trial, stop: StopRequest) -> None:
        takes = self._takes(spec)
        self._must_fit(takes)
        for tries in range(1, _TRIES + 1):
            run = Run(trial, stop, self._closing)
            try:
                run.on_a_node(_portable(spec), takes)
                break
            except Lost as lost:
                if tries == _TRIES:
                    raise ClusterError(f"trial {trial.number} was lost {tries} times, the last time: {lost}") from None
                _log.warning("trial %d was lost on node %s and is run again: %s", trial.number, run.name, lost)
                run.await_loss()

    def _takes(self, spec: SweepSpec) -> dict[str, float]:
        if self._resources is not None:
            return dict(self._resources)
        if isinstance(spec.gpus, list):
            raise SpecError(f"gpus: on a cluster say how many, not which; got {spec.gpus}")
        number = engines.find(spec.engine).gpus(spec) if spec.gpus is None else spec.gpus
        has_any = spec.gpus or _room_for({"GPU": 1})
        return {"GPU": number} if number and has_any else {"CPU": 1}

    def _must_fit(self, takes: Mapping[str, float]) -> list[int]:
        """How many trials each node has room for, of which there must be one."""
        if room := _room_for(takes):
            return room
        what = ", ".join(f"{amount:g} {name}" for name, amount in takes.items())
        raise ClusterError(f"no node of the cluster has what a trial takes: {what}")


def _room_for(takes: Mapping[str, float]) -> list[int]:
    """How many trials at once each living node has room for that has room for one, when nothing else runs there."""
    import ray

    each = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = (min((has.get(name, 0) // amount for name, amount in takes.items() if amount), default=1) for has in each)
    return [int(times) for times in room if times]


def _portable(spec: SweepSpec) -> dict[str, Any]:
    """A trial's spec as plain values; paths that exist here are absolute, as a node has another working directory."""
    values = spec.model_dump(mode="json", include={*TrialSpec.model_fields})
    paths = {name: Path(values[name]).expanduser() for name in ("model", "tokenizer") if values[name]}
    return values | {name: str(path.absolute()) for name, path in paths.items() if path.exists()}


def join(on: str) -> Callable[[], None]:
    """Join the cluster, or start one, or a ClusterError; returns what leaves it, but for one that was joined before."""
    address = os.environ.get("RAY_ADDRESS", _LOCAL) if on == RAY else on
    for name, value in _ALONE.items() if address == _LOCAL else ():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise ClusterError("Ray is not installed here: pip install 'ray[client]>=2.50,<3'") from None
    if ray.is_initialized():
        return lambda: None
    on_sigterm = signal.getsignal(signal.SIGTERM)
    options: dict[str, Any] = {"include_dashboard": False} if address == _LOCAL else {}
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if host and port.isdecimal():  # else Ray asks for minutes before it says that nobody is there
            socket.create_connection((host, int(port)), timeout=_CONNECT).close()
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:  # Ray raises all kinds, plain ones too
        reason = one_line(str(error)) or type(error).__name__
        advice = "is it up (ray status), and is that its address?"
        raise ClusterError(f"cannot join the Ray cluster {address}: {reason}; {advice}") from error
    finally:  # Ray sets a handler of its own, with which a command that is terminated would not end with 143
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)
    leave: Callable[[], None] = ray.shutdown
    return leave
