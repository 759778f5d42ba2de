"""A search for real: real engine, real genai-bench, real papermill, on the command line and by plain papermill."""

import json
import os
import signal
from pathlib import Path

import pytest
from support.chromium import needs_chromium, opened_report
from support.commands import papermill, run, start
from support.processes import processes_of, wait_until

import tuner
from tuner.report.results import read_results
from tuner.sweep.spec import make_spec

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("tune"), pytest.mark.timeout(400)]

#: one of these two cannot start: a quantised V cache needs flash attention
SPACE = "{cache_type_v: [q8_0], flash_attn: ['on', 'off']}"
SLO = "{ttft: {p50: {threshold: 30 s}}}"
#: the servers that a trial of these tests starts are the tiny model's, for one level of two seconds
QUICK = ("--levels", "2", "--scenarios", "D(20,8)", "--max-seconds", "2", "--slo", SLO, "--sampler", "grid")


@pytest.fixture(scope="module")
def searched(tiny_gguf, tmp_path_factory):
    """(run directory, stdout, stderr) of one finished search, of whose three trials one fails."""
    folder = tmp_path_factory.mktemp("searched")
    asked = ("--model", tiny_gguf, "--space", SPACE, "--trials", "3", "--confirm", "0")
    code, out, err = run(folder, "tune", *asked, *QUICK)
    assert code == 0, err
    assert processes_of(folder) == []
    (found,) = (folder / "runs").iterdir()
    return found, out, err


def test_a_line_for_each_trial_and_the_answer_with_its_command(searched):
    folder, out, err = searched
    lines = [line for line in err.splitlines() if line.startswith(("✓", "✗"))]
    assert len(lines) == 3 and lines[0].startswith("✓ baseline the defaults: ")
    (failed,) = [line for line in lines if line.startswith("✗")]
    assert "flash_attn=off" in failed and "failed: " in failed
    (other,) = [line for line in lines[1:] if line.startswith("✓")]
    assert "flash_attn=on" in other and "output tokens/s (" in other and "% against the baseline)" in other
    said = out.strip().splitlines()
    assert "output tokens/s at concurrency 2" in said[0]
    assert said[-1] == f"report: {Path('runs') / folder.name / 'report.html'}"
    assert said[-2].startswith("the best configuration again: tuner sweep --model ")


def test_a_cluster_that_is_not_there_leaves_no_run(tiny_gguf, tmp_path):
    pytest.importorskip("ray")
    asked = ("--model", tiny_gguf, "--space", SPACE, "--trials", "2", "--on", "ray://nowhere.invalid:1")
    code, _, err = run(tmp_path, "tune", *asked, *QUICK)
    assert code == 1 and len(err.strip().splitlines()) == 1 and "cannot join the Ray cluster" in err
    assert not list((tmp_path / "runs").iterdir())


def test_the_run_says_what_was_found(searched):
    results = read_results(searched[0])
    trials = results.searched.trials
    assert sorted(trials["state"]) == ["complete", "complete", "failed"]
    assert trials.loc[0, "role"] == "baseline" and trials["is_best"].sum() == 1
    assert "3 trials: 2 completed, 1 failed" in " ".join(results.answer)
    assert make_spec(results.winner).parameters == results.searched.best["parameters"]
    assert set(tuner.load_batches(searched[0])["trial"]) >= {1}
    assert results.facts["kind"] == "tune" and results.facts["state"] == "done"


@needs_chromium
@pytest.mark.browser
def test_the_report_opens_offline_with_trials_figures_and_causes(searched):
    with opened_report(searched[0] / "report.html") as seen:
        assert seen.requests == [] and seen.errors == []
        assert seen.page.locator("#trials tbody").count() == 3
        assert seen.page.locator("#trials tr.failed.note").count() == 1
        assert seen.page.locator("#figure-1").inner_text().startswith("The best configuration so far")
        assert "UTC" in seen.page.locator("#figure-1").inner_text()


def test_plain_papermill_does_the_same(tiny_gguf, tmp_path):
    asked = {"run_now": True, "model": str(tiny_gguf), "levels": "2", "scenarios": "D(20,8)", "max_seconds": 2}
    asked |= {"space": {"n_parallel": [1, 2]}, "trials": 2, "confirm": 0, "slo": SLO}
    with papermill(tmp_path, "tune", asked) as process:
        assert process.wait(150) == 0, (tmp_path / "papermill.log").read_text()
    (found,) = (tmp_path / "runs").iterdir()
    assert len(read_results(found).searched.attempts) == 2 and (found / "report.html").exists()
    wait_until(lambda: not processes_of(tmp_path), 15)


def test_ctrl_c_ends_after_the_level_and_resume_goes_on(tiny_gguf, tmp_path):
    asked = ("--model", tiny_gguf, "--space", "n_parallel: [1, 2]", "--trials", "2", "--confirm", "0", *QUICK)
    with start(tmp_path, "tune", *asked) as command:
        wait_until(lambda: list(tmp_path.glob("runs/*/trials/0001/batches/*/concurrency-2.part/*.log")), 60)
        os.kill(command.pid, signal.SIGINT)
        out, err = command.communicate(timeout=60)
    assert command.returncode == 130 and "Traceback" not in err, err
    (found,) = (tmp_path / "runs").iterdir()
    assert json.loads((found / "experiment.json").read_text())["state"] == "interrupted"
    assert tuner.load_batches(found)["outcome"].iloc[0] == "completed"
    assert "interrupted" in (found / "report.html").read_text() and "report: " in out
    before = (found / "trials/0001/batches/D(20,8)/concurrency-2/batch.json").read_text()
    code, _, err = run(tmp_path, "tune", "--resume", found)
    assert code == 0, err
    assert (found / "trials/0001/batches/D(20,8)/concurrency-2/batch.json").read_text() == before
    assert read_results(found).facts["state"] == "done" and len(read_results(found).searched.attempts) == 2
    wait_until(lambda: not processes_of(tmp_path), 15)


def test_where_no_trial_has_a_result_the_exit_code_is_1(tiny_gguf, tmp_path):
    broken = ("--parameters", "{cache_type_v: q8_0, flash_attn: 'off'}", "--space", "n_parallel: [1]")
    code, out, err = run(tmp_path, "tune", "--model", tiny_gguf, *broken, "--trials", "2", *QUICK)
    assert code == 1 and "Traceback" not in err and "tuner: " in err, (out, err)
    assert list(tmp_path.glob("runs/*/report.html"))
