"""A running level's last seconds, written by its own process while it runs, summed over all of its processes."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from support import BYTE_TOKENIZER, FAULTY_SERVER
from support.processes import wait_until

from tuner.core.request_log import LIVE_FILE
from tuner.traffic.course import Limits
from tuner.traffic.genai_bench import Bench, Load
from tuner.traffic.live import read_live, remove_live
from tuner.traffic.workload import Workload


@pytest.mark.real
@pytest.mark.parametrize("workers", [1, 2])
def test_what_runs_is_told_while_it_runs_answers_that_have_not_ended_too(workers, tmp_path):
    folder, stop = tmp_path / "level", threading.Event()
    folder.mkdir()
    command = [sys.executable, str(FAULTY_SERVER), "ttft=0.3", "itl=0.05"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
        Bench() as bench,
        ThreadPoolExecutor(1) as pool,
    ):
        url = server.stdout.readline().split()[-1]
        load = Load(
            url, "faulty", "D(20,4000)", Workload(tokenizer=str(BYTE_TOKENIZER)), Limits(4, 120, 10**6), workers
        )
        level = pool.submit(bench.run, load, folder, stop)
        try:  # no answer ends before this does: each takes 200 s
            wait_until(lambda: (live := read_live(folder)) and live.in_flight == 4 and live.ttft, 60)
            wait_until(lambda: read_live(folder).output_throughput > 30, 30)
            live = read_live(folder)
        finally:
            stop.set()
            level.result(30)
            server.kill()
    assert live.ttft >= 0.3 and live.output_throughput <= 4 / 0.05 * 1.5
    assert str(live).endswith(" s, 4 in flight")


def test_nothing_of_it_stays_not_what_was_being_written_either(tmp_path):
    for name in (LIVE_FILE, f".{LIVE_FILE}.0a1b2c3d", "requests.jsonl"):
        (tmp_path / name).write_text("{}")
    remove_live(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["requests.jsonl"]
