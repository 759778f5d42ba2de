"""How many batches the search for the limit needs, and how often it is right, on simulated noisy servers.

Run it by hand: `python benchmarks/limit_search.py [--noise 0.03]`; half a minute. Limits 1 to 256, several seeds each,
twelve shapes of latency over load. Beside it the same with doubling and halving alone, with no repeats.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.simulated_levels import CURVES, find

from tuner.sweep.limit import LimitSearch

LIMITS = range(1, 257, 3)
SEEDS = range(4)
WITHIN = 0.1


class Halving(LimitSearch):
    """Doubling, then the middle of the bracket."""

    def _above(self, low: int) -> int:
        return low * 2

    def _between(self, low: int, high: int) -> int:
        return min(max(round((low * high) ** 0.5), low + 1), high - 1)


def measure(make: Callable[[], LimitSearch], curve: str, noise: float) -> tuple[list[int], int]:
    """Batches that each search took, and how many searches ended farther than 10 % from the limit."""
    batches, wrong = [], 0
    for limit in LIMITS:
        for seed in SEEDS:
            search = make()
            batches.append(find(search, curve, limit, noise, seed))
            wrong += search.passing is None or abs(search.passing - limit) > WITHIN * limit
    return batches, wrong


def row(name: str, batches: list[int], wrong: int) -> str:
    share = 100 * wrong / len(batches)
    return f"{name:42} {statistics.median(batches):8.0f} {max(batches):8d} {share:12.1f}"


def table(make: Callable[[], LimitSearch], noise: float) -> None:
    print(f"{'':42} {'median':>8} {'most':>8} {'wrong (%)':>12}")
    found = {curve: measure(make, curve, noise) for curve in CURVES}
    for curve, (batches, wrong) in found.items():
        print(row(curve, batches, wrong))
    print(row("all", [n for batches, _ in found.values() for n in batches], sum(wrong for _, wrong in found.values())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--noise", type=float, default=0.03, help="of one batch, relative, one standard deviation")
    noise = parser.parse_args().noise
    print(f"LimitSearch, noise {noise:.0%}, limits 1 to 256")
    table(LimitSearch, noise)
    print("\ndoubling and halving alone, no repeats")
    table(lambda: Halving(most=100, repeats=1), noise)


if __name__ == "__main__":
    main()
