"""Two who want one run directory or one GPU: the second is refused in words and changes nothing."""

import json
import os
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import SUPPORT
from support.commands import environment, run, start
from support.processes import wait_until
from support.side_by_side import faulty

from tuner.core.run_directory import Experiment
from tuner.errors import PathError

pytestmark = pytest.mark.real

#: a network of its own, as a container has it; nothing in it is up but loopback
NAMESPACE = ["unshare", "-n", "sh", "-c", 'ip link set lo up; exec "$@"', "sh"]


def can_have_namespaces():
    return (
        bool(shutil.which("ip"))
        and not subprocess.run([*NAMESPACE, "true"], check=False, capture_output=True).returncode
    )


in_namespaces = pytest.mark.skipif(not can_have_namespaces(), reason="no network namespaces here (unshare -n, ip)")


def sweep_file(folder, *knobs, **asked):
    asked = faulty(*knobs, **{"levels": [1, 2], "scenarios": ["D(20,8)"], "max_seconds": 1} | asked)
    (folder / "asked.json").write_text(json.dumps(asked))
    return folder / "asked.json"


def files_of(run_folder):
    """Everything in a run but what its server goes on writing."""
    files = [path for path in run_folder.rglob("*") if path.is_file() and path.name != "server.log"]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


@pytest.fixture
def waiting_run(tmp_path):
    """A sweep that waits for its server, which only gets ready when the test says so; and its run directory."""
    asked = sweep_file(tmp_path, "never_ready=1", levels=[1], ready_timeout=60)
    with start(tmp_path, "sweep", asked) as first:
        (record,) = wait_until(lambda: list(tmp_path.glob("runs/*/trials/0001/server.json")))
        wait_until(lambda: json.loads(record.read_text())["pid"])
        yield first, record.parents[2]
        first.kill()


def test_a_second_resume_is_refused_in_words_and_writes_nothing(waiting_run, tmp_path):
    first, folder = waiting_run
    before = files_of(folder)
    code, out, err = run(tmp_path, "sweep", "--resume", folder)
    assert code == 2 and out == "" and len(err.strip().splitlines()) == 1
    assert f"is being written by process {first.pid} (tuner sweep) on host {os.uname().nodename}, since 20" in err
    with start(tmp_path, "sweep", "--resume", folder) as third:
        third.send_signal(signal.SIGINT)
        third.communicate(timeout=30)
    assert files_of(folder) == before and first.poll() is None


def test_a_first_ctrl_c_ends_a_sweep_whose_server_is_not_ready_yet(waiting_run):
    first, folder = waiting_run
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=30)
    assert first.returncode == 130, err
    assert f"to go on: tuner sweep --resume runs/{folder.name}" in out
    assert Experiment(folder).facts["state"] == "interrupted"


def test_a_stop_that_is_asked_for_before_the_run_has_begun_is_kept(tmp_path):
    made = Experiment.create(tmp_path, "sweep", "x")
    made.stop_file.touch()
    with made.only_writer() as held:
        assert held.stop_file.exists()
        held.describe(state="interrupted")
    with made.only_writer() as held:
        assert not held.stop_file.exists()  # it was for the run that has ended


def test_two_runs_of_one_instant_have_a_folder_each(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: Experiment.create(tmp_path, "sweep", "x").folder, range(64)))
    assert len(set(made)) == 64


def test_a_refused_run_leaves_nothing_and_keeps_what_is_not_its_own(tmp_path):
    made = Experiment.create(tmp_path / "runs", "sweep", "x")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    for refused in (made, Experiment.at(tmp_path / "mine")):
        with pytest.raises(PathError), refused.only_writer():
            raise PathError("refused")
    assert list((tmp_path / "runs").iterdir()) == []
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_what_a_killed_writer_had_aside_is_removed_by_the_next(tmp_path):
    made = Experiment.at(tmp_path / "run")
    made.describe(state="running")
    left, mine = made.trial(1).folder / ".server.json.0a1b2c3d", made.folder / ".gitignore"
    for path in (left, mine):
        path.touch()
        os.utime(path, (1, 1))
    with made.only_writer():
        assert not left.exists() and mine.exists()


@in_namespaces
def test_a_run_directory_has_one_writer_across_network_namespaces(tmp_path):
    asked = sweep_file(tmp_path, "never_ready=1", ready_timeout=60)
    for order in ([], NAMESPACE), (NAMESPACE, []):
        with start(tmp_path, "sweep", asked, before=order[0]) as first:
            (record,) = wait_until(lambda: list(tmp_path.glob("runs/*/experiment.json")))
            with start(tmp_path, "sweep", "--resume", record.parent, before=order[1]) as second:
                _, err = second.communicate(timeout=60)
            assert second.returncode == 2 and f"is being written by process {first.pid} (tuner sweep)" in err
            first.terminate()
        shutil.rmtree(record.parent)


@in_namespaces
def test_a_gpu_has_one_server_across_network_namespaces(tmp_path):
    """Its driver is one that answers from a file."""
    (tmp_path / "pynvml.py").write_text(
        "import sys\nfrom support.recorded_nvml import RecordedNVML\nsys.modules[__name__] = RecordedNVML()\n"
    )
    more = {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(SUPPORT.parent), environment(tmp_path)["PYTHONPATH"]]),
        "TUNER_LOCKS": str(tmp_path / "locks"),
    }
    asked = sweep_file(tmp_path, "never_ready=1", ready_timeout=60, gpus=[0])
    for order in ([], NAMESPACE), (NAMESPACE, []):
        with start(tmp_path, "sweep", asked, before=order[0], **more) as first:
            wait_until(lambda: f"process {first.pid} " in "".join(map(Path.read_text, tmp_path.glob("locks/*"))))
            with start(tmp_path, "sweep", asked, before=order[1], **more) as second:
                _, err = second.communicate(timeout=60)
            assert second.returncode == 1, err
            assert f" GiB in use, taken by process {first.pid} (tuner sweep) on host" in err
            first.terminate()
            first.communicate(timeout=30)
