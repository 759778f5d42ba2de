"""Kill parts of a sweep and of a search at random instants, resume them, and count what was lost (about 20 minutes).

`kills.py [SWEEPS [SEARCHES [SEED]]]`, 50 and 20 by default. What is killed: the command, its server, the supervisors,
the load generator, all of them together, or two of these; by SIGKILL, SIGTERM or SIGINT.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from tuner.core.files import ASIDE
from tuner.core.records import RUNNING, WAITING
from tuner.core.run_directory import PARTIAL

TESTS = Path(__file__).parents[1] / "tests"
SERVER = TESTS / "support" / "faulty_server.py"
#: what is killed, and the words by which its processes are known
TARGETS = {
    "command": "-m tuner ",
    "server": "faulty_server.py --port",
    "supervisors": "supervisor.py",
    "load generator": "genai_bench_host",
}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
PATIENCE = 30  # seconds after which a process counts as left

ASKED = {
    "engine": "command",
    "command": [sys.executable, str(SERVER), "--port", "{port}", "itl={itl}"],
    "parameters": {"itl": 0.005},
    "model": "faulty",
    "tokenizer": str(TESTS / "data" / "byte-tokenizer"),
    "scenarios": ["D(20,8)"],
    "levels": [1],
    "max_seconds": 1,
    "warmup_requests": 1,
}
SPACE = [round(0.001 + 0.0002 * number, 4) for number in range(200)]
KINDS = {
    "sweep": ASKED | {"repeats": 400},
    "tune": ASKED | {"space": {"itl": SPACE}, "trials": 190, "sampler": "random", "confirm": 0, "early_stop": False},
}


def family(folder):
    """(words, process) of everything that runs below `folder`."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("TMPDIR") == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append((" ".join(process.cmdline()) + " ", process))
    return found


def results(run):
    """What must not change any more: every level that has ended, and every trial that has."""
    sidecars = {path: path.read_bytes() for path in run.glob("trials/*/batches/*/concurrency-*/batch.json")}
    ended = {path for path, content in sidecars.items() if json.loads(content)["outcome"] == "completed"}
    notes = {path: path.read_bytes() for path in run.glob("trials/*/search.json")}
    settled = {path for path, note in notes.items() if json.loads(note)["state"] not in (RUNNING, WAITING)}
    return {path: (sidecars | notes)[path] for path in ended | settled if not path.parent.name.endswith(PARTIAL)}


def kill(folder, dice):
    """Kill a random target, or two, by a random signal; returns what and how."""
    chosen = dice.choice([*([name] for name in TARGETS), dice.sample(list(TARGETS), 2), list(TARGETS)])
    number = dice.choice(SIGNALS)
    for words, process in family(folder):
        if any(TARGETS[name] in words for name in chosen):
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)
    return f"{'all' if len(chosen) > 2 else ' + '.join(sorted(chosen))} {number.name}"


def wait_for_level(folder, command):
    """Wait until a level of this command runs: one that was cut off before left its log as well."""
    began, logs = time.time(), "runs/*/trials/*/batches/*/*.part/genai_bench.log"
    while command.poll() is None and not any(path.stat().st_mtime > began for path in folder.glob(logs)):
        time.sleep(0.1)


def start(kind, folder):
    """Start what is asked for, or resume it."""
    run = next(folder.glob("runs/*"), None)
    words = ["--resume", str(run)] if run else [str(folder / "asked.json")]
    environment = os.environ | {"TMPDIR": str(folder), "PYTHONPATH": str(TESTS.parent)}
    return subprocess.Popen(
        [sys.executable, "-m", "tuner", kind, *words],
        **{"cwd": folder, "env": environment, "start_new_session": True, "stdin": subprocess.DEVNULL},
        **{"stdout": (folder / "out").open("a"), "stderr": subprocess.STDOUT},
    )


def one_round(kind, folder, dice):
    """Start or resume, kill, and see what is left; returns (what was killed, seconds until all was gone)."""
    command = start(kind, folder)
    if dice.random() < 0.75:  # in the middle of its work; else while it begins
        wait_for_level(folder, command)
    time.sleep(dice.uniform(0, 5))
    what = kill(folder, dice)
    with contextlib.suppress(subprocess.TimeoutExpired):
        command.wait(2)
    if command.poll() is None and "command" not in what and "all" not in what:
        command.kill()  # it goes on without what was killed, as it should
    began = time.monotonic()
    while family(folder) and time.monotonic() - began < PATIENCE:
        time.sleep(0.1)
    with contextlib.suppress(subprocess.TimeoutExpired):
        command.wait(1)
    return what, time.monotonic() - began


def attack(kind, kills, dice):
    """Kill `kills` times and print what came of it."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "asked.json").write_text(json.dumps(KINDS[kind]))
        seen, count, longest = {}, Counter(), 0.0
        for _ in range(kills):
            what, seconds = one_round(kind, folder, dice)
            longest = max(longest, seconds)
            run = next(folder.glob("runs/*"), folder / "none")
            now = results(run)
            count["results lost"] += len(seen.keys() - now.keys())
            count["results changed"] += sum(now[path] != seen[path] for path in seen.keys() & now.keys())
            count["processes left"] += len(left := family(folder))
            records = {path.parent.name: json.loads(path.read_bytes()) for path in run.glob("trials/*/server.json")}
            said = [f"{name} {one['state']}" for name, one in records.items() if one["state"] in ("starting", "ready")]
            count["servers said to run"] += len(said)
            count["temporary files left"] += len(temporary := list(folder.glob("tuner-*")))
            seen |= now
            print(
                f"{kind}: {what}: {len(now)} results, all gone after {seconds:.1f} s",
                *left,
                *temporary,
                *said,
                flush=True,
            )
        time.sleep(6)  # after which what was aside is old
        command = start(kind, folder)
        while command.poll() is None and len(results(run)) == len(seen):
            time.sleep(0.2)
        command.terminate()
        command.wait(60)
        count["added by the last resume"] = len(results(run).keys() - seen.keys())
        printed = (folder / "out").read_text()
        count["tracebacks"] = printed.count("Traceback")
        if count["tracebacks"]:
            print(printed[printed.index("Traceback") :][:5000])
        asides = [path for path in folder.rglob(".*") if ASIDE.fullmatch(path.name)]
        print(f"{kind}: {kills} kills, {len(seen)} results, gone after at most {longest:.1f} s;", end=" ")
        print(", ".join(f"{name}: {number}" for name, number in count.items()), f"files aside: {len(asides)}", sep=", ")


if __name__ == "__main__":
    sweeps, searches, seed = [*map(int, sys.argv[1:]), *(50, 20, 0)[len(sys.argv) - 1 :]]
    for kind, kills in (("sweep", sweeps), ("tune", searches)):
        if kills:
            attack(kind, kills, random.Random(seed))
