"""How fast a history of many runs is loaded, judged and plotted, from its index and without it.

Run it by hand: `python benchmarks/history.py` (`--runs 20` for fewer, `--keep FOLDER` to write the runs there once and
use them again). Weeks of runs as tuner makes them, ten levels each with 300 requests. Each figure is the wall time of a
process of its own, from its start to its end, imports included: `load_batches`, `judge`, `summarize`,
throughput versus latency, and the trend. Both sides read the same files, which the page cache holds.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from loading import LEVELS, write_level

from tuner import timestamps
from tuner.experiment import Experiment, Sidecar, TrialFacts

ROUNDS = 5
START = datetime(2026, 9, 1, 4, tzinfo=UTC)

#: What a person does with a history; with `aside` first, nothing that is kept can be used.
WORK = """
import sys
import tuner
from tuner import figures
if sys.argv[2] == "without":
    from tuner import index
    index.SCHEMA = -1
    index.WORTH_KEEPING = float("inf")
batches = tuner.load_batches(sys.argv[1])
judged = tuner.judge(batches, {"ttft": {"p90": {"threshold": 0.3}}, "tpot": {"p95": {"threshold": 0.04}}})
summary = tuner.summarize(judged)
shown = [figures.throughput_vs_latency(judged).to_json(), figures.trend(judged).to_json()]
print(len(judged), summary.max_throughput, *map(len, shown))
"""


def write_run(runs: Path, number: int, requests: int) -> None:
    """One night's sweep of the first ten of `LEVELS`, with what tuner records besides genai-bench's files."""
    began = START + timedelta(hours=9 * number)
    experiment = Experiment.at(runs / f"{timestamps.to_stamp(began)}-sweep-nightly")
    trial = experiment.trial(1)
    version = f"0.{30 + number // 60}.0"
    levels = list(LEVELS[:10])
    asked = TrialFacts(trial=1, engine="vllm", model="m", scenarios=["D(100,100)"], levels=levels)
    put(trial.facts_file, asked)
    server = {"state": "stopped", "engine": "vllm", "model": "m", "served_name": "m", "base_url": "http://127.0.0.1:1"}
    put(trial.server_file, server | {"parameters": {"max_num_seqs": 128 + number // 90}, "gpus": ["GPU-1"]})
    for place, level in enumerate(levels):
        folder = trial.batch_folder("D(100,100)", level)
        folder.mkdir(parents=True)
        write_level(folder, level, requests, seed=number)
        times = [timestamps.to_text(began + timedelta(minutes=place + end)) for end in (0, 1)]
        sidecar = Sidecar(scenario="D(100,100)", concurrency=level, outcome="completed", exit_code=0)
        sidecar.started_at, sidecar.finished_at = times
        put(folder / "batch.json", sidecar)
    facts = {"kind": "sweep", "name": "nightly", "state": "done", "started_at": timestamps.to_text(began)}
    put(experiment.folder / "experiment.json", facts | {"versions": {"python": "3.12.1", "vllm": version}})


def put(path: Path, value: object) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value)))


def seconds_of(runs: Path, how: str) -> float:
    """The best of several processes."""
    found = []
    for _ in range(ROUNDS if how == "with" else 2):
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", WORK, runs, how], check=True, capture_output=True, text=True)
        found.append(time.perf_counter() - started)
        print(f"  {how} the index: {found[-1]:.2f} s  ({done.stdout.strip()})", file=sys.stderr)
    return min(found)


def main() -> None:
    """Make the runs, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--keep", type=Path, help="a folder for the runs")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        runs = asked.keep or Path(place) / "runs"
        for number in range(0 if runs.exists() else asked.runs):
            write_run(runs, number, asked.requests)
        megabytes = sum(path.stat().st_size for path in runs.rglob("*.json")) / 1e6
        without, seconds = seconds_of(runs, "without"), seconds_of(runs, "with")
    print(json.dumps({"runs": asked.runs, "levels": 10, "MB": round(megabytes)}))
    print(f"without the index {without:.2f} s, from it {seconds:.2f} s: {without / seconds:.1f} times as fast")


if __name__ == "__main__":
    main()
