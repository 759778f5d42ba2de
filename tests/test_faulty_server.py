"""The server that fails on purpose fails as it is told; other tests build on it."""

import subprocess
import sys

import httpx
import pytest
from support import FAULTY_SERVER

SERVER = FAULTY_SERVER
ASKED = {"model": "faulty", "stream": True, "max_tokens": 6, "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def faulty():
    """Start one with knobs; the client to it."""
    started = []

    def start(*knobs):
        process = subprocess.Popen([sys.executable, SERVER, *knobs], stdout=subprocess.PIPE, text=True)
        started.append(process)
        return httpx.Client(base_url=process.stdout.readline().split()[-1], trust_env=False)

    yield start
    for process in started:
        process.kill()
        process.communicate()


def tokens(answer):
    return answer.text.count(" tok")


@pytest.mark.parametrize(
    ("knobs", "status", "count", "text"),
    [
        ({}, 200, 6, '"completion_tokens": 6'),
        ({"cap": 2}, 200, 2, '"completion_tokens": 2'),
        ({"empty": 1}, 200, 0, '"completion_tokens": 0'),
        ({"burst": 3}, 200, 6, "[DONE]"),
        ({"inband_every": 1}, 200, 0, '{"error"'),
        ({"error_every": 1, "error_code": 503}, 503, 0, "overloaded"),
        ({"api_key": "secret"}, 401, 0, "wrong API key"),
    ],
)
def test_an_answer_is_as_the_knobs_say(faulty, knobs, status, count, text):
    http = faulty()
    assert http.post("/knobs", json=knobs).status_code == 200
    answer = http.post("/v1/chat/completions", json=ASKED)
    assert (answer.status_code, tokens(answer)) == (status, count)
    assert text in answer.text


def test_without_usage_none_is_sent(faulty):
    assert '"usage"' not in faulty("usage=0").post("/v1/chat/completions", json=ASKED).text


def test_every_second_answer_is_cut(faulty):
    http = faulty("close_every=2")
    assert tokens(http.post("/v1/chat/completions", json=ASKED)) == 6
    with pytest.raises(httpx.TransportError):
        http.post("/v1/chat/completions", json=ASKED)
    assert http.get("/stats").json()["total"] == 2


def test_it_dies_in_the_middle_of_an_answer(faulty):
    http = faulty("die_after=1")
    with pytest.raises(httpx.TransportError):
        http.post("/v1/chat/completions", json=ASKED)
    with pytest.raises(httpx.TransportError):
        http.get("/health")
