"""The run directory: how runs are called and found again, and files that are odd or damaged."""

import json
import os

import pytest

from tuner.core import locks
from tuner.core.records import SEARCH, SWEEP, Sidecar
from tuner.core.run_directory import Experiment, Trial
from tuner.errors import PathError


def run_of(runs, kind, name):
    experiment = Experiment.create(runs, kind, name)
    experiment.describe(kind=kind, name=name, state="done")
    return experiment


def test_a_run_is_found_by_the_name_that_it_was_given(tmp_path):
    mine = run_of(tmp_path, SWEEP, "my run")
    run_of(tmp_path, SWEEP, "another my run")
    run_of(tmp_path, SEARCH, "my run")
    assert list(Experiment.find(tmp_path, SWEEP, "my run")) == [mine]
    assert len(list(Experiment.find(tmp_path, SWEEP))) == 2 and len(list(Experiment.find(tmp_path))) == 3


def test_a_second_run_of_the_same_second_is_found_first(tmp_path):
    runs = [run_of(tmp_path, SWEEP, "my run") for _ in range(2)]
    assert next(Experiment.find(tmp_path, SWEEP, "my run")).folder in [run.folder for run in runs]
    assert len(list(Experiment.find(tmp_path, SWEEP, "my run"))) == 2


def test_only_one_writes_into_a_run(tmp_path):
    experiment = Experiment.at(tmp_path / "run")
    with experiment.only_writer():
        assert experiment.is_running
        with pytest.raises(PathError, match="is being written"), experiment.only_writer():
            pass
    assert not experiment.is_running


@pytest.mark.parametrize("content", ["", "[]", '"text"', '{"gpus": ', "null"])
def test_a_damaged_file_is_as_if_it_were_not_there(content, tmp_path):
    for name in ("server.json", "batch.json", "trial.json"):
        (tmp_path / name).write_text(content)
    assert (Trial(tmp_path).server, Trial(tmp_path).facts, Sidecar.read(tmp_path)) == (None, None, None)


def test_what_was_asked_of_a_run_cannot_be_lost(tmp_path):
    run_of(tmp_path, SWEEP, "my run")
    [file] = tmp_path.glob("*/experiment.json")
    file.write_text(file.read_text()[:-9])
    assert Experiment(file.parent).facts == {}
    for write_or_go_on in (
        lambda: Experiment(file.parent).describe(state="done"),
        lambda: Experiment.open(file.parent),
    ):
        with pytest.raises(PathError, match=r"experiment\.json is not valid JSON"):
            write_or_go_on()


def test_an_odd_server_record_keeps_what_fits(tmp_path):
    odd = {"gpus": ["GPU-a"], "parameters": None, "version": 5, "of_a_later_tuner": 1, "failure": {"kind": "crashed"}}
    (tmp_path / "server.json").write_text(json.dumps(odd))
    server = Trial(tmp_path).server
    assert (server.gpus, server.parameters, server.version, server.started_at) == (["GPU-a"], {}, "", "")
    assert server.failure.kind == "crashed"


def test_a_temporary_folder_that_nobody_holds_goes_with_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left, lock = locks.temporary_folder("tuner-test-")
    lock.close()
    held, held_lock = locks.temporary_folder("tuner-test-")
    for folder in (left, held):
        os.utime(folder, (1, 1))
    new, new_lock = locks.temporary_folder("tuner-test-")
    assert {path.name for path in tmp_path.iterdir()} == {held.name, new.name}
    for holder in (held_lock, new_lock):
        holder.close()


def test_a_lock_is_no_way_to_another_file(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / ".lock").symlink_to(tmp_path / "mine")
    with pytest.raises(PathError, match="cannot write"), Experiment.at(tmp_path).only_writer():
        pass
    (tmp_path / ".lock").unlink()
    os.mkfifo(tmp_path / ".lock")
    assert not Experiment(tmp_path).is_running and (tmp_path / "mine").read_text() == "mine"
