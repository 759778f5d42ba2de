"""Searches whose trials take no time: what is told of them stays true whatever a trial does."""

import contextlib

import pytest
from support import BYTE_TOKENIZER
from support.simulated_trials import SimulatedExecutor

from tuner.core.run_directory import Experiment
from tuner.errors import NothingSurvived, ServerFailed, SpecError
from tuner.judging.search_answer import Searched
from tuner.judging.trials import load_trials
from tuner.search import executors
from tuner.search.search import run_search
from tuner.search.spec import TuneSpec
from tuner.sweep.spec import make_spec
from tuner.sweep.sweep import StopRequest


@pytest.fixture
def search(tmp_path, monkeypatch):
    """Runs a search over `n` against a curve; returns what it noted, and its trials."""

    def run(curve, stop=None, **changes):
        monkeypatch.setattr(executors, "make", lambda *_: SimulatedExecutor(curve))
        asked = {"engine": "command", "command": ["true", "{n}", "{port}"], "model": "m"}
        asked |= {
            "tokenizer": str(BYTE_TOKENIZER),
            "levels": [1, 4],
            "scenarios": ["D(100,100)"],
            "parameters": {"n": 1},
            "space": {"n": [1, 2, 3]},
            "quality": False,
        }
        run_search(make_spec(asked | {"sampler": "grid"} | changes, TuneSpec), Experiment.at(tmp_path / "run"), stop)
        return Experiment(tmp_path / "run").facts["search"], load_trials(tmp_path / "run")

    return run


def test_a_baseline_that_could_not_be_measured_again_confirms_nothing(search):
    def curve(number, parameters, level):
        if number > 3 and parameters["n"] == 1:
            raise ServerFailed("another process has the GPU", kind="gpu_unavailable")
        return 100 * parameters["n"]

    facts, trials = search(curve)
    assert trials["kind"].eq("gpu_unavailable").sum() == 3
    assert facts["confirmation"] is None
    assert "(not confirmed yet)" in Searched(trials, facts={"search": facts}).answer[0]


def test_a_baseline_that_fails_confirms_the_winner_without_a_gain_that_nobody_measured(search):
    def curve(number, parameters, level):
        return None if number > 3 and parameters["n"] == 1 else 100 * parameters["n"]

    facts, trials = search(curve)
    assert facts["confirmation"]["verdict"] == "only_winner"
    answer = Searched(trials, facts={"search": facts}).answer[0]
    assert answer.endswith(", confirmed") and "%" not in answer


def test_a_misspelt_parameter_of_the_space_is_refused_before_the_first_trial(search, tmp_path):
    source = tmp_path / "lib/python3.12/site-packages/vllm/engine/arg_utils.py"
    source.parent.mkdir(parents=True)
    source.write_text("class EngineArgs:\n    max_num_seqs: int = 128\n    block_size: int = 16\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/vllm").write_text("#!/bin/sh\n")
    (tmp_path / "bin/vllm").chmod(0o755)
    values = {"engine": "vllm", "executable": str(tmp_path / "bin/vllm"), "parameters": {"max_num_seqs": 8}}
    with pytest.raises(SpecError, match=r"vllm has no parameter 'max_num_sqs'; did you mean max_num_seqs\?"):
        search(lambda *_: 100, **values, space={"max_num_sqs": [1, 2]})
    assert not list((tmp_path / "run").glob("trials/*"))


@pytest.mark.parametrize(
    ("works", "kind", "causes", "trials", "words"),
    [
        (False, "bad_argument", ["unrecognized arguments: --max-num-sqs {n}"], 3, "no trial has .*--max-num-sqs 1"),
        (False, "out_of_memory", ["CUDA out of memory, {n} GiB"], 3, "no trial has a usable result: CUDA out"),
        (False, "crashed", ["a", "b"], 5, "no trial has a usable result: b"),
        (True, "bad_argument", ["unrecognized arguments: --max-num-sqs {n}"], 6, "but the baseline failed of one"),
        (True, "bad_argument", ["a", "b"], 9, ""),
        (True, "out_of_memory", ["CUDA out of memory, {n} GiB"], 9, ""),  # which others may not need
    ],
)
def test_a_search_whose_trials_die_of_one_cause_ends_with_it(search, tmp_path, works, kind, causes, trials, words):
    def curve(number, parameters, level):
        if works and number == 1:
            return 100
        raise ServerFailed(causes[number % len(causes)].format(n=number), kind=kind)

    values = {"space": {"n": list(range(1, 10))}, "confirm": 0}
    with pytest.raises(NothingSurvived, match=words) if words else contextlib.nullcontext():
        search(curve, **values)
    assert len(load_trials(tmp_path / "run")) == trials
    assert NothingSurvived.exit_code == 1


def test_a_search_stopped_while_it_confirms_says_so_and_goes_on(search):
    stop = StopRequest()

    def curve(number, parameters, level):
        if number == 5:
            stop.after_level.set()
        return 100 * parameters["n"]

    assert search(curve, stop)[0]["state"] == "stopped"
    facts, trials = search(curve)
    assert facts["state"] == "done" and facts["confirmation"]["trials"] == [4, 5, 6, 7, 8, 9]
    assert trials["trial"].to_list() == list(range(1, 10))
