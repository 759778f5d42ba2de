"""How many batches the search for the limit needs, and how often it is right, on simulated noisy servers.

Run it by hand: `python benchmarks/limit_search.py [--noise 0.03]`; half a minute. Limits 1 to 256, several seeds each,
twelve shapes of latency over load. Beside it the same with doubling and halving alone, with no repeats. Then what is
said of a level that was run several times, by each rule that could make one verdict of its runs.
"""

import argparse
import itertools
import math
import random
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
#: Simulated for each rule and number of runs.
LEVELS = 40_000


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


#: What makes one verdict of the runs of a level, each ln(value / limit): does it pass?
RULES: dict[str, Callable[[list[float]], bool]] = {
    "their mean (`levels_of`)": lambda runs: statistics.fmean(map(math.exp, runs)) <= 1,
    "their median": lambda runs: statistics.median(runs) <= 0,
    "the best of them": lambda runs: min(runs) <= 0,
    "the worst of them": lambda runs: max(runs) <= 0,
}


def wrong_verdicts(rule: Callable[[list[float]], bool], runs: int, noise: float) -> float:
    """The share of wrong verdicts on levels that truly lie within 10 % of the threshold, on either side alike."""
    dice, wrong = random.Random(runs), 0
    for _ in range(LEVELS):
        truth = dice.uniform(-WITHIN, WITHIN)
        wrong += rule([dice.gauss(truth, noise) for _ in range(runs)]) != (truth <= 0)
    return wrong / LEVELS


def printed_limits(noise: float) -> dict[str, float]:
    """How often the highest level that complies by each rule, below all that fail, is the one that a search found."""
    same, searches = dict.fromkeys(RULES, 0), 0
    for curve, limit, seed in itertools.product(CURVES, LIMITS, SEEDS):
        search, runs = LimitSearch(), {}
        find(search, curve, limit, noise, seed, runs)
        searches += 1
        for name, rule in RULES.items():
            failing = min((level for level in runs if not rule(runs[level])), default=math.inf)
            passing = max((level for level in runs if level < failing), default=None)
            same[name] += passing == search.passing
    return {name: count / searches for name, count in same.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--noise", type=float, default=0.03, help="of one batch, relative, one standard deviation")
    noise = parser.parse_args().noise
    print(f"LimitSearch, noise {noise:.0%}, limits 1 to 256")
    table(LimitSearch, noise)
    print("\ndoubling and halving alone, no repeats")
    table(lambda: Halving(most=100, repeats=1), noise)
    print("\nthe verdict of a level from its runs: wrong, of 1, 2 and 3 runs (%); printed level = the search's (%)")
    same = printed_limits(noise)
    for name, rule in RULES.items():
        shares = "".join(f"{100 * wrong_verdicts(rule, runs, noise):9.1f}" for runs in (1, 2, 3))
        print(f"{name:30}{shares}{100 * same[name]:12.1f}")


if __name__ == "__main__":
    main()
