"""How often `compare` calls equal things different, and how often it finds a true change of 10 % and of 25 %.

Run it by hand: `python benchmarks/differences.py [--comparisons 500] [--real] [--engine]`; some minutes. Runs are
simulated: one speed a run, which all its levels and metrics share, and 1 % noise of each row beside it; one run a side
is not judged. What is called different where the sides are equal is a false alarm. The machine may drift, a random walk
whose steps are half the noise, the baseline's runs first or both sides' in turn; or the candidate varies twice as much.
With `--real`, samples of 300 requests a level are drawn, in blocks of neighbours, from the same real batches
(tests/data/samples). With `--engine` the embedded engine is measured again and again as well, and its runs are compared
with each other: there is nothing to find but what the machine does from run to run.
"""

import argparse
import itertools
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

import tuner
from tuner.judging.comparison import METRICS, compare
from tuner.judging.estimates import Estimate, adjust_p_values, difference

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.resampled import SERVERS, real, side

REQUESTS = 300
NOISES, RUNS, ROW_NOISE = (0.02, 0.04, 0.08), (2, 3, 4, 5), 0.01
#: levels by metrics that show a run's speed
ROWS = 4 * sum(not name.endswith(("_rate", "attainment")) for name in METRICS)
#: what each column of the table simulates: (candidate slower by, drift, its noise in that of the baseline)
CELLS = {
    "equal": (0.0, "", 1),
    "10 %": (0.1, "", 1),
    "25 %": (0.25, "", 1),
    "equal, drift": (0.0, "one side first", 1),
    "equal, drift, in turn": (0.0, "in turn", 1),
    "10 %, drift, in turn": (0.1, "in turn", 1),
    "equal, one twice as noisy": (0.0, "", 2),
}
FASTEST = ("e2e_latency_mean", "output_throughput")


def simulated(dice, runs, noise, cell):
    """Whether anything is called different between two sides of so many simulated runs."""
    slower, drift, ratio = cell
    speeds = dice.normal(0, noise, 2 * runs) * np.repeat([1, ratio], runs) + np.repeat([0, np.log1p(slower)], runs)
    if drift:
        walk = np.cumsum(dice.normal(0, noise / 2, 2 * runs))
        speeds += walk if drift == "one side first" else np.concatenate([walk[::2], walk[1::2]])
    values = np.exp(speeds[:, None] + dice.normal(0, ROW_NOISE, (2 * runs, ROWS)))
    names = tuple(map(str, range(runs)))
    rows = [difference(*(Estimate(side, runs=names) for side in np.split(row, 2))) for row in values.T]
    p_values = np.array([one.p_value(0.0) for one in rows])
    return bool((adjust_p_values(rows, p_values, 0.95)[0] < 0.05).any())


def table(comparisons):
    """A line for each noise and number of runs: in which share of comparisons anything is called different."""
    print("noise", "runs", *CELLS, sep=" | ")
    for noise, runs in itertools.product(NOISES, RUNS):
        dice = np.random.default_rng(3)
        cells = [np.mean([simulated(dice, runs, noise, cell) for _ in range(comparisons)]) for cell in CELLS.values()]
        print(f"{noise:.0%}", runs, *(f"{share:.1%}" for share in cells), sep=" | ", flush=True)


def called(baseline, candidate, tolerance=0.0):
    """The metrics that are called different."""
    found = compare(baseline, candidate, tolerance).differences
    return found[found["verdict"].isin(["better", "worse"])]["metric"].tolist()


def drawn(name, comparisons, factor, runs, folder):
    """(share of comparisons in which anything is called different, share in which each metric is)."""
    dice, levels, found = np.random.default_rng(1), real(name), []
    for number in range(comparisons):
        one, other = (
            side(folder / f"{name} {factor} {runs} {number} {which}", levels, REQUESTS, dice, share, runs)
            for which, share in enumerate((1.0, factor))
        )
        found.append(set(called(one, other)))
    counts = Counter(metric for metrics in found for metric in metrics)
    return np.mean([bool(metrics) for metrics in found]), {name: counts[name] / comparisons for name in FASTEST}


def engine_runs(folder, repeats):
    """The same level of the embedded engine, again and again, judged."""
    from support.tiny_gguf import write_tiny_gguf

    from tuner.core.run_directory import Experiment
    from tuner.engines.gguf import tokenizer_folder
    from tuner.sweep.spec import make_spec
    from tuner.sweep.sweep import run_sweep

    model = write_tiny_gguf(folder / "tiny.gguf")
    asked = {"engine": "llamacpp", "model": str(model), "tokenizer": str(tokenizer_folder(model)), "levels": [4]}
    asked |= {"repeats": repeats, "scenarios": ["D(60,32)"], "max_seconds": 30, "max_requests": REQUESTS}
    run_sweep(make_spec(asked), Experiment.at(folder / "run"))
    return tuner.judge(tuner.load_batches(folder / "run"), {})


def between_runs(batches, runs, most=120):
    """The share of comparisons of `runs` runs with as many others in which anything is called different."""
    dice, found = np.random.default_rng(2), []
    for _ in range(most):
        chosen = dice.permutation(len(batches))
        found.append(called(batches.iloc[chosen[:runs]], batches.iloc[chosen[runs : 2 * runs]]))
    return np.mean([bool(metrics) for metrics in found])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comparisons", type=int, default=500)
    parser.add_argument("--real", action="store_true", help="draw from real batches too")
    parser.add_argument("--engine", action="store_true", help="measure the embedded engine too")
    parser.add_argument("--repeats", type=int, default=16, help="how often")
    given = parser.parse_args()
    table(given.comparisons)
    with tempfile.TemporaryDirectory() as folder:
        for name, factor, runs in itertools.product(SERVERS if given.real else (), (1.0, 1.1), (2, 3)):
            share, each = drawn(name, given.comparisons, factor, runs, Path(folder))
            what = "equal, called different" if factor == 1 else "10 % slower, found"
            told = ", ".join(f"{metric} {found:.1%}" for metric, found in each.items())
            print(f"{name:20} {runs} runs a side, {what:26} {share:6.1%} of {given.comparisons} ({told})", flush=True)
        if given.engine:
            batches = engine_runs(Path(folder), given.repeats)
            spread = batches["output_throughput"].std() / batches["output_throughput"].mean()
            print(f"the embedded engine, {len(batches)} runs, whose throughput varies by {spread:.1%} from run to run:")
            for runs in (2, 3, 5):
                print(f"{runs} runs a side, called different: {between_runs(batches, runs):6.1%}")


if __name__ == "__main__":
    main()
