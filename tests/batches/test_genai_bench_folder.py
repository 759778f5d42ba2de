"""Folders that genai-bench wrote, whoever ran it and however it ended."""

import copy
import json
import logging
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.result_files import failure, metadata, name, plain_folder, request, result, write

import tuner
from tuner.batches.batch import COLUMNS
from tuner.batches.genai_bench_folder import name_in_file
from tuner.errors import PathError


def outcomes(batches):
    return {int(row.concurrency): row.outcome for row in batches.itertuples()}


SCENARIOS = ["D(100,100)", "N(480,240)/(300,150)", "U(50,100)/(200,250)", "E(512)", "I(512,512)", "R(5,64)", "dataset"]


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("kind", ["num_concurrency", "batch_size"])
def test_any_scenario_and_iteration_type(tmp_path, scenario, kind):
    """Level 2 is good, 4 is cut short, 8 is missing: all three are rows of the scenario as it was asked for."""
    write(tmp_path / "experiment_metadata.json", metadata([1], (scenario,), iteration_type=kind, **{kind: [2, 4, 8]}))
    good = result(scenario=scenario, iteration_type=kind, **{"num_concurrency": 1} | {kind: 2})
    write(tmp_path / name(2, name_in_file(scenario), kind), good)
    write(tmp_path / name(4, name_in_file(scenario), kind), json.dumps(good)[:-40])
    batches = tuner.load_batches(tmp_path)
    assert outcomes(batches) == {2: "completed", 4: "truncated", 8: "missing"}
    assert set(batches["scenario"]) == {scenario}
    assert set(batches["iteration_type"]) == {kind}


def test_rows_have_the_columns_of_the_contract(tmp_path):
    batches = tuner.load_batches(plain_folder(tmp_path / "run", [1], asked=[1, 2]))
    assert list(batches.columns) == list(COLUMNS)
    assert {str(batches[name].dtype) for name in ("started_at", "finished_at")} == {"datetime64[us, UTC]"}
    [good, missing] = batches.to_dict("records")
    assert (good["experiment"], good["engine"], good["model"], good["trial"]) == ("run", "vLLM", "m", 1)
    assert good["time_source"] == "file_mtime"
    assert good["finished_at"].timestamp() == pytest.approx(Path(good["source"]).stat().st_mtime, abs=1e-5)
    assert (good["finished_at"] - good["started_at"]).total_seconds() == pytest.approx(good["duration"], abs=1e-5)
    assert (missing["completed"], missing["time_source"]) == (0, "")


NEIGHBOURS = {
    "empty.json": "",
    "cut.json": '{"aggregated_metrics": {',
    "other.json": '{"name": "package"}',
    "list.json": "[]",
    "notes.txt": "hello",
    "nameless.json": json.dumps({"aggregated_metrics": {}}),
}


@pytest.mark.parametrize("neighbour", NEIGHBOURS)
def test_what_is_no_batch_is_skipped_and_said(tmp_path, neighbour, caplog):
    write(plain_folder(tmp_path / "run", [1]) / neighbour, NEIGHBOURS[neighbour])
    with caplog.at_level(logging.WARNING):
        assert outcomes(tuner.load_batches(tmp_path / "run")) == {1: "completed"}
    assert (neighbour in caplog.text) == neighbour.endswith(".json")


def test_a_debug_file_tells_that_every_request_failed(tmp_path):
    folder = plain_folder(tmp_path / "run", [1], asked=[1, 2])
    write(folder / "debug_for_run_D100_100_2.json", result([failure(503, "connection refused")] * 7, level=2))
    row = tuner.load_batches(folder).query("concurrency == 2").iloc[0]
    assert (row["outcome"], row["errors"], row["error_rate"]) == ("all_errors", 7, 1.0)
    assert "503 ×7" in row["reason"]
    assert "connection refused" in row["reason"]


def test_a_result_counts_before_an_older_debug_file(tmp_path):
    folder = plain_folder(tmp_path / "run", [2])
    write(folder / "debug_for_run_D100_100_2.json", result([failure()], level=2))
    assert outcomes(tuner.load_batches(folder)) == {2: "completed"}


def test_a_good_file_counts_before_a_broken_one_of_the_same_level(tmp_path):
    folder = plain_folder(tmp_path / "run", [2])
    write(folder / name(2, seconds=99), "{")
    [row] = tuner.load_batches(folder).to_dict("records")
    assert row["outcome"] == "completed"
    assert any("time_99s" in warning for warning in row["warnings"])


def test_times_that_cannot_tell_which_run_is_newer_take_the_slower_one(tmp_path):
    folder = plain_folder(tmp_path / "run", [])
    write(folder / name(2, seconds=9), result(level=2))
    write(folder / name(2, seconds=5), result([request(tpot=0.1)] * 300, level=2))
    for path in folder.glob("D*"):
        os.utime(path, (10**9, 10**9))
    rows = tuner.load_batches(folder).to_dict("records")
    assert ["time_5s" in row["source"] for row in rows] == [True, False]
    assert any("cannot tell which is newer" in warning for warning in rows[0]["warnings"])


@pytest.mark.parametrize("content", ["", "[]", "{", '{"num_concurrency": "x", "traffic_scenario": 5}', "null"])
def test_damaged_metadata_loses_no_batch(tmp_path, content, caplog):
    folder = plain_folder(tmp_path / "run", [1, 2])
    write(folder / "experiment_metadata.json", content)
    with caplog.at_level(logging.WARNING):
        assert outcomes(tuner.load_batches(folder)) == {1: "completed", 2: "completed"}
    assert "experiment_metadata.json" in caplog.text


def test_metadata_with_one_wrong_value_still_says_the_rest(tmp_path):
    folder = plain_folder(tmp_path / "run", [1], asked=[1, 2])
    write(folder / "experiment_metadata.json", metadata([1, 2], api_model_name=7, batch_size="x"))
    assert outcomes(tuner.load_batches(folder)) == {1: "completed", 2: "missing"}


def test_links_are_not_followed(tmp_path):
    secret = plain_folder(tmp_path / "elsewhere", [4])
    folder = plain_folder(tmp_path / "run", [1])
    (folder / name(4)).symlink_to(secret / name(4))
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "link").symlink_to(secret)
    shutil.move(folder, tmp_path / "runs" / "run")
    assert outcomes(tuner.load_batches(tmp_path / "runs")) == {1: "completed"}


def test_a_linked_metadata_file_is_not_read(tmp_path):
    write(tmp_path / "elsewhere.json", metadata([1, 2, 3]))
    folder = plain_folder(tmp_path / "run", [1])
    (folder / "experiment_metadata.json").unlink()
    (folder / "experiment_metadata.json").symlink_to(tmp_path / "elsewhere.json")
    assert outcomes(tuner.load_batches(folder)) == {1: "completed"}


def test_names_do_not_lead_out_of_the_folder(tmp_path):
    folder = plain_folder(tmp_path / "run", [1])
    write(folder / "experiment_metadata.json", metadata([1], ("../../etc/passwd", "D(100,100)")))
    batches = tuner.load_batches(folder)
    assert batches.query("outcome == 'missing'")["scenario"].tolist() == ["../../etc/passwd"]


def test_a_pipe_does_not_hang(tmp_path):
    folder = plain_folder(tmp_path / "run", [1])
    os.mkfifo(folder / name(2))
    assert outcomes(tuner.load_batches(folder)) == {1: "completed"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_a_row(tmp_path):
    folder = plain_folder(tmp_path / "run", [1, 2])
    (folder / name(2)).chmod(0)
    assert outcomes(tuner.load_batches(folder)) == {1: "completed", 2: "unreadable"}


def test_names_that_are_no_unicode(tmp_path):
    folder = plain_folder(tmp_path / "run", [1])
    write(folder / os.fsdecode(b"D1_1\xff_text_num_concurrency_2_time_1s.json"), "{")
    assert outcomes(tuner.load_batches(folder)) == {1: "completed", 2: "truncated"}


WRONG = {
    "missing": ("nothing-here", "does not exist"),
    "an empty folder": ("empty", "holds no batch"),
    "a text file": ("notes.txt", "holds no batch"),
    "a JSON of others": ("other.json", "holds no batch"),
    "a name with a zero byte": ("a\0b", "cannot be read"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_path_without_batches_is_an_error_of_one_line(tmp_path, case):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "notes.txt", "hello")
    write(tmp_path / "other.json", "{}")
    path, message = WRONG[case]
    with pytest.raises(PathError, match=message) as caught:
        tuner.load_batches(tmp_path / path)
    assert "\n" not in str(caught.value)


def test_no_path_is_an_error():
    with pytest.raises(PathError, match="no path given"):
        tuner.load_batches()


def test_single_files_and_files_under_names_of_their_own(tmp_path):
    file = write(tmp_path / "any" / "level-four.json", result(level=4))
    assert outcomes(tuner.load_batches(file)) == {4: "completed"}
    assert outcomes(tuner.load_batches(tmp_path / "any")) == {4: "completed"}


def test_folders_of_many_and_paths_named_twice(tmp_path, monkeypatch):
    plain_folder(tmp_path / "a" / "run", [1])
    plain_folder(tmp_path / "b" / "run", [2])
    monkeypatch.chdir(tmp_path)
    batches = tuner.load_batches(".", "a", tmp_path / "b" / "run" / name(2))
    assert sorted(batches["experiment"]) == ["a/run", "b/run"]


def test_a_folder_named_by_a_dot_has_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(plain_folder(tmp_path / "run", [1]))
    assert tuner.load_batches(".")["experiment"].tolist() == ["run"]


def test_one_broken_file_among_many(tmp_path):
    folder = plain_folder(tmp_path / "run", [1])
    content = json.dumps(result([request()] * 3))
    for number in range(2, 2001):
        write(folder / name(number), content.replace('"num_concurrency": 1,', f'"num_concurrency": {number},'))
    write(folder / name(1000), "{")
    found = outcomes(tuner.load_batches(folder))
    assert len(found) == 2000
    assert [level for level, outcome in found.items() if outcome != "completed"] == [1000]


SLO = {"ttft": {"p90": {"threshold": 0.15}}, "error_rate": {"threshold": 0.05}}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from([name(2), name(3), "debug_for_run_D100_100_4.json", "x.json", "experiment_metadata.json"])
        | st.from_regex(r"[a-zA-Z0-9_ .-]{1,20}\.json", fullmatch=True),
        st.binary(max_size=40)
        | st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=4),
            lambda inner: st.dictionaries(
                st.sampled_from(["aggregated_metrics", "individual_request_metrics", "scenario", "num_concurrency"]),
                inner,
            ),
            max_leaves=6,
        ).map(lambda value: json.dumps(value).encode()),
        max_size=4,
    )
)
def test_no_content_of_files_loses_a_good_neighbour(tmp_path_factory, contents):
    folder = plain_folder(tmp_path_factory.mktemp("run"), [1])
    for file, content in contents.items():
        (folder / file).write_bytes(content)
    batches = tuner.load_batches(folder)
    assert outcomes(batches)[1] == "completed"
    assert set(tuner.judge(batches, SLO)["verdict"]) <= {"pass", "soft", "fail", "unknown"}


def in_milliseconds(content):
    """The same file as `--metrics-time-unit ms` makes it."""
    content = copy.deepcopy(content)
    for entry in [*content["individual_request_metrics"]]:
        entry.update({key: entry[key] * 1000 for key in ("ttft", "tpot", "e2e_latency")})
    return content | {"_time_unit": "ms"}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.01, 0.3), min_size=30, max_size=60), st.randoms(use_true_random=False))
def test_a_verdict_depends_neither_on_order_nor_unit_nor_on_loading_twice(
    tmp_path_factory, ttfts, shuffle: random.Random
):
    """The thresholds are the very statistics, so that equal ones must pass in either unit."""
    requests = [request(ttft) for ttft in ttfts]
    p50, p90 = np.percentile(ttfts, [50, 90])
    slo = {"ttft": {"p50": {"threshold": float(p50)}, "p90": {"threshold": float(p90)}}}
    folder = tmp_path_factory.mktemp("run")
    contents = [result(requests, level=1), in_milliseconds(result([*requests], level=2))]
    shuffle.shuffle(contents)
    for number, content in enumerate(contents):
        shuffle.shuffle(content["individual_request_metrics"])
        write(folder / f"{number}.json", content)
    first, second = (tuner.judge(tuner.load_batches(folder), slo) for _ in range(2))
    assert first["verdict"].tolist() == second["verdict"].tolist() == ["pass", "pass"]
    assert first["attainment"].nunique() == 1


def test_what_milliseconds_round_up_violates_nothing(tmp_path):
    """A latency that is at the threshold in seconds, and a hair above it after a file in milliseconds."""
    threshold = next(value for value in np.linspace(0.1, 0.2, 999) if value * 1000 / 1000 > value)
    write(tmp_path / name(1), in_milliseconds(result([request(float(threshold)) for _ in range(30)])))
    [row] = tuner.judge(tuner.load_batches(tmp_path), {"ttft": {"p50": {"threshold": float(threshold)}}}).itertuples()
    assert row.ttft_p50 > threshold
    assert (row.verdict, row.attainment) == ("pass", 1.0)
