"""The index beside many runs: with it and without it, whatever happens to the files, a load gives the same."""

import json
import multiprocessing
import os
import random
import re
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal
from support import result_files

import tuner
from tuner.batches import cache
from tuner.core import files
from tuner.core.run_directory import Trial, TrialFacts
from tuner.errors import PathError

SLO = {"ttft": {"p90": {"threshold": 0.15}}, "latency": {"p50": {"threshold": 1.2}}}
LEVELS = (1, 2)
FIRST = len(LEVELS)  # files of the first trial: it alone is no reason to open the index
real_read_bytes = Path.read_bytes


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """A second trial is reason enough for an index, and what was written a moment ago counts as settled."""
    monkeypatch.setattr(cache, "WORTH_INDEXING", 5000)
    monkeypatch.setattr(cache.time, "time_ns", lambda: int((time.time() + 5) * 10**9))


def content(ttft=0.1):
    return json.dumps(result_files.result([result_files.request(ttft=ttft)] * 20))


def history(folder, runs=3):
    """A few runs of ours and one genai-bench folder."""
    for number in range(runs):
        add_run(folder / f"run-{number}")
    result_files.plain_folder(folder / "plain", list(LEVELS))
    return folder


def add_run(folder):
    trial = result_files.run(folder, list(LEVELS))
    for level in LEVELS:
        result_files.add_level(trial, level, content())


def loaded(folder):
    judged = tuner.judge(tuner.load_batches(folder), SLO)
    return judged.drop(columns="source").assign(source=judged["source"].astype(str))


def without_index(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "WORTH_INDEXING", float("inf"))
        return loaded(folder)


def results(folder):
    return sorted(path for path in folder.rglob("D100*.json") if path.is_file())


# ---------------------------------------------------------------------------------------------- what may happen
def touch(folder, dice):
    os.utime(dice.choice(results(folder)))


def append(folder, dice):
    with open(dice.choice(results(folder)), "a") as file:
        file.write(dice.choice([" ", "x"]))


def cut(folder, dice):
    file = dice.choice(results(folder))
    file.write_text(file.read_text()[:-30])


def replace_by_the_same_size_and_time(folder, dice):
    for file in results(folder):
        before = file.stat()
        file.write_text(re.sub(r'"ttft": 0\.\d,', f'"ttft": 0.{dice.randrange(2, 9)},', file.read_text()))
        assert file.stat().st_size == before.st_size
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def delete(folder, dice):
    if len(results(folder)) > 3:
        dice.choice(results(folder)).unlink()


def swap_two_levels(folder, dice):
    levels = sorted({file.parent for file in results(folder) if file.parent.name.startswith("concurrency-")})
    if len(levels) > 1:
        one, other = dice.sample(levels, 2)
        aside = folder / "run-0" / "aside"
        for source, target in ((one, aside), (other, one), (aside, other)):
            source.rename(target)


def begin_a_level(folder, dice):
    trial = result_files.run(folder / f"begun-{dice.randrange(10**6)}", list(LEVELS))
    result_files.add_level(trial, 1, content(0.3), partial=True, outcome="running")


def end_a_level(folder, dice):
    for partial in sorted(folder.rglob("*.part")):
        sidecar = files.read_json(partial / "batch.json")
        files.write_json(partial / "batch.json", sidecar | {"outcome": "completed"})
        partial.rename(partial.with_name(partial.name.removesuffix(".part")))


def add(folder, dice):
    add_run(folder / f"later-{dice.randrange(10**6)}")


def remove_a_run(folder, dice):
    runs = sorted(path for path in folder.iterdir() if path.is_dir() and path.name != "run-0")
    if len(runs) > 2:
        shutil.rmtree(dice.choice(runs))


def change_a_sidecar(folder, dice):
    file = dice.choice(sorted(folder.rglob("batch.json")))
    files.write_json(file, files.read_json(file) | {"outcome": "timeout", "reason": "changed"})


def damage_the_index(folder, dice):
    file = folder / cache.INDEX_NAME
    if file.exists():
        data = bytearray(file.read_bytes())
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        file.write_bytes(data[: dice.choice([len(data), len(data) // 2, 3])])


def lose_the_index(folder, dice):
    (folder / cache.INDEX_NAME).unlink(missing_ok=True)


EVENTS = (touch, append, cut, replace_by_the_same_size_and_time, delete, swap_two_levels, begin_a_level, end_a_level)
EVENTS += (add, remove_a_run, change_a_sidecar, damage_the_index, lose_the_index)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_with_and_without_the_index_after(event, tmp_path):
    folder = history(tmp_path / "runs")
    begin_a_level(folder, random.Random(0))
    loaded(folder)
    assert (folder / cache.INDEX_NAME).exists()
    event(folder, random.Random(event.__name__))
    assert_frame_equal(loaded(folder), without_index(folder))
    assert_frame_equal(loaded(folder), without_index(folder))


@settings(max_examples=15, deadline=None)
@given(events=st.lists(st.sampled_from(EVENTS), min_size=1, max_size=6), seed=st.integers(0, 10**6))
def test_with_and_without_the_index_after_anything(events, seed, tmp_path_factory):
    folder, dice = history(tmp_path_factory.mktemp("history") / "runs"), random.Random(seed)
    for event in events:
        loaded(folder)
        event(folder, dice)
        assert_frame_equal(loaded(folder), without_index(folder))


def test_nothing_is_read_twice(tmp_path, monkeypatch):
    folder, read = history(tmp_path / "runs", runs=6), []

    def read_bytes(path):
        if path.name.startswith("D100"):
            read.append(path)
        return real_read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    first = loaded(folder)
    assert len(read) == len(results(folder)) + FIRST  # judging reads the first ones again, then opens the index
    read.clear()
    assert_frame_equal(loaded(folder), first)
    assert len(read) == 2 * FIRST


def test_what_changed_alone_is_read_again_and_what_is_gone_is_dropped(tmp_path):
    folder = history(tmp_path / "runs")
    loaded(folder)
    before = cache.Index(folder, cache.INDEX_NAME).entries
    gone, changed = sorted(before)[-2:]
    (folder / gone).unlink()
    (folder / changed).write_text(content(0.3))
    loaded(folder)
    after = cache.Index(folder, cache.INDEX_NAME).entries
    assert set(before) - set(after) == {gone}
    assert [key for key in after if after[key].identity != before[key].identity] == [changed]


@pytest.mark.parametrize("runs", [["run-0"], ["run-0", "run-1"]])
def test_small_loads_leave_nothing_behind(runs, tmp_path, monkeypatch):
    folder = history(tmp_path / "runs")
    monkeypatch.undo()
    tuner.judge(tuner.load_batches(*(folder / run for run in runs)), SLO)
    assert not list(folder.rglob(".tuner*"))


@pytest.mark.parametrize(("inside", "path"), [(".", "run"), ("run", "."), ("run/trials", "0001"), ("run/trials", ".")])
def test_a_large_run_alone_leaves_nothing_in_any_folder(inside, path, tmp_path, monkeypatch):
    trial = result_files.run(tmp_path / "run", list(range(1, 9)))
    for level in range(1, 9):
        result_files.add_level(trial, level, content())
    monkeypatch.chdir(tmp_path / inside)
    loaded(Path(path))
    assert not list(tmp_path.rglob(".tuner*"))


def test_a_search_of_many_trials_has_an_index_beside_it(tmp_path):
    for number in (1, 2, 3):
        result_files.run(tmp_path / "search", list(LEVELS))
        folder = tmp_path / "search" / "trials" / f"{number:04d}"
        trial = Trial(folder)
        folder.mkdir(exist_ok=True)
        trial.write(TrialFacts(trial=number, engine="vllm", model="m", scenarios=["D(100,100)"], levels=list(LEVELS)))
        for level in LEVELS:
            result_files.add_level(trial, level, content())
    assert_frame_equal(loaded(tmp_path / "search"), without_index(tmp_path / "search"))
    assert list(tmp_path.rglob(".tuner*")) == [tmp_path / cache.INDEX_NAME]


def test_an_index_of_another_version_is_not_believed(tmp_path, monkeypatch):
    folder = history(tmp_path / "runs")
    with monkeypatch.context() as patch:
        patch.setattr(cache, "SCHEMA", cache.SCHEMA + 1)
        loaded(folder)
    assert cache.Index(folder, cache.INDEX_NAME).entries == {}
    assert_frame_equal(loaded(folder), without_index(folder))


@pytest.mark.parametrize("samples", [b"123", bytes(8), b"", bytes(8 * 4 * 999)])
def test_an_entry_whose_samples_do_not_fit_is_not_believed(samples, tmp_path):
    runs = history(tmp_path / "runs")
    expected = loaded(runs)
    kept = cache.Index(runs, cache.INDEX_NAME)
    assert kept.entries
    for entry in kept.entries.values():
        entry.reading.samples = samples
    kept.changed = True
    kept.close()
    assert_frame_equal(loaded(runs), expected)


def test_an_index_that_was_copied_along_is_not_believed(tmp_path):
    """Copies have names, sizes and times of change that fit, but other bytes may be in them."""
    folder = history(tmp_path / "runs")
    loaded(folder)
    shutil.copytree(folder, tmp_path / "other")
    replace_by_the_same_size_and_time(tmp_path / "other", random.Random(0))
    assert_frame_equal(loaded(tmp_path / "other"), without_index(tmp_path / "other"))


def test_a_folder_that_was_moved_keeps_its_index(tmp_path, monkeypatch):
    loaded(history(tmp_path / "runs", runs=6))
    moved = (tmp_path / "runs").rename(tmp_path / "moved")
    computed = []
    real = cache.Cache._compute
    monkeypatch.setattr(cache.Cache, "_compute", lambda self, path: computed.append(path) or real(self, path))
    loaded(moved)
    assert len(computed) == 2 * FIRST
    assert_frame_equal(loaded(moved), without_index(moved))


def test_loads_in_several_processes_at_once(tmp_path):
    folder = history(tmp_path / "runs", runs=8)
    expected = without_index(folder)
    context = multiprocessing.get_context("spawn")  # a fork would share the locks of this process's threads
    with ProcessPoolExecutor(4, mp_context=context) as pool:
        found = list(pool.map(loaded, [folder] * 12))
    for frame in [*found, loaded(folder)]:
        assert_frame_equal(frame, expected)
    assert sorted(path.name for path in folder.glob(".*")) == [cache.INDEX_NAME]


def test_where_nothing_can_be_written_there_is_no_index_and_no_harm(tmp_path, monkeypatch):
    def refuse(path, content):
        raise PathError(f"cannot write {path}: read-only")

    folder = history(tmp_path / "runs")
    monkeypatch.setattr(files, "write_atomically", refuse)
    assert_frame_equal(loaded(folder), without_index(folder))


def test_a_read_only_folder_has_its_index_in_the_users_cache(tmp_path, monkeypatch):
    folder, real = history(tmp_path / "runs"), files.write_atomically

    def refuse(path, content):
        if path.is_relative_to(folder):
            raise PathError(f"cannot write {path}: read-only")
        real(path, content)

    monkeypatch.setattr(files, "write_atomically", refuse)
    expected = loaded(folder)
    assert not (folder / cache.INDEX_NAME).exists()
    assert cache.Index(folder, cache.INDEX_NAME).entries
    assert_frame_equal(loaded(folder), expected)
