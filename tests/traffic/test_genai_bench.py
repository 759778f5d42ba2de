"""The load generator's processes end with their owner, whenever it is killed."""

import os
import signal
import subprocess
import sys

import pytest
from support import BYTE_TOKENIZER
from support.commands import environment
from support.processes import command_of, processes_of, wait_until

from tuner.traffic.genai_bench import Benches

pytestmark = pytest.mark.real

OWNER = """
import sys, threading
from pathlib import Path
from tuner.traffic.course import Limits
from tuner.traffic.genai_bench import Bench, Load
from tuner.traffic.workload import Workload
load = Load("http://127.0.0.1:9", "none", "D(20,8)", Workload(tokenizer=sys.argv[1]), Limits(2, 300, 10**9))
with Bench() as bench:
    bench.run(load, Path(sys.argv[2]), threading.Event())
"""


def is_host(process):
    return "tuner.traffic.genai_bench_host" in command_of(process)


#: what there is at the instant of the kill: the host alone, which imports genai-bench, or the level's child beside it
MOMENTS = {"while it imports": 1, "while it measures": 2}


@pytest.mark.parametrize("hosts", MOMENTS.values(), ids=MOMENTS)
def test_nothing_of_it_outlives_an_owner_that_is_killed(hosts, tmp_path):
    folder = tmp_path / "level"
    folder.mkdir()
    command = [sys.executable, "-c", OWNER, str(BYTE_TOKENIZER), str(folder)]
    with subprocess.Popen(command, env=environment(tmp_path), start_new_session=True) as owner:
        wait_until(lambda: sum(map(is_host, processes_of(tmp_path))) == hosts, 60)
        os.kill(owner.pid, signal.SIGKILL)
    wait_until(lambda: not processes_of(tmp_path), 5)


def test_a_load_generator_is_imported_once_for_those_who_ask_for_the_same():
    same = {"offline": True, "network": {}}
    with Benches() as benches:
        with benches.bench("", **same) as first:
            pass
        with benches.bench("", **same) as second, benches.bench("other", **same) as other:
            assert second is first is not other
        with pytest.raises(ZeroDivisionError), benches.bench("", **same) as broken:
            raise ZeroDivisionError  # nobody knows what it still runs
        with benches.bench("", **same) as fresh:
            assert fresh is not broken
    assert not any(bench.is_ready for bench in (first, other, fresh))
