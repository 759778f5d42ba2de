"""How the requests of each batch are spread: a few quantiles, which a report can carry; the requests are too many."""

from collections.abc import Sequence

import numpy as np

from tuner.batches.cache import Reading
from tuner.batches.measure import LATENCIES, Floats

#: per cent; the quartiles make a box, the outer ones its whiskers and its mark
QUANTILES = (5, 25, 50, 75, 95, 99)
Spreads = dict[str, list[list[float] | None]]


def spreads(known: Sequence[Reading | None]) -> Spreads:
    """The quantiles of each latency over the completed requests of each batch.

    Args:
        known: what is kept of each batch's result file; None where there is none.

    Returns:
        By `ttft`, `tpot`, `e2e_latency`: for each batch `QUANTILES` in seconds, linear interpolation between ranks;
        None where the file is gone or holds no requests.
    """
    return {name: [_quantiles(one.latencies[name]) if one else None for one in known] for name in LATENCIES}


def _quantiles(values: Floats) -> list[float] | None:
    known = values[np.isfinite(values)]
    return [float(value) for value in np.percentile(known, QUANTILES)] if len(known) else None
