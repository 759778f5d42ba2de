"""The stub's times are what it says they are."""

import json
import sys
import time

import httpx
import pytest

from tuner.servers.supervised import Supervised

TTFT, ITL, TOKENS = 0.05, 0.004, 25
ASKED = {"model": "stub", "stream": True, "max_tokens": TOKENS, "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def stub(tmp_path):
    """A client to a running stub."""
    command = [sys.executable, "-m", "tuner.traffic.stub", "--ttft", str(TTFT), "--itl", str(ITL)]
    with Supervised(command, tmp_path / "log", has_pipes=True) as process:
        url = process.stdout.readline().decode().split()[-1]
        with httpx.Client(base_url=url, trust_env=False) as http:
            yield http


def answered(http):
    """Seconds from the request to each token, and the last event with content."""
    start, times, usage = time.monotonic(), [], None
    with http.stream("POST", "/v1/chat/completions", json=ASKED) as answer:
        for line in answer.iter_lines():
            if '" a"' in line:
                times.append(time.monotonic() - start)
            elif '"usage"' in line:
                usage = json.loads(line.removeprefix("data: "))["usage"]
    assert line in ("", "data: [DONE]")
    return times, usage


def test_every_token_comes_at_its_time_and_never_before(stub):
    answered(stub)  # the connection is there
    best = min((answered(stub) for _ in range(5)), key=lambda answer: answer[0][-1])
    times, usage = best
    assert usage["completion_tokens"] == len(times) == TOKENS
    assert all(seconds >= TTFT + number * ITL for number, seconds in enumerate(times))
    assert times[0] == pytest.approx(TTFT, abs=0.015)
    assert times[-1] == pytest.approx(TTFT + (TOKENS - 1) * ITL, abs=0.015)  # lateness does not add up


def test_it_knows_what_it_sent(stub):
    for _ in range(3):
        answered(stub)
    told = stub.get("/served").json()
    assert told["requests"] == 3
    assert TTFT <= told["ttft"] < TTFT + 0.1
    assert told["tpot"] == pytest.approx(ITL, rel=0.5)
    assert stub.get("/served").json() == {"requests": 0, "ttft": None, "tpot": None}


def test_it_has_one_model(stub):
    assert [model["id"] for model in stub.get("/v1/models").json()["data"]] == ["stub"]
