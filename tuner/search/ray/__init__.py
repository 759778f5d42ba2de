"""Trials on the nodes of a Ray cluster, their files in the run directory here; no disk in common is needed."""

import contextlib
import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tuner import engines
from tuner.core.run_directory import Trial
from tuner.core.text import one_line
from tuner.errors import ClusterError, SpecError, Stopped
from tuner.search.ray.node import AFTER_LEVEL, AT_ONCE, GO_ON, News, Node, versions
from tuner.search.ray.sync import apply, results
from tuner.sweep.quality import TrialSpec
from tuner.sweep.spec import SweepSpec
from tuner.sweep.sweep import StopRequest

_log = logging.getLogger(__name__)

RAY, _LOCAL = "ray", "local"
#: for a cluster that we start, read when Ray is imported: on loopback alone, and nothing is sent to Ray's makers
_ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
_CONNECT = 5.0  # seconds in which a cluster's address must answer
_TRIES = 4  # a trial whose nodes are lost again and again may be what kills them
_ASK = 0.5  # seconds between two questions to a node
_PATIENCE = 45.0  # seconds in which a trial that shall end at once has ended, or is killed
_NOTICED = 40.0  # seconds in which Ray notices that a node is gone


class RayExecutor(contextlib.AbstractContextManager["RayExecutor", None]):
    """Trials on a Ray cluster, each on a node that has what it takes.

    A trial whose node is lost goes on elsewhere with the levels that had come back; one that fails is not run again.
    Leaving the executor ends what still runs, at once. API keys are not handed over: the variable that
    `spec.api_key_env` names must be set where `ray start` runs. Where `slots` is 0, as many run at once as the nodes
    have GPUs for, or one a node without; Ray reserves a trial's GPUs for it. It raises ClusterError without Ray, an
    answer, or a node with what a trial takes, SpecError where GPUs are named.
    """

    def __init__(self, on: str, slots: int, spec: SweepSpec) -> None:
        self._closing = threading.Event()
        with contextlib.ExitStack() as leaving:
            leaving.callback(join(on))
            takes = self._takes(spec)
            room = _must_fit(takes)
            self._leaving = leaving.pop_all()
        self.slots = slots or (sum(room) if "GPU" in takes else len(room))
        self._pool = ThreadPoolExecutor(self.slots, "trial")

    def submit(self, spec: SweepSpec, trial: Trial, stop: StopRequest) -> "Future[None]":
        """Run a trial as soon as a slot and a node are free, as `LocalExecutor.submit` does here."""
        return self._pool.submit(self._run, spec, trial, stop)

    def __exit__(self, *raised: object) -> None:
        self._closing.set()
        self._pool.shutdown(cancel_futures=True)
        self._leaving.close()

    def _run(self, spec: SweepSpec, trial: Trial, stop: StopRequest) -> None:
        takes = self._takes(spec)
        _must_fit(takes)
        for tries in range(1, _TRIES + 1):
            run = _Run(trial, stop, self._closing)
            try:
                run.on_a_node(_portable(spec), takes)
                break
            except _Lost as lost:
                if tries == _TRIES:
                    raise ClusterError(f"trial {trial.number} was lost {tries} times, the last time: {lost}") from None
                _log.warning("trial %d was lost on node %s and is run again: %s", trial.number, run.name, lost)
                run.await_loss()

    def _takes(self, spec: SweepSpec) -> dict[str, float]:
        if isinstance(spec.gpus, list):
            raise SpecError(f"gpus: on a cluster say how many, not which; got {spec.gpus}")
        number = engines.find(spec.engine).gpus(spec) if spec.gpus is None else spec.gpus
        has_any = spec.gpus or _room_for({"GPU": 1})
        return {"GPU": number} if number and has_any else {"CPU": 1}


class _Lost(Exception):
    """The node, or Ray's worker on it, has gone away in the middle of a trial."""


class _Run:
    """One try of a trial on one node: find room, start it, fetch what is new, tell the node what is wanted."""

    def __init__(self, trial: Trial, stop: StopRequest, closing: threading.Event) -> None:
        self._trial, self._stop, self._closing = trial, stop, closing
        self._deadline = math.inf
        self._id, self.name = "", "?"

    def on_a_node(self, spec: Mapping[str, Any], takes: Mapping[str, float]) -> None:
        """Run it to its end; where its node is lost, somebody else must."""
        import ray

        reserved = {"num_cpus": takes.get("CPU", 0), "num_gpus": takes.get("GPU", 0)}
        node = ray.remote(Node).options(**reserved, max_restarts=0, scheduling_strategy="SPREAD").remote()
        try:
            self._id, self.name, there = self._answer(node.introduce.remote())
            for what, here in versions().items():
                if there.get(what) != here:
                    difference = f"node {self.name} has {what} {there.get(what)}, here is {here}"
                    raise ClusterError(f"{difference}: install the same there")
            _log.info("trial %d runs on node %s", self._trial.number, self.name)
            self._answer(node.start.remote(spec, self._trial.number, results(self._trial.folder)))
            while not self._has_ended(self._answer(node.news.remote(self._wanted()))):
                self._closing.wait(0.1 if self._closing.is_set() else _ASK)
        finally:
            ray.kill(node)

    def await_loss(self) -> None:
        """Wait until Ray has noticed too that the node is gone, or it would give us the same one again."""
        deadline = time.monotonic() + _NOTICED
        while self._id in _living() and self._wanted() == GO_ON and time.monotonic() < deadline:
            self._closing.wait(_ASK)

    def _has_ended(self, news: News) -> bool:
        apply(news.changes, self._trial.folder)
        for line in news.log.splitlines():
            _log.warning("trial %d on node %s: %s", self._trial.number, self.name, line)
        if news.error:
            raise news.error
        if not news.has_ended and time.monotonic() > self._deadline:
            raise Stopped
        return news.has_ended

    def _wanted(self) -> str:
        if not (self._closing.is_set() or self._stop.is_set()):
            return GO_ON
        if not (self._closing.is_set() or self._stop.at_once.is_set()):
            return AFTER_LEVEL
        self._deadline = min(self._deadline, time.monotonic() + _PATIENCE)
        return AT_ONCE

    def _answer(self, question: Any) -> Any:
        """What the node answers; as long as we have none, Ray looks for one. It is lost with any that it may be."""
        import ray

        around = {self._id} if self._id else {*_living()}
        while not ray.wait([question], timeout=_ASK)[0]:
            if (not self._id and self._wanted() != GO_ON) or time.monotonic() > self._deadline:
                raise Stopped
            if not around <= {*_living()}:
                raise _Lost("Ray has lost a node meanwhile")
        try:
            return ray.get(question)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            if "No module named 'tuner" in str(error):
                here = versions()["tuner"]
                raise ClusterError(f"tuner is not on every node: install {here}, with its extra ray") from None
            raise _Lost(str(error).strip().splitlines()[0]) from None


def _living() -> dict[str, dict[str, float]]:
    """The resources of each node that lives, by Ray's id of it."""
    import ray

    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def _room_for(takes: Mapping[str, float]) -> list[int]:
    """How many trials at once each living node has room for that has room for one, when nothing else runs there."""
    wanted = [(name, amount) for name, amount in takes.items() if amount]
    room = (min((has.get(name, 0) // amount for name, amount in wanted), default=1) for has in _living().values())
    return [int(times) for times in room if times]


def _must_fit(takes: Mapping[str, float]) -> list[int]:
    if room := _room_for(takes):
        return room
    what = ", ".join(f"{amount:g} {name}" for name, amount in takes.items())
    raise ClusterError(f"no node of the cluster has what a trial takes: {what}")


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
        there = f"join the Ray cluster {address}: {reason}; is it up (ray status), and is that its address?"
        raise ClusterError(f"cannot {f'start Ray here: {reason}' if address == _LOCAL else there}") from error
    finally:  # Ray sets a handler of its own, with which a command that is terminated would not end with 143
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)
    leave: Callable[[], None] = ray.shutdown
    return leave
