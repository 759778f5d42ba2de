"""Open loop: requests are due at instants drawn beforehand, and count from then on, whatever the server does."""

import heapq
import itertools
import random
import statistics
import threading
from datetime import UTC, datetime

import httpx
import pytest
from scipy import stats
from support import BYTE_TOKENIZER
from support.processes import running_faulty_server

import tuner
from tuner.core import request_log
from tuner.core.request_log import COMPLETED, NEVER_SENT, LevelRecord, SentRequest
from tuner.traffic.course import Arrivals, Limits
from tuner.traffic.genai_bench import Load
from tuner.traffic.workload import Workload


@pytest.fixture
def measured(bench, tmp_path):
    """Measure a level of a server with these knobs; returns its row, its file's content, and when tokens were sent."""
    folders = (tmp_path / f"level-{number}" for number in itertools.count())

    def measure(*knobs, rate=None, cv=1.0, users=64, seconds=3.0, seed="0", **more):
        (folder := next(folders)).mkdir()
        arrivals = Arrivals(rate, cv, seed) if rate else None
        limits = Limits(users, seconds, 10**6, arrivals=arrivals)
        with running_faulty_server(*knobs) as url:
            load = Load(url, "faulty", "D(20,4)", Workload(tokenizer=str(BYTE_TOKENIZER)), limits, **more)
            ended = bench.run(load, folder, threading.Event())
            sent = httpx.get(f"{url}/sent", trust_env=False).json()
        (row,) = tuner.load_batches(folder).to_dict("records")
        record, requests = request_log.parse((folder / request_log.REQUESTS_FILE).read_bytes())
        return row, record, requests, (sent, ended.workload)

    return measure


def gaps(instants):
    return [later - earlier for earlier, later in itertools.pairwise(instants)]


@pytest.mark.parametrize("rate", [0.5, 3, 200])
def test_gaps_of_a_poisson_process_are_exponential(rate):
    drawn = gaps(itertools.islice(Arrivals(rate, 1.0, "7").instants(), 3001))
    assert stats.kstest(drawn, "expon", args=(0, 1 / rate)).pvalue > 0.05


@pytest.mark.parametrize("cv", [0.0, 0.5, 2.0])
def test_other_gaps_have_the_rate_and_the_variation_that_is_asked_for(cv):
    drawn = gaps(itertools.islice(Arrivals(4.0, cv, "7").instants(), 20_001))
    assert statistics.mean(drawn) == pytest.approx(1 / 4, rel=0.05)
    assert statistics.stdev(drawn) == pytest.approx(cv / 4, rel=0.05, abs=1e-9)


def test_what_is_due_is_numbered_from_the_start_of_the_level():
    arrivals = Arrivals(10.0, 0.0, "0")
    assert arrivals.due(5.0, 5.15, 5.45) == pytest.approx({3: 5.2, 4: 5.3, 5: 5.4})


@pytest.mark.real
@pytest.mark.xdist_group("streams")
class TestMeasured:
    def test_a_stall_of_the_server_is_in_the_latency_of_all_that_was_due_in_it(self, measured):
        stall = ("stalls_after=2", "stalls=1.5", "ttft=0.01")
        row, _, requests, (sent, _) = measured(*stall, rate=20.0, seconds=5.0)
        ended = max(range(1, len(sent)), key=lambda number: sent[number] - sent[number - 1])
        waited = [one for one in requests if sent[ended - 1] + 0.02 < one.scheduled < sent[ended]]
        assert sent[ended] - sent[ended - 1] > 1 and len(waited) > 10
        assert all(one.first_token - one.scheduled >= sent[ended] - one.scheduled for one in waited)
        assert row["ttft_p90"] > 0.5 and row["request_rate"] == 20.0
        closed, *_ = measured(*stall, users=2, seconds=5.0)
        assert closed["ttft_p90"] < 0.2 and closed["completed"] > row["completed"]

    def test_the_same_seed_sends_the_same_requests_at_the_same_instants(self, measured):
        runs = [measured(rate=30.0, seconds=1.0, seed=seed) for seed in ("1", "1", "2")]
        instants = [sorted(round(one.scheduled - run[1].start, 6) for one in run[2]) for run in runs]
        fewest = min(map(len, instants))
        assert fewest > 20 and instants[0][:fewest] == instants[1][:fewest] != instants[2][:fewest]
        assert runs[0][3][1] == runs[1][3][1]

    def test_everything_that_was_due_is_in_the_file_also_what_could_not_be_sent(self, measured):
        row, record, requests, _ = measured("ttft=0.2", rate=20.0, users=2, seconds=3.0)
        due = record_due(record, "0")
        assert {one.number: one.scheduled for one in requests if record.spans(one.scheduled)} == pytest.approx(due)
        counts = {status: sum(one.status == status for one in requests) for status in (COMPLETED, NEVER_SENT)}
        assert counts[COMPLETED] and counts[NEVER_SENT]
        assert row["requests"] == len(due) and row["errors"] == len(due) - row["completed"] > 0
        warnings = " ".join(row["warnings"])
        assert "never sent" in warnings and "max_in_flight" in warnings and "waited in the client" in warnings
        table = tuner.load_requests(row["run_folder"])
        assert set(table["status"]) >= {COMPLETED, NEVER_SENT} and table["request_rate"].eq(20.0).all()
        slo = {"ttft": {"p90": {"threshold": 10.0}}}
        assert tuner.judge(tuner.load_batches(row["run_folder"]), slo)["verdict"].tolist() == ["fail"]

    def test_failures_and_what_hangs_have_their_cause(self, measured):
        row, record, requests, _ = measured("error_every=5", "hang_every=7", rate=20.0, seconds=1.0)
        due = record_due(record, "0")
        within = [one for one in requests if record.spans(one.scheduled)]
        assert {one.number for one in within} == {*due} and row["requests"] == len(due)
        assert {one.error_code for one in within if one.status == "failed"} == {429}
        hanging = sum(one.status == "in flight" for one in within)
        assert hanging and f"{hanging} requests" in " ".join(row["warnings"])
        assert row["errors"] == hanging + sum(one.status == "failed" for one in within)

    @pytest.mark.parametrize("workers", [0, 2])
    def test_the_load_arrives_at_the_rate_whatever_the_number_of_processes(self, measured, workers):
        row, _, requests, _ = measured(rate=40.0, cv=0.0, seconds=2.0, workers=workers)
        assert sorted(one.number for one in requests)[:80] == [*range(1, 81)]
        assert row["request_throughput"] == pytest.approx(40, rel=0.05)
        assert len({one.worker for one in requests}) == max(workers, 1)


def record_due(record, seed):
    """What was due in the window of a level, by its record."""
    return Arrivals(record.rate, record.cv, seed).due(record.start, record.begin, record.end)


def logged(folder, late, places, taking=0.3):
    """Lag and warnings of a rate of 10/s whose requests go out `late` by so many seconds once they have a place."""
    free, sent = [0.0] * places, []
    for number in range(200):
        due = 100 + number / 10
        at = max(due, heapq.heappop(free)) + late
        heapq.heappush(free, at + taking)
        sent.append(
            SentRequest(number=number + 1, scheduled=due, sent=at, first_token=at + taking / 3, end=at + taking)
        )
    when = {"start": 100, "begin": 101, "end": 120, "monotonic": 0, "utc": datetime(2026, 11, 26, tzinfo=UTC)}
    level = LevelRecord(scenario="D(20,4)", rate=10.0, cv=0.0, max_in_flight=places, window="steady", **when)
    folder.mkdir()
    request_log.write(folder / request_log.REQUESTS_FILE, level, sent)
    (row,) = tuner.load_batches(folder).to_dict("records")
    return row["schedule_lag_p99"], " ".join(row["warnings"])


@pytest.mark.parametrize(("late", "places"), [(0.001, 64), (0.06, 64), (0.001, 2), (0.06, 2)])
def test_a_client_that_is_late_is_told_from_a_server_that_has_no_place(tmp_path, late, places):
    lag, warnings = logged(tmp_path / "level", late, places)
    assert lag == pytest.approx(late)
    assert ("the load generator was late (p99 0.06 s" in warnings) == (late > 0.05 and places > 2)
    assert ("waited in the client" in warnings) == (places == 2)


def test_a_seed_draws_the_same_whatever_was_drawn_before():
    random.random()
    first = [list(itertools.islice(Arrivals(2.0, 1.5, "x").instants(), 5)) for _ in range(2)]
    assert first[0] == first[1] and first[0][0] == 0.0
