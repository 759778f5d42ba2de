"""The load generator's processes end with their owner, whenever it is killed."""

import os
import signal
import subprocess
import sys

import pytest
from support.commands import environment
from support.processes import processes_of, wait_until

from tuner.engines.gguf import tokenizer_folder

pytestmark = pytest.mark.real

OWNER = """
import sys, threading
from pathlib import Path
from tuner.traffic.genai_bench import Bench, Load
load = Load("http://127.0.0.1:9", "none", sys.argv[1], "D(20,8)", 2, max_seconds=300, max_requests=10**9)
with Bench() as bench:
    bench.run(load, Path(sys.argv[2]), threading.Event())
"""


def is_host(process):
    return "tuner.traffic.genai_bench_host" in process.cmdline()


#: what there is at the instant of the kill: the host alone, which imports genai-bench, or the level's child beside it
MOMENTS = {"while it imports": 1, "while it measures": 2}


@pytest.mark.parametrize("hosts", MOMENTS.values(), ids=MOMENTS)
def test_nothing_of_it_outlives_an_owner_that_is_killed(hosts, tiny_gguf, tmp_path):
    folder = tmp_path / "level"
    folder.mkdir()
    command = [sys.executable, "-c", OWNER, str(tokenizer_folder(tiny_gguf)), str(folder)]
    with subprocess.Popen(command, env=environment(tmp_path), start_new_session=True) as owner:
        wait_until(lambda: sum(map(is_host, processes_of(tmp_path))) == hosts, 60)
        os.kill(owner.pid, signal.SIGKILL)
    wait_until(lambda: not processes_of(tmp_path), 5)
