"""A sweep of 100 levels holds its memory, open files and processes constant (run by hand; about two minutes)."""

import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from tuner.core.run_directory import Experiment
from tuner.engines.gguf import demo_model, tokenizer_folder
from tuner.sweep.spec import make_spec
from tuner.sweep.sweep import run_sweep

FAULTY = Path(__file__).parents[1] / "tests" / "support" / "faulty_server.py"


def holdings():
    """(memory in MB, open files, processes) of this process and all below it."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(p.memory_info().rss for p in family) / 1e6, psutil.Process().num_fds(), len(family)


def main(levels=100):
    """Sweep one level `levels` times, and print what is held meanwhile."""
    asked = {
        "engine": "command",
        "command": [sys.executable, str(FAULTY), "--port", "{port}"],
        "model": "faulty",
        "tokenizer": str(tokenizer_folder(demo_model())),
        "scenarios": ["D(20,8)"],
        "levels": [2],
        "repeats": levels,
        "max_seconds": 5,
        "max_requests": 20,
    }
    with tempfile.TemporaryDirectory() as folder:
        run = Experiment.at(Path(folder) / "run")
        work = threading.Thread(target=run_sweep, args=(make_spec(asked), run))
        work.start()
        shown = 0
        while work.is_alive():
            time.sleep(0.2)
            done = len(list(run.folder.glob("trials/*/batches/*/concurrency-*/batch.json")))
            if done >= shown + levels // 10:
                shown = done
                print(
                    "after {:3d} levels: {:.0f} MB, {} open files, {} processes".format(done, *holdings()), flush=True
                )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
