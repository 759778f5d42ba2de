"""What a server uses while it is swept: once a second, in UTC, beside the run; and the same as a DataFrame.

`telemetry.jsonl` in the trial's folder, one JSON object a second, whole lines only, so that a crash loses one at most.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

import psutil

from tuner.core import timestamps
from tuner.errors import PathError
from tuner.servers import gpus
from tuner.servers import http as probe
from tuner.servers.server import Server

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

TELEMETRY_FILE = "telemetry.jsonl"
_METRICS_TIMEOUT = 0.8  # seconds; a server too busy to answer leaves a gap instead of holding up the clock

#: what we ask of an engine's `/metrics`: column, and the names it has in vLLM (new, old), SGLang and llama.cpp
ENGINE_METRICS = {
    "running": ("vllm:num_requests_running", "sglang:num_running_reqs", "llamacpp:requests_processing"),
    "waiting": ("vllm:num_requests_waiting", "sglang:num_queue_reqs", "llamacpp:requests_deferred"),
    "kv_cache_use": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "sglang:token_usage"),
}


class Recorder:
    """Records a server's telemetry as long as the with-block lasts.

    Args:
        server: whose processes, GPUs and `/metrics` are read.
        period: seconds from one sample to the next.
    """

    def __init__(self, server: Server, period: float = 1.0) -> None:
        self.path = server.trial.folder / TELEMETRY_FILE
        self._period = period
        self._sources: list[Callable[[], dict[str, Any]]] = [
            ProcessTree(server.processes).sample,
            lambda: gpu_columns(server.record.gpus),
            lambda: engine_columns(server),
        ]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                self._write_samples(file)
        except OSError as error:  # a full disk is no reason to end the sweep
            log.warning("no more telemetry in %s: %s", self.path, error.strerror)

    def _write_samples(self, file: TextIO) -> None:
        following = time.monotonic()
        while not self._stop.is_set():
            file.write(json.dumps(self._sample()) + "\n")
            file.flush()
            following = max(following + self._period, time.monotonic())
            self._stop.wait(following - time.monotonic())

    def _sample(self) -> dict[str, Any]:
        row: dict[str, Any] = {"at": timestamps.to_text(timestamps.now())}
        for source in self._sources:
            try:
                row |= source()
            except Exception:  # a sample that cannot be had must not end the sweep, nor the samples to come
                log.debug("no telemetry", exc_info=True)
        return row


class ProcessTree:
    """CPU (cores in use) and memory (bytes resident) of a changing set of processes."""

    def __init__(self, pids: Callable[[], Iterable[int]]) -> None:
        self._pids = pids
        self._known: dict[int, psutil.Process] = {}

    def sample(self) -> dict[str, Any]:
        """Since the last sample: `processes`, `cpu_cores`, `memory`; nothing where there is no process of ours."""
        processes = self._refresh()
        if not processes:
            return {}
        used = [use for process in processes if (use := _use(process))]
        cores, memory = (sum(column) for column in zip(*used, strict=True)) if used else (0.0, 0)
        return {"processes": len(used), "cpu_cores": round(cores, 3), "memory": memory}

    def _refresh(self) -> list[psutil.Process]:
        """The same objects as last time, since they remember how much CPU they had used then."""
        now: dict[int, psutil.Process] = {}
        for pid in self._pids():
            try:
                now[pid] = self._known.get(pid) or psutil.Process(pid)
            except psutil.NoSuchProcess:
                continue
        self._known = now
        return list(now.values())


def _use(process: psutil.Process) -> tuple[float, int] | None:
    try:
        return process.cpu_percent() / 100, int(process.memory_info().rss)
    except psutil.Error:
        return None


def gpu_columns(uuids: Iterable[str]) -> dict[str, Any]:
    """`gpu0_utilization` (share), `gpu0_memory` (bytes), `gpu0_power` (W), `gpu0_temperature` (°C), … by index."""
    wanted = set(uuids)
    if not wanted:
        return {}
    return {
        f"gpu{gpu.index}_{name}": value
        for gpu in gpus.gpus()
        if gpu.uuid in wanted
        for name, value in (
            ("utilization", gpu.utilization),
            ("memory", gpu.memory_used),
            ("power", gpu.power),
            ("temperature", gpu.temperature),
        )
    }


def engine_columns(server: Server) -> dict[str, Any]:
    """`running` and `waiting` requests and `kv_cache_use` (share), as the engine itself counts them."""
    with probe.client(server.base_url, server.api_key(), timeout=_METRICS_TIMEOUT) as http:
        values = probe.metrics(http)
    known = {column: [values[name] for name in names if name in values] for column, names in ENGINE_METRICS.items()}
    return {column: found[0] for column, found in known.items() if found}


def load(folder: Path) -> "pd.DataFrame":
    """What was recorded in a trial's folder, one row a sample.

    Returns:
        `at` (tz-aware UTC) and the columns above, NaN where a sample has none; to be joined with batches by time.

    Raises:
        PathError: nothing was recorded there.
    """
    import pandas as pd

    try:
        lines = (folder / TELEMETRY_FILE).read_text(encoding="utf-8").splitlines(keepends=True)
    except OSError as error:
        raise PathError(f"there is no telemetry in {folder}: {error.strerror}") from error
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    table = pd.DataFrame(rows, columns=None if rows else ["at"])
    return table.assign(at=pd.to_datetime(table["at"], format="ISO8601", utc=True))
