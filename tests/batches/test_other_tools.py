"""Files that other benchmark tools wrote (tests/data/foreign): the same columns, recomputed numbers, no traceback."""

import copy
import gzip
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import DATA
from support.commands import run
from support.result_files import plain_folder, write

import tuner
from tuner.batches import _cache as cache
from tuner.batches import other_tools as foreign
from tuner.batches import requests
from tuner.batches.batch import COLUMNS
from tuner.core.run_directory import OUTCOMES
from tuner.errors import PathError

RECORDED = DATA / "foreign"
SLO = {"ttft": {"p90": {"threshold": 10.0}}, "tpot": {"p90": {"threshold": 1.0}}, "error_rate": {"threshold": 0.5}}
FOLDERS = {
    "guidellm": "guidellm-0.8.1",
    "aiperf": "aiperf-0.13.0",
    "vllm": "vllm-0.32.0",
    "sglang": "sglang-0.5.23",
}
TOOLS = {
    "guidellm": "GuideLLM 0.8.1",
    "aiperf": "AIPerf 0.13.0",
    "vllm": "vllm bench serve",
    "sglang": "SGLang bench_serving",
}


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory):
    """The recorded files, each tool in a folder of its own."""
    folder = tmp_path_factory.mktemp("foreign")
    for tool, name in FOLDERS.items():
        shutil.copytree(RECORDED / name, folder / tool)
    for file in folder.rglob("*.gz"):
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()
    return folder


@pytest.fixture
def folder(unpacked, tmp_path):
    """A copy that a test may spoil."""
    return Path(shutil.copytree(unpacked, tmp_path / "foreign"))


def levels(batches):
    return [None if pd.isna(level) else int(level) for level in batches["concurrency"]]


def said(batches):
    return [" | ".join(warnings) for warnings in batches["warnings"]]


# what the recorded folders hold


LEVELS = {
    "guidellm": [None, 1, 4],
    "aiperf": [None, 1, 4],
    "vllm": [None, 1, 1, 2, 4, 4],
    "sglang": [None, 1, 1, 4, 4],
}


@pytest.mark.parametrize("tool", TOOLS)
def test_one_row_a_batch_with_the_columns_of_the_contract(unpacked, tool):
    batches = tuner.load_batches(unpacked / tool)
    assert list(batches.columns) == list(COLUMNS)
    assert sorted(levels(batches), key=lambda level: level or 0) == LEVELS[tool]
    assert set(batches["outcome"]) == {"completed"}
    assert all(f"written by {TOOLS[tool]}" in text for text in said(batches))
    assert not batches["superseded"].any()
    assert batches["experiment"].unique().tolist() == [tool]
    keys = ["trial", "scenario", "concurrency", "repeat"]
    assert not batches[batches["concurrency"].notna()].duplicated(keys).any()


@pytest.mark.parametrize("tool", TOOLS)
def test_judge_summarize_figures_and_requests_work_on_them(unpacked, tool):
    judged = tuner.judge(tuner.load_batches(unpacked / tool), SLO)
    assert set(judged["verdict"]) <= {"pass", "soft", "unknown"}
    assert (judged["verdict"] == "pass").sum() >= 3
    assert tuner.summarize(judged).max_throughput > 0
    for draw in (tuner.figures.throughput_vs_latency, tuner.figures.latency_vs_concurrency, tuner.figures.trade_off):
        assert draw(judged).to_json()
    single = tuner.load_requests(unpacked / tool)
    assert list(single.columns) == list(requests.REQUEST_COLUMNS)
    whole = judged[judged["attainment"].notna()]
    assert len(single) == whole["requests"].sum()
    assert single["error_code"].notna().sum() == whole["errors"].sum()


def test_every_tool_at_once_next_to_genai_bench(unpacked, tmp_path):
    plain_folder(tmp_path / "genai", [1, 4])
    batches = tuner.load_batches(unpacked, tmp_path / "genai")
    assert set(batches["experiment"]) == {*TOOLS, "genai"}
    assert len(batches) == sum(map(len, LEVELS.values())) + 2


def test_two_tools_in_one_folder_are_two_trials_and_no_repeats(folder):
    for name in ("vllm/concurrency-4.json", "sglang/concurrency.jsonl"):
        shutil.copy(folder / name, folder)
    batches = tuner.load_batches(folder / "vllm" / ".." / "concurrency-4.json", folder / "concurrency.jsonl")
    alone = tuner.load_batches(folder / "concurrency.jsonl")
    assert alone["trial"].tolist() == [1, 1] and alone["repeat"].tolist() == [1, 1]
    mixed = tuner.load_batches(folder)
    own = mixed[mixed["run_folder"] == str(folder)]
    assert own["trial"].nunique() == 2 and set(own["repeat"]) == {1}
    assert len(batches) == 3


# recomputed numbers against what the tools claim


def recorded(file):
    return json.loads(file.read_text())


def vllm_claims(folder):
    for level in (1, 4):
        yield (
            f"concurrency-{level}.json",
            recorded(folder / "vllm" / f"concurrency-{level}.json"),
            "total_token_throughput",
        )


def sglang_claims(folder):
    for number, line in enumerate((folder / "sglang" / "concurrency.jsonl").read_text().splitlines(), 1):
        yield f"concurrency.jsonl#{number}", json.loads(line), "total_throughput"


@pytest.mark.parametrize("claims", [vllm_claims, sglang_claims])
def test_numbers_agree_with_the_serving_benchmarks_own(unpacked, claims):
    """Same definitions: equal to rounding; SGLang's latency has what comes after the last token too."""
    tool = claims.__name__.partition("_")[0]
    batches = tuner.load_batches(unpacked / tool)
    for name, claim, total in claims(unpacked):
        [row] = batches[batches["source"].str.endswith("/" + name)].to_dict("records")
        loose = 0.01 if tool == "sglang" else 1e-9
        assert row["completed"] == claim["completed"]
        assert row["duration"] == claim["duration"]
        assert row["output_throughput"] == pytest.approx(claim["output_throughput"])
        assert row["total_throughput"] == pytest.approx(claim[total])
        assert row["request_throughput"] == pytest.approx(claim["request_throughput"])
        for ours, theirs in (("mean", "mean"), ("p50", "median"), ("p99", "p99")):
            assert row[f"ttft_{ours}"] == pytest.approx(claim[f"{theirs}_ttft_ms"] / 1000)
            assert row[f"tpot_{ours}"] == pytest.approx(claim[f"{theirs}_tpot_ms"] / 1000, rel=loose)
        if tool == "sglang":
            assert row["e2e_latency_mean"] == pytest.approx(claim["mean_e2e_latency_ms"] / 1000, rel=loose)


@pytest.mark.parametrize("level", [1, 4])
def test_numbers_agree_with_aiperfs_own(unpacked, level):
    claim = recorded(unpacked / "aiperf" / f"concurrency-{level}" / "profile_export_aiperf.json")
    batches = tuner.load_batches(unpacked / "aiperf")
    [row] = batches[batches["concurrency"] == level].to_dict("records")
    assert row["completed"] == claim["request_count"]["avg"]
    assert row["duration"] == claim["benchmark_duration"]["avg"]
    for ours, theirs in (("ttft", "time_to_first_token"), ("e2e_latency", "request_latency")):
        for statistic in ("p50", "p90", "p95", "p99"):
            assert row[f"{ours}_{statistic}"] == pytest.approx(claim[theirs][statistic] / 1000)
        assert row[f"{ours}_mean"] == pytest.approx(claim[theirs]["avg"] / 1000)
    served = claim["total_usage_completion_tokens"]["avg"]
    assert row["output_throughput"] == pytest.approx(served / claim["benchmark_duration"]["avg"])
    assert row["tpot_mean"] == pytest.approx(claim["inter_token_latency"]["avg"] / 1000, rel=0.02)


def test_numbers_agree_with_guidellms_own(unpacked):
    """Its throughput and ITL are defined otherwise, but come close."""
    report = recorded(unpacked / "guidellm" / "benchmarks.json")
    batches = tuner.load_batches(unpacked / "guidellm" / "benchmarks.json")
    for row, benchmark in zip(batches.to_dict("records"), report["benchmarks"], strict=True):
        metrics = benchmark["metrics"]
        assert row["completed"] == metrics["request_totals"]["successful"]
        assert row["duration"] == benchmark["duration"]
        assert row["ttft_mean"] == pytest.approx(metrics["time_to_first_token_ms"]["successful"]["mean"] / 1000)
        assert row["e2e_latency_mean"] == pytest.approx(metrics["request_latency"]["successful"]["mean"])
        assert row["tpot_mean"] == pytest.approx(
            metrics["inter_token_latency_ms"]["successful"]["mean"] / 1000, rel=0.02
        )
        assert row["output_throughput"] == pytest.approx(
            metrics["output_tokens_per_second"]["successful"]["mean"], rel=0.05
        )
        [entry] = benchmark["requests"]["successful"][:1]
        single = tuner.load_requests(unpacked / "guidellm" / "benchmarks.json")
        first = single[single["concurrency"] == row["concurrency"]].iloc[0]
        tpot = (entry["request_latency"] - entry["time_to_first_token_ms"] / 1000) / (entry["output_tokens"] - 1)
        assert (first["ttft"], first["tpot"]) == pytest.approx((entry["time_to_first_token_ms"] / 1000, tpot))


def test_an_earlier_guidellm(tmp_path):
    [packed] = (RECORDED / "guidellm-0.5.3").iterdir()
    (tmp_path / "report.json").write_bytes(gzip.decompress(packed.read_bytes()))
    batches = tuner.load_batches(tmp_path)
    assert (levels(batches), set(batches["scenario"]), set(batches["model"])) == ([1, 4], {"D(60,16)"}, {"smollm2"})
    assert (batches["completed"].tolist(), batches["errors"].tolist()) == ([7, 7], [1, 1])
    assert all("written by GuideLLM 0.5.3" in text for text in said(batches))
    assert len(tuner.load_requests(tmp_path)) == 16


def test_earlier_vllm_has_neither_latencies_nor_a_count_of_failures(folder):
    file = folder / "vllm" / "concurrency-4.json"
    before = tuner.load_batches(file)
    write(file, {key: value for key, value in recorded(file).items() if key not in ("latencies", "failed")})
    batches = tuner.load_batches(file)
    assert batches["errors"].tolist() == before["errors"].tolist()
    assert batches["e2e_latency_p90"].tolist() == pytest.approx(before["e2e_latency_p90"].tolist())
    assert "its TTFT and the gaps" in said(batches)[0]


def test_percentiles_are_interpolated_over_the_completed(unpacked):
    batches = tuner.load_batches(unpacked / "guidellm" / "rate-errors.json")
    single = tuner.load_requests(unpacked / "guidellm" / "rate-errors.json")
    known = single["ttft"].dropna()
    assert batches["ttft_p90"].tolist() == [pytest.approx(np.percentile(known, 90))]


# what is failed, driven by a rate, or not said


@pytest.mark.parametrize("tool", TOOLS)
def test_a_rate_leaves_the_level_unknown_and_failures_count(unpacked, tool):
    batches = tuner.load_batches(unpacked / tool)
    [row] = batches[batches["concurrency"].isna()].to_dict("records")
    assert "requests came at a rate (20" in " ".join(row["warnings"])
    assert row["errors"] == row["requests"] // 5 + (tool == "aiperf")  # AIPerf asked the server once more before
    assert row["error_rate"] == pytest.approx(row["errors"] / row["requests"])
    codes = set(tuner.load_requests(unpacked / tool).query("concurrency.isna()")["error_code"].dropna())
    assert codes == ({"error"} if tool == "vllm" else {"503"})
    summary = tuner.summarize(tuner.judge(batches[batches["concurrency"].isna()], SLO))
    assert summary.best_level is None and "concurrency –" in summary.text


def test_a_rate_with_a_limit_has_the_limit_as_its_level(folder):
    file = folder / "vllm" / "rate-errors.json"
    write(file, recorded(file) | {"max_concurrency": 8})
    batches = tuner.load_batches(file)
    assert levels(batches) == [8] and "fewer may have been in flight" in said(batches)[0]


def test_without_single_requests_its_own_aggregates_count_and_what_is_missing_is_said(unpacked):
    batches = tuner.load_batches(unpacked / "vllm" / "plain.json", unpacked / "sglang" / "aggregates.jsonl")
    vllm, sglang, _ = batches.to_dict("records")
    claim = recorded(unpacked / "vllm" / "plain.json")
    assert vllm["ttft_p99"] == pytest.approx(claim["p99_ttft_ms"] / 1000) and math.isnan(vllm["ttft_p90"])
    assert vllm["e2e_latency_p90"] == pytest.approx(np.percentile([time for time in claim["latencies"] if time], 90))
    assert vllm["errors"] == claim["failed"]
    assert "says nothing of ttft_p90, ttft_p95, tpot_p90, tpot_p95" in " ".join(vllm["warnings"])
    assert pd.isna(sglang["errors"]) and "does not say how many requests failed" in " ".join(sglang["warnings"])


def test_a_sample_of_the_requests_is_not_taken_for_all(folder):
    file = folder / "guidellm" / "benchmarks.json"
    report = recorded(file)
    for benchmark in report["benchmarks"]:
        benchmark["requests"]["successful"] = benchmark["requests"]["successful"][:3]
        benchmark["requests"]["incomplete"] = benchmark["requests"]["successful"][:2]
    write(file, report)
    batches = tuner.load_batches(file)
    assert batches["completed"].tolist() == [8, 8]
    assert all("keeps only 3 of its requests" in text and "2 requests were cut off" in text for text in said(batches))
    assert tuner.load_requests(file).empty


def test_definitions_that_differ_are_said(unpacked):
    text = {tool: " ".join(said(tuner.load_batches(unpacked / tool))) for tool in TOOLS}
    assert "time_per_output_token includes the first" in text["guidellm"]
    assert "its TTFT is the first chunk's" in text["vllm"] and "first chunk" not in text["sglang"]
    assert "latency is its TTFT and the gaps" in text["sglang"]
    assert "output tokens are the server's count" in text["aiperf"]


def test_scenarios_models_and_times(unpacked):
    batches = tuner.load_batches(unpacked).set_index("experiment")
    assert set(batches.loc[["guidellm", "aiperf", "sglang"], "scenario"]) == {"D(60,16)"}
    assert set(batches.loc["vllm", "scenario"]) == {"D(90,16)", "D(100,16)"}
    assert set(batches.loc[["guidellm", "aiperf", "vllm"], "model"]) == {"smollm2"}
    timed = batches.loc[["guidellm", "aiperf", "vllm"]]
    assert set(timed["time_source"]) == {"recorded"}
    assert ((timed["finished_at"] - timed["started_at"]).dt.total_seconds() - timed["duration"]).abs().max() < 2
    assert str(timed["started_at"].min())[:10] == "2026-11-24"
    assert all("names no time zone: UTC assumed" in text for text in said(batches.loc["vllm"]))


# which files


def test_the_files_of_one_run_are_one_batch_whichever_is_named(folder):
    run_folder = folder / "aiperf" / "concurrency-4"
    rows = [tuner.load_batches(file) for file in sorted(run_folder.iterdir())]
    assert {str(rows[0]["source"].iloc[0])} == {source for row in rows for source in row["source"]}
    assert [levels(row) for row in rows] == [[4]] * 2
    assert len(tuner.load_batches(*run_folder.iterdir(), run_folder)) == 1


@pytest.mark.parametrize(
    ("lost", "level", "recomputed"), [("profile_export.jsonl", 4, False), ("profile_export_aiperf.json", None, True)]
)
def test_half_of_what_aiperf_wrote(folder, lost, level, recomputed):
    run_folder = folder / "aiperf" / "concurrency-4"
    before = tuner.load_batches(run_folder)
    (run_folder / lost).unlink()
    batches = tuner.load_batches(run_folder)
    assert levels(batches) == [level]
    assert batches["ttft_p90"].tolist() == pytest.approx(before["ttft_p90"].tolist())
    assert batches["output_throughput"].tolist() == pytest.approx(before["output_throughput"].tolist(), rel=0.05)
    assert ("no individual requests" not in said(batches)[0]) == recomputed


TABLES = {
    "benchmarks.csv": "Run Info,Run Info,Benchmark\nModel,Backend,Strategy\n,,\nm,{},concurrent@4\n",
    "profile_export_aiperf.csv": "Metric,avg,min,max,p50\nRequest Latency (ms),1,1,1,1\n",
}


@pytest.mark.parametrize("file", TABLES)
def test_a_table_alone_says_which_file_to_give(tmp_path, file):
    (tmp_path / file).write_text(TABLES[file])
    batches = tuner.load_batches(tmp_path)
    assert batches["outcome"].tolist() == ["unreadable"]
    instead = "is a table of aggregates: give the .json, .jsonl or .yaml that the tool writes of the same run"
    assert batches["reason"].tolist() == [f"{file} {instead}"]


@pytest.mark.parametrize(("tool", "file"), [("guidellm", "benchmarks.csv"), ("aiperf", "profile_export_aiperf.csv")])
def test_a_table_beside_its_run_is_left_alone(folder, tool, file):
    place = folder / tool / ("concurrency-4" if tool == "aiperf" else "")
    before = tuner.load_batches(place)
    (place / file).write_text(TABLES[file])
    pd.testing.assert_frame_equal(tuner.load_batches(place), before)
    run = before[before["source"].str.contains("benchmarks|profile_export")]
    assert tuner.load_batches(place / file)["ttft_p50"].tolist() == run["ttft_p50"].tolist() != []


def test_yaml_that_is_nested_too_deeply_does_not_end_the_process(tmp_path):
    (tmp_path / "benchmarks.yaml").write_text("benchmarks:\n- module: guidellm.x\n  a: " + "[" * 10**6)
    load = f"import tuner; print(tuner.load_batches({str(tmp_path)!r})['outcome'].tolist())"
    done = subprocess.run([sys.executable, "-c", load], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['unreadable']"


def test_guidellms_yaml_is_its_json(folder):
    file = folder / "guidellm" / "benchmarks.json"
    before = tuner.load_batches(file)
    file.with_suffix(".yaml").write_text(yaml.dump(recorded(file)))
    file.unlink()
    batches = tuner.load_batches(folder / "guidellm" / "benchmarks.yaml")
    pd.testing.assert_frame_equal(batches.drop(columns="source"), before.drop(columns="source"))


def test_files_of_aiperf_that_repeat_its_numbers_are_not_read_again(folder):
    run_folder = folder / "aiperf" / "concurrency-4"
    again = run_folder / "phases" / "profiling"
    again.mkdir(parents=True)
    shutil.copy(run_folder / "profile_export_aiperf.json", again)
    assert len(tuner.load_batches(folder / "aiperf")) == len(LEVELS["aiperf"])
    assert len(tuner.load_batches(run_folder)) == 1


def enlarged(folder):
    """Both levels of SGLang, each with so many requests that what was read is kept."""
    file = folder / "sglang" / "concurrency.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        for name in ("ttfts", "input_lens", "output_lens", "errors", "itls", "generated_texts"):
            line[name] *= 60
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    os.utime(file, (10**9 + 0.5, 10**9 + 0.5))
    return file


def test_large_files_are_kept_by_part_and_read_once(folder, monkeypatch):
    file = enlarged(folder)
    first = tuner.judge(tuner.load_batches(file), SLO)
    assert first["attainment"].notna().all()
    monkeypatch.setattr(cache, "_is_settled", lambda status: True)
    tuner.load_batches(file)
    monkeypatch.setattr(foreign, "read_all", lambda path: pytest.fail(f"{path} was read again"))
    pd.testing.assert_frame_equal(tuner.judge(tuner.load_batches(file), SLO), first)


def test_a_summary_that_comes_later_is_seen(folder, monkeypatch):
    """The requests alone are kept as they were; with the summary beside them they are another batch."""
    run_folder = folder / "aiperf" / "concurrency-4"
    monkeypatch.setattr(cache, "WORTH_KEEPING", 0)
    monkeypatch.setattr(cache, "_is_settled", lambda status: True)
    summary = (run_folder / "profile_export_aiperf.json").rename(folder / "later")
    assert levels(tuner.load_batches(run_folder)) == [None]
    shutil.copy(summary, run_folder / "profile_export_aiperf.json")
    assert levels(tuner.load_batches(run_folder)) == [4]


# damage


@pytest.mark.parametrize(
    "file",
    [
        "guidellm/benchmarks.json",
        "vllm/plain.json",
        "vllm/concurrency-4.json",
        "aiperf/concurrency-4/profile_export_aiperf.json",
    ],
)
def test_a_file_that_ends_in_the_middle_is_a_row(folder, file):
    path = folder / file
    path.write_bytes(path.read_bytes()[: -len(path.read_bytes()) // 3])
    if path.with_name("profile_export.jsonl").exists():
        path.with_name("profile_export.jsonl").unlink()
    [row] = tuner.load_batches(path).to_dict("records")
    assert (row["outcome"], pd.isna(row["concurrency"])) == ("truncated", True)
    assert row["reason"].startswith(f"{path.name} ends in the middle")


def test_the_lines_before_a_damaged_one_stay(folder):
    file = folder / "sglang" / "concurrency.jsonl"
    file.write_bytes(file.read_bytes()[:-200])
    batches = tuner.load_batches(file)
    assert dict(zip(batches["outcome"], levels(batches), strict=True)) == {"truncated": None, "completed": 1}
    assert set(batches["trial"]) == {1}
    assert "concurrency.jsonl#2 ends in the middle" in batches["reason"].max()
    assert set(tuner.judge(batches, SLO)["verdict"]) == {"pass", "unknown"}


def test_lost_requests_of_aiperf_are_said(folder):
    file = folder / "aiperf" / "concurrency-4" / "profile_export.jsonl"
    file.write_bytes(file.read_bytes()[:-500])
    batches = tuner.load_batches(file)
    assert "1 of 15 lines of profile_export.jsonl are damaged" in said(batches)[0]
    assert "claims 15 completed requests but holds 14" in said(batches)[0]


def test_the_requests_of_a_warm_up_are_no_part_of_the_batch(folder):
    file = folder / "aiperf" / "concurrency-4" / "profile_export.jsonl"
    first, *others = file.read_text().splitlines(keepends=True)
    file.write_text(first.replace('"benchmark_phase":"profiling"', '"benchmark_phase":"warmup"') + "".join(others))
    assert tuner.load_batches(file)["completed"].tolist() == [14]


def test_a_line_a_batch_in_the_order_of_the_lines(folder):
    file = folder / "sglang" / "aggregates.jsonl"
    [line, _] = map(json.loads, file.read_text().splitlines())
    file.write_text("".join(json.dumps(line | {"duration": float(number)}) + "\n" for number in range(1, 13)))
    batches = tuner.load_batches(file)
    assert batches["repeat"].tolist() == batches["duration"].tolist() == list(range(1, 13))


def test_a_report_without_benchmarks(folder):
    file = folder / "guidellm" / "benchmarks.json"
    write(file, recorded(file) | {"benchmarks": []})
    assert tuner.load_batches(file)["reason"].tolist() == ["benchmarks.json holds no batch"]


def test_other_tables_and_documents_are_none_of_theirs(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    (tmp_path / "x.yaml").write_text("benchmarks:\n- 1\n")
    (tmp_path / "x.jsonl").write_text('{"metrics": 1}\n')
    with pytest.raises(PathError, match="holds no batch"):
        tuner.load_batches(tmp_path)


FILES = [
    "guidellm/rate-errors.json",
    "aiperf/rate-errors/profile_export.jsonl",
    "aiperf/rate-errors/profile_export_aiperf.json",
    "vllm/rate-errors.json",
    "vllm/appended.json",
    "sglang/rate-errors.jsonl",
]
ODD = st.sampled_from(
    [None, True, -1, 0, 10**400, 1e308, math.nan, math.inf, "", "x", "\ud800", [], [[]], {}, {"a": None}]
)


def spoil(value, choose):
    """Some parts of `value` replaced by anything."""
    if choose.random() < 0.02:
        return choose.odd()
    if isinstance(value, dict):
        return {key: spoil(part, choose) for key, part in value.items() if choose.random() > 0.01}
    if isinstance(value, list):
        return [spoil(part, choose) for part in value if choose.random() > 0.01]
    return value


class Choice:
    def __init__(self, dice, odd):
        self.dice, self.odd_ones = dice, odd

    def random(self):
        return self.dice.random()

    def odd(self):
        return self.dice.choice(self.odd_ones)


def must_be_rows(path):
    """Whatever is in a file: rows with outcomes that exist, or a PathError."""
    try:
        batches = tuner.load_batches(path)
    except PathError as error:
        assert "\n" not in str(error)
        return
    assert set(batches["outcome"]) <= set(OUTCOMES)
    judged = tuner.judge(batches, SLO)
    assert set(judged["verdict"]) <= {"pass", "soft", "fail", "unknown"}
    tuner.summarize(judged)
    tuner.load_requests(path)


@pytest.mark.parametrize("file", FILES)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_bytes_that_were_damaged_never_raise(unpacked, tmp_path_factory, file, data):
    content = bytearray((unpacked / file).read_bytes())
    path = tmp_path_factory.mktemp("spoilt") / Path(file).name
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[place : place + 1] = data.draw(st.binary(max_size=3))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    must_be_rows(path)


@pytest.mark.parametrize("file", FILES)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(dice=st.randoms(use_true_random=False), odd=st.lists(ODD, min_size=1, max_size=5))
def test_values_that_are_none_never_raise(unpacked, tmp_path_factory, file, dice, odd):
    lines = (unpacked / file).read_text().splitlines()
    whole = (
        [json.loads("\n".join(lines))]
        if not file.endswith("jsonl") and "appended" not in file
        else list(map(json.loads, lines))
    )
    path = tmp_path_factory.mktemp("spoilt") / Path(file).name
    path.write_text("\n".join(json.dumps(spoil(copy.deepcopy(part), Choice(dice, odd))) for part in whole))
    must_be_rows(path)


# the command line


def test_load_and_report(folder):
    slo = write(folder / "slo.json", SLO)
    code, out, err = run(folder, "load", "guidellm", "vllm", "sglang", "aiperf", "--slo", slo, "--format", "json")
    assert code == 0, err
    assert len(json.loads(out)) == sum(map(len, LEVELS.values()))
    for tool in TOOLS:
        code, out, err = run(folder, "report", tool, "-o", f"{tool}.html", "--slo", slo)
        assert code == 0, err
        assert len(tuner.load_batches(folder / f"{tool}.html")) == len(LEVELS[tool])
