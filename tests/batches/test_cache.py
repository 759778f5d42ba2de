"""What is kept beside the files: faster, never stale, never in the way."""

import json
import multiprocessing
import os
import random
import re
import threading
import time
from concurrent.futures import ProcessPoolExecutor

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal
from support import result_files
from support.reads import watch
from support.result_files import name, plain_folder, request, result, write

import tuner
from tuner.batches import _cache as cache
from tuner.core import files
from tuner.core.run_directory import Trial
from tuner.errors import PathError

LARGE = json.dumps(result([request()] * 9000))
SLOWER = LARGE.replace('"ttft": 0.1,', '"ttft": 0.2,')
OLD = 10**9 + 0.5  # seconds since 1970; a file changed a moment ago is not kept


@pytest.fixture
def folder(tmp_path):
    """A genai-bench folder with one large file that was last changed long ago."""
    put(tmp_path / "run", LARGE)
    return tmp_path / "run"


def put(folder, content):
    file = write(folder / name(1), content)
    os.utime(file, (OLD, OLD))
    wait_until_settled(file)
    return file


def wait_until_settled(file):
    """The time of change of the inode cannot be set, so let a tenth of a second pass."""
    while not cache._is_settled(file.stat()):
        threading.Event().wait(0.02)


def ttft(folder):
    [value] = tuner.load_batches(folder)["ttft_p50"]
    return value


def forbid_reading(monkeypatch):
    watch(monkeypatch, must_be_no_result)


def must_be_no_result(path):
    assert not path.name.startswith("D100"), "the result file was read"


def test_a_second_load_does_not_read_the_file(folder, monkeypatch):
    first = tuner.judge(tuner.load_batches(folder), {"ttft": {"threshold": 0.15}})
    forbid_reading(monkeypatch)
    second = tuner.judge(tuner.load_batches(folder), {"ttft": {"threshold": 0.15}})
    pd.testing.assert_frame_equal(second, first)
    assert [path.name for path in sorted(folder.iterdir())] == [cache.NAME, name(1)]


def test_small_files_leave_nothing_behind(tmp_path):
    plain_folder(tmp_path / "run", [1])
    tuner.load_batches(tmp_path / "run")
    tuner.load_requests(tmp_path / "run")
    assert not list((tmp_path / "run").glob(".*"))


def change_content(folder):
    put(folder, SLOWER)  # as long as the old one, and with the old time of change


def replace_file(folder):
    file = write(folder / "aside", SLOWER)
    os.utime(file, (OLD, OLD))
    file.replace(folder / name(1))


def change_just_now(folder):
    (folder / name(1)).write_text(SLOWER)


@pytest.mark.parametrize("change", [change_content, replace_file, change_just_now])
def test_a_changed_file_is_read_again(folder, change):
    assert ttft(folder) == 0.1
    change(folder)
    assert ttft(folder) == 0.2
    assert ttft(folder) == 0.2


def test_a_file_changed_within_this_clock_tick_is_not_kept(folder, monkeypatch):
    """Another change within the tick would leave its times as they are."""
    changed = (folder / name(1)).stat().st_ctime_ns
    monkeypatch.setattr(cache.time, "time_ns", lambda: changed + 10**6)
    assert ttft(folder) == 0.1
    assert not (folder / cache.NAME).exists()


def test_a_file_that_changes_while_it_is_read_is_not_kept(folder, monkeypatch):
    def read_and_change(reader, path):
        content = real_read(reader, path)
        put(folder, SLOWER)
        return content

    real_read = cache.BatchReader.read
    with monkeypatch.context() as patch:
        patch.setattr(cache.BatchReader, "read", read_and_change)
        assert ttft(folder) == 0.1
    assert ttft(folder) == 0.2


@pytest.mark.parametrize("content", [b"", b"junk", b"\x80", b"\xc1" * 100, b"\x82\xa6schema\x02\xa7entries\x80"])
def test_a_damaged_cache_is_no_harm(folder, content):
    (folder / cache.NAME).write_bytes(content)
    assert ttft(folder) == 0.1


def test_a_cache_of_another_version_is_not_used(folder, monkeypatch):
    assert ttft(folder) == 0.1
    monkeypatch.setattr(cache, "SCHEMA", cache.SCHEMA + 1)
    with pytest.raises(AssertionError, match="was read"), monkeypatch.context() as patch:
        forbid_reading(patch)
        ttft(folder)


def test_a_cache_that_came_with_the_folder_is_not_believed(folder, tmp_path):
    """Numbers from elsewhere, with names, sizes and times that fit, are those of other bytes."""
    assert ttft(folder) == 0.1
    put(tmp_path / "other", SLOWER)
    write(tmp_path / "other" / cache.NAME, "").write_bytes((folder / cache.NAME).read_bytes())
    assert ttft(tmp_path / "other") == 0.2


def test_where_nothing_can_be_written_the_load_works_all_the_same(folder, monkeypatch):
    def write_atomically(path, content, **options):
        raise PathError(f"cannot write {path}: read-only")

    monkeypatch.setattr(files, "write_atomically", write_atomically)
    assert ttft(folder) == 0.1
    assert not (folder / cache.NAME).exists()


def test_a_folder_in_the_place_of_the_cache(folder):
    (folder / cache.NAME).mkdir()
    assert ttft(folder) == 0.1


def test_loads_at_the_same_time(folder):
    found = []
    threads = [threading.Thread(target=lambda: found.append(ttft(folder))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [0.1] * 4
    assert [path.name for path in sorted(folder.iterdir())] == [cache.NAME, name(1)]


# ------------------------------------------------------- with it and without it, whatever happens to the files of a run
LEVELS = (1, 2, 4)
SLO = {"ttft": {"p90": {"threshold": 0.15}}, "latency": {"p50": {"threshold": 1.2}}}


@pytest.fixture
def keep_all(monkeypatch):
    """Every file is worth keeping, and what was written a moment ago counts as settled."""
    monkeypatch.setattr(cache, "WORTH_KEEPING", 0)
    monkeypatch.setattr(cache.time, "time_ns", lambda: int((time.time() + 5) * 10**9))


def make_run(folder):
    trial = result_files.run(folder, list(LEVELS))
    for level in LEVELS:
        result_files.add_level(trial, level, content())
    return folder


def content(ttft=0.1):
    return json.dumps(result([request(ttft=ttft)] * 20))


def loaded(folder):
    return tuner.judge(tuner.load_batches(folder), SLO)


def without_cache(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "WORTH_KEEPING", float("inf"))
        return loaded(folder)


def results(folder):
    return sorted(path for path in folder.rglob("D100*.json") if path.is_file())


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
    if len(results(folder)) > 1:
        dice.choice(results(folder)).unlink()


def swap_two_levels(folder, dice):
    levels = sorted({file.parent for file in results(folder) if file.parent.name.startswith("concurrency-")})
    if len(levels) > 1:
        one, other = dice.sample(levels, 2)
        aside = folder / "aside"
        for source, target in ((one, aside), (other, one), (aside, other)):
            source.rename(target)


def begin_a_level(folder, dice):
    trial = Trial(folder / "trials" / "0001")
    if not trial.batch_folder("D(100,100)", 8).exists() and not list(folder.rglob("*.part")):
        result_files.add_level(trial, 8, content(0.3), partial=True, outcome="running")


def end_a_level(folder, dice):
    for partial in sorted(folder.rglob("*.part")):
        sidecar = files.read_json(partial / "batch.json")
        files.write_json(partial / "batch.json", sidecar | {"outcome": "completed"})
        partial.rename(partial.with_name(partial.name.removesuffix(".part")))


def change_a_sidecar(folder, dice):
    file = dice.choice(sorted(folder.rglob("batch.json")))
    files.write_json(file, files.read_json(file) | {"outcome": "timeout", "reason": "changed"})


def damage_the_cache(folder, dice):
    for file in folder.rglob(cache.NAME):
        data = bytearray(file.read_bytes())
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        file.write_bytes(data[: dice.choice([len(data), len(data) // 2, 3])])


def lose_the_cache(folder, dice):
    for file in folder.rglob(cache.NAME):
        file.unlink()


EVENTS = (touch, append, cut, replace_by_the_same_size_and_time, delete, swap_two_levels, begin_a_level, end_a_level)
EVENTS += (change_a_sidecar, damage_the_cache, lose_the_cache)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_with_and_without_the_cache_after(event, tmp_path, keep_all):
    folder = make_run(tmp_path / "run")
    loaded(folder)
    assert len(list(folder.rglob(cache.NAME))) == len(LEVELS)
    event(folder, random.Random(event.__name__))
    for _ in range(2):
        assert_frame_equal(loaded(folder), without_cache(folder))


@settings(max_examples=15, deadline=None)
@given(events=st.lists(st.sampled_from(EVENTS), min_size=1, max_size=6), seed=st.integers(0, 10**6))
def test_with_and_without_the_cache_after_anything(events, seed, tmp_path_factory):
    folder, dice = make_run(tmp_path_factory.mktemp("any") / "run"), random.Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "WORTH_KEEPING", 0)
        patch.setattr(cache.time, "time_ns", lambda: int((time.time() + 5) * 10**9))
        for event in events:
            loaded(folder)
            event(folder, dice)
            assert_frame_equal(loaded(folder), without_cache(folder))


@pytest.mark.parametrize("samples", [b"123", bytes(8), b"", bytes(8 * 4 * 999)])
def test_an_entry_whose_samples_do_not_fit_is_not_believed(samples, tmp_path, keep_all):
    folder = plain_folder(tmp_path / "run", list(LEVELS))
    expected = loaded(folder)
    kept = cache.FolderCache(folder)
    assert len(kept.entries) == len(LEVELS)
    for entry in kept.entries.values():
        entry.reading.samples = samples
    kept.changed = True
    kept.save()
    assert_frame_equal(loaded(folder), expected)


def test_what_is_gone_is_dropped(tmp_path, keep_all):
    folder = plain_folder(tmp_path / "run", list(LEVELS))
    loaded(folder)
    (folder / name(1)).unlink()
    write(folder / name(2), content(0.3))
    loaded(folder)
    assert set(cache.FolderCache(folder).entries) == {name(2), name(4)}


def test_a_run_that_was_moved_keeps_its_cache(tmp_path, keep_all, monkeypatch):
    expected = loaded(make_run(tmp_path / "run"))
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    forbid_reading(monkeypatch)
    assert_frame_equal(loaded(moved)[["ttft_p90", "attainment"]], expected[["ttft_p90", "attainment"]])


def test_loads_in_several_processes_at_once(folder):
    expected = ttft(folder)
    (folder / cache.NAME).unlink()
    context = multiprocessing.get_context("spawn")  # a fork would share the locks of this process's threads
    with ProcessPoolExecutor(4, mp_context=context) as pool:
        assert list(pool.map(ttft, [folder] * 8)) == [expected] * 8
    assert [path.name for path in sorted(folder.iterdir())] == [cache.NAME, name(1)]
