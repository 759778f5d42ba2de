"""How far each number of a batch may lie from what a longer measurement would say: confidence intervals.

Each request resembles those before it, so that they tell less than as many independent ones: `memory` says how much.
Where a level is too short for what it remembers, there is no interval.

- mean: `memory.reach_and_worth`.
- percentile: between two of the values, whose ranks are Clopper and Pearson's limits of the share of requests below it,
  for the number of independent requests that tell as much of the mean of all ranks (Woodruff, 1952; Korn and Graubard,
  1998).
- throughput: likewise of the ratio Σ tokens / Σ e2e latency, linearised (Cochran, Sampling Techniques, 6.4); of
  requests the same, each of which counts one. Beside it what the ends of the level leave open.
- error rate: Wilson's (1927), as of independent requests.
"""

import math
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from tuner.batches.batch import Reading
from tuner.batches.load import readings_of
from tuner.batches.result_file import Floats
from tuner.core.level import CONCURRENCY, levels_in
from tuner.core.metrics import LATENCY_COLUMNS, PERCENTILES, requests_needed, split
from tuner.core.records import COMPLETED
from tuner.judging.memory import reach_and_worth, student

CONFIDENCE = 0.95
#: Columns that have an interval.
BOUNDED = (*LATENCY_COLUMNS, "output_throughput", "request_throughput", "error_rate")
#: Runs of one level from which their spread tells more than that of the requests: of two, t is 12.7.
RUNS_LEAST = 3
_GROUP = ["experiment", "trial", "scenario", "iteration_type"]
#: Which part of the requests that a percentile needs all of them must be worth: those in a tail are less alike.
_TAIL = 0.25
Bounds = tuple[float, float]
_UNKNOWN: Bounds = (math.nan, math.nan)


def intervals(
    batches: pd.DataFrame,
    columns: Collection[str] = BOUNDED,
    confidence: float = CONFIDENCE,
    known: Iterable[Reading | None] | None = None,
) -> pd.DataFrame:
    """The confidence intervals of each batch's numbers.

    Where a level was run three times or more, they are those of the runs' mean (Student's t over the runs' values),
    which include what drifts from run to run; else those of the batch itself, over its requests. That of the error
    rate is always the batch's own.

    Args:
        batches: as from `load_batches`.
        columns: which; what is none of `BOUNDED` has no interval over requests.
        confidence: between 0 and 1.
        known: what is kept of each batch's file, where it has been read already.

    Returns:
        With the index of `batches`, for each column `<column>_low` and `<column>_high` in its own unit, and
        `interval_over`: `requests`, `runs`, or empty where the requests are gone. NaN where nobody knows: so too where
        they are too few for the percentile (`core.metrics.requests_needed`, of independent ones) or for their memory.
    """
    read = list(readings_of(batches) if known is None else known)
    unknown = [_UNKNOWN] * len(columns)
    rows = [
        [of_requests(one, column, confidence) for column in columns] if one and one.recomputed else unknown
        for one in read
    ]
    bounds = np.array(rows, np.float64).reshape(len(batches), len(columns), 2)
    over = np.array(["requests" if one and one.recomputed else "" for one in read], "object")
    for places in _repeated(batches):
        over[places] = "runs"
        bounds[places] = _over_runs(batches, columns, places, bounds[places], confidence)
    names = [f"{column}_{side}" for column in columns for side in ("low", "high")]
    frame = pd.DataFrame(bounds.reshape(len(batches), len(names)), batches.index, names)
    return frame.assign(interval_over=pd.Series(over, batches.index, dtype="str"))


def column_of(frame: pd.DataFrame, name: str, otherwise: Any = "") -> "pd.Series[Any]":
    """A column, or that in each row where a frame that others made lacks it."""
    return frame[name] if name in frame else pd.Series(otherwise, index=frame.index)


def of_requests(reading: Reading, column: str, confidence: float = CONFIDENCE) -> Bounds:
    """The interval of one number of a batch (one of `BOUNDED`, or there is none), over its requests."""
    if column == "error_rate":
        return wilson(reading.batch.errors or 0, reading.batch.requests or 0, confidence)
    if column not in BOUNDED:
        return _UNKNOWN
    latency, statistic = split(column)
    if not statistic:
        return _of_throughput(reading, column, confidence)
    values = reading.latencies[latency]
    values = values[~np.isnan(values)]
    if 2 * len(values) < len(reading.output_tokens) or len(values) < 2:
        return _UNKNOWN
    if statistic == "mean":
        mean, (reach, _) = float(values.mean()), reach_and_worth(values, confidence)
        return float(np.maximum(mean - reach, 0.0)), mean + reach
    return of_percentile(values, PERCENTILES[statistic] / 100, confidence)


def of_percentile(values: Floats, share: float, confidence: float = CONFIDENCE) -> Bounds:
    """The interval of a percentile of correlated values, such as `share` 0.9 for p90; NaN where they are too few."""
    from scipy import special

    count, needed, ordered = len(values), requests_needed(share, confidence), np.sort(values)
    if count < needed:
        return _UNKNOWN
    ranks = (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / 2
    reach, worth = reach_and_worth(ranks, confidence)
    if math.isnan(reach) or worth < needed * _TAIL:
        return _UNKNOWN
    surely, independent = float(special.ndtri((1 + confidence) / 2)), float(ranks.var(ddof=1)) / count
    effective = count * (min(surely**2 * independent / reach**2, 1.0) if reach else 1.0)
    below, outside = share * effective, (1 - confidence) / 2
    low, high = clopper_pearson(below, effective, outside)
    return float(ordered[max(math.ceil(low * count) - 1, 0)]), float(ordered[min(math.floor(high * count), count - 1)])


def clopper_pearson(successes: Floats | float, of: Floats | float, outside: float) -> tuple[Floats, Floats]:
    """The interval of a share of independent trials that leaves `outside` on each side (Clopper and Pearson, 1934)."""
    from scipy import special

    low = np.where(np.less_equal(successes, 0), 0.0, special.betaincinv(successes, of - successes + 1, outside))
    high = np.where(
        np.greater_equal(successes, of), 1.0, special.betaincinv(successes + 1, of - successes, 1 - outside)
    )
    return low, high


def wilson(successes: int, of: int, confidence: float = CONFIDENCE) -> Bounds:
    """The interval of a share of independent trials; NaN without any."""
    from scipy import special

    if not of:
        return _UNKNOWN
    z2 = float(special.ndtri((1 + confidence) / 2)) ** 2
    middle = (successes + z2 / 2) / (of + z2)
    reach = math.sqrt(z2 * (successes * (of - successes) / of + z2 / 4)) / (of + z2)
    return max(middle - reach, 0.0), min(middle + reach, 1.0)


def _of_throughput(reading: Reading, column: str, confidence: float) -> Bounds:
    """Relative to Σ tokens / Σ e2e latency, which it is proportional to in a closed loop, but for the level's ends.

    What the level's ends, in which fewer are in flight, take of it lies between the throughput that was measured and
    concurrency · Σ tokens / Σ e2e latency, of which at most the requests in flight are missing. It is never known
    better than to half a request, however alike all of them are.
    """
    seconds, tokens = reading.latencies["e2e_latency"], reading.output_tokens
    tokens = tokens if column == "output_throughput" else np.ones(len(seconds))
    measured = ~np.isnan(seconds) & ~np.isnan(tokens)
    seconds, tokens = seconds[measured], tokens[measured]
    if len(tokens) < 2 or not tokens.sum() > 0 or not seconds.sum() > 0:
        return _UNKNOWN
    left = tokens - seconds * (tokens.sum() / seconds.sum())
    reach = float(np.maximum(reach_and_worth(left, confidence)[0] / tokens.mean(), 0.5 / len(tokens)))
    value, level = float(getattr(reading.batch, column)), reading.batch.level
    steady = value
    if level and reading.batch.iteration_type == CONCURRENCY:
        ends = level / len(tokens)
        steady = min(max(level * float(tokens.sum() / seconds.sum()), value * (1 - ends)), value * (1 + ends))
    return min(value, steady) * float(np.maximum(1 - reach, 0.0)), max(value, steady) * (1 + reach)


def student_above(value: Floats | float, freedom: float) -> Floats:
    """How probable it is that Student's t lies above a value."""
    from scipy import special

    return np.asarray(special.stdtr(min(max(freedom, 1e-3), 1e9), -value), np.float64)


def _over_runs(
    batches: pd.DataFrame, columns: Collection[str], places: list[int], own: Floats, confidence: float
) -> Floats:
    """The intervals over the runs at `places`, (runs, columns, 2); `own` where too few runs know the value."""
    bounds = own.copy()
    for number, column in enumerate(columns):
        values = pd.to_numeric(batches[column].iloc[places], errors="coerce").to_numpy("float64", na_value=np.nan)
        values = values[~np.isnan(values)]
        if column != "error_rate" and len(values) >= RUNS_LEAST:
            reach = student(confidence, len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))
            bounds[:, number] = max(values.mean() - reach, 0.0), values.mean() + reach
    return bounds


def _repeated(batches: pd.DataFrame) -> Iterator[list[int]]:
    """The places of the batches of each level that was run often enough."""
    if not {*_GROUP, "outcome"} <= set(batches):
        return
    counted = batches["outcome"].eq(COMPLETED) & ~column_of(batches, "superseded", False).eq(True)
    places = np.flatnonzero(counted.to_numpy())
    runs = batches.iloc[places]
    for chosen in runs.groupby([*_GROUP, levels_in(runs).rename("level")]).indices.values():
        if len(chosen) >= RUNS_LEAST:
            yield places[chosen].tolist()
