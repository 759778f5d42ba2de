"""The main job for real: real engine, real genai-bench, one run for all of these tests."""

import json
from pathlib import Path

import pytest
from support.chromium import needs_chromium, opened_report
from support.commands import run
from support.processes import processes_of

import tuner

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("chain")]

KEY = "sk-canary-5f1c0de"
LEVELS = [1, 2, 3, 4]
SLO = "{latency: {p90: {threshold: 30 s}}, error_rate: {threshold: 0.01}}"


@pytest.fixture(scope="module")
def swept(tiny_gguf, tmp_path_factory):
    """(run directory, stdout, stderr) of one finished sweep, with an API key in play."""
    folder = tmp_path_factory.mktemp("swept")
    asked = ("--model", tiny_gguf, "--levels", "1,2,3,4", "--max-seconds", 2, "--scenarios", "D(20,8)", "--slo", SLO)
    code, out, err = run(folder, "sweep", *asked, "--api-key-env", "TEST_KEY", TEST_KEY=KEY)
    assert code == 0, err
    assert processes_of(folder) == []
    (found,) = (folder / "runs").iterdir()
    return found, out, err


def test_every_level_is_measured_and_judged(swept):
    folder, _, _ = swept
    batches = tuner.load_batches(folder)
    assert list(batches["concurrency"]) == LEVELS
    assert set(batches["outcome"]) == {"completed"}
    assert (batches["completed"] > 0).all() and (batches["errors"] == 0).all()
    judged = tuner.judge(batches, {"latency": {"p90": {"threshold": 30}}})
    assert tuner.summarize(judged).max_throughput == batches["output_throughput"].max()


def test_times_are_recorded_in_utc(swept):
    folder, _, _ = swept
    batches = tuner.load_batches(folder)
    assert set(batches["time_source"]) == {"recorded"}
    assert str(batches["started_at"].dt.tz) == "UTC"
    assert (batches["started_at"].diff().dropna().dt.total_seconds() > 2).all()
    assert ((batches["finished_at"] - batches["started_at"]).dt.total_seconds() >= batches["duration"]).all()


def test_the_terminal_says_what_came_out(swept):
    folder, out, err = swept
    lines = out.strip().splitlines()
    assert "output tokens/s at concurrency" in lines[0]
    assert lines[-1] == f"report: {Path('runs') / folder.name / 'report.html'}"
    said = [line for line in err.splitlines() if line.startswith("✓ D(20,8) concurrency ")]
    assert len(said) == len(LEVELS)
    assert "✓ 4/4 batches meet the SLO" in err and "(from 4 SLO-compliant batches)" in err.splitlines()[-1]


def test_the_key_is_nowhere(swept):
    folder, out, err = swept
    assert KEY not in out + err
    leaked = [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert leaked == []


def test_no_sheet_and_no_pictures(swept):
    assert {path.suffix for path in swept[0].rglob("batches/**/*") if path.is_file()} == {".json", ".jsonl", ".log"}


def test_the_run_directory_says_what_was_asked_and_how_it_ended(swept):
    facts = json.loads((swept[0] / "experiment.json").read_text())
    assert facts["state"] == "done"
    assert facts["started_at"].endswith("Z") and facts["started_at"] < facts["finished_at"]
    assert facts["spec"]["levels"] == LEVELS and facts["versions"]["genai-bench"]


@needs_chromium
@pytest.mark.browser
def test_the_report_opens_offline_with_table_figure_and_verdicts(swept):
    with opened_report(swept[0] / "report.html") as seen:
        assert seen.requests == [] and seen.errors == []
        assert seen.page.locator("#figure-1 .scatterlayer .point").count() == len(LEVELS)
        assert seen.page.locator("tbody.batch tr.pass:first-child").count() == len(LEVELS)
        assert "UTC" in seen.page.locator("#figure-1").inner_text()
        assert seen.page.locator('[data-title^="Share"]').count() == 0
