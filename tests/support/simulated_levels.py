"""Servers that are only a curve: how far a level's latency lies from the SLO, as one noisy batch measures it."""

import math
import random
import statistics

#: (share of the limit that a level is) → latency / threshold, which reaches 1 at 1
CURVES = {
    "queueing: twice the latency at the limit": lambda x: (1 + x) / 2,
    "queueing: five times": lambda x: (1 + 4 * x) / 5,
    "queueing: fifty times": lambda x: (1 + 49 * x) / 50,
    "in proportion": lambda x: x,
    "slower than in proportion": lambda x: x**0.7,
    "faster than in proportion": lambda x: x**2,
    "as near to a pole (M/M/1)": lambda x: 0.3 / (1.3 - x) if x < 1.29 else 30.0,
    "a knee at half of the limit": lambda x: 0.5 + max(x - 0.5, 0),
    "a sharp knee below the limit": lambda x: 0.3 + 7 * max(x - 0.9, 0),
    "flat, then a cliff": lambda x: 0.4 if x < 1 else 8.0,
    "flat, then out of memory": lambda x: 0.4 if x < 1 else math.inf,
    "queueing, then out of memory": lambda x: (1 + 3 * x) / 4 if x < 1.5 else math.inf,
}


def excess_of(curve, limit, level, noise, dice):
    """What one batch at `level` tells: `limit` is the highest level that truly meets the SLO."""
    ratio = CURVES[curve](level / (limit + 0.5))
    return ratio if math.isinf(ratio) else math.log(ratio) + dice.gauss(0, noise)


def find(search, curve, limit, noise=0.03, seed=0, runs=None):
    """Run `search` to its end against a simulated server; returns how many batches it took, and fills `runs`."""
    dice = random.Random(f"{curve} {limit} {seed}")
    runs = {} if runs is None else runs
    while (level := search.next_level()) is not None:
        runs.setdefault(level, []).append(excess_of(curve, limit, level, noise, dice))
        search.tell(level, math.log(statistics.fmean(map(math.exp, runs[level]))))
    return sum(map(len, runs.values()))
