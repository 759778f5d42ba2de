"""How many single requests met the SLO: what must go back to the requests themselves."""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from tuner.batches.cache import Reading
from tuner.batches.measure import Floats


def attainments(known: Iterable[Reading | None], limits: Mapping[str, float]) -> Floats:
    """The share of all requests of each batch, failed ones included, that met every limit.

    Args:
        known: what is kept of each batch's result file; None where there is none.
        limits: seconds, by `ttft`, `tpot`, `e2e_latency`.

    Returns:
        Between 0 and 1; NaN where the file is gone or holds no individual requests.
    """
    return np.array([_share(reading, limits) for reading in known], np.float64)


def goodput(attainment: Floats, requests: Floats, duration: Floats) -> Floats:
    """Requests per second that met every latency threshold, of each batch: attainment · requests / duration.

    As `vllm bench serve` counts its request goodput. DistServe (Zhong et al., OSDI '24), which gave the word its
    meaning, calls so the highest rate at which a share that was agreed on meets the SLO.

    Args:
        attainment: as from `attainments`.
        requests: how many each batch had, failed ones too.
        duration: seconds.

    Returns:
        NaN where one of the three is not known.
    """
    return np.asarray(attainment * requests / np.where(duration > 0, duration, np.nan))


def met(reading: Reading, limits: Mapping[str, float]) -> NDArray[np.bool_]:
    """Whether each completed request met every limit."""
    kept = np.ones(reading.batch.completed or 0, bool)
    for latency, limit in limits.items():
        kept &= reading.latencies[latency] <= limit * (1 + 1e-9)  # a file in milliseconds rounds
    return kept


def _share(reading: Reading | None, limits: Mapping[str, float]) -> float:
    if reading is None or not reading.batch.requests or not reading.recomputed:
        return np.nan
    return float(met(reading, limits).sum() / reading.batch.requests)
