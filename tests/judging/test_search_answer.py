"""What a search shows: figures that survive any trials, its table and words, and the report that carries it."""

import json
import math

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal
from support import result_files, searches
from support.chromium import needs_chromium, opened_report
from support.commands import run

from tuner import figures
from tuner.batches.batch import records
from tuner.judging.scores import THROUGHPUT, Goal
from tuner.judging.search_answer import Searched
from tuner.judging.trials import LEAST_TRIALS, importances, trials_from_records
from tuner.report.results import read_results
from tuner.report.write import write_report
from tuner.sweep.spec import make_spec

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\">'\"\u2028&lt;\n$x$ %{text} {y}"
LATENCY = Goal("TTFT p90", "s", maximize=False)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**400), 10**400),
    st.floats(),
    st.text(max_size=80),
    st.sampled_from([HOSTILE, "", " ", "nan", "1"]),
    st.lists(st.integers(), max_size=2),
)
NUMBERS = st.one_of(st.just(math.nan), st.floats(0, 1e6), st.floats())


@st.composite
def trials(draw):
    """Any trials: all failed, one alone, none at all, parameters of all kinds and those that are missing."""
    rows = []
    for number in range(1, draw(st.integers(0, 12)) + 1):
        state = draw(st.sampled_from(["complete", "infeasible", "failed", "pruned", "running", "waiting"]))
        parameters = draw(st.dictionaries(st.sampled_from(["a", "b", "state", HOSTILE]), VALUES))
        value = draw(NUMBERS) if state == "complete" else math.nan
        role = draw(st.sampled_from(["candidate", "candidate", "confirmation"])) if number > 1 else "baseline"
        more = {"values": [value, draw(NUMBERS)], "is_pareto": draw(st.booleans()), "cause": draw(st.text(max_size=99))}
        more |= {"best_level": draw(st.sampled_from([8, None])), "role": role, "parameters": parameters}
        more |= {} if draw(st.booleans()) else {"started_at": None, "finished_at": None}
        rows.append(searches.trial(number, state, value, **more))
    return searches.frame(rows)


def drawn(found):
    """Every figure of these trials, as JSON, which must hold no NaN that JavaScript cannot read."""
    shares = importances(found)
    return [
        json.loads(figure.to_json())
        for goal in (THROUGHPUT, LATENCY)
        for figure in (
            figures.best_so_far(found, goal),
            figures.parallel_coordinates(found, goal),
            figures.pareto_front(found, (goal, LATENCY)),
            figures.importance(shares),
        )
    ]


@settings(max_examples=25, deadline=None)
@given(trials())
def test_figures_table_and_words_survive_any_trials(found):
    shown = json.dumps(drawn(found))
    assert "<img" not in shown and "</script" not in shown
    searched = Searched(found)
    assert len(searched.table) == (found["state"] != "waiting").sum()
    assert all("\n" not in line for line in [*searched.answer, *(searched.line(row) for _, row in found.iterrows())])


@pytest.mark.parametrize("count", [1, 20, 200])
def test_every_trial_is_in_the_figure_by_its_state(count):
    found = searches.searched(count)
    figure = figures.best_so_far(found)
    marked = [trace for trace in figure.data if trace.mode == "markers" and len(trace.x)]
    points = {trace.name.split(" (")[0]: len(trace.x) for trace in marked}
    states = found["state"].value_counts()
    assert sum(points.values()) == count
    assert points.get("failed", 0) == states.get("failed", 0)
    lines = figures.parallel_coordinates(found).data
    assert len(lines) == count and len({len(line.x) for line in lines}) == 1
    assert sum(line.y[-1] < 0 for line in lines) == found["value"].isna().sum()  # those stand below


def test_best_so_far_rises_and_takes_only_trials_that_count():
    rows = [searches.trial(1, value=5.0), searches.trial(2, "infeasible", 9.0), searches.trial(3, value=4.0)]
    found = searches.frame([*rows, searches.trial(4, "failed"), searches.trial(5, value=8.0)])
    (best,) = [trace for trace in figures.best_so_far(found).data if trace.name == "best so far"]
    assert list(best.y) == [5, 5, 5, 5, 8]
    (lowest,) = [trace for trace in figures.best_so_far(found, LATENCY).data if trace.name == "best so far"]
    assert list(lowest.y) == [5, 5, 4, 4, 4]


def test_the_parameter_that_decides_is_the_most_important_one():
    found = searches.searched(60)
    shares = importances(found)
    assert next(iter(shares)) == "n_parallel" and sum(shares.values()) == pytest.approx(1)
    too_few = found[found["state"] == "complete"].head(LEAST_TRIALS)  # the baseline is none of them
    assert importances(too_few) == {}


def test_the_answer_names_best_gain_and_states():
    first, *more = Searched(searches.searched(20)).answer
    assert "n_parallel=32" in first and "at concurrency 8" in first and "against the baseline" in first
    assert "20 trials: 14 completed, 4 missed the SLO, 1 ended early, 1 failed" in more[-1]
    assert "(1 out of memory)" in more[-1]
    (first, *_) = Searched(searches.frame([searches.trial(1, "failed")])).answer
    assert first == "No trial has a usable result"
    (first, *_) = Searched(searches.frame([searches.trial(1, "infeasible")])).answer
    assert first.startswith("No trial meets the SLO")
    (first, *_) = Searched(searches.frame([searches.trial(1, value=5.0), searches.trial(2, value=4.0)])).answer
    assert first.startswith("Nothing that was tried is better than the baseline, the defaults: 5.0")
    engines = [
        searches.trial(n, value=6.0 - n, parameters={"engine": name}) for n, name in ((1, "vllm"), (2, "sglang"))
    ]
    assert "engine=vllm" in Searched(searches.frame(engines)).answer[0]  # also of a baseline that wins


def test_a_reports_head_names_every_engine_of_the_search(tmp_path):
    folder = searches.run(tmp_path / "run", 3)
    for number, engine in enumerate(("llamacpp", "vllm", "vllm"), start=1):
        server = {"engine": engine, "version": "0.31", "model": "m"}
        result_files.write(folder / f"trials/000{number}/server.json", server)
    assert "llamacpp 0.31, vllm 0.31 · m · D(100,100)" in write_report(folder).read_text()


def test_a_gain_with_other_answers_says_so_in_the_same_sentence():
    why = "14 of 20 part after 31 tokens; the baseline against itself: 1 of 20"
    changed = {"answers": "changed", "answers_evidence": why, "parameters": {"a": 1}}
    same = {"answers": "unchanged", "answers_evidence": why.replace("14", "1"), "parameters": {"a": 2}}
    rows = [searches.trial(1, value=400.0), searches.trial(2, value=700.0, **changed)]
    searched = Searched(searches.frame([*rows, searches.trial(3, value=600.0, **same)]))
    first, _, other, *_ = searched.answer
    assert first.endswith(f"+75.0 % against the baseline (not confirmed yet), answers changed ({why})")
    assert other == (
        "The best with unchanged answers is trial 3 a=2: 600.0 output tokens/s (+50.0 % against the baseline), "
        "answers unchanged."
    )
    assert list(searched.table["answers"]) == ["", "changed (14 of 20)", "unchanged (1 of 20)"]
    carried = trials_from_records(records(searched.trials))
    assert list(carried["answers_evidence"]) == ["", why, why.replace("14", "1")]
    assert len(Searched(searches.frame(rows)).answer) == len(searched.answer) - 1  # there is no such other one


@pytest.mark.parametrize(
    ("confirmation", "first", "second"),
    [
        (None, "+82.4 % against the baseline (not confirmed yet)", "The gain is not confirmed: "),
        (
            {"verdict": "gain", "gain": 0.123, "text": "confirmed gain +12.3%"},
            "+12.3 % against the baseline (confirmed)",
            "Confirmed gain +12.3%.",
        ),
        (
            {"verdict": "noise", "gain": 0.01, "text": "within …"},
            ", within the noise of the baseline",
            "Within ….",
        ),
        (
            {"verdict": "loss", "gain": -0.1, "text": "the defaults …"},
            ", but the baseline was better",
            "The defaults ….",
        ),
        ({"verdict": "neither", "gain": None, "text": "not …"}, ", but it did not meet the SLO", "Not …."),
        ({"verdict": "gain", "gain": "<b>", "text": 3}, "(not confirmed yet)", "The gain is not confirmed: "),
    ],
)
def test_the_answer_claims_no_more_than_was_confirmed(confirmation, first, second):
    found = searches.frame([searches.trial(1, value=400.0), searches.trial(2, value=729.6, parameters={"a": 1})])
    facts = {"search": {"reason": "all 2 trials were made", "confirmation": confirmation, "winner": {"trial": 2}}}
    answer = Searched(found, facts=facts).answer
    assert first in answer[0] and answer[1].startswith(second)
    assert (confirmation and confirmation["text"] == 3) or "The search ended: all 2 trials were made." in answer
    facts["search"]["winner"]["trial"] = 7  # under another SLO another one is best: what was confirmed is not it
    assert "(not confirmed yet)" in Searched(found, facts=facts).answer[0]


def test_a_report_of_a_search_carries_its_trials(tmp_path, caplog):
    there = read_results(searches.run(tmp_path / "run"))
    report = write_report(tmp_path / "run", tmp_path / "r.html")
    (tmp_path / "run").rename(tmp_path / "gone")
    again = write_report(report, tmp_path / "again.html")
    here = read_results(again)
    assert here.answer == there.answer and here.command == there.command
    assert_frame_equal(here.searched.trials, there.searched.trials, check_dtype=False)
    assert [figure.to_json() for figure in here.figures] == [figure.to_json() for figure in there.figures]
    damaged = report.read_text().replace('"role":"baseline"', '"role":7')
    report.write_text(damaged)
    assert read_results(report).searched is None  # what is whole beside them is there
    assert "the data in the report is damaged" in caplog.text


def test_the_winners_command_asks_for_what_was_measured(tmp_path):
    results = read_results(searches.run(tmp_path / "run"))
    spec = make_spec(results.winner)
    best = results.searched.best
    assert spec.parameters == best["parameters"] != {}
    assert (spec.model, spec.levels, spec.scenarios) == ("m.gguf", [1, 2, 4, 8], ["D(100,100)"])
    assert "--parameters" in results.command and results.command.startswith("tuner sweep ")


def test_a_reports_curves_are_those_of_winner_and_baseline_alone(tmp_path):
    results = read_results(searches.run(tmp_path / "run"))
    titles = [figure.layout.title.text for figure in results.figures]
    assert titles[0] == "The best configuration so far" and titles[-1] == "Throughput versus latency"
    curves = [trace for trace in results.figures[-1].data if "lines" in trace.mode]
    assert [curve.name for curve in curves] == ["baseline", "winner: trial 6"]
    marked = [trace for trace in results.figures[-1].data if trace.meta]
    places = [custom[0] for trace in marked for custom in trace.customdata]
    assert set(results.judged.iloc[places]["trial"]) == {1, 6}  # the sliders move the right points


def test_twenty_trials_of_four_levels_stay_below_2_3_mb(tmp_path):
    report = write_report(searches.run(tmp_path / "run", 20), tmp_path / "r.html")
    assert len(read_results(report).judged) == 80
    assert report.stat().st_size <= 2_300_000


def test_a_secret_among_the_parameters_is_redacted(tmp_path):
    folder = searches.run(tmp_path / "run", 2)
    record = folder / "trials/0002/search.json"
    known = json.loads(record.read_text())
    result_files.write(record, known | {"parameters": {"flash_attn": "sk-proj-abc123def456"}})
    text = write_report(folder).read_text()
    assert "sk-proj-abc123def456" not in text and "[redacted]" in text


def test_tuner_load_prints_the_batches_with_their_trial(tmp_path):
    searches.run(tmp_path / "run", 3, levels=(1, 2))
    code, out, _ = run(tmp_path, "load", "run", "--format", "json")
    assert code == 0 and [row["trial"] for row in json.loads(out)] == [1, 1, 2, 2, 3, 3]
    code, out, _ = run(tmp_path, "load", "run")
    assert code == 0 and out.split()[0] == "trial"


def test_a_search_whose_servers_all_failed_is_reported(tmp_path):
    made_run = searches.Experiment.at(tmp_path / "run")
    made_run.describe(kind="tune", name="made", state="done", spec={})
    for number in (1, 2):
        searches.add_trial(made_run, number, {"n_parallel": number}, (1,), failed=True)
    results = read_results(tmp_path / "run")
    assert results.answer[0] == "No trial has a usable result" and results.command == ""
    assert write_report(tmp_path / "run").exists()


@needs_chromium
@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_of_a_search_runs_nothing_from_outside(width, tmp_path):
    folder = searches.run(tmp_path / "run", 6)
    record = folder / "trials/0003/search.json"
    known = json.loads(record.read_text())
    parameters = {"n_parallel": HOSTILE, HOSTILE: 1, "flash_attn": "off"}
    result_files.write(record, known | {"parameters": parameters, "cause": HOSTILE, "state": "failed"})
    with opened_report(write_report(folder), width=width, height=900) as seen:
        page = seen.page
        assert seen.requests == [] and seen.errors == []
        assert page.title() == "made · tuner" and page.locator("img").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert page.locator("#trials tbody").count() == 6
        assert page.locator("pre.copy").first.inner_text().startswith("tuner sweep ")
        page.locator("#trials").get_by_role("button", name="max throughput").click()
        assert page.locator("#trials tbody tr:first-child td:first-child").all_inner_texts()[0] == "baseline"
        at = page.locator("#plot-1 .scatterlayer .point").first
        at.scroll_into_view_if_needed()
        box = at.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.wait_for_selector(".hoverlayer text")
        assert page.locator("img").count() == 0


def test_times_in_the_figures_say_utc():
    found = searches.searched(3)
    texts = json.dumps([json.loads(figures.best_so_far(found).to_json())])
    assert "started 2026-11-24 04:01:00 UTC" in texts and "04:01:00 to 04:03:40 UTC" in texts
    assert isinstance(found["started_at"].dtype, pd.DatetimeTZDtype)


def test_no_page_lets_a_script_compile_code(tmp_path):
    folder = result_files.plain_folder(tmp_path / "plain", [1])
    for page in (write_report(searches.run(tmp_path / "run", 3)), write_report(folder, tmp_path / "r.html")):
        assert "script-src 'sha256-" in page.read_text()


def test_a_run_that_confirms_is_held_against_the_baselines_run_of_its_turn():
    again = {"role": "confirmation"}
    rows = [
        searches.trial(1, value=100.0, role="baseline"),
        searches.trial(2, value=120.0),
        searches.trial(3, value=50.0, of="baseline", **again),
        searches.trial(4, value=60.0, of="winner", **again),
        searches.trial(5, value=80.0, of="baseline", **again),
        searches.trial(6, value=88.0, of="winner", **again),
    ]
    assert list(Searched(searches.frame(rows)).table["gain (%)"]) == [0.0, 20.0, 0.0, 20.0, 0.0, 10.0]
