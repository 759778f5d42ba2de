"""What a server uses while it is swept: once a second, in UTC, beside the run; and the same as a DataFrame.

`telemetry.jsonl` in the trial's folder, one JSON object a second, whole lines only, so that a crash loses one at most.
"""

import contextlib
import json
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import msgspec
import pandas as pd
import psutil
from msgspec import structs

from tuner.core import files, timestamps
from tuner.core.bottleneck import CPU_BOUND, SEQUENCES, Usage, bottleneck
from tuner.errors import PathError
from tuner.servers import gpus
from tuner.servers import http as probe
from tuner.servers.server import Server

log = logging.getLogger(__name__)

TELEMETRY_FILE = "telemetry.jsonl"
_METRICS_TIMEOUT = 0.8  # seconds; a server too busy to answer leaves a gap instead of holding up the clock

_PREFIX_QUERIES = "vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total", "sglang:prompt_tokens_total"
#: what we ask of an engine's `/metrics`: column, and the names it has in vLLM (new, old), SGLang and llama.cpp
ENGINE_METRICS = {
    "running": ("vllm:num_requests_running", "sglang:num_running_reqs", "llamacpp:requests_processing"),
    "waiting": ("vllm:num_requests_waiting", "sglang:num_queue_reqs", "llamacpp:requests_deferred"),
    "kv_cache_use": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "sglang:token_usage"),
    "preemptions": ("vllm:num_preemptions_total", "sglang:num_retracted_requests_total"),
    "prefix_hits": ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total", "sglang:cached_tokens_total"),
    "prefix_queries": _PREFIX_QUERIES,
    "step_tokens": ("vllm:iteration_tokens_total_sum",),
    "steps": ("vllm:iteration_tokens_total_count",),
}
#: those of which the fullest rank counts; of the others all ranks together
SHARES = ("kv_cache_use",)
#: column of a GPU, and its attribute
GPU_COLUMNS = {
    **{"utilization": "utilization", "memory": "memory_used", "power": "power", "temperature": "temperature"},
    **{"clock": "clock", "slowed_by_power": "slowed_by_power", "slowed_by_heat": "slowed_by_heat"},
}
#: samples that are kept in memory: of two hours
_KEPT = 7200


class Recorder:
    """Records a server's processes, GPUs and `/metrics` each `period` seconds, as long as the with-block lasts."""

    def __init__(self, server: Server, period: float = 1.0) -> None:
        self.server = server
        self.path = server.trial.folder / TELEMETRY_FILE
        self._period = period
        self._samples: deque[tuple[datetime, dict[str, Any]]] = deque(maxlen=_KEPT)
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

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            with open(self.path, "a", encoding="utf-8", buffering=1) as file:
                following = time.monotonic()
                while not self._stop.is_set():
                    at, sample = timestamps.now(), self._sample()
                    self._samples.append((at, sample))
                    file.write(json.dumps({"at": timestamps.to_text(at)} | sample) + "\n")
                    following = max(following + self._period, time.monotonic())
                    self._stop.wait(following - time.monotonic())
        except OSError as error:  # a full disk is no reason to end the sweep
            log.warning("no more telemetry in %s: %s", self.path, error.strerror)

    def _sample(self) -> dict[str, Any]:
        row: dict[str, Any] = {}
        for source in self._sources:
            try:
                row |= source()
            except Exception:  # a sample that cannot be had must not end the sweep, nor the samples to come
                log.debug("no telemetry", exc_info=True)
        return row

    def usage(self, begin: datetime, end: datetime, prefix_share: float | None = None) -> Usage:
        """What the server used between two instants, of what it may use."""
        samples = [sample for at, sample in tuple(self._samples) if begin <= at <= end]
        return of_server(structs.replace(usage_of(samples), prefix_share=prefix_share), self.server)


class ProcessTree:
    """CPU (cores in use) and memory (bytes resident) of a changing set of processes."""

    def __init__(self, pids: Callable[[], Iterable[int]]) -> None:
        self._pids = pids
        self._processes: dict[int, psutil.Process] = {}  # they remember how much CPU they had used last time

    def sample(self) -> dict[str, Any]:
        """Since the last sample: `processes`, `cpu_cores`, `cpu_most` (of one), `machine_use`, `memory`; or nothing."""
        before, self._processes = self._processes, {}
        cores, memory = [0.0], 0
        for pid in self._pids():
            with contextlib.suppress(psutil.Error):
                process = before.get(pid) or psutil.Process(pid)
                memory += process.memory_info().rss
                cores.append(process.cpu_percent() / 100)
                self._processes[pid] = process
        if not self._processes:
            return {}
        of_cpu = {"cpu_cores": round(sum(cores), 3), "cpu_most": round(max(cores), 3)}
        of_machine = {"machine_use": round(psutil.cpu_percent() / 100, 3)}
        return {"processes": len(self._processes), **of_cpu, **of_machine, "memory": memory}


def gpu_columns(uuids: Sequence[str]) -> dict[str, Any]:
    """`gpu0_utilization` (share), `gpu0_memory` (bytes), `gpu0_power` (W), `gpu0_temperature` (°C), … by index."""
    return {
        f"gpu{gpu.index}_{column}": getattr(gpu, attribute)
        for gpu in (gpus.gpus() if uuids else ())
        if gpu.uuid in uuids
        for column, attribute in GPU_COLUMNS.items()
    }


def engine_columns(server: Server) -> dict[str, Any]:
    """The columns of `ENGINE_METRICS`, as the engine itself counts them: requests, tokens, seconds, shares."""
    with server.client(timeout=_METRICS_TIMEOUT) as http:
        values = probe.metrics(http)
    columns = {column: [values[name] for name in names if name in values] for column, names in ENGINE_METRICS.items()}
    return {column: (max if column in SHARES else sum)(numbers[0]) for column, numbers in columns.items() if numbers}


def load(folder: Path) -> pd.DataFrame:
    """What was recorded in a trial's folder, a row a sample: `at` (UTC) and the columns above; PathError for none."""
    if not files.is_regular(folder / TELEMETRY_FILE):
        raise PathError(f"there is no telemetry in {folder}")
    data = files.read_beside(folder / TELEMETRY_FILE, files.TELEMETRY)
    rows = _rows(data.splitlines(keepends=True), folder)
    table = pd.DataFrame(rows, columns=None if rows else ["at"])
    return table.assign(at=pd.to_datetime(table["at"], format="ISO8601", utc=True))


class _Sample(msgspec.Struct):
    """What every line must have."""

    at: datetime


def _rows(lines: list[bytes], folder: Path) -> list[dict[str, Any]]:
    """The samples in whole lines; one that is damaged is left out, and a warning counts them."""
    rows, whole = [], [line for line in lines if line.endswith(b"\n")]
    for line in whole:
        with contextlib.suppress(msgspec.MsgspecError, ValueError, RecursionError):
            msgspec.json.decode(line, type=_Sample)
            values = msgspec.json.decode(line, type=dict[str, Any])
            rows.append({"at": values.pop("at")} | _numbers(values))
    if len(rows) < len(whole):
        log.warning("%s: %d damaged lines are left out", folder / TELEMETRY_FILE, len(whole) - len(rows))
    return rows


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in values.items() if isinstance(value, (int, float))}


def usage_of(samples: Sequence[dict[str, Any]]) -> Usage:
    """What the samples of one level amount to, in the order of time, with the columns of `telemetry.jsonl`."""
    table = pd.DataFrame(samples, dtype=object).apply(pd.to_numeric, errors="coerce").astype(float)
    queries, steps = _growth(table, "prefix_queries"), _growth(table, "steps")

    def column(name: str) -> Any:
        return table.get(name, pd.Series(math.nan, table.index))

    def of_gpus(name: str) -> Any:  # of samples in which no GPU's sensor is lacking: the rest would stand for all
        return table.filter(regex=rf"^gpu\d+_{name}$").dropna()

    running, waiting = column("running"), column("waiting")
    queue = waiting >= 1
    numbers = {
        "running": running.median(),
        "running_most": running.max(),
        "waiting": waiting.mean(),
        "queued": queue[waiting.notna()].mean(),
        "stands": (running == running.max())[queue].mean(),
        "kv_cache_use": column("kv_cache_use").max(),
        **{name: column(name).mean() for name in ("cpu_cores", "cpu_most", "machine_use")},
        **{name: of_gpus(name).mean(axis=1).mean() for name in ("slowed_by_power", "slowed_by_heat")},
        "gpu_use": of_gpus("utilization").mean(axis=1).mean(),
        "power": of_gpus("power").sum(axis=1, min_count=1).mean(),
    }
    known: dict[str, Any] = {name: round(float(each), 4) for name, each in numbers.items() if pd.notna(each)}
    return Usage(
        samples=len(samples),
        preemptions=_growth(table, "preemptions"),
        prefix_hit_rate=(_growth(table, "prefix_hits") or 0.0) / queries if queries else None,
        step_tokens=(_growth(table, "step_tokens") or 0.0) / steps if steps else None,
        **known,
    )


def of_server(usage: Usage, server: Server) -> Usage:
    """`usage` with what the server may use at most, and which of its engine's parameters move what limits it."""
    levers = server.engine.levers
    names = ("".join(levers.get(cause, ())[:1]) for cause in (SEQUENCES, CPU_BOUND))  # of the first that moves each
    caps = [server.engine.value_of(server.spec, name) for name in names]
    sequences, threads = (float(cap) if isinstance(cap, int | float) else None for cap in caps)
    cores = min(threads or math.inf, len(os.sched_getaffinity(0)))
    usage = structs.replace(usage, cores=cores, sequences=sequences)
    cause, _ = bottleneck(usage, math.nan)
    return structs.replace(usage, lever=" or ".join(levers.get(cause, ())))


def _growth(table: pd.DataFrame, name: str) -> float | None:
    """By how much a counter grew; None where nobody counts, or the server was started again meanwhile."""
    known = table[name].dropna() if name in table else pd.Series(dtype=float)
    return float(known.iloc[-1] - known.iloc[0]) if len(known) and known.is_monotonic_increasing else None
