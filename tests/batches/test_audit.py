"""Each contradiction that a file can hold is said, and a good file says nothing."""

import json
import random

import pytest
from support.result_files import failure, name, request, result, write

import tuner
from tuner.batches import parsing
from tuner.batches._audit import audit, output_tokens_asked
from tuner.batches.result_file import Columns, measure
from tuner.core.metrics import requests_needed


def warnings_of(content):
    file = parsing.parse(json.dumps(content).encode(), "file.json")
    columns = Columns(file)
    return audit(columns, measure(columns))


def without(content, *keys):
    return {key: value for key, value in content.items() if key not in keys}


def one_piece():
    """A request whose answer was not streamed."""
    return request() | {"ttft": 1.0, "e2e_latency": 1.0}


many = [request()] * 300
CASES = {
    "errors hidden by a rate of 0": (result([request()] * 300 + [failure()] * 100), "error rate of 0, but 100 of 400"),
    "survivors": (
        result([request()] * 300 + [failure(429)] * 100),
        "(429 ×100): refused; latencies and throughput are those",
    ),
    "the server's words": (
        result([*many, failure(503, '{"error": "engine is dead"}')]),
        "1 of 301 requests failed, 0% (503 ×1): engine is dead; latencies",
    ),
    "a warm-up ratio": (result(mean_output_throughput_tokens_per_s=10.0), "warm-up or cool-down"),
    "an inflated throughput": (result(mean_output_throughput_tokens_per_s=1e6), "inflated"),
    "statistics of other requests": (result(stats={"ttft": {"p99": 5.0}}), "own ttft_p99 differ"),
    "too few": (result([request()] * 30), "30 completed requests: too few for p95 (59), p99 (299)"),
    "short outputs": (result([request(outputs=50)] * 300), "outputs of 50.0 tokens on average where 100"),
    "another tokenizer's outputs": (result([request(outputs=140)] * 300), "140.0 tokens on average where 100 at most"),
    "nothing streamed": (result([one_piece()] * 300), "nothing was streamed"),
    "TTFT above the latency": (result([*many, request() | {"ttft": 9.0}]), "TTFT above their whole latency"),
    "a level too short": (result(many, level=8, run_duration=1000.0), "only 0.3 of 8 requests in flight"),
    "more in flight than the level": (result(many, level=2, run_duration=30.0), "more than the level of 2"),
    "milliseconds called seconds": (
        result([request(100.0, 10.0)] * 300, level=1, run_duration=300.0),
        "more than the level of 1",
    ),
    "no requests": (without(result(), "individual_request_metrics"), "no individual requests"),
    "no unit": (without(result(), "_time_unit"), "seconds assumed"),
    "an unknown unit": (result() | {"_time_unit": "h"}, "time unit is 'h'"),
    "requests that are not there": (result(num_completed_requests=999), "claims 999 completed requests but holds 300"),
    "no duration": (result(run_duration=0.0), "no run duration"),
    "a wrong type": (result(scenario=7), "wrong type"),
    "an impossible latency": (result([*many, request() | {"tpot": -1.0}]), "left out: 1 latency below zero"),
    "a latency of ages": (result([*many, request() | {"e2e_latency": 1e300}]), "left out: 1 latency below zero"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_contradiction_is_said(case):
    content, said = CASES[case]
    assert [warning for warning in warnings_of(content) if said in warning], warnings_of(content)


@pytest.mark.parametrize("level", [1, 4, 64])
def test_a_good_file_says_nothing(level):
    assert warnings_of(result(level=level)) == []


def test_a_missing_latency_is_counted():
    content = result()
    content["individual_request_metrics"].append(request() | {"ttft": None})
    assert "1 of 301 completed requests without ttft" in warnings_of(content)


@pytest.mark.parametrize(("percentile", "confidence", "needed"), [(0.9, 0.95, 29), (0.95, 0.95, 59), (0.99, 0.95, 299)])
def test_requests_that_a_percentile_needs(percentile, confidence, needed):
    assert requests_needed(percentile, confidence) == needed


@pytest.mark.parametrize(
    ("scenario", "tokens"),
    [
        ("D(100,20)", 20),
        ("N(480,240)/(300,150)", 300),
        ("U(50,100)/(200,250)", 225),
        ("E(512)", None),
        ("I(512,512)", None),
        ("dataset", None),
        ("", None),
    ],
)
def test_outputs_asked_for(scenario, tokens):
    assert output_tokens_asked(scenario) == tokens


@pytest.mark.parametrize(("growth", "said"), [(0.0, False), (0.05, False), (0.4, True), (-0.3, True)])
def test_a_latency_that_drifts_through_the_level_is_said(growth, said, tmp_path):
    dice = random.Random(1)
    requests = [request(ttft=(1 + growth * n / 300) * dice.uniform(0.9, 1.1), tpot=0.0001) for n in range(300)]
    write(tmp_path / name(), result(requests))
    [warnings] = tuner.load_batches(tmp_path)["warnings"]
    assert any("drifted by" in warning for warning in warnings) == said
