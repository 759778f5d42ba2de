"""The driver's side of one trial on one node: find room, start it, fetch what is new, tell it what is wanted."""

import logging
import math
import threading
import time
from collections.abc import Mapping
from typing import Any

from tuner.core.run_directory import Trial
from tuner.errors import ClusterError, Stopped
from tuner.search.ray.node import AFTER_LEVEL, AT_ONCE, GO_ON, News, Node, versions
from tuner.search.ray.sync import apply, results
from tuner.sweep.sweep import StopRequest

_log = logging.getLogger(__name__)

_ASK = 0.5  # seconds between two questions to a node
_PATIENCE = 45.0  # seconds in which a trial that shall end at once has ended, or is killed
_NOTICED = 40.0  # seconds in which Ray notices that a node is gone


class Lost(Exception):
    """The node, or Ray's worker on it, has gone away in the middle of a trial."""


class Run:
    """One try of a trial on one node."""

    def __init__(self, trial: Trial, stop: StopRequest, closing: threading.Event) -> None:
        self._trial, self._stop, self._closing = trial, stop, closing
        self._deadline = math.inf
        self._id, self.name = "", "?"

    def on_a_node(self, spec: Mapping[str, Any], takes: Mapping[str, float]) -> None:
        """Run it to its end; where its node is `Lost`, somebody else must."""
        import ray

        more = {name: amount for name, amount in takes.items() if name not in ("CPU", "GPU")}
        options = {"num_cpus": takes.get("CPU", 0), "num_gpus": takes.get("GPU", 0), "resources": more}
        node = ray.remote(Node).options(**options, max_restarts=0, scheduling_strategy="SPREAD").remote()
        try:
            self._id, self.name, there = self._answer(node.introduce.remote())
            for what, here in versions().items():
                if there.get(what) != here:
                    difference = f"node {self.name} has {what} {there.get(what)}, here is {here}"
                    raise ClusterError(f"{difference}: install the same there")
            _log.info("trial %d runs on node %s", self._trial.number, self.name)
            self._answer(node.start.remote(spec, self._trial.number, results(self._trial.folder)))
            self._follow(node)
        finally:
            ray.kill(node)

    def await_loss(self) -> None:
        """Wait until Ray has noticed too that the node is gone, or it would give us the same one again."""
        deadline = time.monotonic() + _NOTICED
        while self._id in _living() and self._wanted() == GO_ON and time.monotonic() < deadline:
            self._closing.wait(_ASK)

    def _follow(self, node: Any) -> None:
        while True:
            news: News = self._answer(node.news.remote(self._wanted()))
            apply(news.changes, self._trial.folder)
            for line in news.log.splitlines():
                _log.warning("trial %d on node %s: %s", self._trial.number, self.name, line)
            if news.error:
                raise news.error
            if news.has_ended:
                return
            if time.monotonic() > self._deadline:
                raise Stopped
            self._closing.wait(0.1 if self._closing.is_set() else _ASK)

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

        around = {self._id} if self._id else _living()
        while not ray.wait([question], timeout=_ASK)[0]:
            if (not self._id and self._wanted() != GO_ON) or time.monotonic() > self._deadline:
                raise Stopped
            if not around <= _living():
                raise Lost("Ray has lost a node meanwhile")
        try:
            return ray.get(question)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            if "No module named 'tuner" in str(error):
                here = versions()["tuner"]
                raise ClusterError(f"tuner is not on every node: install {here}, with its extra ray") from None
            raise Lost(str(error).strip().splitlines()[0]) from None


def _living() -> set[str]:
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}
