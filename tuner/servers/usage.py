"""What a server used while one level was measured: many samples → one number each."""

import math
import os
from collections.abc import Sequence
from typing import Any

import pandas as pd

from tuner.core.bottleneck import CPU_BOUND, SEQUENCES, Usage
from tuner.servers.attached import Server


def usage_of(samples: Sequence[dict[str, Any]]) -> Usage:
    """What the samples of one level amount to, in the order of time, with the columns of `telemetry.jsonl`."""
    table = pd.DataFrame(samples, dtype=object).apply(pd.to_numeric, errors="coerce").astype(float)
    queries, steps = _growth(table, "prefix_queries"), _growth(table, "steps")

    def column(name: str) -> Any:
        return table.get(name, pd.Series(math.nan, table.index))

    def gpus(name: str) -> Any:
        return table.filter(regex=rf"^gpu\d+_{name}$")

    running, waiting = column("running"), column("waiting")
    queue = waiting >= 1
    numbers: dict[str, Any] = {
        "running": running.median(),
        "running_most": running.max(),
        "waiting": waiting.mean(),
        "queued": queue[waiting.notna()].mean(),
        "stands": (running == running.max())[queue].mean(),
        "kv_cache_use": column("kv_cache_use").max(),
        **{name: column(name).mean() for name in ("cpu_cores", "cpu_most", "machine_use")},
        **{name: gpus(name).mean(axis=1).mean() for name in ("slowed_by_power", "slowed_by_heat")},
        "gpu_use": gpus("utilization").mean(axis=1).mean(),
        "power": gpus("power").sum(axis=1, min_count=1).mean(),
    }
    return Usage(
        samples=len(samples),
        preemptions=_growth(table, "preemptions"),
        prefix_hit_rate=(_growth(table, "prefix_hits") or 0.0) / queries if queries else None,
        step_tokens=(_growth(table, "step_tokens") or 0.0) / steps if steps else None,
        **{name: round(float(number), 4) for name, number in numbers.items() if pd.notna(number)},
    )


def bounds(server: Server) -> dict[str, Any]:
    """What a server may use at most, and which of its engine's parameters move that; fields of `Usage`."""
    caps = [server.engine.value_of(server.spec, cause) for cause in (SEQUENCES, CPU_BOUND)]
    sequences, threads = (float(cap) if isinstance(cap, int | float) else None for cap in caps)
    return {
        "cores": min(threads or math.inf, len(os.sched_getaffinity(0))),
        "sequences": sequences,
        "levers": {cause: " or ".join(names) for cause, names in server.engine.levers.items()},
    }


def _growth(table: pd.DataFrame, name: str) -> float | None:
    """By how much a counter grew; None where nobody counts, or the server was started again meanwhile."""
    known = table[name].dropna() if name in table else pd.Series(dtype=float)
    return float(known.iloc[-1] - known.iloc[0]) if len(known) and known.is_monotonic_increasing else None
