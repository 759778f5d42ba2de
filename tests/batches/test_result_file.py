"""What is read out of one file, whatever is in it."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.result_files import failure, name, request, result, write

import tuner
from tuner.batches import parsing
from tuner.batches.result_file import Columns, Damage, measure
from tuner.core.metrics import LATENCY_COLUMNS

GOOD = json.dumps(result())

BROKEN = {
    "empty": ("", "truncated"),
    "cut short": (GOOD[: len(GOOD) // 2], "truncated"),
    "only a bracket": ("{", "truncated"),
    "no JSON": ("hello", "unreadable"),
    "two documents": (GOOD + GOOD, "unreadable"),
    "a list": ("[1, 2]", "unreadable"),
    "null": ("null", "unreadable"),
    "other JSON": ('{"name": "package"}', "unreadable"),
    "aggregates that are a list": ('{"aggregated_metrics": []}', "unreadable"),
    "nested too deeply": ('{"a":' * 100_000, "unreadable"),
    "not UTF-8": (b"\xff\xfe{\x00", "unreadable"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_an_outcome_with_a_reason(case):
    content, outcome = BROKEN[case]
    damage = parsing.parse(content if isinstance(content, bytes) else content.encode(), "file.json")
    assert isinstance(damage, Damage)
    assert damage.outcome == outcome
    assert damage.reason.startswith("file.json")


def numbers_of(content):
    file = parsing.parse(json.dumps(content).encode(), "file.json")
    assert not isinstance(file, Damage)
    return measure(Columns(file))


def test_numbers_come_from_the_requests_and_not_from_the_claims():
    claims = {"error_rate": 0, "mean_output_throughput_tokens_per_s": 1e9, "stats": {"ttft": {"p50": 99.0}}}
    content = result([request(0.2), request(0.4), failure(), failure(429)], run_duration=10.0, **claims)
    found = numbers_of(content)
    assert (found.requests, found.completed, found.errors, found.error_rate) == (4, 2, 2, 0.5)
    assert found.output_throughput == pytest.approx(20.0)
    assert found.input_throughput == pytest.approx(20.0)
    assert found.total_throughput == pytest.approx(40.0)
    assert found.request_throughput == pytest.approx(0.2)
    assert found.latencies["ttft_p50"] == pytest.approx(0.3)
    assert found.error_codes == {"429": 1, "503": 1}


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, "0.1", True, [], {}, 10**400])
def test_a_value_that_is_no_latency_is_left_out_and_its_neighbours_stay(value):
    content = result([request(0.1), request(0.3), request(0.2)])
    content["individual_request_metrics"][2]["ttft"] = value
    found = numbers_of(content)
    assert found.completed == 3
    assert found.latencies["ttft_mean"] == pytest.approx(0.2)


def test_where_most_latencies_are_missing_there_is_no_statistic():
    content = result([request(), request(), request()])
    for entry in content["individual_request_metrics"][1:]:
        entry["ttft"] = math.nan
    found = numbers_of(content)
    assert math.isnan(found.latencies["ttft_mean"])
    assert not math.isnan(found.latencies["tpot_mean"])


@pytest.mark.parametrize("code", [503, "rate_limit", 500.5, ["odd"]])
def test_any_error_code_is_a_failure(code):
    assert numbers_of(result([request(), request() | {"error_code": code}])).errors == 1


@pytest.mark.parametrize("entry", [None, 7, "text", []])
def test_what_is_no_request_counts_as_none(entry):
    assert numbers_of(result() | {"individual_request_metrics": [request(), entry]}).requests == 1


def test_seconds_whatever_the_file_says():
    content = result([request(100.0, 10.0)] * 3, run_duration=1.0) | {"_time_unit": "ms"}
    found = numbers_of(content)
    assert found.latencies["ttft_p99"] == pytest.approx(0.1)
    assert found.duration == 1.0  # genai-bench writes durations in seconds always


def test_an_unknown_unit_leaves_the_latencies_unknown():
    found = numbers_of(result() | {"_time_unit": "fortnight"})
    assert math.isnan(found.latencies["ttft_p50"])
    assert found.output_throughput > 0


def test_without_requests_the_aggregates_count():
    content = result([request(0.2)] * 50 + [failure()] * 50)
    del content["individual_request_metrics"]
    found = numbers_of(content)
    assert (found.completed, found.errors, found.error_rate) == (50, 50, 0.5)
    assert found.latencies["ttft_p90"] == pytest.approx(0.2)


def test_a_foreign_file_without_counts_has_unknown_counts():
    found = numbers_of({"aggregated_metrics": {"scenario": "D(1,1)", "num_concurrency": 2, "requests_per_second": 3.0}})
    assert (found.requests, found.completed, found.errors) == (None, None, None)
    assert math.isnan(found.error_rate)


def test_keys_do_not_leave_the_file():
    found = numbers_of(result([failure(401, "Incorrect API key: sk-proj-abcdefgh12345678. Bearer top.secret\nbye")]))
    assert found.first_error == "Incorrect API key: [redacted]. Bearer [redacted] bye"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def spoilt(draw):
    """A good file in which some values were replaced by anything."""
    content = result([request(), failure(), request(0.3)])
    for place in (content, content["aggregated_metrics"], *content["individual_request_metrics"]):
        for key in draw(st.lists(st.sampled_from(sorted(place)), max_size=2)):
            place[key] = draw(json_values)
    return json.dumps(content)


@settings(max_examples=150, deadline=None)
@given(spoilt() | st.binary(max_size=50) | st.text(max_size=50) | json_values.map(json.dumps))
def test_nothing_in_a_file_raises(content):
    file = parsing.parse(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"), "x.json")
    if isinstance(file, Damage):
        return
    found = measure(Columns(file))
    assert found.level is None or found.level > 0
    assert math.isnan(found.error_rate) or found.error_rate >= 0
    assert all(math.isnan(value) or value >= 0 for value in found.latencies.values())


# a TTFT that is no measurement


def batch_of(requests, tmp_path, **changes):
    """The row of a file of these requests, as they stand."""
    content = result(**changes) | {"individual_request_metrics": requests}
    [row] = tuner.load_batches(write(tmp_path / name(), content)).to_dict("records")
    return row


def varied(count=300, **changes):
    return [request(ttft=0.1 + number * 1e-4) | changes for number in range(count)]


NO_MEASUREMENTS = {
    "all the same": [request(ttft=0.1, tpot=0.01 + number * 1e-5) for number in range(300)],
    "all zero": [request(ttft=0.0, tpot=0.01 + number * 1e-5) for number in range(300)],
    "the same where it is known": [request(), request() | {"ttft": None}] * 150,
    "not streamed": [request(ttft=1 + number / 300, tpot=0.0) for number in range(300)],
    "the rest at once": [request(ttft=0.02 + number * 1e-4, tpot=1e-6) for number in range(300)],
    "most not streamed": [request(ttft=1 + number / 300, tpot=0.0 if number % 3 else 0.01) for number in range(300)],
}


@pytest.mark.parametrize("case", NO_MEASUREMENTS)
def test_a_ttft_that_is_no_measurement_is_believed_nowhere(case, tmp_path):
    row = batch_of(NO_MEASUREMENTS[case], tmp_path)
    assert all(math.isnan(row[name]) for name in LATENCY_COLUMNS if not name.startswith("e2e"))
    said = " ".join(row["warnings"])
    assert row["e2e_latency_p50"] > 0 and "TTFT and TPOT are unknown" in said and "left out" not in said
    assert tuner.load_requests(tmp_path)[["ttft", "tpot"]].isna().all(axis=None)
    judged = tuner.judge(tuner.load_batches(tmp_path), {"ttft": {"p90": {"threshold": 9.0}}})
    assert judged["verdict"].tolist() == ["unknown"]


BELIEVED = {
    "streamed": varied(),
    "four requests": [request()] * 4,
    "a queue before few tokens": [request(ttft=20.0 + number / 300, tpot=0.005, outputs=8) for number in range(300)],
    "one token": [request(ttft=0.1 + number * 1e-4, tpot=0.0, outputs=1) for number in range(300)],
    "some at once": [*varied(200), *(request(ttft=0.3 + number / 999, tpot=0.0) for number in range(100))],
}


@pytest.mark.parametrize("case", BELIEVED)
def test_what_may_be_a_measurement_stays(case, tmp_path):
    row = batch_of(BELIEVED[case], tmp_path)
    assert row["ttft_p50"] > 0 and "unknown" not in " ".join(row["warnings"])


STATISTICS = ("mean", "p50", "p90", "p99")


@pytest.mark.parametrize(
    ("ttft", "tpot", "latency", "believed"),
    [
        ([0.1, 0.1, 0.1, 0.1], 0.01, 1.1, False),
        ([1.0, 0.9, 1.2, 1.3], 0.0, 1.0, False),
        ([0.1, 0.09, 0.2, 0.3], 0.01, 1.1, True),
    ],
)
def test_what_a_file_says_of_all_its_requests_is_believed_no_more(ttft, tpot, latency, believed, tmp_path):
    stats = {"ttft": dict(zip(STATISTICS, ttft, strict=True)), "tpot": dict.fromkeys(STATISTICS, tpot)}
    stats["e2e_latency"] = dict.fromkeys(STATISTICS, latency)
    row = batch_of([], tmp_path, stats=stats)
    assert [math.isnan(row[name]) for name in ("ttft_p90", "tpot_p50")] == [not believed] * 2
    assert row["e2e_latency_p50"] == latency
    assert ("TTFT and TPOT are unknown" in " ".join(row["warnings"])) != believed


#: (TTFT, TPOT of the file, e2e latency, tokens) → TPOT
TPOTS = [
    (0.2, None, 0.2004, 5, 0.0001),  # faster than genai-bench's clock
    (0.2, None, 0.2, 1, 0.0),
    (0.2, None, 0.2, 5, math.nan),  # it was not streamed
    (None, None, 0.2, 5, math.nan),
    (0.2, 0.03, 0.3, 5, 0.03),
]


@pytest.mark.parametrize(("ttft", "tpot", "whole", "tokens", "expected"), TPOTS)
def test_a_tpot_that_the_file_leaves_out_is_computed_by_its_definition(ttft, tpot, whole, tokens, expected):
    one = request() | {"ttft": ttft, "tpot": tpot, "e2e_latency": whole, "num_output_tokens": tokens}
    content = result() | {"individual_request_metrics": [*varied(2), one]}
    columns = Columns(parsing.parse(json.dumps(content).encode(), "file"))
    assert columns.latencies["tpot"][-1] == pytest.approx(expected, nan_ok=True)
