"""What a trial is worth, from files alone: nothing that failed, or cannot be judged, ever looks good."""

import math
from itertools import pairwise

import pytest
from support import result_files

import tuner
from tuner.core.records import TrialFacts, TrialRecord
from tuner.core.run_directory import Experiment
from tuner.judging.scores import goals_of
from tuner.judging.trials import COLUMNS, load_trials

SLO = {"ttft": {"p50": {"threshold": 0.5}}}


@pytest.fixture
def search(tmp_path):
    """Makes a search's run directory of trials; each is (record's changes, {level: result or outcome})."""

    def write(*trials, objective=("max_throughput",), levels=(1, 4), **spec):
        experiment = Experiment.at(tmp_path / "run")
        asked = {"objective": list(objective), "levels": list(levels), "slo": SLO} | spec
        experiment.describe(kind="tune", spec=asked)
        for number, (changes, batches) in enumerate(trials, 1):
            trial = experiment.trial(number)
            role = "baseline" if number == 1 else "candidate"
            TrialRecord(**({"role": role, "parameters": {"n": number}, "state": "ended"} | changes)).write(trial.folder)
            if batches is None:
                continue
            facts = {"engine": "vllm", "model": "m", "scenarios": ["D(100,100)"], "levels": list(levels)}
            TrialFacts(trial=number, **facts).write(trial.folder)
            for level, content in batches.items():
                if isinstance(content, str):
                    result_files.add_level(trial, level, outcome=content, reason="as told")
                else:
                    result_files.add_level(trial, level, content)
        return load_trials(experiment.folder)

    return write


def batch(level, ttft=0.1, tpot=0.01):
    return result_files.result([result_files.request(ttft=ttft, tpot=tpot)] * 300, level=level)


def good(speed=1.0, ttft=0.1):
    return {level: batch(level, ttft=ttft, tpot=0.01 / speed) for level in (1, 4)}


def test_every_state_that_there_is(search):
    trials = search(
        ({}, good()),
        ({}, good(2)),
        ({}, good(9, ttft=0.8)),
        ({"state": "failed", "kind": "out_of_memory", "cause": "out of memory: CUDA out of memory"}, None),
        ({}, {1: "out_of_memory", 4: "skipped"}),
        ({"state": "pruned", "cause": "far behind"}, {1: batch(1, tpot=0.0001)}),
        ({"state": "running"}, {1: batch(1, tpot=0.0001)}),
        ({"state": "waiting"}, None),
        ({"role": "confirmation", "of": "winner"}, good(50)),
    )
    assert list(trials.columns) == list(COLUMNS)
    assert list(trials["state"]) == [
        *("complete", "complete", "infeasible", "failed", "failed", "pruned", "running", "waiting", "complete")
    ]
    assert list(trials.index[trials["is_best"]]) == [1] == list(trials.index[trials["is_pareto"]])
    no_value = ~trials["state"].eq("complete")
    assert trials.loc[no_value, "value"].isna().all() and trials.loc[~no_value, "value"].notna().all()
    assert trials.loc[2, "penalty"] > 0 and "TTFT p50" in trials.loc[2, "cause"]
    assert trials.loc[4, "cause"] == "out of memory: as told"
    assert trials.loc[1, "parameters"] == {"n": 2} and trials.loc[1, "best_level"] == 4


def test_the_penalty_grows_with_the_distance_from_the_slo(search):
    trials = search(*(({}, good(ttft=ttft)) for ttft in (0.52, 0.55, 0.6, 0.9)))
    assert all(a < b for a, b in pairwise(trials["penalty"])) and not trials["is_best"].any()


def test_what_cannot_be_judged_is_never_best(search):
    nan = batch(1)
    nan["individual_request_metrics"] = []
    nan["aggregated_metrics"]["stats"]["ttft"]["p50"] = math.nan
    trials = search(({}, {1: nan}), ({}, {1: batch(1)}), levels=(1,))
    assert list(trials["state"]) == ["infeasible", "complete"]
    assert list(trials["is_best"]) == [False, True] and math.isnan(trials.loc[0, "penalty"])


def test_latency_is_read_at_its_level_with_the_slos_statistic(search):
    trials = search(({}, good()), ({}, good(2)), objective=("min_latency",), objective_level=4)
    assert list(trials["unit"]) == ["s", "s"] and list(trials["is_best"]) == [False, True]
    assert trials["value"].tolist() == pytest.approx([0.1 + 99 * 0.01, 0.1 + 99 * 0.005])


def test_a_latency_at_a_level_that_breaks_the_slo_does_not_count(search):
    trials = search(({}, {1: batch(1), 4: batch(4, ttft=2)}), objective=("min_tpot",), objective_level=4)
    assert list(trials["state"]) == ["infeasible"] and "concurrency 4" in trials.loc[0, "cause"]


def test_two_objectives_have_a_front(search):
    trials = search(
        ({}, good(1, ttft=0.1)),
        ({}, good(2, ttft=0.2)),
        ({}, good(1, ttft=0.3)),
        objective=("max_throughput", "min_ttft"),
        objective_level=1,
    )
    assert list(trials["is_pareto"]) == [True, True, False]
    assert list(trials["is_best"]) == [False, True, False]
    assert [len(values) for values in trials["values"]] == [2, 2, 2]


def test_throughput_is_a_gpus_where_there_are_more(search, tmp_path):
    search(({}, good()), ({}, good()))
    result_files.write(tmp_path / "run/trials/0002/server.json", {"gpus": ["GPU-a", "GPU-b"]})
    trials = load_trials(tmp_path / "run")
    assert set(trials["unit"]) == {"tokens/s per GPU"}
    assert trials.loc[1, "value"] == pytest.approx(trials.loc[0, "value"] / 2)
    assert trials.loc[1, "max_throughput"] == pytest.approx(trials.loc[0, "max_throughput"])


def test_several_scenarios_count_together(search, tmp_path):
    search(({}, {1: batch(1)}), levels=(1,))
    trial = Experiment(tmp_path / "run").trial(1)
    TrialFacts(trial=1, engine="vllm", model="m", scenarios=["D(100,100)", "D(9,9)"], levels=[1]).write(trial.folder)
    assert load_trials(tmp_path / "run").loc[0, "state"] == "infeasible"  # one scenario alone says too little
    result_files.add_level(trial, 1, batch(1, tpot=0.04), scenario="D(9,9)")
    both = load_trials(tmp_path / "run").loc[0]
    assert both["state"] == "complete"
    assert both["value"] == pytest.approx((100 / (0.1 + 99 * 0.01) * 100 / (0.1 + 99 * 0.04)) ** 0.5)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"role": 3}', "\x00\xff"])
def test_a_damaged_note_costs_its_trial_no_more_than_the_note(search, tmp_path, damage):
    search(({}, good()), ({}, good(2)))
    (tmp_path / "run/trials/0002/search.json").write_bytes(damage.encode("latin-1"))
    trials = load_trials(tmp_path / "run")
    assert list(trials["state"]) == ["complete", "complete"]


def test_throughput_per_gpu_says_so_in_name_and_unit():
    (goal,) = goals_of({"objective": "max_throughput"}, tuner.SLO.parse({}), per_gpu=True)
    assert "per GPU" in goal.label and goal.title.endswith("(tokens/s per GPU)") and "per GPU" in goal.of(1.0)


def test_goodput_as_an_objective_is_the_most_of_a_compliant_level(search):
    slow = {
        level: result_files.result(
            [result_files.request(ttft=0.1)] * 200 + [result_files.request(ttft=0.7)] * 100, level=level
        )
        for level in (1, 4)
    }
    trials = search(({}, good()), ({}, slow), ({}, good(ttft=0.9)), objective=("max_goodput",))
    counted = trials["state"].tolist()
    assert counted == ["complete", "complete", "infeasible"] and set(trials["unit"]) == {"requests/s"}
    fast, mixed = trials["value"].tolist()[:2]
    assert fast > mixed > 0 and trials["is_best"].tolist()[0]
    goal = goals_of({"objective": ["max_goodput"]}, tuner.SLO.parse(SLO))[0]
    assert goal.title == "max goodput (requests/s)" and goal.of(3.14159) == "max goodput 3.14 requests/s"


def test_the_level_of_the_most_goodput_is_named_not_that_of_the_throughput(search):
    busy = result_files.result(
        [result_files.request(ttft=0.1)] * 160 + [result_files.request(ttft=0.7)] * 140, level=4, run_duration=60.0
    )
    calm = result_files.result([result_files.request(ttft=0.1)] * 300, level=1, run_duration=100.0)
    trials = search(({}, {1: calm, 4: busy}), objective=("max_goodput",))
    assert trials["best_level"].tolist() == [1] and trials["value"].iloc[0] == pytest.approx(3.0, rel=0.01)
