"""Wall time of a sweep against bare genai-bench: the same four levels, the same loopback server, in turn.

`python benchmarks/sweep_overhead.py [PAIRS]`. Levels of 5 s for both: bare genai-bench only knows whole minutes, so its
clock is set to seconds, and nothing else of it is touched; it runs all levels in one process, as its users do. `tuner`
runs a process a level, without warm-up, which bare genai-bench does not have. Nor has it what comes before and after
the 5 s that `tuner` judges: the first request of every user, and the end of those in flight, which it drops. Their
seconds, as each level's `requests.jsonl` has them, are taken out of `tuner`'s; the output says how many they were.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tuner.core.request_log import REQUESTS_FILE, parse

LEVELS = (1, 2, 4, 8)
TTFT, ITL, TOKENS = 0.1, 0.01, 20
SECONDS = 5.0
FAULTY = Path(__file__).parents[1] / "tests" / "support" / "faulty_server.py"
OURS = """
import json, pathlib, sys
from tuner.core.run_directory import Experiment
from tuner.sweep.spec import make_spec
from tuner.sweep.sweep import run_sweep
run_sweep(make_spec(json.loads(sys.argv[1])), Experiment.at(pathlib.Path(sys.argv[2])))
"""


def seconds_of(*commands, cwd, **environment):
    """Wall time of commands, one after the other."""
    began = time.monotonic()
    for command in commands:
        subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL, env=os.environ | environment)
    return time.monotonic() - began


def ramp_and_drain(run):
    """Seconds of a run in which a level's first requests came, or its last ones ended: outside of what is judged."""
    total = 0.0
    for path in run.glob(f"trials/*/batches/*/*/{REQUESTS_FILE}"):
        level, requests = parse(path.read_bytes())
        ends = [request.end for request in requests if request.end]
        total += level.begin - min(request.sent for request in requests) + max(*ends, level.end) - level.end
    return total


def bare(url, tokenizer, folder, levels=LEVELS, load=(f"D(20,{TOKENS})", SECONDS)):
    """genai-bench's own command, with levels in seconds; `load` is scenario and seconds."""
    scenario, seconds = load
    options = {
        "api-backend": "vllm",
        "api-base": url,
        "api-key": "none",
        "api-model-name": "faulty",
        "model-tokenizer": tokenizer,
        "task": "text-to-text",
        "max-time-per-run": 1,
        "max-requests-per-run": 10**6,
        "traffic-scenario": scenario,
        "experiment-base-dir": folder,
        "log-dir": folder,
    }
    levels = [part for level in levels for part in ("--num-concurrency", str(level))]
    flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    code = (
        "import sys; from genai_bench.cli import cli; wait = cli.manage_run_time;"
        f"cli.manage_run_time = lambda max_time_per_run, **more: wait(max_time_per_run={seconds:.0f}, **more);"
        "cli.cli(sys.argv[1:])"
    )
    return [sys.executable, "-c", code, "benchmark", *flags, *levels]


def ours(url, tokenizer, folder):
    """The same levels by tuner, attached to the same server."""
    asked = {
        "engine": "attach",
        "base_url": url,
        "tokenizer": tokenizer,
        "scenarios": [f"D(20,{TOKENS})"],
        "levels": list(LEVELS),
        "max_seconds": SECONDS,
        "max_requests": 10**6,
        "warmup_requests": 0,
    }
    return [sys.executable, "-c", OURS, json.dumps(asked), str(folder)]


def main(pairs):
    """Run `pairs` pairs and print each one's ratio and the median."""
    from tuner.engines.gguf import demo_model, tokenizer_folder

    tokenizer, ratios = str(tokenizer_folder(demo_model())), []
    server = [sys.executable, str(FAULTY), f"ttft={TTFT}", f"itl={ITL}"]
    with subprocess.Popen(server, stdout=subprocess.PIPE, text=True) as faulty, tempfile.TemporaryDirectory() as folder:
        url = faulty.stdout.readline().split()[-1]
        quiet = {"ENABLE_UI": "false", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        for pair in range(pairs):
            theirs = seconds_of(bare(url, tokenizer, folder), cwd=folder, **quiet)
            run = Path(folder) / f"run-{pair}"
            mine, around = seconds_of(ours(url, tokenizer, run), cwd=folder), ramp_and_drain(run)
            ratios.append((mine - around) / theirs)
            print(
                f"pair {pair + 1}: genai-bench {theirs:.1f} s, tuner {mine:.1f} s, {around:.1f} s of it ramp and drain;"
                f" ratio without them {ratios[-1]:.2f}",
                flush=True,
            )
        faulty.kill()
    levels = f"{len(LEVELS)} levels of {SECONDS:.0f} s, ramp and drain not counted"
    print(f"median ratio {statistics.median(ratios):.2f} (at most 0.75; {levels})")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
