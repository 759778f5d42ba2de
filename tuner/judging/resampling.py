"""How much the numbers of one batch would vary, had other requests of the same kind been drawn: bootstrap replicates.

Requests that were in flight together share the engine's steps, so that one slow step makes all of them slow: they are
no independent draws. Whole blocks of neighbours are drawn instead, which keep what binds them (the moving block
bootstrap of Künsch, 1989, on a circle as Politis and Romano, 1992, so that the ends are drawn as often as the middle).
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tuner.batches.cache import Reading
from tuner.batches.measure import LATENCIES, PERCENTILES, Floats

DRAWS = 500
#: Fewer blocks than these tell too little of how blocks vary; more tell hardly more and are the less independent
#: (Schmeiser, Batch Size Effects, 1982).
BLOCKS_LEAST, BLOCKS_MOST = 16, 30
#: Places where a block may begin, at most.
STARTS = 256
#: Ranks that are told apart in a large batch; a smaller one has each request for itself.
BINS = 512


def block_length(requests: int, concurrency: int) -> int:
    """How many neighbours make a block: twice as many as were in flight, but so that blocks remain.

    What binds as many requests as were in flight still binds the ends of neighbouring blocks; the longer the blocks are
    beside it, the less of it is missed.

    Args:
        requests: how many there are.
        concurrency: how many were in flight at once.
    """
    return max(1, min(max(2 * concurrency, requests // BLOCKS_MOST), requests // BLOCKS_LEAST))


def block_count(requests: int, concurrency: int) -> int:
    """How many blocks the requests make: one more than the degrees of freedom of their variance."""
    return round(requests / block_length(requests, concurrency)) if requests else 0


def replicates(
    reading: Reading, concurrency: int, latencies: Collection[str] = LATENCIES, draws: int = DRAWS, seed: int = 0
) -> dict[str, Floats]:
    """What the batch would have said in `draws` other draws of its requests.

    Args:
        reading: what is kept of its result file.
        concurrency: how many requests were in flight at once.
        latencies: whose columns are wanted, of `ttft`, `tpot` and `e2e_latency`.
        draws: how many.
        seed: the same seed gives the same draws, of all columns alike: one element is one draw throughout.

    Returns:
        Seconds of each of their columns (as `LATENCY_COLUMNS`), tokens/s of `output_throughput` and requests/s of
        `request_throughput`, each of shape (draws,); NaN where there is nothing to draw from. In a closed loop the
        throughput is concurrency · Σ tokens / Σ e2e latency, but for the ends of the level: the measured one varies as
        that does.
    """
    drawn = _Draws(len(reading.output_tokens), concurrency, draws, seed)
    return dict(_latencies(reading, latencies, drawn)) | _throughputs(reading, drawn)


@dataclass(frozen=True)
class _Draws:
    """How often each block was drawn, in each draw."""

    requests: int
    concurrency: int
    draws: int
    seed: int

    @cached_property
    def blocks(self) -> NDArray[np.int64]:
        """The requests of each block that could be drawn, (blocks, length)."""
        starts = np.unique(np.linspace(0, self.requests, min(self.requests, STARTS), endpoint=False).astype(int))
        return (starts[:, None] + np.arange(block_length(self.requests, self.concurrency))) % self.requests

    @cached_property
    def counts(self) -> Floats:
        """How often each block was drawn, (draws, blocks)."""
        kinds, taken = len(self.blocks), block_count(self.requests, self.concurrency)
        picks = np.random.default_rng(self.seed).integers(kinds, size=(self.draws, taken))
        flat = np.bincount((picks + kinds * np.arange(self.draws)[:, None]).ravel(), minlength=self.draws * kinds)
        return flat.reshape(self.draws, kinds).astype(np.float64)

    def sums(self, values: Floats) -> Floats:
        """The sum of one value a request over those drawn; NaN counts nothing."""
        return np.asarray(self.counts @ np.nan_to_num(values)[self.blocks].sum(axis=1))

    def histograms(self, bins: NDArray[np.int64], kinds: int) -> Floats:
        """How many requests of each bin were drawn, (draws, kinds); those of bin `kinds` are left out."""
        rows = np.arange(len(self.blocks))[:, None] * (kinds + 1)
        of_blocks = np.bincount((rows + bins[self.blocks]).ravel(), minlength=len(self.blocks) * (kinds + 1))
        return np.asarray(self.counts @ of_blocks.reshape(len(self.blocks), kinds + 1)[:, :kinds].astype(np.float64))


def _latencies(reading: Reading, names: Collection[str], drawn: _Draws) -> Iterator[tuple[str, Floats]]:
    for name in names:
        values = reading.latencies[name]
        known = ~np.isnan(values)
        if not known.any():
            yield from ((f"{name}_{statistic}", np.full(drawn.draws, np.nan)) for statistic in ("mean", *PERCENTILES))
            continue
        yield f"{name}_mean", _ratio(drawn.sums(values), drawn.sums(known.astype(np.float64)))
        ranked = _Ranked(values, known, drawn)
        yield from ((f"{name}_{key}", ranked.percentile(value / 100)) for key, value in PERCENTILES.items())


class _Ranked:
    """The values of one latency in order, and how often each was drawn."""

    def __init__(self, values: Floats, known: NDArray[np.bool_], drawn: _Draws) -> None:
        self.sorted = np.sort(values[known])
        size = len(self.sorted)
        kinds = min(size, BINS)
        self.first = -(-np.arange(kinds + 1) * size // kinds)  # rank of the first value in each bin
        bins = np.full(len(values), kinds)
        bins[np.flatnonzero(known)[np.argsort(values[known], kind="stable")]] = np.arange(size) * kinds // size
        self.weights = drawn.histograms(bins, kinds)
        self.sums = self.weights.cumsum(axis=1)
        self.totals = self.sums[:, -1]
        self.before = np.arange(len(self.totals)) * (self.totals.max() + 1)
        self.ladder = (self.sums + self.before[:, None]).ravel()  # rises from draw to draw, so that one search does

    def percentile(self, share: float) -> Floats:
        """One value a draw, linear interpolation between ranks."""
        place = np.maximum(self.totals - 1, 0) * share
        low, high = (self._at(np.minimum(whole, self.totals - 1)) for whole in (np.floor(place), np.floor(place) + 1))
        found = low + (high - low) * (place - np.floor(place))
        return np.where(self.totals > 0, found, np.nan)

    def _at(self, ranks: Floats) -> Floats:
        """The value at a rank among those drawn."""
        rows, kinds = np.arange(len(ranks)), self.weights.shape[1]
        ranks = np.maximum(ranks, 0)
        bins = np.minimum(np.searchsorted(self.ladder, ranks + self.before, side="right") - rows * kinds, kinds - 1)
        weights = np.maximum(self.weights[rows, bins], 1)
        within = (ranks - self.sums[rows, bins] + weights) / weights
        width = self.first[bins + 1] - self.first[bins]
        return np.asarray(self.sorted[(self.first[bins] + np.clip(within * width, 0, width - 1)).astype(int)])


def _throughputs(reading: Reading, drawn: _Draws) -> dict[str, Floats]:
    e2e, tokens = reading.latencies["e2e_latency"], reading.output_tokens
    known = ~np.isnan(e2e)
    seconds = drawn.sums(e2e) if len(e2e) else np.full(drawn.draws, np.nan)
    made = {"output_throughput": np.where(known, tokens, np.nan), "request_throughput": known.astype(np.float64)}
    return {name: _varied(getattr(reading.batch, name), values, e2e, drawn, seconds) for name, values in made.items()}


def _varied(measured: float, values: Floats, e2e: Floats, drawn: _Draws, seconds: Floats) -> Floats:
    """`measured`, varied as the rate of `values` to the seconds that requests took varies over the draws."""
    whole = np.nansum(e2e)
    if not whole > 0 or not np.nansum(values) > 0:
        return np.full(drawn.draws, np.nan)
    return np.asarray(measured * _ratio(drawn.sums(values), seconds) * (whole / np.nansum(values)))


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.asarray(np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0))
