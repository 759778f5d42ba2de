"""Files that other benchmark tools wrote (tests/data/foreign): the same columns, recomputed numbers, no traceback."""

import copy
import gzip
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import DATA
from support.commands import run
from support.result_files import plain_folder, write

import tuner
from tuner.batches import requests
from tuner.batches.batch import COLUMNS
from tuner.core.level import Rate, kind_of, level_of
from tuner.core.records import OUTCOMES
from tuner.errors import NothingSurvived, PathError
from tuner.report.compared import read_comparison

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
    return [level_of(row) for row in batches.to_dict("records")]


def said(batches):
    return [" | ".join(warnings) for warnings in batches["warnings"]]


# what the recorded folders hold


LEVELS = {
    "guidellm": [1, 4, Rate(20)],
    "aiperf": [1, 4, Rate(20)],
    "vllm": [1, 1, 2, 4, 4, Rate(20)],
    "sglang": [1, 1, 4, 4, Rate(20)],
}


@pytest.mark.parametrize("tool", TOOLS)
def test_one_row_a_batch_with_the_columns_of_the_contract(unpacked, tool):
    batches = tuner.load_batches(unpacked / tool)
    assert list(batches.columns) == list(COLUMNS)
    assert sorted(levels(batches), key=lambda level: (kind_of(level), level)) == LEVELS[tool]
    assert set(batches["outcome"]) == {"completed"}
    assert all(f"written by {TOOLS[tool]}" in text for text in said(batches))
    assert not batches["superseded"].any()
    assert batches["experiment"].unique().tolist() == [tool]
    assert not batches.duplicated(["trial", "scenario", "concurrency", "request_rate", "repeat"]).any()


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


def test_a_count_of_tokens_that_is_not_guidellms_own_is_said(folder):
    path = next(folder.rglob("benchmarks.json"))
    assert not [word for word in said(tuner.load_batches(path)) if "tokens a request" in word]
    document = json.loads(path.read_text())
    for request in document["benchmarks"][0]["requests"]["successful"][:2]:
        request["prompt_tokens"] = 1
    path.write_text(json.dumps(document))
    claims = [word for word in said(tuner.load_batches(path)) if "prompt tokens a request, its requests hold" in word]
    assert len(claims) == 1


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
def test_a_rate_is_the_level_and_failures_count(unpacked, tool):
    batches = tuner.load_batches(unpacked / tool)
    [row] = batches[batches["concurrency"].isna()].to_dict("records")
    assert (row["request_rate"], row["iteration_type"]) == (20.0, "request_rate")
    assert "from when they were sent, not from when they were due" in " ".join(row["warnings"])
    assert row["errors"] == row["requests"] // 5 + (tool == "aiperf")  # AIPerf asked the server once more before
    assert row["error_rate"] == pytest.approx(row["errors"] / row["requests"])
    codes = set(tuner.load_requests(unpacked / tool).query("concurrency.isna()")["error_code"].dropna())
    assert codes == ({"error"} if tool == "vllm" else {"503"})
    summary = tuner.summarize(tuner.judge(batches[batches["concurrency"].isna()], SLO))
    assert summary.best_level == Rate(20) and "rate 20/s" in summary.text


def test_what_was_in_flight_at_most_is_said_beside_a_rate(folder):
    file = folder / "vllm" / "rate-errors.json"
    write(file, recorded(file) | {"max_concurrency": 8})
    batches = tuner.load_batches(file)
    assert levels(batches) == [Rate(20)] and "at most 8 were in flight" in said(batches)[0]


def test_requests_that_came_as_a_trace_have_no_level(tmp_path):
    batches = tuner.load_batches(write(tmp_path / "a.json", vllm_run(max_concurrency=None, request_rate="trace")))
    assert levels(batches) == [None] and "the file says trace: the level is unknown" in said(batches)[0]


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
    assert all("keeps only 3 of its requests" in text and "2 requests cut off" in text for text in said(batches))
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
    "benchmarks.yaml": "benchmarks:\n- config:\n    strategy: {type_: concurrent}\n",
    "profile_export_aiperf.csv": "Metric,avg,min,max,p50\nRequest Latency (ms),1,1,1,1\n",
}


@pytest.mark.parametrize("file", TABLES)
def test_a_table_alone_says_which_file_to_give(tmp_path, file):
    (tmp_path / file).write_text(TABLES[file])
    batches = tuner.load_batches(tmp_path)
    assert batches["outcome"].tolist() == ["unreadable"]
    instead = "is not read: give the .json or .jsonl that the tool writes of the same run"
    assert batches["reason"].tolist() == [f"{file} {instead}"]


@pytest.mark.parametrize(("tool", "file"), [("guidellm", "benchmarks.csv"), ("aiperf", "profile_export_aiperf.csv")])
def test_a_table_beside_its_run_is_left_alone(folder, tool, file):
    place = folder / tool / ("concurrency-4" if tool == "aiperf" else "")
    before = tuner.load_batches(place)
    (place / file).write_text(TABLES[file])
    pd.testing.assert_frame_equal(tuner.load_batches(place), before)
    run = before[before["source"].str.contains("benchmarks|profile_export")]
    assert tuner.load_batches(place / file)["ttft_p50"].tolist() == run["ttft_p50"].tolist() != []


def test_files_of_aiperf_that_repeat_its_numbers_are_not_read_again(folder):
    run_folder = folder / "aiperf" / "concurrency-4"
    again = run_folder / "phases" / "profiling"
    again.mkdir(parents=True)
    shutil.copy(run_folder / "profile_export_aiperf.json", again)
    assert len(tuner.load_batches(folder / "aiperf")) == len(LEVELS["aiperf"])
    assert len(tuner.load_batches(run_folder)) == 1


# only what was measured counts


def benchmark(spans, window, tokens=100, level=1, **changes):
    """A benchmark of GuideLLM with a request for each of `spans`, of which it measured those in `window`."""
    begin, end = window
    within = [span for span in spans if span[1] > begin and span[0] < end]
    requests = [
        {"request_start_time": first, "request_end_time": last, "request_latency": last - first}
        | {"time_to_first_token_ms": 100.0 + number, "prompt_tokens": 10, "output_tokens": tokens}
        for number, (first, last) in enumerate(spans)
    ]
    totals = {"successful": len(within), "errored": 0, "incomplete": 0}
    rates = {name: {"successful": {"mean": 7.0}} for name in ("output_tokens_per_second", "requests_per_second")}
    return {
        "type_": "generative_benchmark",
        "config": {"strategy": {"type_": "concurrent", "streams": level}},
        "start_time": begin,
        "end_time": end,
        "duration": end - begin,
        "metrics": {"request_totals": totals, **rates},
        "requests": {"successful": requests, "errored": [], "incomplete": []},
    } | changes


def guidellm(tmp_path, *benchmarks, **document):
    """The rows of a GuideLLM file with these benchmarks."""
    whole = {"metadata": {"guidellm_version": "0.8.1"}, "benchmarks": benchmarks} | document
    return tuner.load_batches(write(tmp_path / "guidellm.json", whole)).to_dict("records")


BEGAN = 1795533579.0
#: One at a time, 10 s each: 10 tokens/s whatever part of it is looked at.
STEADY = [(BEGAN + 10 * number, BEGAN + 10 * number + 10) for number in range(12)]


@pytest.mark.parametrize(
    ("first", "last", "counted"),
    [(0, 120, 12), (20, 100, 8), (25, 95, 8), (20, 95, 8), (0, 95, 10), (25, 300, 10), (-50, 120, 12), (101, 104, 1)],
)
def test_throughput_is_that_of_guidellms_window(tmp_path, first, last, counted):
    """Warm-up, cool-down, both, one that ends after the run, and one within a single request."""
    [row] = guidellm(tmp_path, benchmark(STEADY, (BEGAN + first, BEGAN + last)))
    assert row["completed"] == counted
    assert row["output_throughput"] == pytest.approx(10.0)
    assert ("lie outside" in " ".join(row["warnings"])) == (counted < 12)
    assert not any("claims" in warning for warning in row["warnings"])


def test_a_faster_server_is_as_much_faster_in_its_window(tmp_path):
    twice = [(BEGAN + 5 * number, BEGAN + 5 * number + 5) for number in range(12)]
    window = (BEGAN + 12, BEGAN + 48)
    slow, fast = guidellm(tmp_path, benchmark(STEADY, window), benchmark(twice, window))
    assert fast["output_throughput"] == pytest.approx(2 * slow["output_throughput"])


def test_requests_whose_time_is_unknown_leave_guidellms_own_numbers(tmp_path):
    untimed = benchmark(STEADY, (BEGAN + 25, BEGAN + 95))
    for entry in untimed["requests"]["successful"]:
        del entry["request_start_time"], entry["request_end_time"]
    [row] = guidellm(tmp_path, untimed)
    assert (row["output_throughput"], row["completed"]) == (7.0, 8)
    assert "do not say when they were" in " ".join(row["warnings"])


def test_failures_outside_the_window_are_no_part_of_the_error_rate(tmp_path):
    early = benchmark(STEADY, (BEGAN + 20, BEGAN + 100))
    early["requests"]["errored"] = [{"request_start_time": BEGAN + at, "error": "503"} for at in (3, 50)]
    early["metrics"]["request_totals"]["errored"] = 1
    [row] = guidellm(tmp_path, early)
    assert (row["errors"], row["completed"]) == (1, 8)


# earlier versions


def test_guidellm_0_2_names_no_version_and_other_keys(tmp_path):
    names = {"request_start_time": "start_time", "request_end_time": "end_time"}
    old = benchmark(STEADY, (BEGAN, BEGAN + 120), run_stats={}, worker={"backend_model": "m"})
    old["request_loader"] = {"data": "prompt_tokens=60,output_tokens=100"}
    old["request_totals"] = old["metrics"].pop("request_totals")
    old["args"] = {"strategy": old.pop("config")["strategy"]}
    for entry in old["requests"]["successful"]:
        entry |= {names[name]: entry.pop(name) for name in names}
    document = {"benchmarks": [old]}
    [row] = tuner.load_batches(write(tmp_path / "old.json", document)).to_dict("records")
    assert (row["concurrency"], row["scenario"], row["model"]) == (1, "D(60,100)", "m")
    assert row["output_throughput"] == pytest.approx(10.0)
    assert str(row["started_at"])[:10] == "2026-11-24" and "written by GuideLLM 0.2 or 0.3" in str(row["warnings"])


def test_a_version_that_is_not_read_is_named(tmp_path):
    """GuideLLM 0.1 had results and no metrics."""
    document = {"benchmarks": [{"mode": "synchronous", "rate": None, "results": [], "errors": []}]}
    [row] = tuner.load_batches(write(tmp_path / "first.json", document)).to_dict("records")
    assert row["outcome"] == "unreadable" and "files from 0.2 on are read" in row["reason"]


def aiperf_of_2025(folder, count=20):
    """The files of a run by AIPerf as it was in October 2025: other names, and times in other places."""
    lines = []
    for number in range(count):
        begin = int((BEGAN + number) * 1e9)
        values = {"ttft": 100.0 + number, "request_latency": 1000.0, "max_response_timestamp": begin + 10**9}
        values |= {"input_sequence_length": 60, "output_sequence_length": 50}
        metrics = {name: {"value": value, "unit": "ms"} for name, value in values.items()}
        phase = "warmup" if number == 0 else "profiling"
        metadata = {"x_request_id": str(number), "timestamp_ns": begin, "credit_phase": phase}
        lines.append(json.dumps({"metadata": metadata, "metrics": metrics, "error": None}))
    write(folder / "profile_export.jsonl", "\n".join(lines))
    statistics = {"avg": 200.0, "p50": 190.0, "p90": 220.0, "p99": 230.0, "unit": "ms"}
    records = {"ttft": statistics, "request_latency": statistics, "request_count": {"avg": 19.0}}
    records["min_request_timestamp"] = {"avg": (BEGAN + 1) * 1e9, "unit": "ns"}
    records["benchmark_duration"] = {"avg": 19.0, "unit": "sec"}
    prompt = {"input_tokens": {"mean": 60}, "output_tokens": {"mean": 50}}
    config = {"endpoint": {"model_names": ["m"]}, "input": {"prompt": prompt}, "loadgen": {"concurrency": 7}}
    summary = {"records": records, "input_config": config, "was_cancelled": False, "error_summary": []}
    write(folder / "profile_export_aiperf.json", summary | {"start_time": "2026-11-24T07:19:40"})
    (folder / "profile_export_aiperf.csv").write_text("Metric,avg,min,max,p1\n")
    return folder


@pytest.mark.parametrize(
    ("lost", "level", "ttft"),
    [("", 7, 0.11), ("profile_export.jsonl", 7, 0.19), ("profile_export_aiperf.json", None, 0.11)],
)
def test_aiperf_of_2025(tmp_path, lost, level, ttft):
    folder = aiperf_of_2025(tmp_path / "run")
    if lost:
        (folder / lost).unlink()
    [row] = tuner.load_batches(folder).to_dict("records")
    assert (level is None) == pd.isna(row["concurrency"]) and (pd.isna(row["concurrency"]) or row["concurrency"] == 7)
    assert row["ttft_p50"] == pytest.approx(ttft) and row["completed"] == 19  # without the warm-up
    assert row["duration"] == pytest.approx(19.0)
    assert str(row["started_at"])[:19] == "2026-11-24T15:19:40".replace("T", " ")  # not the local time
    assert lost == "profile_export_aiperf.json" or (row["model"], row["scenario"]) == ("m", "D(60,50)")


@pytest.mark.parametrize("lost", ["", "profile_export.jsonl"])
def test_requests_that_aiperf_was_told_to_cancel_are_no_errors_of_the_server(tmp_path, lost):
    folder = aiperf_of_2025(tmp_path / "run")
    lines = [json.loads(line) for line in (folder / "profile_export.jsonl").read_text().splitlines()]
    kind = {"code": 499, "type": "RequestCancellationError", "message": "Request was cancelled after 0.000 seconds"}
    lines[-1] |= {"metrics": {}, "error": kind}
    write(folder / "profile_export.jsonl", "\n".join(map(json.dumps, lines)))
    summary = json.loads((folder / "profile_export_aiperf.json").read_text())
    summary["records"] |= {"request_count": {"avg": 18.0}, "error_request_count": {"avg": 1.0}}
    write(folder / "profile_export_aiperf.json", summary | {"error_summary": [{"error_details": kind, "count": 1}]})
    if lost:
        (folder / lost).unlink()
    [row] = tuner.load_batches(folder).to_dict("records")
    assert (row["completed"], row["errors"], row["error_rate"]) == (18, 0, 0)
    assert "1 request cancelled by AIPerf: neither" in str(row["warnings"])


# what two tools were asked


def asked_aiperf(folder, **load):
    aiperf_of_2025(folder)
    path = folder / "profile_export_aiperf.json"
    summary = json.loads(path.read_text())
    summary["input_config"]["input"] |= {"public_dataset": load.pop("data", "sharegpt")}
    summary["input_config"]["loadgen"] |= load
    write(path, summary)


def asked_guidellm(folder, data="prompt_tokens=60,output_tokens=100", kind="concurrent", **strategy):
    one = benchmark(STEADY, (BEGAN, BEGAN + 120))
    one["config"]["strategy"] = {"type_": kind, "streams": 2, **strategy}
    said = {"metadata": {"guidellm_version": "0.5.3"}, "args": {"data": [data]}}
    write(folder / "benchmarks.json", said | {"benchmarks": [one]})


@pytest.mark.parametrize(
    ("tool", "asked", "what", "values"),
    [
        (asked_guidellm, {"data": "other/set"}, "data", ["some/set", "other/set"]),
        (
            asked_guidellm,
            {"data": "some/set", "kind": "throughput", "max_concurrency": 2},
            "type_",
            ["concurrent", "throughput"],
        ),
        (asked_aiperf, {"request_rate": 5.0}, "request_rate", ["–", "5.0"]),
        (asked_aiperf, {"request_cancellation_rate": 10.0}, "cancellation", ["–", "10.0"]),
        (asked_aiperf, {"data": "other"}, "public_dataset", ["sharegpt", "other"]),
    ],
)
def test_what_was_asked_of_two_sides_is_named_where_it_differs(tmp_path, tool, asked, what, values):
    tool(tmp_path / "a", **({"data": "some/set"} if tool is asked_guidellm else {}))
    tool(tmp_path / "b", **asked)
    differences = read_comparison([tmp_path / "a"], [tmp_path / "b"], tolerance=0.05).configuration
    assert values in differences[differences["what"] == what][["baseline", "candidate"]].to_numpy().tolist()


def test_the_model_that_only_guidellms_arguments_name_is_read(tmp_path):
    [row] = guidellm(tmp_path, benchmark(STEADY, (BEGAN, BEGAN + 120)), args={"model": "some/model"})
    assert row["model"] == "some/model"


def test_other_lengths_of_guidellm_are_other_workloads(tmp_path):
    asked_guidellm(tmp_path / "a")
    asked_guidellm(tmp_path / "b", "prompt_tokens=600,output_tokens=100")
    compared = read_comparison([tmp_path / "a"], [tmp_path / "b"], tolerance=0.05)
    assert "prompt_tokens" in compared.configuration["what"].tolist()
    with pytest.raises(NothingSurvived, match="no level has a result on both sides"):
        compared.must_pass(fail_on_regression=False)


# what vllm writes beside its results


def vllm_run(**changes):
    """A run without single requests as `vllm bench serve` writes it."""
    measured = {"duration": 10.0, "completed": 50, "failed": 0, "total_input_tokens": 5000, "total_output_tokens": 1000}
    measured |= {"request_throughput": 5.0, "output_throughput": 100.0, "total_token_throughput": 600.0}
    latencies = {
        f"{stat}_{name}_ms": 50.0 + place
        for place, stat in enumerate(("mean", "median", "p99"))
        for name in ("ttft", "tpot")
    }
    asked = {"date": "20260818-021333", "backend": "openai", "model_id": "m", "tokenizer_id": "m", "num_prompts": 50}
    return asked | {"request_rate": "inf", "max_concurrency": 2} | measured | latencies | changes


def vllm_sweep(folder):
    """What `vllm bench sweep` leaves of two runs of each of two values of a parameter, one of which failed."""
    for value in (4, 8):
        runs = [vllm_run(run_number=run, max_num_seqs=value, output_throughput=100.0 + run) for run in (0, 1)]
        place = folder / f"SERVE--max_num_seqs={value}"
        for number, one in enumerate(runs):
            write(place / f"run={number}.json", one)
        write(place / "summary.json", runs)
        write(place / "warmup.json", vllm_run(run_number=-1, max_num_seqs=value, num_prompts=2))
    failure = {"run_number": 2, "error_type": "OSError", "error": "no more memory"}
    write(place / "run=2.failure.json", failure | {"serve_overrides": {"max_num_seqs": 8}, "bench_overrides": {}})
    return folder


def test_a_sweep_by_vllm_has_each_run_once(tmp_path):
    batches = tuner.load_batches(vllm_sweep(tmp_path / "sweep"))
    assert batches["outcome"].tolist() == ["completed"] * 4 + ["client_failed"]
    assert batches["reason"].tolist()[-1] == "the benchmark failed with max_num_seqs 8: no more memory"
    place = tmp_path / "sweep" / "SERVE--max_num_seqs=4"
    assert len(tuner.load_batches(place / "summary.json")) == 2
    assert len(tuner.load_batches(*place.iterdir())) == 2
    for file in place.glob("run=*"):
        file.unlink()
    assert tuner.load_batches(place)["output_throughput"].tolist() == [100.0, 101.0]  # nothing else is left


def test_the_swept_parameter_is_what_differs(tmp_path):
    folder = vllm_sweep(tmp_path / "sweep")
    code, out, err = run(folder, "compare", *(f"SERVE--max_num_seqs={value}" for value in (4, 8)), "--format", "json")
    assert code == 0, err
    assert {"what": "max_num_seqs", "baseline": "4", "candidate": "8"} in json.loads(out)["configuration"]


def test_what_vllm_rewrote_for_another_program_is_no_batch(tmp_path):
    write(tmp_path / "a.json", vllm_run())
    write(
        tmp_path / "a.pytorch.json", [{"benchmark": {"tokenizer_id": "m", "num_prompts": 50}, "metric": {"name": "x"}}]
    )
    assert len(tuner.load_batches(tmp_path)) == 1
    (tmp_path / "a.json").unlink()
    assert tuner.load_batches(tmp_path)["reason"].tolist() == ["a.pytorch.json holds no batch"]
    write(tmp_path / "a.pytorch.json", ["tokenizer_id", "num_prompts"])
    assert tuner.load_batches(tmp_path)["reason"].tolist() == ["a.pytorch.json is JSON but holds no batch"]


def test_a_run_in_which_all_failed_has_no_latency_and_a_plain_reason(tmp_path):
    zeros = {name: 0.0 for name in vllm_run() if name.endswith("_ms")}
    file = write(tmp_path / "a.json", vllm_run(completed=0, failed=50, output_throughput=0.0, **zeros))
    [row] = tuner.load_batches(file).to_dict("records")
    assert (row["outcome"], row["reason"]) == ("all_errors", "all 50 requests failed")
    assert math.isnan(row["ttft_p50"]) and math.isnan(row["tpot_mean"])


def trimmed(whole, *names):
    return {key: value for key, value in whole.items() if key not in names}


TRIMMED = {
    "vllm.json": trimmed(vllm_run(), "completed", "failed", "duration", "request_throughput", "output_throughput"),
    "vllm-with-failures.json": trimmed(vllm_run(), "completed", "duration", "request_throughput") | {"failed": 3},
    "vllm-without-names.json": trimmed(
        vllm_run(), "completed", "failed", "duration", "request_throughput", "tokenizer_id", "num_prompts"
    ),
    "guidellm.json": {
        "metadata": {"guidellm_version": "0.6.0"},
        "benchmarks": [{"metrics": {}, "requests": {}, "config": {"strategy": {"type_": "synchronous"}}}],
    },
    "aiperf.json": {"aiperf_version": "1", "input_config": {"loadgen": {"concurrency": 2}}},
}


@pytest.mark.parametrize("file", TRIMMED)
def test_a_file_without_counts_says_so(tmp_path, file):
    [row] = tuner.load_batches(write(tmp_path / file, TRIMMED[file])).to_dict("records")
    assert (row["outcome"], row["reason"]) == ("incomplete", "the file does not say how many requests completed")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (vllm_run(max_concurrency=None, request_rate="trace"), "no batch says at which concurrency it ran"),
        (vllm_run(max_concurrency=None), "no batch says at which concurrency it ran"),
        (TRIMMED["vllm.json"] | {"max_concurrency": None}, "has no result: incomplete: the file does not say how many"),
    ],
)
def test_comparing_files_without_levels_is_one_readable_line(tmp_path, content, why):
    for name in ("a.json", "b.json"):
        write(tmp_path / name, content)
    code, _, err = run(tmp_path, "compare", "a.json", "b.json")
    [line] = [line for line in err.splitlines() if line.startswith("tuner: ")]
    assert code == 1 and why in line and "None" not in line and ": ," not in line


# open loop: what a tool sent at rates


def rates_of_vllm(folder, ttfts):
    """A file a request rate, with the median TTFT in milliseconds that it has."""
    for rate, ttft in ttfts.items():
        run = vllm_run(max_concurrency=None, request_rate=rate, output_throughput=20.0 * rate, median_ttft_ms=ttft)
        write(folder / f"{rate}.json", run)


def rates_of_guidellm(folder, ttfts):
    """The same as strategies of one file."""
    each = []
    for rate, ttft in ttfts.items():
        starts = [BEGAN + number / rate for number in range(40)]
        each.append(benchmark([(start, start + 1) for start in starts], (BEGAN, starts[-1] + 1)))
        each[-1]["config"]["strategy"] = {"type_": "poisson", "rate": float(rate), "max_concurrency": 10240}
        for number, request in enumerate(each[-1]["requests"]["successful"]):
            request["time_to_first_token_ms"] = ttft + number / 100
    write(folder / "benchmarks.json", {"metadata": {"guidellm_version": "0.8.1"}, "benchmarks": each})


def rates_of_aiperf(folder, ttfts):
    """The same, a folder each."""
    for rate, ttft in ttfts.items():
        aiperf_of_2025(folder / str(rate))
        (folder / str(rate) / "profile_export.jsonl").unlink()
        path = folder / str(rate) / "profile_export_aiperf.json"
        summary = json.loads(path.read_text())
        summary["input_config"]["loadgen"] = {"request_rate": rate}
        summary["records"] |= {"ttft": {"p50": ttft, "unit": "ms"}, "output_token_throughput": {"avg": 20.0 * rate}}
        write(path, summary)


@pytest.mark.parametrize("written", [rates_of_vllm, rates_of_guidellm, rates_of_aiperf])
def test_rates_of_other_tools_are_judged_drawn_and_compared_as_our_own(tmp_path, written):
    written(tmp_path / "a", {1: 50.0, 2: 60.0, 4: 500.0})
    written(tmp_path / "b", {1: 50.0, 2: 60.0, 4: 90.0})
    sides = [tuner.load_batches(tmp_path / side) for side in "ab"]
    assert levels(sides[0]) == [Rate(1), Rate(2), Rate(4)] and set(sides[0]["repeat"]) == {1}
    judged = [tuner.judge(side, {"ttft": {"p50": {"threshold": "100 ms"}}}) for side in sides]
    assert [side["verdict"].tolist() for side in judged] == [["pass", "pass", "fail"], ["pass"] * 3]
    assert [tuner.summarize(side).best_level for side in judged] == [Rate(2), Rate(4)]
    assert "request rate" in tuner.figures.latency_vs_concurrency(judged[0]).layout.xaxis.title.text
    rows = tuner.compare(*sides).differences.query("metric != 'max_throughput'")
    assert {*rows["request_rate"]} == {1.0, 2.0, 4.0} and rows["concurrency"].isna().all()


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
    *whole, row = tuner.load_batches(path).sort_values("outcome").to_dict("records")
    assert (row["outcome"], pd.isna(row["concurrency"])) == ("truncated", True)
    assert [one["outcome"] for one in whole] == ["completed"] * ("guidellm" in file)  # that before the damage
    assert row["reason"].startswith(f"{path.name} ends in the middle")


def test_the_lines_before_a_damaged_one_stay(folder):
    file = folder / "sglang" / "concurrency.jsonl"
    file.write_bytes(file.read_bytes()[:-200])
    batches = tuner.load_batches(file)
    assert dict(zip(batches["outcome"], levels(batches), strict=True)) == {"truncated": None, "completed": 1}
    assert set(batches["trial"]) == {1}
    assert "concurrency.jsonl#2 ends in the middle" in batches["reason"].max()
    assert set(tuner.judge(batches, SLO)["verdict"]) == {"pass", "unknown"}


def second_benchmark(data, content):
    """GuideLLM's file with other content in the second of its benchmarks."""
    document = json.loads(data)
    text = json.dumps(document["benchmarks"][1])
    return json.dumps(document).replace(text, content(text)).encode()


DAMAGES = {
    "a torn line": ("sglang/concurrency.jsonl", lambda data: data[:5000] + b"\n" + data[5000:]),
    "nested without end": (
        "guidellm/benchmarks.json",
        lambda data: second_benchmark(data, lambda text: text.replace("null", "[" * 50_000, 1)),
    ),
    "lines that hold nothing": ("guidellm/benchmarks.json", lambda data: second_benchmark(data, lambda _: "{}\n" * 5)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_one_damaged_place_costs_one_of_two_batches(folder, damage):
    name, change = DAMAGES[damage]
    whole = tuner.load_batches(folder / name)["output_throughput"]
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    batches = tuner.load_batches(folder / name)
    (left,) = batches[batches["outcome"] == "completed"]["output_throughput"]
    assert left in whole.tolist() and "unreadable" in set(batches["outcome"])


def test_a_count_of_the_servers_that_one_request_lacks_is_said(folder):
    file = folder / "aiperf" / "concurrency-4" / "profile_export.jsonl"
    file.write_text(file.read_text().replace("usage_prompt_tokens", "x", 1))
    words = "does not count the prompt tokens of 1 of 15 requests: there AIPerf's count"
    assert words in said(tuner.load_batches(file))[0]


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
