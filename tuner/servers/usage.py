"""What a server used while one level was measured: many samples → one number each."""

import math
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import structs

from tuner.core.bottleneck import CPU_BOUND, SEQUENCES, Usage, bottleneck
from tuner.servers.attached import Server

_GPU = re.compile(r"gpu\d+_(\w+)")


def usage_of(samples: Sequence[dict[str, Any]]) -> Usage:
    """What the samples of one level amount to, in the order of time, with the columns of `telemetry.jsonl`."""
    columns = _columns(samples)
    running, waiting = (columns.get(name, np.full(len(samples), np.nan)) for name in ("running", "waiting"))
    queue = waiting >= 1
    queries, steps = _growth(columns, "prefix_queries"), _growth(columns, "steps")
    return Usage(
        samples=len(samples),
        running=_of(np.median, running),
        running_most=_of(np.max, running),
        waiting=_of(np.mean, waiting),
        queued=_of(np.mean, queue[~np.isnan(waiting)]),
        stands=_of(np.mean, (running == _of(np.max, running))[queue]),
        kv_cache_use=_of(np.max, columns.get("kv_cache_use")),
        preemptions=_growth(columns, "preemptions"),
        prefix_hit_rate=(_growth(columns, "prefix_hits") or 0.0) / queries if queries else None,
        step_tokens=(_growth(columns, "step_tokens") or 0.0) / steps if steps else None,
        cpu_cores=_of(np.mean, columns.get("cpu_cores")),
        cpu_most=_of(np.mean, columns.get("cpu_most")),
        machine_use=_of(np.mean, columns.get("machine_use")),
        gpu_use=_of(np.mean, _of_gpus(columns, "utilization", np.mean)),
        power=_of(np.mean, _of_gpus(columns, "power", np.sum)),
        slowed_by_power=_of(np.mean, _of_gpus(columns, "slowed_by_power", np.mean)),
        slowed_by_heat=_of(np.mean, _of_gpus(columns, "slowed_by_heat", np.mean)),
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


def _columns(samples: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """One array a column, NaN where a sample lacks it."""
    names = dict.fromkeys(name for sample in samples for name in sample)
    return {name: np.array([_number(sample.get(name)) for sample in samples]) for name in names}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else np.nan


def _of(summary: Any, values: np.ndarray | None) -> float | None:
    """A summary of the values that are known; None without any."""
    known = np.array([]) if values is None else values[~np.isnan(values)]
    return round(float(summary(known)), 4) if len(known) else None


def _growth(columns: dict[str, np.ndarray], name: str) -> float | None:
    """By how much a counter grew; None where nobody counts, or the server was started again meanwhile."""
    values = columns.get(name, np.array([]))
    known = values[~np.isnan(values)]
    return float(known[-1] - known[0]) if len(known) and (np.diff(known) >= 0).all() else None


def _of_gpus(columns: dict[str, np.ndarray], name: str, over: Any) -> np.ndarray | None:
    """One value a sample over all GPUs; None where there is none, or a sensor is lacking."""
    each = [values for column, values in columns.items() if (match := _GPU.fullmatch(column)) and match[1] == name]
    return over(np.array(each), axis=0) if each else None
