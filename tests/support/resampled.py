"""Result files drawn from real ones: what another run of the same server would have left, or of one that is slower."""

import math
from pathlib import Path

import numpy as np

import tuner
from support import SAMPLES, result_files
from tuner.batches.batch import Reading
from tuner.batches.load import readings_of

#: real batches of one server each: a stub that answers evenly, and llama.cpp on a busy machine
SERVERS = ("healthy", "llama-cpp-smollm2")


def real(name: str, folder: Path = SAMPLES) -> dict[int, Reading]:
    """The readings of a folder of real batches, by level."""
    batches = tuner.load_batches(folder / name)
    return {
        level: reading
        for level, reading in zip(batches["concurrency"].tolist(), readings_of(batches), strict=True)
        if reading is not None
    }


def places(count: int, wanted: int, length: int, dice: np.random.Generator) -> np.ndarray:
    """Which of `count` requests to draw, in blocks of neighbours, so that what binds them stays."""
    starts = dice.integers(count, size=-(-wanted // length))
    return ((starts[:, None] + np.arange(length)) % count).ravel()[:wanted]


def requests(reading: Reading, level: int, wanted: int, dice: np.random.Generator, factor: float = 1.0) -> list[dict]:
    """As many requests drawn from a real batch, `factor` as slow."""
    chosen = places(len(reading.output_tokens), wanted, level, dice)
    ttft, tpot, whole = (reading.latencies[name][chosen] * factor for name in ("ttft", "tpot", "e2e_latency"))
    rows = zip(ttft, tpot, whole, reading.output_tokens[chosen], strict=True)
    return [
        result_files.request(first, each, int(tokens), e2e_latency=total)
        for first, each, total, tokens in (map(float, row) for row in rows)
    ]


def side(
    folder: Path,
    real_levels: dict[int, Reading],
    wanted: int,
    dice: np.random.Generator,
    factor: float = 1.0,
    runs: int = 2,
):
    """Judged batches of several runs drawn from real ones, through result files."""
    folders = [folder / f"run {number}" for number in range(runs)]
    for one in folders:
        result_files.write(one / "experiment_metadata.json", result_files.metadata(list(real_levels)))
        for level, reading in real_levels.items():
            drawn = requests(reading, level, wanted, dice, factor)
            result_files.write(one / result_files.name(level), result_files.result(drawn, level=level))
    return tuner.judge(tuner.load_batches(*folders), {"latency": {"p90": {"threshold": 1e3}}})


def waves(dice, count, concurrency, share):
    """Logarithms of latencies: those in flight together have `share` of their variance in common."""
    common = np.repeat(dice.normal(size=count // concurrency + 1), concurrency)[:count]
    return math.sqrt(share) * common + math.sqrt(1 - share) * dice.normal(size=count)
