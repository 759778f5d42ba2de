"""One row a request, and the Parquet copy beside the run."""

import json
import math
import os

import pandas as pd
import pytest
from support.result_files import add_level, failure, name, plain_folder, request, result, run, write

import tuner
from tuner.batches import requests
from tuner.errors import PathError


@pytest.fixture
def trial(tmp_path):
    made = run(tmp_path / "run", [1, 2, 4])
    add_level(made, 1, result([request(0.2), failure(429, "slow down"), request(0.3)]))
    add_level(made, 2, result([request(0.4)] * 2, level=2))
    return made


def test_one_row_a_request(trial, tmp_path):
    found = tuner.load_requests(tmp_path / "run")
    assert list(found.columns) == list(requests.COLUMNS)
    assert found["ttft"].tolist() == pytest.approx([0.2, math.nan, 0.3, 0.4, 0.4], nan_ok=True)
    assert found["concurrency"].tolist() == [1, 1, 1, 2, 2]
    assert found["request"].tolist() == [0, 1, 2, 0, 1]
    assert found["error_code"].tolist()[1] == "429"
    assert found["error_message"].tolist()[1] == "slow down"
    assert found["error_code"].isna().tolist() == [True, False, True, True, True]
    assert set(found["experiment"]) == {"run"}


def test_seconds_whatever_the_file_says(tmp_path):
    write(tmp_path / name(1), result([request(200.0, 10.0)]) | {"_time_unit": "ms"})
    assert tuner.load_requests(tmp_path)["ttft"].tolist() == pytest.approx([0.2])


def test_the_copy_is_used_and_gives_the_same(trial, tmp_path, monkeypatch):
    first = tuner.load_requests(tmp_path / "run")
    assert (tmp_path / "run" / "requests.parquet").is_file()
    monkeypatch.setattr(requests, "Reader", lambda: pytest.fail("a file was read"))
    pd.testing.assert_frame_equal(tuner.load_requests(tmp_path / "run"), first)


def test_the_copy_can_be_read_by_others(trial, tmp_path):
    tuner.load_requests(tmp_path / "run")
    assert len(pd.read_parquet(tmp_path / "run" / "requests.parquet")) == 5


def new_content(trial):
    file = trial.batch_folder("D(100,100)", 2) / name(2)
    before = file.stat()
    file.write_text(file.read_text().replace("0.4", "0.5"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def new_level(trial):
    add_level(trial, 4, result([request(0.5)], level=4))


def lost_level(trial):
    (trial.batch_folder("D(100,100)", 2) / name(2)).unlink()


def damaged_copy(trial):
    file = trial.folder.parents[1] / "requests.parquet"
    file.write_bytes(file.read_bytes()[:100])


@pytest.mark.parametrize("change", [new_content, new_level, lost_level, damaged_copy])
def test_the_copy_is_never_stale(trial, tmp_path, change):
    tuner.load_requests(tmp_path / "run")
    change(trial)
    found = tuner.load_requests(tmp_path / "run")
    (tmp_path / "run" / "requests.parquet").unlink()
    pd.testing.assert_frame_equal(found, tuner.load_requests(tmp_path / "run"))
    assert len(found) == {new_content: 5, new_level: 6, lost_level: 3, damaged_copy: 5}[change]


def test_a_part_of_a_run_leaves_the_copy_of_the_whole_alone(trial, tmp_path):
    tuner.load_requests(tmp_path / "run")
    before = (tmp_path / "run" / "requests.parquet").stat()
    assert len(tuner.load_requests(trial.batch_folder("D(100,100)", 2))) == 2
    assert (tmp_path / "run" / "requests.parquet").stat() == before


def test_large_folders_of_others_get_a_hidden_copy(tmp_path):
    folder = plain_folder(tmp_path / "plain", [])
    write(folder / name(1), json.dumps(result([request()] * 9000)))
    assert len(tuner.load_requests(folder)) == 9000
    assert (folder / ".tuner-requests.parquet").is_file()
    assert tuner.load_batches(folder)["outcome"].tolist() == ["completed"]


def test_several_runs_keep_their_texts_as_categories(trial, tmp_path):
    plain_folder(tmp_path / "plain", [8])
    found = tuner.load_requests(tmp_path)
    assert found.groupby("experiment", observed=True).size().to_dict() == {"plain": 300, "run": 5}
    assert {str(found[name].dtype) for name in ("experiment", *requests.TEXTS)} == {"category"}


def test_a_run_without_requests_has_the_columns(tmp_path):
    run(tmp_path / "run", [1])
    found = tuner.load_requests(tmp_path / "run")
    assert found.empty
    assert list(found.columns) == list(requests.COLUMNS)


def test_files_without_requests_are_passed_over(tmp_path):
    write(tmp_path / name(1), result())
    write(tmp_path / name(2), result(level=2) | {"individual_request_metrics": None})
    assert set(tuner.load_requests(tmp_path)["concurrency"]) == {1}


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(PathError, match="does not exist"):
        tuner.load_requests(tmp_path / "nothing")
