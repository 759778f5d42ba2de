"""Run directories that tuner made, with everything that can cut them short."""

import json
import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal
from support.result_files import add_level, failure, name, plain_folder, request, result, run, write

import tuner
from tuner.batches.load import load_together
from tuner.core import files
from tuner.core.records import TrialFacts
from tuner.core.run_directory import Experiment

SLO = {"ttft": {"p90": {"threshold": 0.15}}}


def outcomes(batches):
    return {int(row.concurrency): row.outcome for row in batches.itertuples()}


def test_a_level_is_a_row_with_its_sidecar(tmp_path):
    trial = run(tmp_path / "20260101T000000Z-sweep-x", [1, 2])
    times = {"started_at": "2026-10-25T02:30:00+02:00", "finished_at": "2026-10-25T00:30:31.500Z", "duration": 31.5}
    add_level(trial, 2, result(level=2), **times, client={"cpu_share": 0.4, "ttft": 0.006, "tpot": "?"})
    row = tuner.load_batches(tmp_path).query("concurrency == 2").iloc[0]
    assert (row["experiment"], row["trial"], row["engine"]) == ("20260101T000000Z-sweep-x", 1, "vllm")
    assert (row["model"], row["outcome"], row["time_source"]) == ("m", "completed", "recorded")
    assert str(row["started_at"]) == "2026-10-25 00:30:00+00:00"
    assert str(row["finished_at"]) == "2026-10-25 00:30:31.500000+00:00"
    assert (row["client_cpu_share"], row["client_ttft"]) == (0.4, 0.006)
    assert math.isnan(row["client_tpot"])
    assert row["warnings"] == []


DOUBTS = {
    "a busy client": ({"client": {"cpu_share": 0.97}}, "used 97% of a core"),
    "a clock that was set": (
        {"started_at": "2026-01-01T00:00:00Z", "finished_at": "2026-01-01T01:00:30Z", "duration": 30.0},
        "clock was set",
    ),
    "a time without a zone": ({"started_at": "2026-01-01T00:00:00"}, "started_at names no time zone: UTC assumed"),
    "no time": ({"started_at": "yesterday"}, "started_at is no time: 'yesterday'"),
    "a time before all time": ({"started_at": "0001-01-01T00:00:00+14:00"}, "started_at is no time"),
}


@pytest.mark.parametrize("doubt", DOUBTS)
def test_what_a_sidecar_gives_cause_to_doubt_is_said(tmp_path, doubt):
    sidecar, said = DOUBTS[doubt]
    add_level(run(tmp_path / "run", [1]), 1, result(), **sidecar)
    together, alone = load_together([tmp_path / "run"])
    for [warnings] in (batches["warnings"] for batches in (together, *alone)):
        assert len([warning for warning in warnings if said in warning]) == 1, warnings


#: what lies on disk → (outcome, part of the reason)
ENDINGS = {
    "completed": (lambda trial: add_level(trial, 1, result()), "completed", ""),
    "the sidecar wins": (
        lambda trial: add_level(trial, 1, result(), outcome="out_of_memory", reason="CUDA out of memory"),
        "out_of_memory",
        "CUDA out of memory",
    ),
    "mostly errors": (lambda trial: add_level(trial, 1, result([request()] + [failure()] * 9)), "completed", ""),
    "only errors": (lambda trial: add_level(trial, 1, result([failure(500)] * 9)), "all_errors", "500 ×9"),
    "no file": (lambda trial: add_level(trial, 1), "missing", "left no file"),
    "cut short": (lambda trial: add_level(trial, 1, json.dumps(result())[:99]), "truncated", "ends in the middle"),
    "partial": (lambda trial: add_level(trial, 1, partial=True, outcome="running"), "interrupted", "cut short"),
    "partial with a whole file": (lambda trial: add_level(trial, 1, result(), partial=True), "interrupted", ""),
    "partial that says more": (
        lambda trial: add_level(trial, 1, partial=True, outcome="timeout", reason="after 60 s"),
        "timeout",
        "after 60 s",
    ),
    "still running in a finished folder": (lambda trial: add_level(trial, 1, outcome="running"), "interrupted", ""),
    "an outcome that is none": (lambda trial: add_level(trial, 1, outcome="fine"), "client_failed", "'fine'"),
    "nothing": (lambda trial: None, "missing", "not run"),
    "a server out of memory": (
        lambda trial: files.write_json(
            trial.folder / "server.json", {"failure": {"kind": "out_of_memory", "detail": "KV cache of 9 GB"}}
        ),
        "out_of_memory",
        "KV cache of 9 GB",
    ),
    "a server that died": (
        lambda trial: files.write_json(
            trial.folder / "server.json", {"failure": {"kind": "crashed", "detail": "exit 139"}}
        ),
        "server_died",
        "exit 139",
    ),
    "a log that tells of memory": (
        lambda trial: write(trial.server_log, "ready\ntorch.OutOfMemoryError: CUDA out of memory.\nbye\n"),
        "out_of_memory",
        "torch.OutOfMemoryError",
    ),
    "a healthy log": (lambda trial: write(trial.server_log, "no Error, memory fine\n"), "missing", "not run"),
    "a damaged server file": (lambda trial: write(trial.folder / "server.json", "{"), "missing", "not run"),
    "a damaged sidecar": (
        lambda trial: write(add_level(trial, 1, result()) / "batch.json", "{"),
        "completed",
        "",
    ),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_how_a_level_ended(tmp_path, ending):
    prepare, outcome, reason = ENDINGS[ending]
    prepare(run(tmp_path / "run", [1]))
    [row] = tuner.judge(tuner.load_batches(tmp_path / "run"), SLO).to_dict("records")
    assert row["outcome"] == outcome
    assert reason in row["reason"]
    assert (row["verdict"] == "unknown") == (outcome not in {"completed", "all_errors"})  # the server answered: errors


def test_the_combined_flow(tmp_path):
    """Levels 1, 4, 6, 8: 1 good, 4 violates, 6 good, 8 out of memory → success with 1 and 6."""
    trial = run(tmp_path / "run", [1, 4, 6, 8])
    add_level(trial, 1, result(level=1))
    add_level(trial, 4, result([request(0.9)] * 300, level=4))
    add_level(trial, 6, result(level=6))
    add_level(trial, 8, outcome="out_of_memory", reason="CUDA out of memory")
    judged = tuner.judge(tuner.load_batches(tmp_path / "run"), SLO)
    summary = tuner.summarize(judged)
    assert judged["verdict"].tolist() == ["pass", "fail", "pass", "unknown"]
    assert (summary.compliant, summary.total, summary.best_level, summary.bracket) == (2, 4, 6, "non_monotone")


def test_a_finished_folder_replaces_the_partial_one(tmp_path):
    trial = run(tmp_path / "run", [1])
    add_level(trial, 1, partial=True, outcome="running")
    add_level(trial, 1, result())
    assert tuner.load_batches(tmp_path / "run")["outcome"].tolist() == ["completed"]


def test_repeats_scenarios_and_batch_sizes_are_rows_in_the_order_asked(tmp_path):
    scenarios = ["U(1,2)/(3,4)", "D(100,100)"]
    trial = run(tmp_path / "run", [2, 1], scenarios=scenarios, repeats=2, iteration_type="batch_size")
    add_level(trial, 1, result(level=1, iteration_type="batch_size", batch_size=1), repeat=2)
    rows = tuner.load_batches(tmp_path / "run")
    keys = list(rows[["scenario", "concurrency", "repeat"]].itertuples(index=False, name=None))
    assert keys == [(scenario, level, repeat) for scenario in scenarios for level in (2, 1) for repeat in (1, 2)]
    assert set(rows["iteration_type"]) == {"batch_size"}
    assert rows.query("outcome == 'completed'")["repeat"].tolist() == [2]
    assert not rows["superseded"].any()


def test_levels_that_nobody_asked_for_are_rows_too(tmp_path):
    add_level(run(tmp_path / "run", [1]), 3, result(level=3))
    assert outcomes(tuner.load_batches(tmp_path / "run")) == {1: "missing", 3: "completed"}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"trial": "x"}', '{"trial": -1}'])
def test_a_damaged_trial_file_loses_no_batch(tmp_path, content):
    trial = run(tmp_path / "run", [1])
    add_level(trial, 1, result())
    write(trial.folder / "trial.json", content)
    assert outcomes(tuner.load_batches(tmp_path / "run")) == {1: "completed"}


def test_a_run_that_has_only_begun_has_no_rows(tmp_path):
    Experiment.at(tmp_path / "run").describe(name="x")
    assert tuner.load_batches(tmp_path / "run").empty


def test_any_part_of_a_run_can_be_named(tmp_path):
    trial = run(tmp_path / "run", [1, 2])
    file = add_level(trial, 1, result()) / name(1)
    add_level(trial, 2, result(level=2))
    first = tuner.load_batches(tmp_path / "run").iloc[:1]
    assert_frame_equal(tuner.load_batches(file), first)
    assert_frame_equal(tuner.load_batches(file.parent), first)
    for part in (trial.folder, trial.folder.parent, trial.folder / "batches", file.parent.parent):
        assert len(tuner.load_batches(part)) == 2, part


def test_runs_and_plain_folders_below_one_folder(tmp_path):
    for number, level in ((1, 1), (2, 2)):
        trial = run(tmp_path / f"run-{number}", [level])
        add_level(trial, level, result(level=level))
    plain_folder(tmp_path / "colleague" / "deeper", [4])
    assert tuner.load_batches(tmp_path)["experiment"].tolist() == ["deeper", "run-1", "run-2"]


def test_two_thousand_small_batches(tmp_path):
    content = json.dumps(result([request()] * 20))
    for number in range(1, 101):
        trial = Experiment(tmp_path / "run").trial(number)
        levels = list(range(1, 21))
        TrialFacts(trial=number, engine="vllm", model="m", scenarios=["D(100,100)"], levels=levels).write(trial.folder)
        for level in levels:
            folder = trial.batch_folder("D(100,100)", level)
            folder.mkdir(parents=True)
            write(folder / name(level), content.replace('"num_concurrency": 1,', f'"num_concurrency": {level},'))
    started = time.process_time()
    judged = tuner.judge(tuner.load_batches(tmp_path / "run"), SLO)
    assert len(judged) == 2000
    assert set(judged["verdict"]) == {"pass"}
    assert time.process_time() - started < 10


sidecars = st.dictionaries(
    st.sampled_from(["scenario", "concurrency", "repeat", "outcome", "reason", "started_at", "duration", "client"]),
    st.none() | st.integers() | st.text(max_size=4) | st.floats() | st.just({"cpu_share": 10**400}),
)


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=20) | sidecars.map(lambda value: json.dumps(value).encode()),
    st.sampled_from(["batch.json", "../../../trial.json", "../../../server.json", "../../../../../experiment.json"]),
)
def test_no_content_of_our_files_loses_a_good_batch(tmp_path_factory, content, place):
    trial = run(tmp_path_factory.mktemp("runs") / "run", [1, 2])
    add_level(trial, 1, result())
    (add_level(trial, 2, result(level=2)) / place).write_bytes(content)
    judged = tuner.judge(tuner.load_batches(trial.folder.parents[1]), SLO)
    assert "pass" in judged["verdict"].tolist()
