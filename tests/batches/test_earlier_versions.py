"""Run directories and reports that an earlier version made: they are read, judged, shown and gone on with as before."""

import json
import shutil

import pytest
from pandas.testing import assert_frame_equal
from support import DATA, result_files
from support.commands import end_of, run

import tuner
from tuner.report.results import read_results
from tuner.report.write import write_report
from tuner.sweep.prepare import prepare
from tuner.sweep.spec import make_spec

EARLIER = DATA / "earlier_version"
SWEEP = EARLIER / "20261126T124630Z-sweep-before"
SEARCH = EARLIER / "20261126T124807Z-tune-before"
SLO = {"ttft": {"p90": {"threshold": 30}}, "tpot": {"p50": {"threshold": 1}}}
NUMBERS = ["concurrency", "requests", "errors", "duration", "output_throughput", "ttft_p90", "tpot_p50", "started_at"]
#: what its own version said of it
THROUGHPUT = {1: 414.3, 2: 504.2}
ANSWER = "Nothing that was tried is better than the baseline, the defaults: 628.7 output tokens/s at concurrency 2"


@pytest.mark.parametrize("source", [SWEEP, EARLIER / "sweep.html"], ids=["run", "report"])
def test_a_sweep_has_its_numbers(source):
    batches = tuner.load_batches(source)
    assert list(batches["outcome"]) == ["completed", "completed", "interrupted"]
    assert dict(batches.set_index("concurrency")["output_throughput"].round(1).dropna()) == THROUGHPUT
    assert set(batches["time_source"].dropna()) == {"recorded"} and str(batches["started_at"].dt.tz) == "UTC"
    judged = tuner.judge(batches, SLO)
    assert list(judged["verdict"]) == ["pass", "pass", "unknown"]
    summary = tuner.summarize(judged)
    assert (round(summary.max_throughput, 1), summary.best_level, summary.compliant) == (504.2, 2, 2)


@pytest.mark.parametrize("kind", ["sweep", "tune"])
def test_a_report_has_what_its_run_has(kind):
    here, there = (tuner.load_batches(path) for path in (EARLIER / f"{kind}.html", _runs()[kind]))
    same = [name for name in NUMBERS if not name.startswith("tpot")]  # which it left out where it was below the clock's
    assert_frame_equal(here[same], there[same])


def _runs():
    return {"sweep": SWEEP, "tune": SEARCH}


@pytest.mark.parametrize("source", [SWEEP, EARLIER / "sweep.html"], ids=["run", "report"])
def test_a_sweep_is_judged_by_its_own_slo_and_reported(source, tmp_path):
    results = read_results(source)
    assert [constraint.column for constraint in results.slo.constraints] == ["ttft_p90", "tpot_p50", "error_rate"]
    assert results.facts["state"] == "interrupted" and len(results.figures) >= 5
    again = write_report(source, tmp_path / "again.html")
    assert_frame_equal(tuner.load_batches(again)[NUMBERS], tuner.load_batches(source)[NUMBERS])


def test_a_search_has_its_trials():
    trials = tuner.load_trials(SEARCH)
    assert list(trials["state"]) == ["complete", "complete", "failed"]
    assert list(trials["value"].round(1)[:2]) == [628.7, 558.2]
    assert trials["kind"][2] == "bad_argument" and "requires flash_attn" in trials["cause"][2]
    assert list(trials["is_best"]) == [True, False, False]


@pytest.mark.parametrize("source", [SEARCH, EARLIER / "tune.html"], ids=["run", "report"])
def test_a_search_is_answered_and_reported(source, tmp_path):
    results = read_results(source)
    assert results.answer[0] == ANSWER
    assert results.command.startswith("tuner sweep --model tiny.gguf --levels 2")
    write_report(source, tmp_path / "again.html")
    assert read_results(tmp_path / "again.html").answer[0] == ANSWER


def test_the_report_of_a_comparison_has_both_sides():
    batches = tuner.load_batches(EARLIER / "comparison.html")
    assert list(batches["experiment"].unique()) == ["baseline", "candidate"]
    assert dict(batches["outcome"].value_counts()) == {"completed": 4, "interrupted": 1, "server_died": 1}


@pytest.mark.parametrize("source", [SWEEP, EARLIER / "sweep.html"], ids=["run", "report"])
def test_a_sweep_is_no_worse_than_itself(source, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    judged = tuner.judge(tuner.load_batches(source), SLO)
    assert tuner.compare(judged, judged).regressions.empty
    code, said, _ = end_of(["compare", str(SWEEP), str(source)], monkeypatch, capsys)
    assert code == 0 and "✗ worse" not in said.split("✗ worse, ✓ better")[0]


@pytest.fixture
def interrupted(tiny_gguf, tmp_path):
    """The sweep's directory as its own machine has it: with its model, and the tokenizer in the cache."""
    shutil.copy(tiny_gguf, tmp_path / "tiny.gguf")
    tokenizer = prepare(make_spec({"model": str(tiny_gguf), "levels": [1]})).tokenizer
    folder = shutil.copytree(SWEEP, tmp_path / "runs" / SWEEP.name)
    facts = json.loads((folder / "experiment.json").read_text())
    facts["spec"] |= {"tokenizer": tokenizer, "max_seconds": 120.0}  # two seconds were enough where it was made
    result_files.write(folder / "experiment.json", facts)
    return folder


def test_a_sweep_does_not_go_on_as_another(interrupted, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, _, err = end_of(["sweep", "--resume", str(interrupted), "--trust", "--levels", "1,8"], monkeypatch, capsys)
    assert code == 2 and "made with levels [1, 2, 4], now [1, 8] is asked" in err


@pytest.mark.real
def test_a_sweep_goes_on_with_the_level_that_it_lacks(interrupted, tmp_path):
    before = tuner.load_batches(interrupted)
    code, _, err = run(tmp_path, "sweep", "--resume", interrupted, "--trust")
    assert code == 0, err
    after = tuner.load_batches(interrupted)
    assert list(after["outcome"]) == ["completed"] * 3
    assert_frame_equal(after[NUMBERS][:2], before[NUMBERS][:2])
