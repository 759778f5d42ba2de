"""Searches on real servers: faults cost their trial, the table says why, and a search that was killed goes on."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from functools import partial

import msgspec
import optuna
import pandas as pd
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from support import CHECKOUT, FAULTY_SERVER, result_files
from support.processes import processes_of, wait_until

from tuner.core.records import TrialFacts, TrialRecord
from tuner.core.run_directory import Experiment
from tuner.engines.gguf import tokenizer_folder
from tuner.errors import NothingSurvived, SpecError
from tuner.judging.search_answer import CONFIRMED
from tuner.judging.trials import load_trials
from tuner.search.confirmation import conclude
from tuner.search.early import cannot_win
from tuner.search.search import run_search
from tuner.search.spec import TuneSpec
from tuner.search.state import Limits, Trials
from tuner.sweep.spec import make_spec
from tuner.sweep.sweep import StopRequest

sys.path.insert(0, str(CHECKOUT / "benchmarks"))
from early_stop import FAMILIES, LEVELS, pairs

FAULTY = FAULTY_SERVER
FINE, NEVER, OOM = "ready_after=0", "never_ready=1", "die_after_seconds=0.01"


@pytest.fixture
def asked(tiny_gguf):
    """The plain spec of a search on the faulty server, whose parameters are `itl` (seconds a token) and `fate`."""
    words = ["--port", "{port}", "itl={itl}", "{fate}", "last_words=torch.OutOfMemoryError: CUDA out of memory"]
    return {
        "engine": "command",
        "command": [sys.executable, str(FAULTY), *words],
        "parameters": {"itl": 0.02, "fate": FINE},
        "space": {"itl": [0.02, 0.005, 0.06], "fate": [FINE, NEVER, OOM]},
        "constraints": [f"fate == '{FINE}' or itl == 0.005"],
        "model": "faulty",
        "tokenizer": str(tokenizer_folder(tiny_gguf)),
        "scenarios": ["D(20,8)"],
        "levels": [1, 2],
        "max_seconds": 1,
        "warmup_requests": 0,
        "ready_timeout": 5,
        "confirm": 0,
        "quality": False,
        "trials": 9,
    }


@pytest.mark.real
@pytest.mark.timeout(600)
def test_a_quantised_cache_changes_answers_and_more_slots_do_not(tiny_gguf, tmp_path):
    run, spec = tmp_path / "run", {"engine": "llamacpp", "model": str(tiny_gguf), "confirm": 0, "early_stop": False}
    spec |= {"levels": [2], "scenarios": ["D(20,8)"], "max_seconds": 1, "warmup_requests": 0, "trials": 3}
    space = {"n_parallel": [4, 8], "cache_type_k": ["f16", "q4_0"], "cache_type_v": ["f16", "q4_0"]}
    quantised = "(cache_type_k == 'q4_0') == (n_parallel == 4) and cache_type_v == cache_type_k"
    run_search(make_spec(spec | {"space": space, "constraints": [quantised]}, TuneSpec), Experiment.at(run))
    trials = load_trials(run)
    found = {row["parameters"].get("n_parallel"): (row["answers"], row["answers_evidence"]) for row in trials.iloc}
    assert found[None] == ("", "")  # the baseline
    assert found[8][0] == "unchanged" and found[8][1].startswith("0 of 20 part; ")
    assert found[4][0] == "changed" and re.match(r"(1\d|20) of 20 part after \d+ tokens; ", found[4][1])
    assert re.search(r"against itself: 0 of 20; log probabilities: 0.0[1-9]\d\d and 0.000\d nats apart$", found[4][1])
    (run / "trials" / "0001" / "answers.json").write_text('{"first": 3}')
    assert set(load_trials(run)["answers_evidence"]) == {"", "the baseline was not asked"}


@pytest.mark.real
@pytest.mark.timeout(600)
def test_a_search_that_was_killed_while_it_asked_asks_again(asked, tmp_path):
    run = tmp_path / "run"
    spec = make_spec(asked | {"space": {"itl": [0.01]}, "constraints": [], "levels": [1], "quality": True}, TuneSpec)
    run_search(spec, Experiment.at(run))
    before = {}
    for trial in Experiment(run).search_trials:
        before[trial.folder] = (trial.folder / "server.json").read_text()
        (trial.folder / "answers.json").unlink()
        msgspec.structs.replace(trial.record, state="running").write(trial.folder)
    run_search(spec, Experiment(run))
    for folder, server in before.items():
        assert (folder / "answers.json").exists() and (folder / "server.json").read_text() != server
    batches = list(run.glob("trials/*/batches/*/concurrency-1/batch.json"))
    assert len(batches) == 2 and set(load_trials(run)["answers"]) == {"", "unchanged"}


def study_of(run):
    return optuna.load_study(
        study_name=run.name, storage=JournalStorage(JournalFileBackend(str(run / "optuna.journal")))
    )


@pytest.mark.real
@pytest.mark.timeout(600)
def test_faults_cost_their_trial_and_the_winner_is_confirmed(asked, tmp_path):
    run = tmp_path / "run"
    run_search(make_spec(asked | {"confirm": 2, "levels": [1, 2, 3]}, TuneSpec), Experiment.at(run))
    trials = load_trials(run)
    by_fate = {
        (p["itl"], p["fate"]): row for row, p in enumerate(trials["parameters"][trials["role"] != "confirmation"])
    }
    states = {key: trials.loc[row, "state"] for key, row in by_fate.items()}
    assert states == {
        (0.02, FINE): "complete",
        (0.005, FINE): "complete",
        (0.06, FINE): "pruned",
        (0.005, NEVER): "failed",
        (0.005, OOM): "failed",
    }
    assert trials.loc[0, "role"] == "baseline" and trials.loc[0, "parameters"] == asked["parameters"]
    assert trials.loc[by_fate[0.005, OOM], "kind"] == "out_of_memory"
    assert "CUDA out of memory" in trials.loc[by_fate[0.005, OOM], "cause"]
    assert trials.loc[by_fate[0.005, NEVER], "kind"] == "timeout"
    assert "best trial" in trials.loc[by_fate[0.06, FINE], "cause"]
    assert list(trials.index[trials["is_best"]]) == [by_fate[0.005, FINE]]
    assert list(trials.loc[trials["role"] == "confirmation", "of"]) == ["baseline", "winner"] * 2

    found = Experiment(run).facts["search"]
    assert found["state"] == "done" and found["reason"] == "every configuration of the space was tried"
    confirmed = found["confirmation"]
    assert confirmed["verdict"] in ("gain", "noise") and confirmed["low"] < confirmed["gain"] < confirmed["high"]
    assert confirmed["trials"] == [6, 7, 8, 9] and len(confirmed["baseline"]) == len(confirmed["winner"]) == 2
    copied = yaml.safe_load((run / "winner.yaml").read_text())
    assert make_spec(copied).parameters == {"itl": 0.005, "fate": FINE}
    assert f"itl=0.005 {FINE}" in found["winner"]["command"]

    study = study_of(run)
    assert study.best_trial.params == {"itl": 0.005, "fate": FINE} and len(study.trials) == 5
    told = {trial.user_attrs["trial"]: (trial.state.name, trial.user_attrs.get("kind")) for trial in study.trials}
    assert told[int(trials.loc[by_fate[0.005, OOM], "trial"])] == ("FAIL", "out_of_memory")
    assert told[int(trials.loc[by_fate[0.06, FINE], "trial"])] == ("PRUNED", None)


RUNNER = """
import json, pathlib, sys
from tuner.core.run_directory import Experiment
from tuner.search.search import run_search
from tuner.search.spec import TuneSpec
from tuner.sweep.spec import make_spec
run_search(make_spec(json.loads(sys.argv[1]), TuneSpec), Experiment.at(pathlib.Path(sys.argv[2])))
"""
KILLS = int(os.environ.get("TUNER_TEST_KILLS", "1"))


@pytest.mark.real
@pytest.mark.timeout(600)
def test_killed_at_random_instants_and_resumed_no_trial_is_lost_or_told_twice(asked, tmp_path):
    run, dice, settled, killed = tmp_path / "run", random.Random(5), {}, 0
    space = {"itl": [0.02, 0.005], "fate": [FINE, OOM]}
    values = asked | {"levels": [1], "constraints": [], "space": space, "sampler": "climb", "early_stop": False}
    command = [sys.executable, "-c", RUNNER, json.dumps(values), str(run)]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    for kill in range(KILLS):
        with subprocess.Popen(command, env=environment, start_new_session=True) as process:
            wait_until(partial(has_ended, process, run, kill), 120)
            try:
                process.wait(dice.uniform(0, 3))
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                killed += 1
        wait_until(lambda: not processes_of(tmp_path), 20)
        settled = unchanged(run, settled)
    assert killed
    subprocess.run(command, env=environment, check=True, timeout=200)
    unchanged(run, settled)
    trials = load_trials(run)
    assert sorted(trials["state"]) == ["complete"] * 2 + ["failed"] * 2
    assert [trial.user_attrs["trial"] for trial in study_of(run).trials] == trials["trial"].to_list()
    assert len({str(parameters) for parameters in trials["parameters"]}) == 4


def has_ended(process, run, batches):
    """Whether the search, or more than so many batches of it, have ended."""
    return process.poll() is not None or len(list(run.glob("trials/*/batches/*/concurrency-1/batch.json"))) > batches


def unchanged(run, settled):
    """The notes of trials that had ended and the batches they have: none of them was measured again."""
    for path in run.glob("trials/*/search.json"):
        note = json.loads(path.read_text())
        batches = {str(file): file.read_text() for file in path.parent.glob("batches/*/concurrency-1/batch.json")}
        if note["state"] in ("ended", "failed"):
            assert settled.setdefault(path.parent.name, (note, batches)) == (note, batches)
    return settled


@pytest.mark.real
@pytest.mark.timeout(600)
def test_stopped_and_resumed_it_goes_on(asked, tmp_path):
    run, stop = tmp_path / "run", StopRequest()
    values = asked | {"space": {"itl": [0.02, 0.005]}, "levels": [1, 2, 3], "constraints": [], "early_stop": False}
    spec = make_spec(values, TuneSpec)
    work = threading.Thread(target=lambda: run_search(spec, Experiment.at(run), stop))
    work.start()
    wait_until(lambda: list(run.glob("trials/0001/batches/*/concurrency-1/batch.json")), 60)
    stop.after_level.set()
    work.join(60)
    assert Experiment(run).facts["state"] == "interrupted"
    assert list(load_trials(run)["state"]) == ["waiting"]
    with pytest.raises(SpecError, match="was made with objective"):
        run_search(make_spec(values | {"objective": "min_ttft", "objective_level": 1}, TuneSpec), Experiment(run))
    run_search(make_spec(values | {"trials": 2}, TuneSpec), Experiment(run))
    assert list(load_trials(run)["state"]) == ["complete"] * 2
    assert Experiment(run).facts["search"]["reason"] == "all 2 trials were made"


@pytest.mark.real
@pytest.mark.timeout(600)
def test_where_everything_fails_the_search_gives_up(asked, tmp_path):
    values = asked | {"parameters": {"itl": 0.02, "fate": OOM}, "space": {"itl": {"low": 0.01, "high": 0.02}}}
    with pytest.raises(NothingSurvived, match="CUDA out of memory"):
        run_search(make_spec(values | {"constraints": [], "trials": 30}, TuneSpec), Experiment.at(tmp_path / "run"))
    trials = load_trials(tmp_path / "run")
    assert list(trials["state"]) == ["failed"] * 3 and not trials["is_best"].any()
    assert Experiment(tmp_path / "run").facts["search"]["reason"] == "all trials failed of one cause"


def levels(*throughputs, over=(), under=(), all_levels=(1, 2, 4, 8)):
    """Judged levels, some of the first of them `over` (by half) or `under` a hard limit; the rest are to come."""
    rows = []
    for place, level in enumerate(all_levels):
        known, missed = place < len(throughputs), level in (*over, *under)
        violation = {"actual": 1.5 if level in over else 0.5, "threshold": 1.0, "type": "HARD_FAIL"}
        rows.append(
            {
                "scenario": "D(1,1)",
                "concurrency": level,
                "outcome": "completed" if known else "missing",
                "verdict": ("fail" if missed else "pass") if known else "unknown",
                "violations": [violation] if known and missed else [],
                "output_throughput": throughputs[place] if known else float("nan"),
            }
        )
    return pd.DataFrame(rows)


def spec_of(judged):
    return TuneSpec(engine="llamacpp", levels=judged["concurrency"].to_list(), scenarios=["D(1,1)"])


@pytest.mark.parametrize(
    ("own", "is_ended"),
    [
        (levels(), False),
        (levels(30), False),  # in proportion it may have 240 at level 8
        (levels(20), True),  # 160 at most, and the best less the margin has 176
        (levels(20, 90), True),  # whatever a later level says: noise, or a level that was measured wrong
        (levels(70, 110, 140), False),  # it may not catch up, but nothing forbids it: 280
        (levels(70, 80, 85), True),  # 170
        (levels(130, 300, over=[1, 2]), True),
        (levels(130, 300, over=[1]), False),  # one may be an accident
        (levels(130, 300, over=[2]), False),
        (levels(130, 150, 160, over=[2, 4]), True),  # 130 is all there will be
        (levels(180, 220, 230, over=[2, 4]), False),  # which is enough
        (levels(20, 40, under=[1, 2]), True),  # 160, whatever the SLO says
        (levels(40, 70, under=[1, 2]), False),  # a least throughput that low levels miss is met by high ones
        (levels(40, 70, 120, under=[1, 2, 4]), False),
        (levels(60, 110, 130, all_levels=(8, 4, 2, 1)), False),  # fewer at once may be faster
        (levels(60, 110, over=[8, 4], all_levels=(8, 4, 2, 1)), False),  # lower ones may meet it
        (levels(40, 300, 500, over=[8, 4], all_levels=(1, 4, 8, 16)), True),
        (levels(100, over=[8], all_levels=(8, 4, 2, 1)), False),  # one says nothing of those below it
        (levels(100, 95, over=[8], all_levels=(8, 4, 2, 1)), True),  # which have less than 95
        (levels(100, 108, over=[8], all_levels=(8, 4, 2, 1)), True),  # a plateau, but for noise
        (levels(100, 120, over=[8], all_levels=(8, 4, 2, 1)), False),  # beyond the peak: 2 may have more
        (levels(100, 95, over=[8], all_levels=(8, 4, 2, 16)), False),  # 16 may have 190
    ],
)
def test_a_trial_ends_early_only_where_it_cannot_win(own, is_ended):
    best = levels(100, 160, 200, 220, all_levels=sorted(own["concurrency"]))
    assert bool(cannot_win(own, best, spec_of(own))) == is_ended


@pytest.mark.parametrize(
    ("verdict", "outcome", "actual"),
    [("unknown", "completed", 1.5), ("unknown", "interrupted", 1.5), ("fail", "completed", 1.1)],
)
def test_a_level_that_nobody_knows_or_that_barely_misses_forbids_nothing(verdict, outcome, actual):
    own = levels(100, 150, over=[1, 2])
    own.loc[1, ["outcome", "verdict"]] = [outcome, verdict]
    own.loc[1, "violations"][0]["actual"] = actual
    assert not cannot_win(own, levels(100, 160, 200, 220), spec_of(own))


def test_of_true_winners_none_is_ended_whatever_limits_them():
    for family in FAMILIES:
        assert not [gain for gain, run, _ in pairs(family, 6, noise=0.03) if run < len(LEVELS)], family


def test_per_gpu_more_is_asked_of_more_gpus():
    own, best = levels(130, 160, 170), levels(100, 160, 200, 220)
    assert cannot_win(own, best, spec_of(own), factor=2.0)
    assert not cannot_win(own, best, spec_of(own))


@pytest.mark.parametrize(
    ("objective", "baseline", "winner", "verdict", "words"),
    [
        ("max_throughput", [100, 102, 98], [120, 122, 119], "gain", r"confirmed gain \+20\.3 % \(\+1"),
        ("max_throughput", [100, 110, 90], [101, 111, 93], "noise", "within the noise: "),
        ("max_throughput", [120, 122, 119], [100, 102, 98], "loss", "the defaults are better"),
        ("min_ttft", [1.2, 1.22, 1.19], [1.0, 1.02, 0.98], "gain", "confirmed gain"),
        ("max_throughput", [float("nan")] * 3, [100, 102, 99], "only_winner", "the defaults in 0 of 3"),
        ("max_throughput", [float("nan"), 101, 99], [100, 102, 99], "unknown", "may be chance"),
        ("max_throughput", [float("nan")] * 2, [100, 102], "unknown", "may be chance"),
        ("max_throughput", [100, 101], [float("nan"), 130], "neither", "not confirmed"),
        ("max_throughput", [100], [130], "unknown", "at least 2 times"),
    ],
)
def test_what_a_confirmation_says(objective, baseline, winner, verdict, words):
    found = conclude(objective, baseline, winner, [4], [7, 8])
    assert found.verdict == verdict
    assert re.search(words, found.text), found.text


def test_a_gain_that_is_not_there_is_seldom_confirmed():
    dice = random.Random(3)

    def draw():  # of one configuration, some of whose runs do not meet the SLO
        return [100 * 2.718 ** dice.gauss(0, 0.03) if dice.random() < complying else float("nan") for _ in range(3)]

    for complying in (1.0, 0.9, 0.7, 0.5):  # noqa: B007 - draw() reads it
        verdicts = [conclude("max_throughput", draw(), draw(), [1], []).verdict for _ in range(400)]
        assert sum(verdict in CONFIRMED for verdict in verdicts) <= 0.045 * 400  # 2.5 % of either side


@pytest.fixture
def limits(tmp_path):
    """Makes the limits of a search whose trials took 60 s each; by the throughput of each, None failed."""

    def make(*throughputs, spent=0.0, **values):
        experiment = Experiment.at(tmp_path / str(len(list(tmp_path.iterdir()))))
        for number, throughput in enumerate(throughputs, 1):
            trial = experiment.trial(number)
            state = "failed" if throughput is None else "ended"
            record = TrialRecord(role="candidate", parameters={"n": number}, state=state, seconds=60, gpus=2)
            record.write(trial.folder)
            if throughput:
                TrialFacts(trial=number, engine="", model="", scenarios=["D(100,100)"], levels=[1]).write(trial.folder)
                result_files.add_level(
                    trial, 1, result_files.result([result_files.request(ttft=1 / throughput, tpot=1 / throughput)] * 99)
                )
        spec = TuneSpec(engine="llamacpp", **values)
        return Limits(spec, Trials(experiment, spec), spent)

    return make


def test_a_search_ends_where_its_limits_are(limits):
    assert limits(10, 20, 15, trials=3).reached() == "all 3 trials were made"
    assert limits(10, trials=1).reached() == "the one trial was made"
    assert limits(10, 20, 15, patience=2).reached() == ""
    assert limits(10, 20, 15, 19, patience=2).reached() == "2 trials gained nothing"
    assert limits(10, None, None, patience=3).reached() == ""
    assert limits(10, 20, spent=500, max_minutes=9, confirm=0).reached() == ""
    assert limits(10, 20, spent=541, max_minutes=9, confirm=0).reached() == "9.0 minutes are over"
    assert limits(10, 20, spent=500, max_minutes=9, confirm=1).reached() == "9.0 minutes are over"  # it takes 2 minutes
    assert not limits(10, 20, spent=500, max_minutes=9, confirm=1).is_over(confirming=True)


def test_a_search_never_costs_more_than_it_may(limits):
    hour = {"price_per_gpu_hour": 30.0}  # a trial costs 1.0
    assert limits(10, 20, confirm=0, max_cost=3.1, **hour).reached() == ""
    assert limits(10, 20, confirm=0, max_cost=2.9, **hour).reached() == "more would cost over 2.9"
    assert limits(10, 20, confirm=2, max_cost=6.9, **hour).reached() == "more would cost over 6.9"


def test_a_trial_takes_as_many_gpus_as_its_sizes_come_to(tmp_path):
    space = {"tensor_parallel_size": [1, 2, 4]}
    spec = TuneSpec(engine="vllm", model="m", gpus=4, space=space, constraints=["tensor_parallel_size <= gpus"])
    assert [spec.of_trial({"tensor_parallel_size": size}).gpus for size in (1, 2, 4)] == [1, 2, 4]
    assert spec.of_trial({"max_num_seqs": 8}).gpus == 4
    some = spec.model_copy(update={"gpus": ["GPU-a", "GPU-b"]})
    assert some.of_trial({"tensor_parallel_size": 1}).gpus == ["GPU-a"]
    trials = Trials(Experiment.at(tmp_path / "run"), spec)
    trials.begin(trial := trials.add(TrialRecord(role="candidate", parameters={"tensor_parallel_size": 2})))
    assert trial.record.gpus == 2
