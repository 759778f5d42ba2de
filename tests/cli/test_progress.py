"""What a run says while it goes on: a line for each level, whether it meets the SLO, and the count in the end."""

import pytest
from support import result_files

from tuner.cli.progress import SweepProgress
from tuner.core.run_directory import Experiment, TrialFacts
from tuner.report.results import read_results
from tuner.sweep.spec import make_spec

SLO = {"ttft": {"p90": {"threshold": 1, "fail_ratio": 0.5}}}
LEVELS = {
    1: [result_files.request(ttft=0.5)] * 60,
    2: [result_files.request(ttft=1.2)] * 60,
    4: [result_files.request(ttft=2.0)] * 60,
}
#: of a level that has no numbers: how it ended, and how its line begins
WITHOUT_NUMBERS = {8: ("out_of_memory", "✗"), 16: ("skipped", "–")}


@pytest.fixture
def follow(tmp_path, capsys):
    """(lines while it runs, lines in the end) of a run under an SLO in which every level ends in a way of its own."""

    def run(slo):
        experiment = Experiment.at(tmp_path / "run")
        spec = make_spec({"slo": slo, "scenarios": ["D(100,100)"], "levels": [*LEVELS, *WITHOUT_NUMBERS]})
        experiment.describe(kind="sweep", spec=spec.model_dump(mode="json", exclude_none=True))
        trial = experiment.trial(1)
        asked = {"engine": "command", "model": "m", "scenarios": spec.scenarios, "levels": spec.fixed_levels}
        TrialFacts(trial=1, **asked).write(trial.folder)
        with SweepProgress(experiment, spec) as progress:
            for level, requests in LEVELS.items():
                result_files.add_level(trial, level, result_files.result(requests, level=level))
                progress.update()
            for level, (outcome, _) in WITHOUT_NUMBERS.items():
                result_files.add_level(trial, level, outcome=outcome, reason=f"reason {level}")
            progress.update()
            progress.update()
            lines = [line for line in capsys.readouterr().err.splitlines() if "D(100,100) concurrency" in line]
            progress.conclude(read_results(experiment.folder))
        return lines, [line for line in capsys.readouterr().err.splitlines() if "batch" in line]

    return run


@pytest.mark.parametrize("where", ["file", "terminal"])
def test_each_level_says_whether_it_meets_the_slo_and_what_it_violates(where, follow, monkeypatch):
    if where == "terminal":
        for name, value in (("TTY_COMPATIBLE", "1"), ("FORCE_COLOR", "1"), ("NO_COLOR", "1"), ("COLUMNS", "200")):
            monkeypatch.setenv(name, value)
    lines, _ = follow(SLO)
    marks = ("✓", "✓", "✗", *(mark for _, mark in WITHOUT_NUMBERS.values()))
    expected = [f"{mark} D(100,100) concurrency {level} " for mark, level in zip(marks, (1, 2, 4, 8, 16), strict=True)]
    assert [start in line for start, line in zip(expected, lines, strict=True)] == [True] * 5, lines
    assert "violates" not in lines[0] and "softly violates: TTFT p90" in lines[1] and "; violates: TTFT p90" in lines[2]
    assert "out_of_memory: reason 8" in lines[3] and "skipped: reason 16" in lines[4]


def test_the_end_counts_the_batches_and_names_the_maximum(follow):
    count, maximum = follow(SLO)[1]
    assert count == "✓ 2/5 batches meet the SLO"
    assert maximum.startswith("Max throughput: ") and maximum.endswith("(from 2 SLO-compliant batches)")


def test_without_an_slo_there_is_nothing_to_count(follow):
    lines, end = follow(None)
    assert [line[0] for line in lines] == ["✓", "✓", "✓", "✗", "–"] and end == []


def test_a_level_that_cannot_be_judged_says_so(follow):
    lines, _ = follow({"ttft": {"p99": {"threshold": 1}}, "confidence": 0.95})
    assert lines[0].startswith("– D(100,100) concurrency 1 ") and "cannot be judged: " in lines[0]
