"""How fast a history of many runs is loaded, judged and plotted.

Run it by hand: `python benchmarks/history.py` (`--runs 20` for fewer, `--keep FOLDER` to write the runs there once and
use them again). Months of runs as tuner makes them, five levels of 100 requests each; of longer ones with `--levels 10
--requests 300`. Each figure is the best of several processes, in seconds of the processor: imports; loading; and all
of judging, summary, throughput versus latency, trend. The page cache holds the files.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from loading import LEVELS, write_level

from tuner.core import timestamps
from tuner.core.records import Sidecar, TrialFacts
from tuner.core.run_directory import Experiment

ROUNDS = 3
START = datetime(2026, 9, 1, 4, tzinfo=UTC)

#: What a person does with a history; it prints the seconds of the processor for each step, and what came out.
WORK = """
import sys, time
from pathlib import Path
from tuner import figures, load_batches
from tuner.report.results import read_results
from tuner.judging.verdicts import SLO
spent = [time.process_time()]
load_batches(sys.argv[1])
spent.append(time.process_time())
slo = SLO.parse({"ttft": {"p90": {"threshold": 0.3}}, "tpot": {"p95": {"threshold": 0.04}}})
results = read_results(Path(sys.argv[1]), slo=slo)
shown = [figures.throughput_vs_latency(results.judged), figures.trend(results.judged, results.runs)]
size = sum(len(figure.to_json()) for figure in shown)
spent.append(time.process_time())
print(spent[0], spent[1] - spent[0], spent[2] - spent[1], len(results.judged), results.summary.max_throughput, size)
"""


def write_run(runs: Path, number: int, count: int, requests: int) -> None:
    """One night's sweep of the first `count` of `LEVELS`, with what tuner records besides genai-bench's files."""
    began = START + timedelta(hours=9 * number)
    experiment = Experiment.at(runs / f"{timestamps.to_stamp(began)}-sweep-nightly")
    trial = experiment.trial(1)
    version = f"0.{30 + number // 60}.0"
    levels = list(LEVELS[:count])
    asked = TrialFacts(trial=1, engine="vllm", model="m", scenarios=["D(100,100)"], levels=levels)
    put(trial.folder / TrialFacts.FILE, asked)
    server = {"state": "stopped", "engine": "vllm", "model": "m", "served_name": "m", "base_url": "http://127.0.0.1:1"}
    put(trial.folder / "server.json", server | {"parameters": {"max_num_seqs": 128 + number // 90}, "gpus": ["GPU-1"]})
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


def measured(runs: Path) -> tuple[list[float], str]:
    """Seconds of imports, loading and the rest, the best of several processes each, and what came out."""
    rounds = []
    for _ in range(ROUNDS):
        done = subprocess.run(
            [sys.executable, "-c", WORK, runs], check=True, capture_output=True, text=True, env=_environment()
        )
        rounds.append(done.stdout.split())
    return [min(float(words[step]) for words in rounds) for step in range(3)], rounds[0][3]


def main() -> None:
    """Make the runs, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--levels", type=int, default=5)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--keep", type=Path, help="a folder for the runs")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        runs = asked.keep or Path(place) / "runs"
        for number in range(0 if runs.exists() else asked.runs):
            write_run(runs, number, asked.levels, asked.requests)
        megabytes = sum(path.stat().st_size for path in runs.rglob("*.json")) / 1e6
        seconds, batches = measured(runs)
    print(f"{asked.runs} runs, {batches} batches, {megabytes:.0f} MB")
    for step, used in zip(("imports", "loading", "reading again, judging, figures"), seconds, strict=True):
        print(f"{step:<32}{used:6.2f} s of one core")


def _environment() -> dict[str, str]:
    """Ours, but Python may keep what it compiles, as it does unless somebody forbids it."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


if __name__ == "__main__":
    main()
