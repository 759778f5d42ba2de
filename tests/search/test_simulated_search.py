"""Searches whose trials take no time: what is told of them stays true whatever a trial does."""

import pytest
from support import BYTE_TOKENIZER
from support.simulated_trials import SimulatedExecutor

from tuner.core.run_directory import Experiment
from tuner.errors import ServerFailed
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
