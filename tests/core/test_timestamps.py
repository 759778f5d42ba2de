"""Everything is UTC, and says so."""

import io
import json
import logging
from datetime import UTC, datetime, timedelta, timezone

import pandas as pd
import pytest
from support.result_files import add_level, result, run

import tuner
from tuner.batches import batch as rows
from tuner.core import timestamps
from tuner.core.timestamps import to_utc

INSTANT = pd.Timestamp("2026-11-24T04:15:30.250Z")


@pytest.mark.parametrize(
    "value",
    [
        "2026-11-24T04:15:30.250Z",
        "2026-11-24T04:15:30.250+00:00",
        "2026-11-24 05:15:30.250+0100",
        "2026-11-24T09:45:30.250+05:30",
        "20261124T041530.250Z",
        "2026-11-24T04:15:30.250000000Z",
        "2026-11-23T23:15:30.250-05",
        "2026-11-24t04:15:30.250z",
        "2026-11-24T04:15:30.250z",
        "2026-11-24t05:15:30,250+01:00",
        datetime(2026, 11, 24, 4, 15, 30, 250_000, UTC),
        datetime(2026, 11, 24, 6, 15, 30, 250_000, timezone(timedelta(hours=2))),
        pd.Timestamp("2026-11-24 05:15:30.250", tz="Europe/Berlin"),
        "2026-11-24T04:15:30.250",
        datetime(2026, 11, 24, 4, 15, 30, 250_000),
    ],
)
def test_whatever_comes_in_is_the_same_instant_in_utc(value):
    found = to_utc(pd.Series([value]))
    assert str(found.dtype) == "datetime64[us, UTC]"
    assert found[0] == INSTANT


@pytest.mark.parametrize(
    "text", ["2026-11-24t04:15:30.250z", "2026-11-24 04:15:30.250z", "2026-11-24t05:15:30.25+01:00"]
)
def test_small_letters_are_read_where_one_instant_is(text):
    assert timestamps.read(text) == (INSTANT.to_pydatetime(), "")


def test_both_sides_of_a_change_of_clocks_in_one_column():
    """In Berlin 02:30 comes twice on 2026-10-25 and never on 2026-03-29."""
    texts = ["2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00", "2026-10-25T00:30:00Z"]
    assert [str(value) for value in to_utc(pd.Series(texts))] == [
        "2026-10-25 00:30:00+00:00",
        "2026-10-25 01:30:00+00:00",
        "2026-10-25 00:30:00+00:00",
    ]


def test_what_names_no_zone_is_taken_for_utc_and_counted(caplog):
    with caplog.at_level(logging.WARNING):
        found = to_utc(pd.Series(["2026-01-01 00:00", "2026-01-01T00:00Z", "2026-01-02"], name="start"))
    assert [value.hour for value in found] == [0, 0, 0]
    assert caplog.messages == ["2 times of start name no zone: UTC assumed"]


def test_naive_datetime_columns_are_flagged_too(caplog):
    assert to_utc(pd.Series([pd.Timestamp("2026-01-01")]))[0] == pd.Timestamp("2026-01-01", tz="UTC")
    assert "name no zone: UTC assumed" in caplog.text


def test_what_is_no_time_is_left_out_and_counted(caplog):
    found = to_utc(pd.Series(["soon", None, "2026-01-01T00:00Z"], name="t"))
    assert found.isna().tolist() == [True, True, False]
    assert caplog.messages == ["1 values of t are no times: left out"]


def test_no_unit_of_numbers_is_guessed():
    with pytest.raises(ValueError, match="numbers"):
        to_utc(pd.Series([1795493730]))


def test_empty_and_missing_columns():
    for values in (pd.Series([], dtype="object"), pd.Series([None, None]), pd.Series([float("nan")])):
        found = to_utc(values)
        assert str(found.dtype) == "datetime64[us, UTC]"
        assert found.isna().all()


def test_texts_of_ours():
    assert timestamps.to_text(INSTANT.to_pydatetime()) == "2026-11-24T04:15:30.250Z"
    with pytest.raises(ValueError, match="no time zone"):
        timestamps.to_text(datetime(2026, 1, 1))


def through_json(frame):
    return pd.DataFrame(json.loads(json.dumps(rows.records(frame), allow_nan=False)))


def through_pandas_json(frame):
    return pd.DataFrame(json.loads(frame.to_json(orient="records", date_format="iso", date_unit="us")))


def through_csv(frame):
    return pd.read_csv(io.StringIO(frame.to_csv(index=False)))


def through_parquet(frame):
    file = io.BytesIO()
    frame.to_parquet(file)
    return pd.read_parquet(io.BytesIO(file.getvalue()))


@pytest.mark.parametrize("way", [through_json, through_pandas_json, through_csv, through_parquet])
@pytest.mark.parametrize("judged", [False, True])
def test_a_round_trip_keeps_the_instants_and_the_types(tmp_path, way, judged):
    trial = run(tmp_path / "run", [1, 2])
    add_level(trial, 1, result(), started_at="2026-10-25T02:30:00.250123+02:00", finished_at="2026-10-25T01:30:00Z")
    batches = tuner.load_batches(tmp_path / "run")
    batches = tuner.judge(batches, {"ttft": {"threshold": 0.01}}) if judged else batches
    back = rows.with_types(way(batches))
    for name in ("started_at", "finished_at"):
        pd.testing.assert_series_equal(back[name], batches[name])
    for name in rows.KINDS:
        assert back[name].dtype == batches[name].dtype, name
    assert back["output_throughput"][0] == pytest.approx(batches["output_throughput"][0])


def test_json_says_z(tmp_path):
    add_level(run(tmp_path / "run", [1]), 1, result(), started_at="2026-10-25T02:30:00+02:00")
    [record] = rows.records(tuner.load_batches(tmp_path / "run"))
    assert record["started_at"] == "2026-10-25T00:30:00.000000Z"
    assert record["finished_at"] is None
