"""Where trials run: a concept of one kind (submit a trial, get a future), here or on a Ray cluster.

What uses it does not change when the machine does: `make("local", …)` runs trials on this machine, as many at once as
its GPUs allow; `make("ray", …)` on the nodes of a cluster. Either way a trial's files are in the trial's folder here.
"""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Protocol

from tuner.core.run_directory import Trial
from tuner.errors import SpecError, Stopped
from tuner.search.ray import RayExecutor, is_address
from tuner.servers import gpus
from tuner.servers.server import gpus_wanted
from tuner.sweep.spec import SweepSpec
from tuner.sweep.sweep import StopRequest, prepare, run_trial

LOCAL = "local"
_POLL = 0.2  # seconds between two questions whether a waiting trial is still wanted


class Executor(AbstractContextManager["Executor", None], Protocol):
    """Runs trials; a context manager, and what still runs when it is left is ended at once."""

    @property
    def slots(self) -> int:
        """How many trials run at once."""

    def submit(self, spec: SweepSpec, trial: Trial, wish: StopRequest) -> "Future[None]":
        """Run a trial as soon as there is room for it.

        Args:
            spec: what to measure, as it was asked: it is prepared where the server runs.
            trial: where its files go; what has a result there is not measured again.
            wish: set when somebody wants the trial to end.

        Returns:
            A future without a value; its exception is what `sweep.run_trial` raised (ServerFailed, Stopped, …).
        """


def make(on: str, slots: int, spec: SweepSpec, resources: Mapping[str, float] | None = None) -> Executor:
    """The executor that a user named.

    Args:
        on: `local`, `ray` (the cluster in RAY_ADDRESS, or a new one on this machine), or a cluster's address
            (`ray://HOST:PORT`, `HOST:PORT`).
        slots: how many trials at once; 0 for as many as there are GPUs for.
        spec: what trials have in common; it says how many GPUs one takes.
        resources: on Ray, what to reserve for a trial instead of the GPUs that it takes, such as {"GPU": 1}.

    Raises:
        SpecError: there is no such place, or trials of `spec` cannot run beside each other.
        ClusterError: the cluster does not answer, or no node of it has what a trial takes.
    """
    if on != LOCAL and not is_address(on):
        raise SpecError(f"on: {on!r} is no place to run trials; write local, ray, or a cluster's ray://HOST:PORT")
    executor = LocalExecutor(slots or _fitting(spec)) if on == LOCAL else RayExecutor(on, slots, spec, resources)
    try:
        _can_be_shared(spec, executor.slots)
    except SpecError:
        executor.__exit__(None, None, None)
        raise
    return executor


def _fitting(spec: SweepSpec) -> int:
    """How many trials the GPUs that we may see are enough for; 1 where a trial takes none, or names its own."""
    wanted = gpus_wanted(spec)
    return max(1, len(gpus.visible(gpus.gpus())) // wanted) if isinstance(wanted, int) and wanted else 1


def _can_be_shared(spec: SweepSpec, slots: int) -> None:
    if slots > 1:
        for field, value in (("port", spec.port), ("base_url", spec.base_url), ("gpus", isinstance(spec.gpus, list))):
            if value:
                raise SpecError(f"{field}: {slots} trials at once cannot share {getattr(spec, field)}; ask for 1 slot")


class LocalExecutor(AbstractContextManager["LocalExecutor", None]):
    """Trials on this machine, each in a thread: the server and the load generator are processes of their own.

    Leaving it sets `wish.at_once` of every trial that still runs, and waits until their servers are gone.

    Args:
        slots: how many trials at once; one that takes more GPUs than are left waits its turn.
    """

    def __init__(self, slots: int = 1) -> None:
        self.slots = slots
        self._pool = ThreadPoolExecutor(slots, "trial")
        self._room = _Room(len(gpus.visible(gpus.gpus())))
        self._running: list[threading.Event] = []  # one may be there twice: trials can share a wish
        self._closed = False

    def submit(self, spec: SweepSpec, trial: Trial, wish: StopRequest) -> "Future[None]":
        """Run a trial as soon as a slot and its GPUs are free."""
        return self._pool.submit(self._run, spec, trial, wish)

    def __exit__(self, *raised: object) -> None:
        self._closed = True
        for at_once in tuple(self._running):
            at_once.set()
        self._pool.shutdown(cancel_futures=True)

    def _run(self, spec: SweepSpec, trial: Trial, wish: StopRequest) -> None:
        at_once = wish.at_once
        self._running.append(at_once)
        try:
            if self._closed:
                raise Stopped
            spec = prepare(spec)
            with self._room.taken(_number(gpus_wanted(spec)), wish):
                run_trial(spec, trial, wish)
        finally:
            self._running.remove(at_once)


class _Room:
    """GPUs that trials share, so that one waits for as many as it takes; which ones, `gpus.claim` decides."""

    def __init__(self, total: int) -> None:
        self._total = self._left = total
        self._changed = threading.Condition()
        self._turn = threading.Lock()

    @contextlib.contextmanager
    def taken(self, number: int, wish: StopRequest) -> Iterator[None]:
        """Hold `number` GPUs, in the order of coming; more than there are at all is for `gpus.claim` to refuse.

        Raises:
            Stopped: somebody wanted it to end meanwhile.
        """
        number = number if number <= self._total else 0
        with self._turn, self._changed:
            while self._left < number and not wish.is_set():
                self._changed.wait(_POLL)
            if wish.is_set():
                raise Stopped
            self._left -= number
        try:
            yield
        finally:
            with self._changed:
                self._left += number
                self._changed.notify_all()


def _number(wanted: int | list[int | str]) -> int:
    return wanted if isinstance(wanted, int) else len(wanted)
