"""How far each number of a batch may lie from what a longer measurement would say: confidence intervals.

Requests that were in flight together share the engine's steps, so that they tell less than as many independent ones:
all variances are those of the means of blocks of neighbours (batch means; Law, Simulation Modeling and Analysis, 9.5),
and never less than independent requests would have.

- mean: Student's t over the blocks' means.
- percentile: between two of the values, whose ranks are Clopper and Pearson's limits of the share of requests below it,
  for the effective number of requests (Woodruff, 1952; Korn and Graubard, 1998).
- throughput: Student's t of the ratio Σ tokens / Σ e2e latency, linearised (Cochran, Sampling Techniques, 6.4); of
  requests the same, each of which counts one. Beside it what the ends of the level leave open.
- of all the wider of two: from blocks, and from the autocorrelation. What they cover is in `docs/numbers.md`: what
  drifts slower than a level lasts shows in longer levels or several runs alone.
- error rate: Wilson's (1927), as of independent requests.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from tuner.batches.batch import Reading
from tuner.batches.load import readings_of
from tuner.batches.result_file import Floats
from tuner.core.level import BATCH_SIZE, COLUMNS, RATE, Rate, level_of, levels_in
from tuner.core.metrics import LATENCY_COLUMNS, PERCENTILES, requests_needed, split
from tuner.core.records import COMPLETED

CONFIDENCE = 0.95
#: Columns that have an interval.
BOUNDED = (*LATENCY_COLUMNS, "output_throughput", "request_throughput", "error_rate")
#: Runs of one level from which their spread tells more than that of the requests: of two, t is 12.7.
RUNS_LEAST = 3
_GROUP = ["experiment", "trial", "scenario", "iteration_type"]
#: Percentiles whose requests show how they hang together where those beyond a higher one are too few to.
_STEADY = (0.5, 0.9)
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
        `interval_over`: `requests`, `runs`, or empty where there is no interval. NaN where nobody knows: the requests
        are gone, or are too few for the percentile (`core.metrics.requests_needed`, of independent ones).
    """
    read = readings_of(batches) if known is None else known
    levels = map(in_flight, batches[[name for name in _IN_FLIGHT_BY if name in batches]].to_dict("records"))
    rows = [_row(reading, level, columns, confidence) for reading, level in zip(read, levels, strict=True)]
    bounds = np.array(rows, np.float64).reshape(len(batches), len(columns), 2)
    over = np.where(np.isfinite(bounds).any(axis=(1, 2)), "requests", "").astype("object")
    for places in _repeated(batches):
        over[places] = "runs"
        bounds[places] = _over_runs(batches, columns, places, bounds[places], confidence)
    names = [f"{column}_{side}" for column in columns for side in ("low", "high")]
    frame = pd.DataFrame(bounds.reshape(len(batches), len(names)), batches.index, names)
    return frame.assign(interval_over=pd.Series(over, batches.index, dtype="str"))


def of_requests(reading: Reading, concurrency: int, column: str, confidence: float = CONFIDENCE) -> Bounds:
    """The interval of one number of a batch (one of `BOUNDED`, or there is none), over its requests."""
    if column == "error_rate":
        return wilson(reading.batch.errors or 0, reading.batch.requests or 0, confidence)
    if column not in BOUNDED:
        return _UNKNOWN
    latency, statistic = split(column)
    if not statistic:
        return _of_throughput(reading, column, concurrency, confidence)
    values = reading.latencies[latency]
    values = values[~np.isnan(values)]
    if 2 * len(values) < len(reading.output_tokens) or len(values) < 2:
        return _UNKNOWN
    if statistic == "mean":
        return _of_mean(values, concurrency, confidence)
    return of_percentile(values, PERCENTILES[statistic] / 100, concurrency, confidence)


def of_percentile(values: Floats, share: float, concurrency: int, confidence: float = CONFIDENCE) -> Bounds:
    """The interval of a percentile of correlated values, such as `share` 0.9 for p90; NaN where they are too few."""
    from scipy import special

    count = len(values)
    if count < requests_needed(share, confidence):
        return _UNKNOWN
    ordered = np.sort(values)
    marks = [ordered[math.ceil(count * part) - 1] for part in {share, *(one for one in _STEADY if one < share)}]
    parts = [(values <= mark).astype(np.float64) for mark in marks]
    if count / max(_by_blocks(part, concurrency) for part in parts) < requests_needed(share, confidence):
        return _UNKNOWN
    effective = min(_effective(part, concurrency, confidence) for part in parts)
    below, outside = share * effective, (1 - confidence) / 2
    low = special.betaincinv(below, effective - below + 1, outside)
    high = special.betaincinv(below + 1, effective - below, 1 - outside)
    return float(ordered[max(math.ceil(low * count) - 1, 0)]), float(ordered[min(math.floor(high * count), count - 1)])


def _effective(below: Floats, concurrency: int, confidence: float) -> float:
    """How many independent values of which infinitely many are known would tell a share as well, by `_reach`."""
    from scipy import special

    surely, reach = float(special.ndtri((1 + confidence) / 2)), _reach(below, concurrency, confidence)
    return len(below) * min(surely**2 * _independent(below) / reach**2, 1.0) if reach else float(len(below))


def _by_blocks(values: Floats, concurrency: int) -> float:
    """How many of the values tell as much as a single independent one (their design effect), 1 or more."""
    independent = _independent(values)
    return _variance(values, concurrency)[0] / independent if independent > 0 else 1.0


def correlated(values: Floats, concurrency: int) -> float:
    """The same by the wider of both estimates."""
    independent = _independent(values)
    return max(variance / independent for variance, _ in _estimates(values, concurrency)) if independent > 0 else 1.0


def _independent(values: Floats) -> float:
    """The variance of the mean of the values, were they independent."""
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.0


def wilson(successes: int, of: int, confidence: float = CONFIDENCE) -> Bounds:
    """The interval of a share of independent trials; NaN without any."""
    from scipy import special

    if not of:
        return _UNKNOWN
    z2 = float(special.ndtri((1 + confidence) / 2)) ** 2
    middle = (successes + z2 / 2) / (of + z2)
    reach = math.sqrt(z2 * (successes * (of - successes) / of + z2 / 4)) / (of + z2)
    return max(middle - reach, 0.0), min(middle + reach, 1.0)


def _row(reading: Reading | None, level: int, columns: Collection[str], confidence: float) -> list[Bounds]:
    if reading is None or not reading.recomputed:
        return [_UNKNOWN] * len(columns)
    return [of_requests(reading, level, column, confidence) for column in columns]


_IN_FLIGHT_BY = (*COLUMNS, "iteration_type", "request_throughput", "e2e_latency_mean")


def in_flight(row: Mapping[Any, Any]) -> int:
    """How many requests a batch kept in flight; of an open loop on average, by Little's law."""
    level = level_of(row)
    if isinstance(level, Rate):
        average = float(row["request_throughput"]) * float(row["e2e_latency_mean"])
        return max(math.ceil(average), 1) if math.isfinite(average) else 1
    return 1 if level is None or row.get("iteration_type") == BATCH_SIZE else level


def _of_mean(values: Floats, concurrency: int, confidence: float) -> Bounds:
    reach = _reach(values, concurrency, confidence)
    return max(float(values.mean()) - reach, 0.0), float(values.mean()) + reach


def _reach(values: Floats, concurrency: int, confidence: float) -> float:
    """How far the mean of correlated values may lie from the truth: the wider of two estimates, by Student's t."""
    return max(
        student(confidence, freedom) * math.sqrt(variance) for variance, freedom in _estimates(values, concurrency)
    )


def _estimates(values: Floats, concurrency: int) -> list[tuple[float, float]]:
    """The two estimates of (variance of the mean of correlated values, its degrees of freedom)."""
    return [_variance(values, concurrency), _variance_by_autocorrelation(values)]


def _variance_by_autocorrelation(values: Floats) -> tuple[float, float]:
    """The same as `_variance` from the initial monotone sequence (Geyer, 1992), which sees what outlasts a block."""
    count, left = len(values), values - values.mean()
    spectrum = np.abs(np.fft.rfft(left, 2 * count)) ** 2
    products = np.fft.irfft(spectrum)[:count]
    if not products[0] > 0:
        return 0.0, count - 1
    shares = products[1 : 1 + (count - 1) // 2 * 2].reshape(-1, 2).sum(axis=1) / products[0]
    positive = shares[: int(np.argmax(shares <= 0)) if (shares <= 0).any() else None]
    effective = max(count / (1 + 2 * float(np.minimum.accumulate(positive).sum())), 2.0)
    return float(values.var(ddof=1)) / effective, max(effective - 1, 1.0)


def _of_throughput(reading: Reading, column: str, concurrency: int, confidence: float) -> Bounds:
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
    reach = max(_reach(left, concurrency, confidence) / float(tokens.mean()), 0.5 / len(tokens))
    value = float(getattr(reading.batch, column))
    is_closed = reading.batch.level == concurrency and reading.batch.iteration_type != RATE and value > 0
    ends = concurrency / len(tokens) if is_closed else 0.0
    steady = min(max(concurrency * float(tokens.sum() / seconds.sum()), value * (1 - ends)), value * (1 + ends))
    return min(value, steady) * max(1 - reach, 0.0), max(value, steady) * (1 + reach)


def _variance(values: Floats, concurrency: int) -> tuple[float, int]:
    """(variance of the mean of correlated values, its degrees of freedom), from the means of blocks."""
    length = block_length(len(values), concurrency)
    blocks = len(values) // length
    independent = float(values.var(ddof=1)) / len(values)
    if blocks < 2:
        return independent, len(values) - 1
    means = values[: blocks * length].reshape(blocks, length).mean(axis=1)
    beyond = float(means.var(ddof=1)) * length / len(values) - independent
    return independent + max(beyond, 0.0) / _seen(length, concurrency), blocks - 1


def _seen(length: int, concurrency: int) -> float:
    """Which share of what requests in flight together have in common shows in the means of blocks of this length.

    Where all that were in flight share a part and no others do, blocks that cut through them miss some of it: with
    c in flight and blocks of L, the mean of min(L, c) draws' overlap is 1 − c/3L of it for L ≥ c, else L/c − L²/3c².
    """
    ratio = length / concurrency
    return 1 - 1 / (3 * ratio) if ratio >= 1 else ratio - ratio**2 / 3


def student(confidence: float, freedom: float) -> float:
    """The two-sided quantile of Student's t."""
    from scipy import special

    return float(special.stdtrit(min(max(freedom, 1e-3), 1e9), (1 + confidence) / 2))


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
    counted = batches["outcome"].eq(COMPLETED) & ~batches.get("superseded", pd.Series(False, batches.index)).eq(True)
    places = np.flatnonzero(counted.to_numpy())
    runs = batches.iloc[places]
    for chosen in runs.groupby([*_GROUP, levels_in(runs).rename("level")]).indices.values():
        if len(chosen) >= RUNS_LEAST:
            yield places[chosen].tolist()


#: Fewer blocks than these tell too little of how blocks vary; more tell hardly more and are the less independent
#: (Schmeiser, Batch Size Effects, 1982).
BLOCKS_LEAST, BLOCKS_MOST = 16, 30


def block_length(requests: int, concurrency: int) -> int:
    """How many neighbours make a block: twice as many as were in flight, but so that blocks remain.

    What binds as many requests as were in flight still binds the ends of neighbouring blocks; the longer the blocks are
    beside it, the less of it is missed.
    """
    return max(1, min(max(2 * concurrency, requests // BLOCKS_MOST), requests // BLOCKS_LEAST))
