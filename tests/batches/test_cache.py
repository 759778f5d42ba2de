"""What is kept beside the files: faster, never stale, never in the way."""

import json
import os
import threading
from pathlib import Path

import pandas as pd
import pytest
from support.result_files import name, plain_folder, request, result, write

import tuner
from tuner.batches import cache
from tuner.core import files
from tuner.errors import PathError

LARGE = json.dumps(result([request()] * 9000))
SLOWER = LARGE.replace('"ttft": 0.1,', '"ttft": 0.2,')
OLD = 10**9 + 0.5  # seconds since 1970; a file changed a moment ago is not kept


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A genai-bench folder with one large file that was last changed long ago, and a cache folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    put(tmp_path / "run", LARGE)
    return tmp_path / "run"


def put(folder, content):
    file = write(folder / name(1), content)
    os.utime(file, (OLD, OLD))
    wait_until_settled(file)
    return file


def wait_until_settled(file):
    """The time of change of the inode cannot be set, so let a tenth of a second pass."""
    while not cache._settled(file.stat()):
        threading.Event().wait(0.02)


def ttft(folder):
    [value] = tuner.load_batches(folder)["ttft_p50"]
    return value


def forbid_reading(monkeypatch):
    monkeypatch.setattr(Path, "read_bytes", read_all_but_results)


real_read_bytes = Path.read_bytes


def read_all_but_results(path):
    assert not path.name.startswith("D100"), "the result file was read"
    return real_read_bytes(path)


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

    real_read = cache.Reader.read
    with monkeypatch.context() as patch:
        patch.setattr(cache.Reader, "read", read_and_change)
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


def refuse(folder, monkeypatch, everywhere):
    real = files.write_atomically

    def write_atomically(path, content):
        if everywhere or path.parent == folder:
            raise PathError(f"cannot write {path}: read-only")
        real(path, content)

    monkeypatch.setattr(files, "write_atomically", write_atomically)


def test_a_read_only_run_is_kept_in_the_users_cache_folder(folder, monkeypatch, tmp_path):
    refuse(folder, monkeypatch, everywhere=False)
    assert ttft(folder) == 0.1
    assert not (folder / cache.NAME).exists()
    assert [path for path in (tmp_path / "user-cache").rglob("*") if path.is_file()]
    forbid_reading(monkeypatch)
    assert ttft(folder) == 0.1


def test_where_nothing_can_be_written_the_load_works_all_the_same(folder, monkeypatch, tmp_path):
    refuse(folder, monkeypatch, everywhere=True)
    assert ttft(folder) == 0.1
    assert len(tuner.load_requests(folder)) == 9000


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
