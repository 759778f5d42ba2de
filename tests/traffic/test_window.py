"""The steady part of a level is judged: no burst, nothing cut off at the end, the tokens that really came."""

import os
import threading

import httpx
import pandas as pd
import pytest
from support.processes import running_faulty_server

import tuner
from tuner.core import request_log
from tuner.traffic.course import Limits, SharedCount
from tuner.traffic.genai_bench import Load
from tuner.traffic.prompt_file import Request
from tuner.traffic.workload import Workload

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("streams")]


@pytest.fixture
def measured(bench, tmp_path):
    """Measure a level of a server with these knobs; returns its row, its file's content, and when tokens were sent."""

    def measure(level, *knobs, tokens=20, seconds=5.0, window=request_log.STEADY, workers=1, **more):
        folder = tmp_path / f"level-{level}-{window}"
        folder.mkdir()
        workload = Workload(requests=(Request([[{"role": "user", "content": "hello"}]], tokens),))
        limits = Limits(level, seconds, 10**6, window=window, **more)
        with running_faulty_server(*knobs) as url:
            load = Load(url, "faulty", f"D(20,{tokens})", workload, limits, workers)
            assert bench.run(load, folder, threading.Event()).exit_code == 0
            sent = httpx.get(f"{url}/sent", trust_env=False).json()
        return tuner.load_batches(folder), request_log.parse((folder / request_log.REQUESTS_FILE).read_bytes()), sent

    return measure


PREFILLS = ("prefill=0.04", "ttft=0", "itl=0.075")
SLO = {"ttft": {"p90": {"threshold": 0.3}}}


def test_the_burst_of_prefills_decides_nothing_but_where_it_is_asked_for(measured):
    verdicts, levels, truth = [], [], 0.0
    for level, window in ((4, "steady"), (16, "steady"), (16, "whole")):
        batches, (record, requests), sent = measured(level, *PREFILLS, window=window)
        judged = tuner.judge(batches, SLO)
        (row,) = judged.to_dict("records")
        verdicts.append((level, record.window, row["verdict"]))
        if window == "steady":
            levels.append(judged)
            truth = sum(map(record.spans, sent)) / (record.end - record.begin)  # by the server, last of 16
        assert row["burst_ttft_p90"] >= 0.9 * level * 0.04
        counted = [request for request in requests if record.begin <= request.sent <= record.end]
        assert window == "whole" or len(counted) == row["requests"]
        assert min(request.number for request in counted) == (2 if window == "steady" else 1)
    assert verdicts == [(4, "steady", "pass"), (16, "steady", "pass"), (16, "whole", "fail")]
    summary = tuner.summarize(pd.concat(levels, ignore_index=True))
    assert summary.best_level == 16 and summary.max_throughput == pytest.approx(truth, rel=0.05)


def test_answers_of_any_length_count_and_the_throughput_is_the_servers(measured):
    level, lengths = 16, ("shortest=2", "longest=300")
    batches, (record, requests), sent = measured(level, *lengths, "itl=0.01", "ttft=0.01", tokens=300, seconds=8.0)
    (row,) = batches.to_dict("records")
    counted = [request for request in requests if record.begin <= request.sent <= record.end]
    assert {request.status for request in counted} == {request_log.COMPLETED}
    assert row["completed"] == len(counted)
    assert sum(request.output_tokens for request in counted) / len(counted) == pytest.approx((2 + 300) / 2, rel=0.03)
    span = record.end - record.begin
    truth = sum(record.begin <= instant < record.end for instant in sent) / span
    assert row["output_throughput"] == pytest.approx(truth, rel=0.02)


def test_what_hangs_is_in_flight_at_the_end_and_the_row_says_so(measured):
    batches, (record, requests), _ = measured(2, "hang_every=6", seconds=1.0)
    assert {request.status for request in requests} == {request_log.COMPLETED, request_log.IN_FLIGHT}
    assert record.window == request_log.STEADY
    assert "had not ended when the level did" in " ".join(batches["warnings"].iloc[0])


def test_a_level_without_a_request_in_its_window_is_judged_whole_and_says_so(measured):
    batches, (record, _), _ = measured(1, "hang_every=2", seconds=1.0)
    assert record.window == request_log.WHOLE
    assert batches["completed"].tolist() == [1]
    assert "no request was sent in the window and ended" in " ".join(batches["warnings"].iloc[0])


def test_a_level_is_extended_where_not_even_its_first_request_has_ended(measured):
    batches, (record, _), _ = measured(2, "ttft=1.5", seconds=1.0, extend_to=8.0, enough=2)
    assert batches["outcome"].tolist() == ["completed"] and batches["completed"].iloc[0] >= 2
    assert record.window == request_log.STEADY


def test_workers_share_a_level(measured):
    batches, (_, requests), _ = measured(4, "itl=0.01", seconds=1.0, workers=2)
    assert batches["outcome"].tolist() == ["completed"] and batches["completed"].iloc[0] > 4
    assert len({(request.worker, request.user) for request in requests}) == 4
    assert sum(request.number == 1 for request in requests) == 4


def test_each_place_of_the_workload_is_taken_once_by_whichever_worker():
    places, reader_writer = SharedCount(), os.pipe()
    workers = []
    for _ in range(4):
        if not (worker := os.fork()):
            for _ in range(100):
                os.write(reader_writer[1], next(places).to_bytes(2, "big"))
            os._exit(0)
        workers.append(worker)
    ended = [os.waitpid(worker, 0)[1] for worker in workers]  # and for no child that another test left
    taken = os.read(reader_writer[0], 1 << 16)
    assert ended == [0] * 4
    assert sorted(int.from_bytes(taken[at : at + 2], "big") for at in range(0, len(taken), 2)) == [*range(400)]
