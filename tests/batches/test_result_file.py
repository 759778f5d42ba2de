"""What is read out of one file, whatever is in it."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.result_files import failure, request, result

from tuner.batches import result_file
from tuner.batches.result_file import Columns, Damage, measure

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
    damage = result_file.parse(content if isinstance(content, bytes) else content.encode(), "file.json")
    assert isinstance(damage, Damage)
    assert damage.outcome == outcome
    assert damage.reason.startswith("file.json")


def numbers_of(content):
    file = result_file.parse(json.dumps(content).encode(), "file.json")
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
    assert found.first_error == "Incorrect API key: ***. Bearer *** bye"


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
    file = result_file.parse(
        content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"), "x.json"
    )
    if isinstance(file, Damage):
        return
    found = measure(Columns(file))
    assert found.level is None or found.level > 0
    assert math.isnan(found.error_rate) or found.error_rate >= 0
    assert all(math.isnan(value) or value >= 0 for value in found.latencies.values())
