"""A result file is read once, whatever is made of its batches; a frame without its samples reads it again."""

import io
from collections import Counter

import pandas as pd
import pytest
from support.reads import watch
from support.result_files import add_level, plain_folder, request, result, run

import tuner
from tuner.batches.load import readings_of
from tuner.report.compared import read_comparison
from tuner.report.write import save_comparison, write_report

LIMITS = {"ttft": {"p90": {"threshold": 0.15}}, "latency": {"p50": {"threshold": 1.2}}}


@pytest.fixture
def reads(monkeypatch):
    """How often each result file was read."""
    counted = Counter()
    watch(monkeypatch, lambda path: counted.update([path] if path.name.startswith("D100") else []))
    return counted


def make_run(folder, ttft=0.1):
    trial = run(folder, [1, 2, 4])
    for level in (1, 2):
        add_level(trial, level, result([request(ttft)] * 200, level=level))
    add_level(trial, 4, '{"aggregated_metrics": ')
    return folder


def assert_each_once(reads, files):
    assert reads == dict.fromkeys(files, 1)


def test_a_report_reads_each_file_once(tmp_path, reads):
    folder = make_run(tmp_path / "run")
    write_report(folder, slo=tuner.SLO.parse(LIMITS))
    assert_each_once(reads, folder.rglob("D100*.json"))


def test_a_comparison_reads_each_file_of_both_sides_once(tmp_path, reads):
    sides = [make_run(tmp_path / "before"), plain_folder(tmp_path / "after", [1, 2])]
    compared = read_comparison([sides[0]], [sides[1]], slo=tuner.SLO.parse(LIMITS), tolerance=0.05)
    save_comparison(compared, tmp_path / "comparison.html", tmp_path / "junit.xml")
    assert_each_once(reads, [file for side in sides for file in side.rglob("D100*.json")])


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: frame,
        lambda frame: frame.copy(),
        lambda frame: frame[frame["concurrency"] < 4],
        lambda frame: frame.sort_values("concurrency", ascending=False).reset_index(drop=True),
        lambda frame: frame.assign(more=1),
        lambda frame: pd.concat([frame, frame]),
        lambda frame: tuner.judge(frame, LIMITS),
    ],
)
def test_samples_come_along(change, tmp_path, reads):
    frame = change(tuner.load_batches(make_run(tmp_path / "run")))
    found = [reading and len(reading.output_tokens) for reading in readings_of(frame)]
    assert found == [200 if level < 4 else None for level in frame["concurrency"]]
    assert set(reads.values()) == {1}


def test_samples_of_frames_joined_are_those_of_their_own_files(tmp_path):
    frames = [tuner.load_batches(make_run(tmp_path / name, ttft)) for name, ttft in {"a": 0.1, "b": 0.2}.items()]
    joined = pd.concat([tuner.judge(frame, LIMITS) for frame in frames], ignore_index=True)
    assert [reading and reading.latencies["ttft"][0] for reading in readings_of(joined)] == [
        0.1,
        0.1,
        None,
        0.2,
        0.2,
        None,
    ]
    assert joined.attrs["slo"] == tuner.SLO.parse(LIMITS).to_dict()


@pytest.mark.parametrize("kind", ["csv", "parquet", "pickle"])
def test_a_frame_that_was_stored_reads_the_files_again(kind, tmp_path, reads):
    frame = tuner.load_batches(make_run(tmp_path / "run"))
    stored, size = io.BytesIO(), frame["source"].str.len().sum()
    getattr(frame, f"to_{kind}")(stored)
    assert len(stored.getvalue()) < 40_000 + size  # samples would be 6400 bytes a level, and hardly compress
    found = getattr(pd, f"read_{kind}")(io.BytesIO(stored.getvalue()))
    pd.testing.assert_series_equal(tuner.judge(found, LIMITS)["attainment"], tuner.judge(frame, LIMITS)["attainment"])
    assert max(reads.values()) > 1
