"""Asking for answers to compare: greedily, the same prompts each time, of servers that answer oddly or not at all."""

import json
import sys
import threading

import pytest
from support import FAULTY_SERVER
from support.processes import wait_until

from tuner.core.records import Answers, TrialRecord
from tuner.core.run_directory import Experiment
from tuner.errors import SpecError, Stopped
from tuner.judging.answers import CHANGED, NOT_COMPARED, UNCHANGED, compare_answers
from tuner.search.spec import TuneSpec
from tuner.servers.server import launch
from tuner.sweep import quality
from tuner.sweep.spec import make_spec
from tuner.sweep.sweep import StopRequest
from tuner.traffic.prompt_file import Request


def spec_of(*knobs, **more):
    command = [sys.executable, str(FAULTY_SERVER), "--port", "{port}", "itl=0", "ttft=0", *knobs]
    engine = {"engine": "command", "command": command, "space": {"a": [1]}, "constraints": []}
    return make_spec(engine | {"space": {"port_like": [1]}, "quality": {"prompts": 8}} | more, TuneSpec)


@pytest.fixture
def asked(tmp_path):
    """Ask a faulty server as the baseline; gives its answers."""

    def ask(*knobs, requests=(), stop=None, name="run", **more):
        trial = Experiment.at(tmp_path / name).trial(1)
        TrialRecord(role="baseline", parameters={}).write(trial.folder)
        spec = spec_of(*knobs, **more)
        with launch(spec, trial) as server:
            quality.ask(spec, trial, server, requests, (stop or StopRequest()).wait)
        return Answers.read(trial.folder)

    return ask


def test_each_prompt_is_asked_twice_and_comes_with_log_probabilities(asked):
    answers = asked()
    assert len(answers.first) == len(answers.again) == len({one.prompt for one in answers.first}) == 8
    assert [one.prompt for one in answers.first] == [one.prompt for one in answers.again]
    for one in answers.first:
        assert one.text == " tok" * 32 and [token.token for token in one.tokens] == [" tok"] * 32 and not one.error
        assert one.tokens[0].logprob == one.tokens[0].top_logprobs[0].logprob == -0.1


def test_a_server_without_log_probabilities_is_compared_by_its_texts(asked):
    before = asked("refuse=logprobs")
    assert before.first[0].text and before.first[0].tokens == []
    assert compare_answers(before, asked("refuse=logprobs", name="same")).verdict == UNCHANGED
    changed = compare_answers(before, asked("refuse=logprobs", "word= other", name="other"))
    assert changed == (CHANGED, "8 of 8 part after 0 words; the baseline against itself: 0 of 8")


def test_errors_cost_their_prompt_and_none_the_trial(asked):
    some = asked("error_every=4")
    assert sum(bool(one.error) for one in some.first) == 2 and "overloaded" in str(some.first)
    nothing = asked("error_every=1", name="nothing")
    verdict, why = compare_answers(nothing, nothing)
    assert verdict == NOT_COMPARED and why == "0 of 8 prompts were answered: 429: overloaded, as told"
    assert "without text" in asked("empty=1", name="empty").first[0].error


def test_a_server_that_hangs_is_waited_for_so_long_and_no_longer(asked, monkeypatch):
    monkeypatch.setattr(quality, "_SECONDS", 1.0)
    hanging = asked("hang_every=3")
    assert [bool(one.text) for one in hanging.first[:3]] == [True, True, False]
    assert hanging.first[-1].error == "no answer within 1 s"


def test_an_answer_without_end_is_cut(asked, monkeypatch):
    monkeypatch.setattr(quality, "_MOST_BYTES", 100)
    assert "longer than 100 bytes" in asked().first[0].error


def test_a_key_that_a_server_repeats_is_not_kept(asked, monkeypatch, tmp_path):
    monkeypatch.setenv("A_KEY", "sk-of-the-test-0123456789")
    answers = asked("says=<key>", api_key_env="A_KEY")
    assert answers.first[0].text.endswith("[redacted]")
    assert "sk-of" not in (tmp_path / "run" / "trials" / "0001" / "answers.json").read_text()


def test_own_prompts_are_asked_the_same_ones_for_a_seed(asked):
    requests = [Request([[{"role": "user", "content": f"question {number}"}]]) for number in range(30)]
    one, same = asked(requests=requests), asked(requests=requests, name="same")
    other = asked(requests=requests, seed=5, name="other")
    assert [each.prompt for each in one.first] == [each.prompt for each in same.first]
    assert {each.prompt for each in one.first} != {each.prompt for each in other.first}
    assert len(asked(requests=requests[:5], name="few").first) == 5


def test_a_wish_to_end_is_heard_while_a_server_hangs(asked):
    stop = StopRequest()
    ends = []

    def ask():
        try:
            asked("hang_every=1", stop=stop)
        except Stopped as end:
            ends.append(end)

    work = threading.Thread(target=ask)
    work.start()
    wait_until(lambda: any(thread.name == "ask" for thread in threading.enumerate()), 30)
    stop.after_level.set()
    work.join(30)
    assert not work.is_alive() and len(ends) == 1


@pytest.mark.parametrize(
    ("text", "prompts"),
    [("prompts: 40", 40), ("{prompts: 5}", 5), ("true", 20), (True, 20), ({"tolerance": 0.1}, 20)],
)
def test_how_answers_are_compared_is_read_from_texts_too(text, prompts):
    assert spec_of(quality=text).quality.prompts == prompts


def test_it_can_be_left_out_and_stays_so_in_the_record():
    for off in (False, "false", "False"):
        spec = spec_of(quality=off)
        assert spec.quality is False and not quality.is_wanted(spec, None)
        assert spec.model_dump(mode="json", exclude_none=True)["quality"] is False
    recorded = json.loads(json.dumps(spec_of().model_dump(mode="json", exclude_none=True)))
    assert make_spec(recorded, TuneSpec).quality == spec_of().quality


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"prompts": 2}, "quality: .*greater than or equal to 4"),
        ({"promts": 9}, "quality: .*promts.*write such as {prompts: 20, tolerance: 0.005}, or false"),
        ("often", "quality: 'often'.* or false"),
    ],
)
def test_wrong_ones_are_refused_in_a_line(value, words):
    with pytest.raises(SpecError, match=words):
        spec_of(quality=value)
