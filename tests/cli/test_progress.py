"""What a run says while it goes on: a line for each level, whether it meets the SLO, and the count in the end."""

import logging
import os
import signal

import pytest
from support import result_files

from tuner.cli.progress import LogHandler, SweepDisplay, ctrl_c_stops
from tuner.core.records import ServerRecord, TrialFacts
from tuner.core.run_directory import Experiment
from tuner.report.results import read_results
from tuner.sweep.progress import LevelState, Progress, SearchProgress
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
        with SweepDisplay(experiment, spec) as progress:
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


def draw_as_in_a_terminal(monkeypatch):
    for name, value in (("TTY_COMPATIBLE", "1"), ("FORCE_COLOR", "1"), ("NO_COLOR", "1"), ("COLUMNS", "200")):
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("where", ["file", "terminal"])
def test_each_level_says_whether_it_meets_the_slo_and_what_it_violates(where, follow, monkeypatch):
    if where == "terminal":
        draw_as_in_a_terminal(monkeypatch)
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


def test_a_log_line_stands_above_the_bar(tmp_path, monkeypatch, capsys):
    draw_as_in_a_terminal(monkeypatch)
    handler = LogHandler()
    with SweepDisplay(Experiment.at(tmp_path / "run"), make_spec({})):
        handler.emit(logging.makeLogRecord({"msg": "while it is drawn"}))
    handler.emit(logging.makeLogRecord({"msg": "after it"}))
    during, after = (line for line in capsys.readouterr().err.splitlines() if " it" in line)
    assert during.split("\x1b[2K")[-1].strip() == "while it is drawn" and "\x1b[2K" in during  # the bar's line is wiped
    assert after.split("\x1b[2K")[-1] == "after it"


@pytest.mark.parametrize("where", ["file", "terminal"])
def test_without_a_terminal_each_phase_is_a_line_once(where, tmp_path, monkeypatch, capsys):
    if where == "terminal":
        draw_as_in_a_terminal(monkeypatch)
    experiment = Experiment.at(tmp_path / "run")
    trial = experiment.trial(1)
    with SweepDisplay(experiment, make_spec({})) as display:
        display.update()
        TrialFacts(trial=1, engine="command", model="m", scenarios=["D(1,1)"], levels=[1, 2]).write(trial.folder)
        for state in ("starting", "starting", "ready"):
            ServerRecord(state=state).write(trial.folder)
            display.update()
        part = result_files.add_level(trial, 1, partial=True, scenario="D(1,1)", outcome="running")
        for throughput in (1.0, 2.0):
            result_files.write(part / "live.json", {"in_flight": 1, "output_throughput": throughput})
            display.update()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.endswith(" …")]
    phases = ["preparing …", "starting the server …", "level 1 of 2: D(1,1) at concurrency 1 …"]
    assert lines == ([] if where == "terminal" else phases)


def test_ctrl_c_says_when_the_run_will_end_and_again_ends_it(capsys):
    with pytest.raises(KeyboardInterrupt), ctrl_c_stops(lambda: "ending after this level, about 40 s") as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.after_level.is_set() and not stop.at_once.is_set()
        os.kill(os.getpid(), signal.SIGINT)
    assert capsys.readouterr().err == "ending after this level, about 40 s; Ctrl-C again ends now\n"


def test_a_search_says_how_long_it_takes_before_its_first_trial_has_ended():
    levels = tuple(LevelState("D(100,100)", level) for level in LEVELS)
    assert SearchProgress(trials=2, now=Progress(levels=levels, seconds_a_level=3.0)).seconds_left == 2 * 3 * (3 + 1)
