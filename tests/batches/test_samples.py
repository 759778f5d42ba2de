"""Each real genai-bench folder in tests/data/samples against what is true of it."""

import os
import shutil

import pytest
from support import SAMPLES

import tuner

SLO = {"ttft": {"threshold": 1.0}, "latency": {"p90": {"threshold": 5.0}}}

#: folder → level: (outcome, verdict under SLO)
TRUE = {
    "healthy": {
        1: ("completed", "pass"),
        4: ("completed", "pass"),
        16: ("completed", "pass"),
        64: ("completed", "pass"),
    },
    "llama-cpp-smollm2": {
        1: ("completed", "pass"),
        2: ("completed", "pass"),
        4: ("completed", "fail"),
        8: ("completed", "fail"),
    },
    "server-dies-in-level-2": {
        1: ("completed", "pass"),
        2: ("completed", "fail"),
        4: ("all_errors", "fail"),
        8: ("missing", "unknown"),
    },
    "overload-429": {4: ("completed", "pass"), 16: ("completed", "fail"), 32: ("completed", "fail")},
    "milliseconds": {2: ("completed", "pass")},
    "level-run-twice": {1: ("completed", "pass"), 2: ("completed", "pass")},
    "killed-in-level-4": {
        2: ("completed", "pass"),
        4: ("missing", "unknown"),
        8: ("missing", "unknown"),
        16: ("missing", "unknown"),
    },
}
#: folder → (max throughput in output tokens/s, its level, bracket)
SUMMARIES = {
    "healthy": (2097.2, 64, "open"),
    "llama-cpp-smollm2": (19.1, 2, "bracketed"),
    "server-dies-in-level-2": (65.9, 1, "bracketed"),
    "overload-429": (242.8, 4, "bracketed"),
    "milliseconds": (67.1, 2, "open"),
    "killed-in-level-4": (178.4, 2, "open"),
}


@pytest.mark.parametrize("name", TRUE)
def test_outcomes_and_verdicts(name):
    judged = tuner.judge(tuner.load_batches(SAMPLES / name), tuner.SLO.parse(SLO))
    counted = judged[~judged["superseded"]]
    found = {row.concurrency: (row.outcome, row.verdict) for row in counted.itertuples()}
    assert found == TRUE[name]


@pytest.mark.parametrize("name", SUMMARIES)
def test_summaries(name):
    summary = tuner.summarize(tuner.judge(tuner.load_batches(SAMPLES / name), SLO))
    throughput, level, bracket = SUMMARIES[name]
    assert summary.max_throughput == pytest.approx(throughput, abs=0.05)
    assert (summary.best_level, summary.bracket) == (level, bracket)


def test_milliseconds_become_seconds():
    [row] = tuner.load_batches(SAMPLES / "milliseconds").itertuples()
    assert row.ttft_p50 == pytest.approx(0.115, abs=0.001)
    assert row.e2e_latency_mean == pytest.approx(0.197, abs=0.001)


@pytest.mark.parametrize("newer", ["4s", "11s"])
def test_the_newer_run_of_a_level_counts(tmp_path, newer):
    folder = shutil.copytree(SAMPLES / "level-run-twice", tmp_path / "run")
    for path in folder.iterdir():
        os.utime(path, ns=(0, 2 * 10**18 if f"time_{newer}" in path.name else 10**18))
    rows = tuner.load_batches(folder).query("concurrency == 2")
    assert [f"time_{newer}" in source for source in rows["source"]] == [True, False]
    assert rows["superseded"].tolist() == [False, True]
    assert rows["repeat"].tolist() == [1, 2]
    assert tuner.judge(rows, SLO)["verdict"].tolist() == ["pass", "unknown"]


def test_hidden_errors_are_counted_and_said():
    row = tuner.load_batches(SAMPLES / "overload-429").query("concurrency == 16").iloc[0]
    assert row["error_rate"] == pytest.approx(166 / 190)
    assert any("error rate of 0" in warning for warning in row["warnings"])
