"""A trial's files from one folder to another: as they come, whole, and nowhere else."""

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import result_files

import tuner
from tuner.core import files
from tuner.core.run_directory import PARTIAL
from tuner.errors import PathError
from tuner.search.ray.sync import APPEND, LEVEL, REMOVE, WRITE, Change, Watch, apply, results
from tuner.sweep.progress import PHASE_FILE, phase
from tuner.traffic.live import LIVE_FILE, Live, read_live


@pytest.fixture
def trial(tmp_path):
    """A trial as a node has it."""
    return result_files.run(tmp_path / "node", [1, 2, 4])


@pytest.fixture
def here(tmp_path):
    """The same trial's folder at the driver."""
    return result_files.run(tmp_path / "driver", [1, 2, 4])


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def kinds(changes):
    return [change.kind for change in changes]


def test_what_a_trial_does_is_done_again_step_by_step(trial, here):
    watch = Watch(trial.folder)
    files.write_json(trial.folder / "server.json", {"state": "starting"})
    trial.server_log.write_text("loading\n")
    part = result_files.add_level(trial, 1, partial=True, outcome="running")
    (part / "client.log").write_text("not wanted before the level is in place")
    apply(watch.changes(), here.folder)
    assert {path.name for path in here.folder.rglob(f"*{PARTIAL}/*")} == {"batch.json"}

    result_files.write(part / result_files.name(1), result_files.result(level=1))
    part.rename(trial.batch_folder("D(100,100)", 1))
    files.write_json(trial.folder / "server.json", {"state": "ready"})
    with trial.server_log.open("a") as log:
        log.write("ready\n")
    apply(watch.changes(), here.folder)
    assert contents(here.folder) == contents(trial.folder)
    assert not list(here.folder.rglob(f"*{PARTIAL}")) and watch.changes() == []


def test_only_what_is_new_is_told(trial):
    watch = Watch(trial.folder)
    result_files.add_level(trial, 1, result_files.result(level=1))
    trial.server_log.write_text("1\n")
    assert kinds(watch.changes()) == [WRITE, LEVEL, APPEND]
    result_files.add_level(trial, 2, result_files.result(level=2))
    with trial.server_log.open("a") as log:
        log.write("2\n")
    level, log = watch.changes()
    assert level.path.endswith("concurrency-2") and log.content == {"": b"2\n"}


def test_what_a_running_level_does_is_shown_and_gone_with_it(trial, here):
    watch = Watch(trial.folder)
    with phase(trial, "warming up"):
        part = result_files.add_level(trial, 1, partial=True, outcome="running")
        apply(watch.changes(), here.folder)
        assert (here.folder / PHASE_FILE).read_text() == "warming up"
        assert not any(change.path == PHASE_FILE for change in results(here.folder))
    (part / LIVE_FILE).write_bytes(msgspec.json.encode(Live(3, 12.5, 0.25)))
    apply(watch.changes(), here.folder)
    assert not (here.folder / PHASE_FILE).exists()
    (shown,) = here.level_folders(partial=True)
    assert read_live(shown) == Live(3, 12.5, 0.25)
    (part / LIVE_FILE).unlink()
    part.rename(trial.batch_folder("D(100,100)", 1))
    apply(watch.changes(), here.folder)
    assert contents(here.folder) == contents(trial.folder)


def test_results_are_what_another_node_can_go_on_with(trial, here):
    result_files.add_level(trial, 1, result_files.result(level=1))
    result_files.add_level(trial, 2, partial=True)
    trial.server_log.write_text("its own\n")
    apply(results(trial.folder), here.folder)
    assert list(tuner.load_batches(here.folder.parents[1])["outcome"]) == ["completed", "missing", "missing"]
    assert not here.server_log.exists()


WRONG = [
    (WRITE, "../evil.json"),
    (WRITE, "/etc/evil.json"),
    (WRITE, ".hidden.json"),
    (WRITE, "batches/x/evil.json"),
    (WRITE, "run.sh"),
    (APPEND, "trial.json"),
    (APPEND, "batches/../server.log"),
    (LEVEL, "batches/D(1,1)/../concurrency-1"),
    (LEVEL, "batches/../../concurrency-1"),
    (LEVEL, "batches/D(1,1)/other"),
    (REMOVE, "trial.json"),
    (WRITE, "batches/x/concurrency-1/live.json"),
]


@pytest.mark.parametrize(("kind", "path"), WRONG)
def test_a_place_where_no_file_of_a_trial_belongs_is_refused(here, kind, path):
    before = contents(here.folder.parents[1])
    with pytest.raises(PathError, match="no file of a trial"):
        apply([Change(kind, path, {"": b"x"})], here.folder)
    assert contents(here.folder.parents[1]) == before


@pytest.mark.parametrize("name", ["../up", "a/b", "..", ".hidden", "", "a\0b"])
def test_a_file_of_a_level_stays_in_its_folder(here, name):
    with pytest.raises(PathError, match="no file of a trial"):
        apply([Change(LEVEL, "batches/D(1,1)/concurrency-1", {name: b"x"})], here.folder)


def test_a_link_leads_nowhere_else(here, tmp_path):
    (here.folder / "batches").symlink_to(tmp_path)
    with pytest.raises(PathError, match="no file of a trial"):
        apply([Change(LEVEL, "batches/D(1,1)/concurrency-1", {"batch.json": b"{}"})], here.folder)


PARTS = st.sampled_from(["..", ".", "", "a", "batches", "concurrency-1", "server.log", "x.json", "~", "\\", "c.part"])


@given(st.sampled_from([WRITE, APPEND, LEVEL]), st.lists(PARTS, max_size=5).map("/".join), PARTS | st.text(max_size=3))
def test_nothing_is_ever_written_outside(tmp_path_factory, kind, path, name):
    outside = tmp_path_factory.mktemp("outside")
    folder = outside / "trials" / "0001"
    folder.mkdir(parents=True)
    with contextlib.suppress(PathError):
        apply([Change(kind, path, {"": b"x"} if kind != LEVEL else {name: b"x"})], folder)
    written = {path for path in outside.rglob("*") if path.is_file()}
    assert all(path.is_relative_to(folder) for path in written)
