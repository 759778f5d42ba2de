"""How many trials a search needs to come within 5 % of the best that is known, by sampler, on modelled servers.

Run it by hand: `python benchmarks/search_efficiency.py [--seeds 50] [--samplers random,climb,…] [--unnamed]`; minutes.
No server is started: `tests/support/simulated_servers.py` models five, each trial with 3 % noise; grid visits the space
in a random order; `climb+` begins with what a sweep of the baseline proposes (the `first` of its `search.yaml`). The
baseline names every parameter; `--unnamed` none, and the engine's class knows the defaults but those that depend on the
machine.
A search has come near when the configuration that it would name, by its noisy trials, truly is within 5 %.
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.simulated_servers import LEVELS, SURFACES, UNNAMED, Surface

from tuner.core.bottleneck import KV_CACHE, SEQUENCES
from tuner.search.samplers import Observation, Sampler, make
from tuner.sweep.proposals import propose
from tuner.sweep.spec import make_spec

WITHIN = 0.05


class ShuffledGrid:
    """The grid in a random order: its own would say how the space happens to be written down."""

    def __init__(self, surface: Surface, seed: int) -> None:
        self.points = list(surface.space.grid())
        random.Random(seed).shuffle(self.points)

    def next(self, seen: list[Observation]) -> dict:
        return self.points[len(seen) % len(self.points)]


def proposed(surface: Surface) -> list[dict]:
    """What a sweep of the baseline proposes: more of what holds requests back, as near as the space has it."""
    model, dimensions = surface.model, {one.name: one for one in surface.space.dimensions}
    slots, room = model.caps(model.start)
    if LEVELS[model.measure(model.start).above] <= min(slots, room):
        return []  # no request waits where it stops
    spec = make_spec({"engine": model.engine, "model": "m", "parameters": model.start})
    proposals = propose(spec, SEQUENCES if slots <= room else KV_CACHE, "")
    steps = [one for proposal in proposals for one in proposal.parameters.items()]
    near = [model.start | {name: dimensions[name].stand_in(value)} for name, value in steps]
    return [point for point in near if point != model.start and surface.space.allows(point)]


def trials_needed(
    surface: Surface, sampler: Sampler | ShuffledGrid, seed: int, most: int, first: Sequence[dict] = ()
) -> int:
    """Trials until the best by measurement is truly near the best known; `most` where it never is."""
    dice = random.Random(f"{surface} {seed}")
    point, seen, best = surface.space.point_of(surface.space.fixed), [], 0.0
    begin = iter(first)
    while len(seen) < most:
        outcome = surface.measure(point, dice)
        values = (outcome.value,) if outcome.state == "complete" else ()
        seen.append(Observation(point, outcome.state, values, outcome.penalty))
        if values and values[0] > best:
            best = values[0]
            if surface.true(point) >= (1 - WITHIN) * surface.best:
                break
        point = next(begin, None) or sampler.next(seen)
    return len(seen)


def row(name: str, surface: Surface, seeds: int, most: int) -> list[int]:
    name, is_told = name.removesuffix("+"), name.endswith("+")
    first = proposed(surface) if is_told else []

    def sampler(seed: int) -> Sampler | ShuffledGrid:
        return ShuffledGrid(surface, seed) if name == "grid" else make(name, surface.space, ["max_throughput"], seed)

    return sorted(trials_needed(surface, sampler(seed), seed, most, first) for seed in range(seeds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--samplers", default="random,grid,tpe,climb,climb+", help="+: a sweep's proposals first")
    parser.add_argument("--unnamed", action="store_true", help="the baseline names no parameter")
    parser.add_argument("--most", type=int, default=100, help="trials of the samplers that learn")
    asked = parser.parse_args()
    names = asked.samplers.split(",")
    print(f"{asked.seeds} seeds: median trials (nine of ten searches need at most)")
    print(f"{'':24}{'configurations':>15}{'near best':>11}" + "".join(f"{name:>14}" for name in names))
    started = time.monotonic()
    for surface in UNNAMED if asked.unnamed else SURFACES:
        cells = []
        for name in names:
            most = 1000 if name in ("random", "grid") else asked.most
            needed = row(name, surface, asked.seeds, most)
            often = needed[int(0.9 * len(needed))]
            cells.append(f"{statistics.median(needed):.0f} ({'>' if often >= most else ''}{often})")
        share = f"{100 * surface.share():.1f} %"
        print(
            f"{surface!s:24}{len(surface.truths):15}{share:>11}" + "".join(f"{cell:>14}" for cell in cells), flush=True
        )
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
