"""Every way in which a server streams is read as what it is, and every request that was sent is in the file."""

import asyncio
import contextlib
import html
import io
import re
import threading
from itertools import islice

import ipywidgets as widgets
import pytest
from support import BYTE_TOKENIZER, result_files
from support.processes import running_faulty_server

import tuner
from tuner.cli.progress import SweepDisplay
from tuner.core import request_log
from tuner.core.run_directory import Experiment
from tuner.core.timestamps import now
from tuner.notebook.views import ResultsView
from tuner.report.results import read_results
from tuner.sweep.level import outcome_of
from tuner.sweep.spec import make_spec
from tuner.traffic.course import Limits
from tuner.traffic.genai_bench import Ended, Load
from tuner.traffic.prompt_file import Request
from tuner.traffic.workload import Workload

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("streams")]

TTFT, TOKENS, SCENARIO = 0.05, 8, "D(20,8)"
#: where usage counts nothing that can be tokens
DISBELIEVED = {
    "first_token": TTFT,
    "estimated": True,
    "wrong_usage": True,
    "prompt_tokens": None,
    "cached_tokens": None,
}
#: a way to stream → (output tokens, and what else is right of its line)
RIGHT = {
    "plain": {"first_token": TTFT},
    "comments": {"first_token": TTFT},
    "a comment as data": {"first_token": TTFT},
    "pings": {"first_token": TTFT},
    "role first": {"first_token": TTFT},
    "many tokens in a chunk": {},
    "reasoning": {"first_token": TTFT, "first_answer_token": TTFT + TOKENS / 2 * 0.01},
    "reasoning_content alone": {"first_token": TTFT, "first_answer_token": None},
    "tool calls": {"first_token": TTFT, "first_answer_token": TTFT},
    "a call of the old form": {"first_token": TTFT, "first_answer_token": TTFT},
    "a refusal": {"first_token": TTFT, "first_answer_token": TTFT},
    "thinking": {"first_token": TTFT, "first_answer_token": TTFT + TOKENS / 2 * 0.01},
    "usage in the choice": {},
    "usage in a field": {},
    "usage of zeros": {"first_token": TTFT, "estimated": True, "prompt_tokens": None, "cached_tokens": None},
    "created": {},
    "usage in every chunk": {"first_token": TTFT, "cached_tokens": None},
    "no usage": {"first_token": TTFT, "estimated": True, "cached_tokens": None},
    "no [DONE]": {"first_token": TTFT},
    "no finish reason": {"first_token": TTFT, "finish_reason": ""},
    "cut characters": {},
    "gzip": {},
    "until the connection ends": {"finish_reason": "stop"},
    "not streamed": {"streamed": False, "first_token": None},
    "redirected here": {"first_token": TTFT},
    "usage as text": DISBELIEVED,
    "negative usage": DISBELIEVED,
    "absurd usage": DISBELIEVED,
}
#: a way to fail → (code, the server's own words, or ours)
WRONG = {
    "an error as object": (503, "engine is dead"),
    "an error as text": (500, "upstream timed out"),
    "an error event": (500, "bad gateway"),
    "an error field": (500, "context is full"),
    "an error in its choice": (502, "it is gone"),
    "an error without a name": (503, "engine is gone"),
    "given up": (500, "the server gave the answer up (finish_reason abort)"),
    "a page": (500, "Sign in"),
    "no event": (500, "upstream connect error: no healthy upstream"),
    "an error in a list": (500, "the key is not valid"),
    "lines of JSON": (500, "the answer is lines of JSON, not server-sent events (`data: …`, each ended by a blank"),
    "lines as data": (500, "the answer is lines of JSON, not server-sent events (`data: …`, each ended by a blank"),
    "bare words": (500, "bad gateway"),
    "neither end nor usage": (500, "the stream ended in the middle of the answer"),
    "empty": (500, "the answer is empty"),
    "redirected elsewhere": (
        307,
        "it redirects to http://elsewhere.invalid:1, which is another host: if that is right, give it as base_url",
    ),
    "closed without an answer": (500, "the server closed the connection without an answer"),
    "closed in its middle": (500, "the server closed the connection in the middle of its answer"),
    "no HTTP": (500, "the server does not answer as HTTP"),
    "an endless error": (503, "no room"),
    "an error that trickles": (503, "no no no"),
    "an endless event": (500, "the answer, or a part of it, is too long: it was ended after"),
}
WAYS = [*RIGHT, *WRONG]


def chat(text):
    return Request([[{"role": "user", "content": text}]], TOKENS)


def level_of(bench, place, workload, number, *knobs):
    """Run one user's level of so many requests in `place`, against a server of its own."""
    with running_faulty_server(*knobs) as url:
        load = Load(url, "faulty", SCENARIO, workload, Limits(1, 60, number, window=request_log.WHOLE))
        assert bench.run(load, place, threading.Event()).exit_code == 0
    return place


@pytest.fixture(scope="module")
def workload():
    return Workload(tokenizer=str(BYTE_TOKENIZER), requests=tuple(chat(f"stream as {way}") for way in WAYS))


@pytest.fixture(scope="module")
def folder(bench, workload, tmp_path_factory):
    """What one user's level leaves that asks for every way."""
    return level_of(bench, tmp_path_factory.mktemp("level"), workload, len(WAYS), f"ttft={TTFT}", "itl=0.01")


@pytest.fixture(scope="module")
def lines(folder, workload):
    """The line of each way."""
    _, requests = request_log.parse((folder / request_log.REQUESTS_FILE).read_bytes())
    ways = (request.turns[0][0]["content"].removeprefix("stream as ") for request in workload.draw(SCENARIO, 1, 1))
    return dict(zip(islice(ways, len(WAYS)), sorted(requests, key=lambda request: request.number), strict=False))


@pytest.mark.parametrize("way", RIGHT)
def test_an_answer_is_read_as_it_was_streamed(lines, way):
    line, right = lines[way], {"finish_reason": "length", "cached_tokens": 64, "estimated": False} | RIGHT[way]
    assert line.status == request_log.COMPLETED, line
    assert line.estimated or line.output_tokens == TOKENS
    for name, value in right.items():
        found = getattr(line, name)
        if isinstance(value, float):
            assert value <= found - line.sent < value + 1 and found <= line.last_token <= line.end
        else:
            assert found == value, name
    assert line.streamed == bool(line.gaps)


@pytest.mark.parametrize("way", WRONG)
def test_what_fails_is_an_error_with_a_cause(lines, way):
    assert lines[way].status == request_log.FAILED
    code, words = WRONG[way]
    assert lines[way].error_code == code and lines[way].error_message.startswith(words)


@pytest.fixture(scope="module")
def said(lines, tmp_path_factory):
    """What a run says in which each level fails in another way: its rows' reasons, terminal, panel, report."""
    run = Experiment.at(tmp_path_factory.mktemp("runs") / "run")
    trial, spec = result_files.run(run.folder, [*range(1, len(WRONG) + 1)]), make_spec({"levels": "1"})
    whole = {"scenario": SCENARIO, "window": request_log.WHOLE, "begin": 0.0, "end": 9e9, "monotonic": 0.0}
    for level, way in enumerate(WRONG, 1):
        part = tmp_path_factory.mktemp("part")
        record = request_log.LevelRecord(concurrency=1, utc=now(), **whole)
        request_log.write(part / request_log.REQUESTS_FILE, record, [lines[way]] * 3)
        outcome, reason = outcome_of(part, Ended(now(), now(), 9.0, 0), None, interrupted=False)
        result_files.add_level(trial, level, outcome=outcome, reason=reason)
    with contextlib.redirect_stderr(io.StringIO()) as terminal:
        SweepDisplay(run, spec).update()
    view = ResultsView()
    asyncio.run(view.show(read_results(run.folder)))
    panel = "".join(one.value for one in every(view.widget) if isinstance(one, widgets.HTML))
    report = tuner.write_report(run.folder, run.folder / "r.html").read_text()
    rows = tuner.load_batches(run.folder).set_index("concurrency")["reason"]
    return rows, terminal.getvalue(), html.unescape(panel), html.unescape(report)


def every(widget):
    """A widget and all within it."""
    return [widget, *(each for child in getattr(widget, "children", ()) for each in every(child))]


@pytest.mark.parametrize("way", WRONG)
def test_what_fails_is_said_alike_in_row_terminal_panel_and_report(said, way):
    rows, *others = said
    reason = rows[list(WRONG).index(way) + 1]
    assert WRONG[way][1][:90] in reason
    assert [reason in text for text in others] == [True] * 3
    assert not re.search(r"Error\b|Exception|HTTPConnection|\(\d+ bytes|0x", reason)  # which nobody understands


def test_the_row_counts_them_all_and_says_what_is_not_as_it_seems(folder):
    (row,) = tuner.load_batches(folder).to_dict("records")
    assert (row["completed"], row["errors"]) == (len(RIGHT), len(WRONG))
    warnings = " ".join(row["warnings"])
    assert "3 answers with a usage that can be no count of tokens, which is not believed" in warnings
    assert row["input_throughput"] < 1e6 and row["output_throughput"] < 1e6
    assert "1 answer not streamed" in warnings and "tokens of 5 requests are the tokenizer's count" in warnings


def test_the_row_has_gaps_first_answer_tokens_and_cached_prompts(folder):
    (row,) = tuner.load_batches(folder).to_dict("records")
    requests = tuner.load_requests(folder)
    for latency in ("itl", "ttfa"):
        assert row[f"{latency}_p90"] == pytest.approx(requests[latency].quantile(0.9))
    assert row["itl_p50"] >= 0.01 > row["itl_p50"] - 0.1 and row["ttfa_p99"] > row["ttft_p50"]
    completed = requests[requests["cached_tokens"].notna() & (requests["status"] == "completed")]
    expected = completed["cached_tokens"].sum() / completed["input_tokens"].sum()
    assert row["cache_hit_rate"] == pytest.approx(expected)


@pytest.mark.parametrize(("threshold", "verdict"), [("5 ms", "fail"), ("5000 ms", "pass")])
def test_gaps_can_be_limited(folder, threshold, verdict):
    slo = {"itl": {"p90": {"threshold": threshold}}, "error_rate": {"threshold": 0.9}}
    judged = tuner.judge(tuner.load_batches(folder), slo)
    assert judged["verdict"].tolist() == [verdict], judged["violations"].iloc[0]


def test_every_request_is_a_row(folder):
    requests = tuner.load_requests(folder)
    assert requests["status"].value_counts()["completed"] == len(RIGHT)
    assert requests["sent_at"].is_monotonic_increasing and str(requests["sent_at"].dtype).endswith("UTC]")
    assert len(requests["error_message"].dropna()) == len(WRONG)
    assert set(requests["cached_tokens"].dropna()) == {64}


@pytest.mark.parametrize(("knob", "errors"), [("hangs_up_after=3", 0), ("close_every=4", 3)])
def test_a_kept_connection_that_the_server_closed_is_no_failure_of_its_own(bench, tmp_path, knob, errors):
    workload = Workload(requests=(chat("hello"),))
    (row,) = tuner.load_batches(level_of(bench, tmp_path, workload, 12, knob)).to_dict("records")
    assert (row["completed"], row["errors"]) == (12 - errors, errors)
