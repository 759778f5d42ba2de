"""Trials on a real Ray cluster: two nodes on this machine, whose GPUs are only declared."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from support import SUPPORT
from support.commands import CHECKOUT, environment
from support.processes import command_of, processes_of, wait_until
from support.side_by_side import faulty, record, started, stop_request

import tuner
from tuner.core.records import Answers, TrialRecord
from tuner.core.run_directory import Experiment
from tuner.errors import ClusterError, ServerFailed, SpecError, Stopped
from tuner.search.ray import RayExecutor, node
from tuner.sweep.progress import read_sweep
from tuner.sweep.quality import TrialSpec
from tuner.sweep.spec import make_spec

pytestmark = [
    pytest.mark.real,
    pytest.mark.xdist_group("cluster"),
    pytest.mark.timeout(300),
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'ray[client]'"),
]


class OneGPU(RayExecutor):
    """A GPU that is only declared is reserved for each trial, whose server takes none."""

    def _takes(self, spec):
        return {"GPU": 1}


class Nodes:
    """A cluster's nodes; `folder` is where all that they run has its temporary files."""

    def __init__(self, folder):
        from ray.cluster_utils import Cluster

        self.folder = folder
        self._cluster = Cluster()
        try:
            self.add(include_dashboard=False)
        except BaseException:
            self.down()
            raise
        self.address = self._cluster.address

    def add(self, **more):
        return self._cluster.add_node(num_cpus=2, num_gpus=1, **more)

    def kill(self, one):
        self._cluster.remove_node(one, allow_graceful=False)

    def ours(self):
        """The processes of ours that any node runs: trials, supervisors, servers, load generators."""
        return [process for process in processes_of(self.folder) if is_ours(process)]

    def trial_folders(self):
        return set(self.folder.glob("tuner-trial-*"))

    def down(self):
        self._cluster.shutdown()


def is_ours(process):
    with contextlib.suppress(Exception):
        words = " ".join(command_of(process))
        return any(name in words for name in ("tuner.", "supervisor.py", "faulty_server"))
    return False


def started_nodes(folder, tries=3):
    """Ray gives up on a node that is not there within 15 to 30 s, which a busy machine needs."""
    for _ in range(tries - 1):
        with contextlib.suppress(Exception):
            return Nodes(folder)
    return Nodes(folder)


@pytest.fixture(scope="module")
def cluster():
    """One node with one declared GPU; the folder's name is short, since sockets lie in it."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # the network is loopback
        for name, value in environment(folder, RAY_TMPDIR=str(folder)).items():
            patch.setenv(name, value)
        nodes = started_nodes(folder)
        yield nodes
        nodes.down()
    wait_until(lambda: not processes_of(folder), 30)
    shutil.rmtree(folder)


@pytest.fixture
def experiment(tmp_path):
    return Experiment.at(tmp_path / "run")


@pytest.fixture
def nothing_left(cluster):
    before = cluster.trial_folders()
    yield
    wait_until(lambda: not cluster.ours(), 30)
    assert cluster.trial_folders() == before


def swept(model, **asked):
    asked = {"levels": [1, 2], "scenarios": ["D(20,8)"], "max_seconds": 1, "warmup_requests": 0} | asked
    return make_spec({"model": str(model), **asked})


def submit_all(executor, spec, experiment, number):
    trials = [experiment.trial(n) for n in range(1, number + 1)]
    return [executor.submit(spec, trial, stop_request(experiment)) for trial in trials]


def test_the_answers_of_a_trial_come_back_too(cluster, tiny_gguf, experiment):
    asked = {"levels": [1], "scenarios": ["D(20,8)"], "max_seconds": 1, "quality": {"prompts": 4}}
    spec, trial = make_spec({"model": str(tiny_gguf), **asked}, TrialSpec), experiment.trial(1)
    TrialRecord(role="baseline", parameters={}).write(trial.folder)
    with OneGPU(cluster.address, 1, spec) as executor:
        executor.submit(spec, trial, stop_request(experiment)).result(200)
    answers = Answers.read(trial.folder)
    assert len(answers.first) == len(answers.again) == 4 and all(one.tokens for one in answers.first)


def test_four_trials_though_a_node_is_killed_in_their_middle(cluster, tiny_gguf, experiment):
    """Two at a time on different nodes; then one node is lost, and what had come back is not measured again."""
    second = cluster.add()
    spec, trials = swept(tiny_gguf), [experiment.trial(number) for number in range(1, 5)]
    with OneGPU(cluster.address, 0, spec) as executor:
        assert executor.slots == 2
        futures = submit_all(executor, spec, experiment, 4)
        lost = wait_until(lambda: next(filter(second_has_a_level(second), trials), None), 120)
        kept = {path: path.read_bytes() for path in lost.folder.glob("batches/*/concurrency-1/*")}
        assert len({record(trial)["host"] for trial in started(trials)}) == 2
        cluster.kill(second)
        assert [future.result(200) for future in futures] == [None] * 4
    batches = tuner.load_batches(experiment.folder)
    assert len(batches) == 8 and set(batches["outcome"]) == {"completed"}
    assert {path: path.read_bytes() for path in kept} == kept
    said = record(lost)
    assert [start["host"] for start in said["previous"]] != [said["host"]], "it went on elsewhere"
    wait_until(lambda: not cluster.ours(), 30)


def second_has_a_level(second):
    def has(trial):
        return second.node_id[:8] in record(trial).get("host", "") and list(trial.folder.glob("batches/*/*-1"))

    return has


def test_what_a_trial_raised_comes_back(cluster, nothing_left, experiment, tmp_path):
    fails = make_spec(faulty("die_after_seconds=0.1", "never_ready=1", "last_words=CUDA out of memory. Tried"))
    absent = swept(tmp_path / "absent.gguf")
    with RayExecutor(cluster.address, 2, fails) as executor:
        failed = executor.submit(fails, experiment.trial(1), stop_request(experiment))
        lacking = executor.submit(absent, experiment.trial(2), stop_request(experiment))
        assert isinstance(failed.exception(60), ServerFailed) and failed.exception().kind == "out_of_memory"
        assert isinstance(lacking.exception(60), SpecError)
    assert "absent.gguf is not on node" in str(lacking.exception())
    assert record(experiment.trial(1))["failure"]["kind"] == "out_of_memory"
    assert "CUDA out of memory" in experiment.trial(1).server_log.read_text()


def test_a_key_that_the_node_has_not_is_missed(cluster, nothing_left, experiment, monkeypatch):
    monkeypatch.setenv("ONLY_HERE_KEY", "never-on-a-node-1")
    spec = make_spec(faulty(api_key_env="ONLY_HERE_KEY"))
    with RayExecutor(cluster.address, 1, spec) as executor:
        error = executor.submit(spec, experiment.trial(1), stop_request(experiment)).exception(60)
    assert isinstance(error, SpecError) and "on node" in str(error) and "ONLY_HERE_KEY is not set" in str(error)


def test_leaving_ends_what_runs_and_what_waits(cluster, nothing_left, experiment):
    spec = make_spec(faulty("never_ready=1"))
    with OneGPU(cluster.address, 2, spec) as executor:  # there is one GPU: the second waits for it
        futures = submit_all(executor, spec, experiment, 3)
        wait_until(lambda: started(map(experiment.trial, (1, 2))), 60)
    assert [type(future.exception()) for future in futures[:2]] == [Stopped, Stopped] and futures[2].cancelled()
    (ran,) = started(map(experiment.trial, (1, 2, 3)))
    assert record(ran)["state"] == "stopped"


def test_stopping_after_the_level_that_runs(cluster, nothing_left, tiny_gguf, experiment):
    spec, wanted = swept(tiny_gguf, max_seconds=3), stop_request(experiment)
    with RayExecutor(cluster.address, 1, spec) as executor:
        future = executor.submit(spec, experiment.trial(1), wanted)
        running = wait_until(lambda: (level := read_sweep(experiment).running) and level.live and level, 90)
        assert running.level == 1 and running.live.in_flight <= 1, "the level's own numbers, from the node"
        wanted.after_level.set()
        assert isinstance(future.exception(60), Stopped)
    assert list(tuner.load_batches(experiment.folder)["outcome"]) == ["completed", "missing"]


def test_what_no_node_has_is_refused(cluster, monkeypatch):
    spec = make_spec(faulty(gpus=2))
    with pytest.raises(ClusterError, match="no node of the cluster has what a trial takes: 2 GPU"):
        RayExecutor(cluster.address, 0, spec)
    with pytest.raises(SpecError, match="say how many, not which"):
        RayExecutor(cluster.address, 0, make_spec(faulty(gpus=[0])))


def test_a_node_with_another_version_is_refused(cluster, nothing_left, experiment, monkeypatch):
    spec = make_spec(faulty())
    monkeypatch.setattr(node, "__version__", "0.0.0")  # ours; the node's own is what it is
    with RayExecutor(cluster.address, 1, spec) as executor:
        error = executor.submit(spec, experiment.trial(1), stop_request(experiment)).exception(60)
    assert isinstance(error, ClusterError) and f"has tuner {tuner.__version__}, here is 0.0.0" in str(error)


def test_nobody_answers(monkeypatch):
    with pytest.raises(ClusterError, match="cannot join the Ray cluster"):
        RayExecutor("127.0.0.1:1", 0, make_spec(faulty()))


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_the_driver(cluster, tmp_path, ending):
    """Two trials whose servers and their children ignore SIGTERM."""
    spec = faulty("ignore_sigterm=1", "orphans=2", "never_ready=1")
    arguments = [SUPPORT / "trials_owner.py", cluster.address, tmp_path, json.dumps(spec)]
    with subprocess.Popen(
        [sys.executable, *arguments], env=environment(tmp_path), stderr=subprocess.PIPE, start_new_session=True
    ) as driver:
        wait_until(lambda: sum("faulty_server" in " ".join(command_of(p)) for p in cluster.ours()) >= 4, 60)
        os.kill(driver.pid, ending)
        driver.communicate(timeout=60)
    wait_until(lambda: not cluster.ours(), 30)


def test_ray_is_only_asked_for_where_it_is_used():
    code = "import sys, tuner.search.executors; print('ray' in sys.modules)"
    out = subprocess.check_output([sys.executable, "-c", code], env=environment(CHECKOUT), text=True)
    assert out.strip() == "False"
