"""Read mutants of every kind of file that we read (20,000 take some twenty minutes of a core).

`fuzz.py [MUTANTS [FIRST]]`: how many, of cheap kinds more than of whole runs, and the number of the first. Each is made
by its kind and number alone, so that this and the tests find the same. A fault is a traceback, a good batch lost, a
number changed without a warning, or more than two seconds of the processor.
"""

import logging
import os
import resource
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.fuzzed import KINDS, SLOWEST, Fuzzed


def read_kind(name: str, count: int, first: int) -> int:
    """Read mutants of a kind, print what they came to; returns how many faults there were."""
    with tempfile.TemporaryDirectory() as place:
        os.environ |= {f"XDG_{what}_HOME": f"{place}/{what}" for what in ("CACHE", "STATE")}
        fuzzed = Fuzzed(name, Path(place))
        mutants = [fuzzed.read(number) for number in range(first, first + count)]
    faults = [one for one in mutants if one.fault or one.seconds > SLOWEST]
    slowest, used = max(mutants, key=lambda one: one.seconds), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(
        f"{name}: {count} mutants, {len(faults)} faults, slowest {slowest.seconds:.2f} s, {used} MB so far", flush=True
    )
    for one in faults[:10]:
        print(f"    {one.number} {one.mutation} ({one.seconds:.2f} s): {one.fault}", flush=True)
    return len(faults)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    mutants, first = [*map(int, sys.argv[1:]), *(20_000, 0)[len(sys.argv) - 1 :]]
    shares = {name: 1 / KINDS[name].cost ** 0.5 for name in KINDS}
    counts = Counter({name: round(mutants * share / sum(shares.values())) for name, share in shares.items()})
    faults = sum(read_kind(name, count, first) for name, count in counts.items())
    print(f"{counts.total()} mutants, {faults} faults")
    sys.exit(bool(faults))
