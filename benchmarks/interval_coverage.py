"""How often a level's intervals hold the truth: drawn latencies of which a part is remembered from request to request.

    python benchmarks/interval_coverage.py [--draws N] [--requests N] [--level C]

The logarithm of a latency is √share · an AR(1) process + √(1 − share) · noise, whose mean and percentiles are known
exactly. Memory is how many requests later the process still resembles itself (1/e), in multiples of the level.
"""

import argparse
import math

import numpy as np
from numpy.typing import NDArray
from scipy import signal, special

from tuner.judging import intervals
from tuner.judging.memory import reach_and_worth

MEMORIES, SHARES, SPREAD = (0, 1, 2, 4, 8), (0.3, 0.7), 0.15
TRUTH = {"mean": math.exp(SPREAD**2 / 2), "p90": math.exp(SPREAD * special.ndtri(0.9))}


def draw(dice: np.random.Generator, requests: int, memory: float, share: float) -> NDArray[np.float64]:
    """Latencies with median 1 in the order of their requests."""
    keeps = math.exp(-1 / memory) if memory else 0.0
    steps = dice.normal(size=requests) * math.sqrt(1 - keeps**2)
    steps[0] = dice.normal()
    shared = signal.lfilter([1], [1, -keeps], steps)
    return np.exp(SPREAD * (math.sqrt(share) * shared + math.sqrt(1 - share) * dice.normal(size=requests)))


def coverage(requests: int, level: int, memory: int, share: float, draws: int) -> dict[str, tuple[float, float]]:
    """Of the mean and of p90: the share of the 95 % intervals that hold the truth, and of the draws that have one."""
    dice, held = np.random.default_rng(3), {name: list[bool]() for name in TRUTH}
    for _ in range(draws):
        values = draw(dice, requests, memory * level, share)
        mean, (reach, _) = values.mean(), reach_and_worth(values, 0.95)
        bounds = {"mean": (mean - reach, mean + reach), "p90": intervals.of_percentile(values, 0.9)}
        for name, (low, high) in bounds.items():
            held[name] += [] if math.isnan(low) else [low <= TRUTH[name] <= high]
    return {name: (sum(known) / max(len(known), 1), len(known) / draws) for name, known in held.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--level", type=int, default=8)
    asked = parser.parse_args()
    print(f"{asked.requests} requests, {asked.level} in flight, {asked.draws} draws\n")
    print(
        "| memory, in levels | " + " | ".join(f"{name}, {share:.0%} remembered" for share in SHARES for name in TRUTH),
        "|",
    )
    print("|---" * (1 + len(SHARES) * len(TRUTH)) + "|")
    for memory in MEMORIES:
        rows = [coverage(asked.requests, asked.level, memory, share, asked.draws) for share in SHARES]
        print(
            f"| {memory} |",
            " | ".join(f"{hold:.0%} of {known:.0%}" for row in rows for hold, known in row.values()),
            "|",
            flush=True,
        )


if __name__ == "__main__":
    main()
