"""One row a request."""

import math

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
    assert list(found.columns) == list(requests.REQUEST_COLUMNS)
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


def test_nothing_is_left_beside_the_run(trial, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    tuner.load_requests(tmp_path / "run")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_part_of_a_run(trial):
    assert len(tuner.load_requests(trial.batch_folder("D(100,100)", 2))) == 2


def test_they_can_be_kept_as_parquet(trial, tmp_path):
    found = tuner.load_requests(tmp_path / "run")
    found.to_parquet(tmp_path / "requests.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "requests.parquet"), found)


def test_several_runs_keep_their_texts_as_categories(trial, tmp_path):
    plain_folder(tmp_path / "plain", [8])
    found = tuner.load_requests(tmp_path)
    assert found.groupby("experiment", observed=True).size().to_dict() == {"plain": 300, "run": 5}
    assert {str(found[name].dtype) for name in requests.TEXTS} == {"category"}


def test_a_run_without_requests_has_the_columns(tmp_path):
    run(tmp_path / "run", [1])
    found = tuner.load_requests(tmp_path / "run")
    assert found.empty
    assert list(found.columns) == list(requests.REQUEST_COLUMNS)


def test_files_without_requests_are_passed_over(tmp_path):
    write(tmp_path / name(1), result())
    write(tmp_path / name(2), result(level=2) | {"individual_request_metrics": None})
    assert set(tuner.load_requests(tmp_path)["concurrency"]) == {1}


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(PathError, match="does not exist"):
        tuner.load_requests(tmp_path / "nothing")
