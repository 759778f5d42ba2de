"""Where trials run: a concept of one kind (submit a trial, get a future), here or on a Ray cluster.

What uses it does not change when the machine does: `make("local", …)` runs trials on this machine, as many at once as
its GPUs allow; `make("ray", …)` on the nodes of a cluster. Either way a trial's files are in the trial's folder here.
"""

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager

from tuner.core.run_directory import Trial
from tuner.errors import SpecError, Stopped
from tuner.search.ray import RayExecutor
from tuner.servers import gpus
from tuner.servers.server import gpus_wanted
from tuner.sweep.prepare import prepare
from tuner.sweep.spec import SweepSpec
from tuner.sweep.sweep import StopRequest, run_trial
from tuner.traffic.genai_bench import Benches

LOCAL = "local"
_POLL = 0.2  # seconds between two questions whether a waiting trial is still wanted


def make(on: str, slots: int, spec: SweepSpec) -> "Executor":
    """The executor that a user named, for `slots` trials of `spec` at once; 0 for as many as there are GPUs for.

    It is `local`, `ray` (the cluster in RAY_ADDRESS, or a new one on this machine), or a cluster's address
    (`ray://HOST:PORT`, `HOST:PORT`). A SpecError says that trials of `spec` cannot run at once, a ClusterError
    that the cluster does not answer, or no node of it has what a trial takes.
    """
    wanted = gpus_wanted(spec) if on == LOCAL else 0
    fitting = max(1, len(gpus.visible(gpus.gpus())) // wanted) if isinstance(wanted, int) and wanted else 1
    executor = LocalExecutor(slots or fitting) if on == LOCAL else RayExecutor(on, slots, spec)
    unshared = {"port": spec.port, "base_url": spec.base_url, "gpus": isinstance(spec.gpus, list)}
    name = next((name for name, value in unshared.items() if value), "")
    if name and executor.slots > 1:
        executor.__exit__(None, None, None)
        raise SpecError(f"{name}: {executor.slots} trials at once cannot share {getattr(spec, name)}; ask for 1 slot")
    return executor


class LocalExecutor(AbstractContextManager["LocalExecutor", None]):
    """Trials on this machine, each in a thread: the server and the load generator are processes of their own.

    At most `slots` run at once; one that takes more GPUs than are left waits its turn. Leaving it sets `stop.at_once`
    of every trial that still runs, and waits until their servers are gone.
    """

    def __init__(self, slots: int = 1) -> None:
        self.slots = slots
        self._pool = ThreadPoolExecutor(slots, "trial")
        self._benches = Benches()
        self._gpus = len(gpus.visible(gpus.gpus()))
        self._free, self._turn = threading.Semaphore(self._gpus), threading.Lock()
        self._running: list[threading.Event] = []  # one may be there twice: trials can share a request to stop
        self._closed = False

    def submit(self, spec: SweepSpec, trial: Trial, stop: StopRequest) -> "Future[None]":
        """Run a trial, but for what has a result, when a slot and its GPUs are free; the future has its error."""
        return self._pool.submit(self._run, spec, trial, stop)

    def __exit__(self, *raised: object) -> None:
        self._closed = True
        for at_once in tuple(self._running):
            at_once.set()
        self._pool.shutdown(cancel_futures=True)
        self._benches.__exit__(None, None, None)

    def _run(self, spec: SweepSpec, trial: Trial, stop: StopRequest) -> None:
        self._running.append(stop.at_once)
        try:
            if self._closed:
                raise Stopped
            spec = prepare(spec)
            wanted = gpus_wanted(spec)
            with self._reserved(wanted if isinstance(wanted, int) else len(wanted), stop):
                run_trial(spec, trial, stop, self._benches)
        finally:
            self._running.remove(stop.at_once)

    @contextlib.contextmanager
    def _reserved(self, number: int, stop: StopRequest) -> Iterator[None]:
        """Hold `number` GPUs, in the order of coming; which, and more than there are at all, is for `gpus.claim`."""
        held = 0
        try:
            with self._turn:
                while held < number <= self._gpus and not stop.is_set():
                    held += self._free.acquire(timeout=_POLL)
            if stop.is_set():
                raise Stopped
            yield
        finally:
            if held:
                self._free.release(held)


#: what `make` gives: `slots` trials at once, `submit` runs one, and leaving it ends at once what still runs
Executor = LocalExecutor | RayExecutor
