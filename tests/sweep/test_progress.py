"""How far a run is, in words: each phase, the last seconds of the level that runs, and what was cut off."""

import re
import shutil
from datetime import timedelta

import pytest
from support import result_files

from tuner.core import timestamps
from tuner.core.records import SEARCH, SWEEP, ServerRecord, TrialFacts, TrialRecord
from tuner.core.request_log import LIVE_FILE
from tuner.core.run_directory import Experiment
from tuner.sweep.progress import LOADING, WARMING_UP, phase, read_search, read_sweep

LEVEL = "D(100,100) at concurrency 2"


def ago(seconds):
    return timestamps.to_text(timestamps.now() - timedelta(seconds=seconds))


@pytest.fixture
def run(tmp_path):
    """A sweep of levels 1 and 2 that began a minute ago, held as its writer does."""
    experiment = Experiment.at(tmp_path / "run")
    experiment.describe(kind=SWEEP, state="running", spec={"max_seconds": 60})
    with experiment.only_writer():
        yield experiment


def ask(run, **spec):
    run.describe(spec={"max_seconds": 60} | spec)
    trial = run.trial(1)
    TrialFacts(trial=1, engine="command", model="m", scenarios=["D(100,100)"], levels=[1, 2]).write(trial.folder)
    return trial


def server(trial, state):
    ServerRecord(state=state, started_at=ago(60)).write(trial.folder)


def end(trial, *levels):
    for level in levels:
        result_files.add_level(trial, level)


def begin(trial, level=2, seconds=20):
    return result_files.add_level(trial, level, partial=True, outcome="running", started_at=ago(seconds))


def said(run):
    progress = read_sweep(run)
    return progress.describe(), progress.phase


def test_what_comes_before_the_first_level(run):
    assert said(run) == ("preparing", "preparing")
    trial = ask(run)
    assert said(run)[0] == "starting the server"
    server(trial, "starting")
    assert said(run) == ("starting the server", "starting the server")
    server(trial, "ready")
    assert said(run) == ("the server is ready", "")
    for words in (LOADING, WARMING_UP):
        with phase(trial, words):
            assert said(run) == (words, words)
    assert said(run) == ("the server is ready", "")


def test_a_server_that_runs_already_is_not_started_nor_stopped(run):
    trial = ask(run, base_url="http://127.0.0.1:9")
    server(trial, "starting")
    assert said(run)[0] == "connecting to the server"
    server(trial, "ready")
    end(trial, 1, 2)
    assert said(run)[0] == "writing the report"


@pytest.mark.parametrize(("levels", "phase"), [([1, 2], f"level 2 of 2: {LEVEL}"), ("auto", f"level 2: {LEVEL}")])
def test_a_level_says_its_last_seconds_and_its_phase_does_not(run, levels, phase):
    trial = ask(run, levels=levels)
    server(trial, "ready")
    end(trial, 1)
    assert said(run) == ("between levels", "")
    part = begin(trial)
    assert said(run) == (LEVEL, phase)
    result_files.write(part / LIVE_FILE, {"in_flight": 4, "output_throughput": 38.2, "ttft": 0.2123})
    assert said(run) == (f"{LEVEL}: 38 tokens/s, TTFT 0.21 s, 4 in flight", phase)
    result_files.write(part / LIVE_FILE, {"in_flight": 4, "output_throughput": 0.0})
    assert said(run)[0] == f"{LEVEL}: 0 tokens/s, 4 in flight"


@pytest.mark.parametrize(("levels", "words"), [([1, 2], "stopping the server"), ("auto", "between levels")])
def test_what_comes_after_the_last_level(run, levels, words):
    trial = ask(run, levels=levels)
    server(trial, "ready")
    end(trial, 1, 2)
    assert said(run)[0] == words
    server(trial, "stopped")
    assert said(run)[0] == "writing the report"


def test_a_run_that_was_cut_off_does_not_run_and_one_that_is_resumed_begins_again(tmp_path):
    run = Experiment.at(tmp_path / "run")
    run.describe(kind=SWEEP, state="running")
    trial = ask(run)
    server(trial, "ready")
    end(trial, 1)
    begin(trial)
    assert said(run)[0] == "cut off after 1 level: no process of this machine goes on with it"
    assert read_sweep(run).running is None
    with run.only_writer():
        assert said(run)[0] == LEVEL
        run.describe(resumed_at=ago(5))
        with phase(trial, WARMING_UP):  # a file that a kill left
            assert said(run)[0] == "starting the server"


def test_when_a_run_that_is_asked_to_end_will_end(run):
    assert read_sweep(run).ending == "ending before the next level"
    trial = ask(run)
    server(trial, "ready")
    assert read_sweep(run).ending == "ending before the next level"
    with phase(trial, WARMING_UP):
        assert read_sweep(run).ending == "ending after this level, about 60 s"
    part = begin(trial, seconds=20)
    assert int(re.fullmatch(r"ending after this level, about (\d+) s", read_sweep(run).ending)[1]) <= 40
    shutil.rmtree(part)
    part = begin(trial, seconds=100)
    assert read_sweep(run).ending == "ending after this level"
    shutil.rmtree(part)
    end(trial, 1, 2)
    assert read_sweep(run).ending == "ending"


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("searching", "choosing the next configuration"),
        ("confirming", "starting the next run that confirms"),
        ("done", "writing the report"),
    ],
)
def test_a_search_between_two_trials_says_what_comes_next(state, said, run):
    run.describe(kind=SEARCH, spec={"trials": 3, "confirm": 1}, search={"state": state})
    assert read_search(run).describe() == said


def test_a_search_says_what_its_trial_does(run):
    run.describe(kind=SEARCH, spec={"trials": 3, "confirm": 1, "max_seconds": 60})
    assert (read_search(run).describe(), read_search(run).phase) == ("preparing the search", "")
    run.describe(search={"state": "searching"})
    assert (read_search(run).describe(), read_search(run).phase) == ("choosing the next configuration", "")
    trial = ask(run, trials=3)
    TrialRecord(role="baseline", parameters={}).write(trial.folder)
    server(trial, "ready")
    assert (read_search(run).describe(), read_search(run).phase) == ("trial 1 of 3: the server is ready", "")
    part = begin(trial)
    result_files.write(part / LIVE_FILE, {"in_flight": 2, "output_throughput": 5.0})
    progress = read_search(run)
    assert progress.describe() == f"trial 1 of 3: {LEVEL}: 5 tokens/s, 2 in flight"
    assert progress.phase == f"trial 1 of 3: level 2 of 2: {LEVEL}"
    assert progress.ending.startswith("ending after this level, about ")


def test_a_search_that_was_cut_off_does_not_run(tmp_path):
    run = Experiment.at(tmp_path / "run")
    run.describe(kind=SEARCH, state="running")
    trial = ask(run)
    TrialRecord(role="baseline", parameters={}).write(trial.folder)
    assert read_search(run).describe() == "cut off after 0 trials: no process of this machine goes on with it"


def test_a_resumed_level_that_was_cut_off_before_is_the_one_that_runs(tmp_path):
    trial = result_files.run(tmp_path / "run", [1])
    result_files.add_level(trial, 1, outcome="interrupted", started_at="2026-11-24T04:00:00Z")
    result_files.add_level(trial, 1, partial=True, started_at="2026-11-24T05:00:00Z")
    Experiment(tmp_path / "run").describe(resumed_at="2026-11-24T04:30:00Z", state="running")
    with Experiment(tmp_path / "run").only_writer() as run:
        (level,) = read_sweep(run).levels
    assert level.state == "running"
