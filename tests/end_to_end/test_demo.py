"""`tuner demo` for real: real engine, real genai-bench, the tiny model and levels of a second."""

import pytest
from support.commands import run
from support.processes import processes_of

from tuner.report.results import read_results

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]


def test_the_demo_compares_two_configurations_and_says_what_comes_next(tiny_gguf, tmp_path):
    quick = ("--levels", "1,2", "--max-seconds", "1", "--extend-to", "2", "--scenarios", "D(8,4)")
    slo = "{ttft: {p50: {threshold: 60 s}}}"
    code, out, err = run(tmp_path, "demo", "--model", tiny_gguf, "--slo", slo, *quick)
    assert code == 0, err
    assert processes_of(tmp_path) == []
    (folder,) = (tmp_path / "runs").iterdir()
    results = read_results(folder)
    trials = results.searched.trials
    assert [one["n_parallel"] for one in trials["parameters"]] == [1, 8] and set(trials["state"]) == {"complete"}
    strong = (results.judged["evidence"] == "strong").sum()  # of levels of a second, on a machine that is busy
    assert len(results.judged) == 4 and f"The evidence is strong on {strong} of 4 levels" in out
    assert "throughput" in results.figures[0].layout.title.text.lower()
    lines = out.splitlines()
    (at,) = (number for number, line in enumerate(lines) if line == "next:")
    assert lines[at - 1].startswith("report: ") and (tmp_path / lines[at - 1].removeprefix("report: ")).exists()
    assert [line.split()[1] for line in lines[at + 1 :]] == ["tune", "sweep", "notebooks"]
    assert f"--resume {folder.relative_to(tmp_path)} " in lines[at + 1]
    assert len([line for line in err.splitlines() if line.startswith("✓")]) == 2
