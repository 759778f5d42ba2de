"""Trials side by side on one machine: as many as fit, on GPUs of their own, and gone with whoever started them."""

import json
import os
import signal
import subprocess
import sys

import pytest
from support import SUPPORT
from support.commands import environment
from support.processes import processes_of, wait_until
from support.recorded_nvml import RecordedNVML
from support.side_by_side import faulty, record, started, stop_request

import tuner
from tuner.core.records import READY
from tuner.core.run_directory import Experiment
from tuner.engines.command import Command
from tuner.engines.gguf import tokenizer_folder
from tuner.errors import ServerFailed, SpecError, Stopped
from tuner.search import executors
from tuner.search.executors import LocalExecutor
from tuner.search.spec import TuneSpec
from tuner.sweep.spec import make_spec
from tuner.sweep.sweep import StopRequest


@pytest.fixture
def nvml(monkeypatch):
    """Four GPUs, all free."""
    answers = RecordedNVML()
    for index, gpu in enumerate(answers.gpus):
        gpu["nvmlDeviceGetComputeRunningProcesses"] = []
        answers.use(index, 600 << 20)
    monkeypatch.setitem(sys.modules, "pynvml", answers)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return answers


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    monkeypatch.setattr(Command, "grace", 0.5)
    return Experiment.at(tmp_path / "run")


@pytest.mark.parametrize(
    ("asked", "slots"),
    [({}, 1), ({"gpus": 1}, 4), ({"gpus": 2}, 2), ({"gpus": 3}, 1), ({"gpus": [0, 1]}, 1), ({"gpus": 8}, 1)],
)
def test_as_many_trials_at_once_as_gpus_are_enough_for(nvml, asked, slots):
    with executors.make("local", 0, make_spec(faulty(**asked))) as executor:
        assert executor.slots == slots


def test_only_gpus_that_a_scheduler_left_to_us_count(nvml, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    with executors.make("local", 0, make_spec(faulty(gpus=1))) as executor:
        assert executor.slots == 2


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"port": 8000}, "port: 2 trials at once cannot share 8000"),
        ({"gpus": [0, 1]}, r"gpus: 2 trials at once cannot share \[0, 1\]"),
        ({"engine": "attach", "base_url": "http://127.0.0.1:1"}, "base_url: 2 trials"),
    ],
)
def test_what_trials_cannot_share_is_refused(asked, message):
    with pytest.raises(SpecError, match=message):
        executors.make("local", 2, make_spec(faulty() | asked))


@pytest.mark.parametrize("on", ["moon", "ray://", "ray://host", "a b:1"])
def test_a_place_where_no_trial_can_run_is_refused(on):
    with pytest.raises(SpecError, match=f"on: must be local, ray or ray://ADDRESS, got '{on}'"):
        make_spec({"engine": "llamacpp", "on": on}, TuneSpec)


def test_trials_at_once_have_gpus_of_their_own(nvml, experiment):
    """Three of two GPUs each on four GPUs, in three slots: the third waits for its GPUs instead of failing."""
    spec, trials = make_spec(faulty("never_ready=1", gpus=2)), [experiment.trial(number) for number in (1, 2, 3)]
    stops = [stop_request(experiment) for _ in trials]
    with LocalExecutor(3) as executor:
        futures = [executor.submit(spec, *both) for both in zip(trials, stops, strict=True)]
        wait_until(lambda: len(started(trials)) == 2)
        taken = [gpu for trial in started(trials) for gpu in record(trial)["gpus"]]
        assert len(taken) == len(set(taken)) == 4
        running = trials.index(started(trials)[0])
        stops[running].at_once.set()
        assert isinstance(futures[running].exception(30), Stopped)
        wait_until(lambda: len(started(trials)) == 3)
    assert {type(future.exception()) for future in futures} == {Stopped}
    assert {record(trial)["failure"] for trial in trials} == {None}, "a server that was wanted no more has not failed"


def test_the_exception_is_the_one_of_the_trial(experiment):
    spec = make_spec(faulty("die_after_seconds=0.1", "never_ready=1", "last_words=CUDA out of memory. Tried"))
    with LocalExecutor() as executor:
        error = executor.submit(spec, experiment.trial(1), stop_request(experiment)).exception(30)
    assert isinstance(error, ServerFailed) and error.kind == "out_of_memory"


def test_what_waits_when_it_is_left_never_starts(experiment):
    spec = make_spec(faulty("never_ready=1"))
    with LocalExecutor() as executor:
        futures = [executor.submit(spec, experiment.trial(number), stop_request(experiment)) for number in (1, 2)]
        wait_until(lambda: started([experiment.trial(1)]))
    assert isinstance(futures[0].exception(), Stopped) and futures[1].cancelled()
    assert not record(experiment.trial(2))


@pytest.mark.real
def test_two_trials_measure_at_once(tiny_gguf, experiment):
    tokenizer = str(tokenizer_folder(tiny_gguf))
    spec = make_spec(faulty(tokenizer=tokenizer, scenarios=["D(20,8)"], levels=[1], max_seconds=1, warmup_requests=0))
    with LocalExecutor(2) as executor:
        both = [executor.submit(spec, experiment.trial(number), stop_request(experiment)) for number in (1, 2)]
        assert [future.result(120) for future in both] == [None, None]
    batches = tuner.load_batches(experiment.folder)
    assert list(batches["trial"]) == [1, 2] and set(batches["outcome"]) == {"completed"}
    first, second = (record(experiment.trial(number)) for number in (1, 2))
    assert first["base_url"] != second["base_url"]
    assert max(first["started_at"], second["started_at"]) < min(first["finished_at"], second["finished_at"])


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_nothing_of_two_trials_outlives_their_owner(tmp_path, ending):
    spec = faulty("ignore_sigterm=1", "orphans=2", "never_ready=1")
    arguments = [SUPPORT / "trials_owner.py", "local", tmp_path / "run", json.dumps(spec)]
    with subprocess.Popen([sys.executable, *arguments], env=environment(tmp_path), start_new_session=True) as owner:
        run = Experiment.at(tmp_path / "run")
        wait_until(lambda: len(started([run.trial(1), run.trial(2)])) == 2)
        os.kill(owner.pid, ending)
        owner.wait(60)
    wait_until(lambda: not processes_of(tmp_path))


def test_a_server_that_starts_is_given_up_at_once(experiment):
    stop = StopRequest()
    with LocalExecutor() as executor:
        future = executor.submit(make_spec(faulty("never_ready=1")), experiment.trial(1), stop.of(experiment))
        wait_until(lambda: started([experiment.trial(1)]))
        assert record(experiment.trial(1))["state"] != READY
        stop.at_once.set()
        assert isinstance(future.exception(10), Stopped)
