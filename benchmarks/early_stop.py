"""Which trials a search ends early that would have won, and what it saves, on pairs of modelled servers.

Run it by hand: `python benchmarks/early_stop.py [--pairs 1000]`; minutes. Each pair is two servers of one family and an
SLO that both can meet: the slower one is the best trial so far and the faster one the candidate, which must not be
ended; then the other way round, which shows what is saved. Levels 1 to 128, with and without 3 % noise, from that at
which the best has most up, and then down (`--ascending`: from 1 to 128, as without it).
"""

import argparse
import random
import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.simulated_servers import FAMILIES, judged_levels

from tuner.search.early import busiest_first, cannot_win
from tuner.search.spec import TuneSpec

LEVELS = [1, 2, 4, 8, 16, 32, 64, 128]
SPEC = TuneSpec(engine="llamacpp", levels=LEVELS, scenarios=["D(100,100)"])


def value(frame: pd.DataFrame) -> float:
    return frame.loc[frame["verdict"].eq("pass"), "output_throughput"].max()


def levels_run(candidate: pd.DataFrame, best: pd.DataFrame) -> int:
    """How many levels of a candidate are measured before it is ended."""
    passing = best[best["verdict"].eq("pass")]
    best_level = passing.loc[passing["output_throughput"].idxmax(), "concurrency"] if len(passing) else None
    order = [] if "--ascending" in sys.argv else busiest_first(SPEC, best_level).get("levels", [])
    for count in range(1, len(LEVELS)):
        seen = candidate.copy()
        seen.loc[~seen["concurrency"].isin((order or LEVELS)[:count]), ["outcome", "verdict"]] = ["missing", "unknown"]
        if cannot_win(seen, best, SPEC):
            return count
    return len(LEVELS)


def pairs(family: str, number: int, noise: float) -> list[tuple[float, int, int]]:
    """Of pairs of a family: the faster one's gain, the levels that are run of it, and those of the slower one."""
    dice, found = random.Random(family), []
    while len(found) < number:
        curves, limits = [FAMILIES[family](dice) for _ in range(2)], (dice.uniform(0.5, 8), 0.03 * 7 ** dice.random())
        true = [value(judged_levels(curve, LEVELS, *limits)) for curve in curves]
        if not max(true) > 1.02 * min(true):  # NaN too: one of them never meets the SLO
            continue
        slow, fast = (judged_levels(curves[true.index(one)], LEVELS, *limits, noise, dice) for one in sorted(true))
        found.append((max(true) / min(true) - 1, levels_run(fast, slow), levels_run(slow, fast)))
    return found


def row(name: str, results: list[tuple[float, int, int]]) -> str:
    whole = len(LEVELS)
    ended = sum(fast < whole for _, fast, _ in results)
    large = sum(fast < whole for gain, fast, _ in results if gain > 0.3)
    losers = sum(slow < whole for _, _, slow in results) / len(results)
    saved = 1 - sum(slow for _, _, slow in results) / whole / len(results)
    return f"{name:34}{ended:6} of {len(results)} ({large} over +30 %){losers:12.0%}{saved:12.0%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--ascending", action="store_true")
    asked = parser.parse_args()
    print(f"{'':34}{'winners ended':>28}{'losers ended':>14}{'levels saved of losers':>24}")
    for noise in (0.0, 0.03):
        every = {family: pairs(family, asked.pairs // len(FAMILIES), noise) for family in FAMILIES}
        for family, results in every.items():
            print(row(f"{family}, {noise:.0%} noise", results), flush=True)
        print(row(f"all, {noise:.0%} noise", [one for results in every.values() for one in results]), flush=True)


if __name__ == "__main__":
    main()
