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
from collections.abc import Sequence
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
_OF_GPUS = ("utilization", "memory_used", "power", "temperature", "clock", "slowed_by_power", "slowed_by_heat")
_KEPT = 7200  # samples in memory: of two hours


class Recorder:
    """Records a server's processes, GPUs and `/metrics` each `period` seconds, as long as the with-block lasts."""

    def __init__(self, server: Server, period: float = 1.0) -> None:
        self.server = server
        self.path = server.trial.folder / TELEMETRY_FILE
        self._period = period
        self._samples: deque[tuple[datetime, dict[str, Any]]] = deque(maxlen=_KEPT)
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
        for columns in (process_columns, gpu_columns, engine_columns):
            try:
                row |= columns(self.server)
            except Exception:  # a sample that cannot be had must not end the sweep, nor the samples to come
                log.debug("no telemetry", exc_info=True)
        return row

    def usage(self, begin: datetime, end: datetime, prefix_share: float | None = None) -> Usage:
        """What the server used between two instants, of what it may, and which parameters move what limits it."""
        samples = [sample for at, sample in tuple(self._samples) if begin <= at <= end]
        levers, engine = self.server.engine.levers, self.server.engine
        names = ("".join(levers.get(cause, ())[:1]) for cause in (SEQUENCES, CPU_BOUND))  # of the first that moves each
        caps = (engine.value_of(self.server.spec, name) for name in names)
        sequences, threads = (float(cap) if isinstance(cap, int | float) else None for cap in caps)
        cores = min(threads or math.inf, len(os.sched_getaffinity(0)))
        usage = structs.replace(usage_of(samples), cores=cores, sequences=sequences, prefix_share=prefix_share)
        cause, _ = bottleneck(usage, math.nan)
        return structs.replace(usage, lever=" or ".join(levers.get(cause, ())))


def process_columns(server: Server) -> dict[str, Any]:
    """Of its processes since the last sample: how many, `cpu_cores`, `cpu_most` (of one), `machine_use`, `memory`."""
    pids, cores, memory = server.processes(), [0.0], 0
    for process in psutil.process_iter() if pids else ():  # which remembers how much CPU each had used last time
        if process.pid in pids:
            with contextlib.suppress(psutil.Error):
                memory += process.memory_info().rss
                cores.append(process.cpu_percent() / 100)
    if len(cores) == 1:
        return {}
    of_cpu = {"cpu_cores": round(sum(cores), 3), "cpu_most": round(max(cores), 3)}
    of_machine = {"machine_use": round(psutil.cpu_percent() / 100, 3)}
    return {"processes": len(cores) - 1, **of_cpu, **of_machine, "memory": memory}


def gpu_columns(server: Server) -> dict[str, Any]:
    """`gpu0_utilization` (share), `gpu0_memory` (bytes), `gpu0_power` (W), `gpu0_temperature` (°C), … by index."""
    uuids = server.record.gpus
    return {
        f"gpu{gpu.index}_{name.removesuffix('_used')}": getattr(gpu, name)
        for gpu in (gpus.gpus() if uuids else ())
        if gpu.uuid in uuids
        for name in _OF_GPUS
    }


def engine_columns(server: Server) -> dict[str, Any]:
    """The columns of `ENGINE_METRICS`: of shares that of the fullest rank, of the rest the sum of all ranks."""
    with server.client(timeout=_METRICS_TIMEOUT) as http:
        values = probe.metrics(http)
    columns = {column: [values[name] for name in names if name in values] for column, names in ENGINE_METRICS.items()}
    how = {"kv_cache_use": max}
    return {column: how.get(column, sum)(numbers[0]) for column, numbers in columns.items() if numbers}


def load(folder: Path) -> pd.DataFrame:
    """What was recorded in a trial's folder, a row a sample: `at` (UTC) and the columns above; PathError for none.

    The last line may be cut; of others that are damaged a warning tells how many were left out.
    """
    path, rows = folder / TELEMETRY_FILE, []
    if not files.is_regular(path):
        raise PathError(f"there is no telemetry in {folder}")
    whole: list[bytes] = []
    try:
        *whole, _ = files.read_bytes(path, files.TELEMETRY).split(b"\n")
    except PathError as error:
        log.warning("%s is damaged: %s", path, error)
    for line in whole:
        with contextlib.suppress(msgspec.MsgspecError, ValueError, RecursionError, KeyError):
            values = msgspec.json.decode(line, type=dict[str, Any])
            at = msgspec.convert(values.pop("at"), datetime)
            rows.append({"at": at} | {name: each for name, each in values.items() if isinstance(each, (int, float))})
    if len(rows) < len(whole):
        log.warning("%s: %d damaged lines are left out", path, len(whole) - len(rows))
    table = pd.DataFrame(rows, columns=None if rows else ["at"])
    return table.assign(at=pd.to_datetime(table["at"], utc=True))


def usage_of(samples: Sequence[dict[str, Any]]) -> Usage:
    """What the samples of one level amount to, in the order of time, with the columns of `telemetry.jsonl`."""
    table = pd.DataFrame(samples, dtype=object).apply(pd.to_numeric, errors="coerce").astype(float)

    def column(name: str) -> Any:
        return table.get(name, pd.Series(math.nan, table.index))

    def growth(name: str) -> float | None:  # of a counter; None where nobody counts, or it began anew meanwhile
        known = column(name).dropna()
        return known.iloc[-1] - known.iloc[0] if len(known) and known.is_monotonic_increasing else None

    def of_gpus(name: str) -> Any:  # of samples in which no GPU's sensor is lacking: the rest would stand for all
        return table.filter(regex=rf"^gpu\d+_{name}$").dropna()

    running, waiting, queries, steps = column("running"), column("waiting"), growth("prefix_queries"), growth("steps")
    queue = waiting >= 1
    numbers = {
        "running": running.median(),
        "running_most": running.max(),
        "waiting": waiting.mean(),
        "queued": queue[waiting.notna()].mean(),
        "stands": (running == running.max())[queue].mean(),
        "kv_cache_use": column("kv_cache_use").max(),
        "preemptions": growth("preemptions"),
        "prefix_hit_rate": (growth("prefix_hits") or 0.0) / queries if queries else None,
        "step_tokens": (growth("step_tokens") or 0.0) / steps if steps else None,
        **{name: column(name).mean() for name in ("cpu_cores", "cpu_most", "machine_use")},
        **{name: of_gpus(name).mean(axis=1).mean() for name in ("slowed_by_power", "slowed_by_heat")},
        "gpu_use": of_gpus("utilization").mean(axis=1).mean(),
        "power": of_gpus("power").sum(axis=1, min_count=1).mean(),
    }
    known: dict[str, Any] = {name: round(float(each), 4) for name, each in numbers.items() if pd.notna(each)}
    return Usage(samples=len(samples), **known)
