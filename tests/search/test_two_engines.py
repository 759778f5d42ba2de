"""Searches over what people choose between: engines, models and programs, each with parameters of its own."""

import json
import sys

import pytest
import yaml
from support import FAULTY_SERVER

from tuner.core.run_directory import Experiment
from tuner.errors import SpecError, TunerError
from tuner.judging.search_answer import Searched
from tuner.judging.slo import SLO
from tuner.judging.trials import load_trials
from tuner.report.results import read_results
from tuner.report.write import write_report
from tuner.search.samplers import SAMPLERS, Observation, make
from tuner.search.search import run_search
from tuner.search.space import key_of
from tuner.search.spec import TuneSpec
from tuner.sweep.spec import make_spec

COMMAND = f"{sys.executable} {FAULTY_SERVER} --port {{port}} itl={{itl}}"
BOTH = {"engine": {"llamacpp": {"n_parallel": [1, 2]}, "command": {"itl": [0.001, 0.02]}}}


@pytest.fixture
def asked(tiny_gguf):
    """The plain spec of a search over the embedded llama.cpp and the faulty server."""
    return {
        "engine": "llamacpp",
        "model": str(tiny_gguf),
        "parameters": {"n_parallel": 2},
        "command": COMMAND,
        "space": BOTH,
        "scenarios": ["D(20,8)"],
        "levels": [1, 2],
        "max_seconds": 1,
        "max_requests": 20,
        "warmup_requests": 0,
        "slo": {"ttft": {"p50": {"threshold": 30}}},
        "confirm": 1,
        "early_stop": False,
    }


@pytest.mark.real
@pytest.mark.timeout(300)
def test_two_engines_have_one_table_one_winner_and_one_report(asked, tmp_path):
    run = tmp_path / "run"
    run_search(make_spec(asked, TuneSpec), Experiment.at(run))
    trials = load_trials(run)
    searched = trials[trials["role"] != "confirmation"]
    assert list(searched["state"]) == ["complete"] * 4
    assert {json.dumps(one, sort_keys=True) for one in searched["parameters"]} == {
        json.dumps(one, sort_keys=True)
        for one in (
            {"engine": "llamacpp", "n_parallel": 1},
            {"engine": "llamacpp", "n_parallel": 2},
            {"engine": "command", "itl": 0.001},
            {"engine": "command", "itl": 0.02},
        )
    }
    servers = [Experiment(run).trial(number).server for number in searched["trial"]]
    assert [server.engine for server in servers] == [one["engine"] for one in searched["parameters"]]

    results = read_results(run)
    table = Searched.of(trials, Experiment(run).facts, SLO.parse(asked["slo"])).table
    assert set(table["engine"]) == {"llamacpp", "command"} and {"n_parallel", "itl"} <= {*table}
    winner = make_spec(yaml.safe_load((run / "winner.yaml").read_text()))
    best = trials.loc[trials["is_best"]].iloc[0]
    assert winner.engine == best["parameters"]["engine"] and winner.tokenizer
    assert winner.parameters == {name: value for name, value in best["parameters"].items() if name != "engine"}
    assert results.judged["engine"].nunique() == 2
    page = write_report(run, tmp_path / "report.html").read_text()
    assert "engine=" in page or best["role"] == "baseline"  # on a busy machine the embedded one may be as fast

    before = len(trials)
    run_search(make_spec(asked, TuneSpec), Experiment.at(run))  # resumed: nothing is left
    assert len(load_trials(run)) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {"engine": ["llamacpp", "comand"]}}, "did you mean command"),
        ({"space": {"engine": {"llamacpp": {"n_paralel": [1]}}}}, "llamacpp has no parameter 'n_paralel'"),
        ({"space": {"engine": {"llamacpp": {"n_parallel": [0]}}}}, "n_parallel: 0 must be at least 1"),
        ({"space": {"engine": {"llamacpp": "defualt"}}}, "did you mean default"),
        ({"space": {"engine": {"llamacpp": 3}}}, "give its parameters"),
        ({"space": {"engine": {"low": 1, "high": 2}}}, "give names, as in"),
        ({"space": {"n_batch": {"choices": [1], "when": {"engine": "vllm"}}}}, "no searched or fixed parameter"),
        ({"space": BOTH | {"n_batch": {"choices": [1], "when": {"engine": "vllm"}}}}, "engine never is 'vllm'"),
        ({"space": {"engine": {"llamacpp": {}, "command": {"itl": [1], "slots": [2]}}}}, "no {slots} in it"),
        ({"space": {"engine": {"llamacpp": {}, "command": {}}}}, "none of port, model"),
        ({"space": {"model": ["/nowhere.gguf"]}}, "cannot read /nowhere.gguf"),
        ({"space": {"engine": ["llamacpp", "vllm"], "executable": ["/nowhere/vllm"]}}, "/nowhere/vllm is not there"),
        ({"space": BOTH, "on": "ray"}, "tokenizer: .*one for all"),
    ],
)
def test_what_an_engine_of_the_space_refuses_is_refused_before_anything_starts(asked, tmp_path, changes, message):
    with pytest.raises(TunerError, match=message) as refused:
        run_search(make_spec(asked | changes, TuneSpec), Experiment.at(tmp_path / "run"))
    assert refused.value.exit_code == 2 and "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_a_point_is_its_trials_spec_and_back(asked):
    values = {"quant.gguf": "q", "full.gguf": "f"}
    space = {
        "engine": ["llamacpp", "command"],
        "model": {"choices": [*values], "when": {"engine": "llamacpp"}},
        "n_parallel": {"values": [2, 4], "when": {"engine": "llamacpp"}},
        "command": {"choices": ["a --port {port} {n}", "'b c' --port {port} {n}"], "when": {"engine": "command"}},
        "n": {"low": 1, "high": 3, "when": {"engine": "command"}},
    }
    spec = make_spec(asked | {"model": "full.gguf", "executable": sys.executable, "space": space}, TuneSpec)
    where = spec.search_space
    points = list(where.grid())
    assert len(points) == 2 * 2 + 2 * 3 == len({key_of(point) for point in points})
    for point in points:
        configuration = where.parameters(point)
        assert where.point_of(configuration) == point
        trial = spec.of_trial(configuration)
        assert trial.engine == point["engine"] and "engine" not in trial.parameters
        if trial.engine == "llamacpp":
            assert trial.model == point["model"] and trial.parameters == {"n_parallel": point["n_parallel"]}
            assert trial.executable == sys.executable
        else:
            assert trial.command in (["a", "--port", "{port}", "{n}"], ["b c", "--port", "{port}", "{n}"])
            assert trial.parameters == {"n": point["n"]} and trial.executable is None  # which is the other engine's
    assert where.baseline() == {"engine": "llamacpp", "model": "full.gguf", "n_parallel": 2}


def test_conditions_and_constraints_hold_for_their_own_engine(asked):
    space = {
        "engine": {
            "vllm": {"max_num_seqs": [64, 4096], "max_num_batched_tokens": [2048]},
            "sglang": {"max_num_seqs": [4096], "tp_size": [1, 16]},
        }
    }
    values = {"engine": "vllm", "model": "m/m", "parameters": {}, "command": None, "gpus": 8, "space": space}
    spec = make_spec(asked | values | {"constraints": "engine == 'sglang' or max_num_seqs < 5000"}, TuneSpec)
    points = [spec.search_space.parameters(point) for point in spec.search_space.grid()]
    assert points == [
        {"engine": "vllm", "max_num_seqs": 64, "max_num_batched_tokens": 2048},
        {"engine": "sglang", "max_num_seqs": 4096, "tp_size": 1},
    ]


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_finds_the_better_engine(asked, name):
    space = {"engine": {"llamacpp": {"n_parallel": [1, 2, 4, 8]}, "command": {"n": [1, 2, 3, 4, 5, 6, 7, 8]}}}
    spec = make_spec(asked | {"command": "x {n} {port}", "space": space, "sampler": name}, TuneSpec)
    where = spec.search_space
    sampler, seen = make(name, where, spec.objective), []
    point = where.baseline()
    while point is not None:
        value = 10.0 * point["command.n"] if "command.n" in point else 5.0 * point["llamacpp.n_parallel"]
        seen.append(Observation(point, "complete", (value,)))
        point = sampler.next(seen)
    assert len(seen) == 12 == len({key_of(one.point) for one in seen})
    best = max(range(12), key=lambda place: seen[place].values)
    assert seen[best].point == {"engine": "command", "command.n": 8}


def test_a_trials_file_that_was_changed_runs_no_other_program(asked):
    spec = make_spec(asked, TuneSpec)
    for name, value in (("command", "touch /tmp/x {port}"), ("executable", "/bin/sh"), ("model", "other")):
        with pytest.raises(SpecError, match=f"a trial has {name} "):
            spec.of_trial({"engine": "command", name: value, "itl": 0.02})
    assert spec.of_trial({"n_parallel": 8}).parameters == {"n_parallel": 8}
