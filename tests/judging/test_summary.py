"""What judged batches amount to."""

import json
import logging
import math

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.result_files import failure, name, request, result, write

import tuner
from tuner.judging.summary import table


def curve(spec, **changes):
    """Judged batches from `level:verdict[:outcome]` words, with 10 tokens/s for each level."""
    rows = []
    for word in spec.split():
        level, verdict, outcome = [*word.split(":"), "completed"][:3]
        rows.append({"concurrency": int(level), "verdict": verdict, "outcome": outcome})
    frame = pd.DataFrame(rows, columns=["concurrency", "verdict", "outcome"])
    made = frame.assign(experiment="e", trial=1, scenario="D(1,1)", output_throughput=frame["concurrency"] * 10.0)
    return made.assign(penalty=0.0, verdict_reason="", **changes)


#: batches → (max throughput, best level, bracket, compliant, total)
BRACKETS = [
    ("1:pass 2:pass 4:fail", 20.0, 2, "bracketed", 2, 3),
    ("1:pass 2:soft 4:fail", 20.0, 2, "bracketed", 2, 3),
    ("1:pass 2:pass 4:unknown:out_of_memory", 20.0, 2, "bracketed", 2, 3),
    ("1:pass 2:pass 4:unknown:server_died", 20.0, 2, "bracketed", 2, 3),
    ("1:pass 2:pass 4:unknown:all_errors", 20.0, 2, "bracketed", 2, 3),
    ("1:pass 2:pass 4:unknown:timeout", 20.0, 2, "bracketed", 2, 3),
    ("1:pass 2:pass", 20.0, 2, "open", 2, 2),
    ("1:pass 2:pass 4:unknown", 20.0, 2, "open", 2, 3),
    ("1:pass 2:pass 4:unknown:missing 8:unknown:skipped", 20.0, 2, "open", 2, 4),
    ("1:pass 2:pass 4:unknown:interrupted 8:unknown:client_failed", 20.0, 2, "open", 2, 4),
    ("1:pass 4:fail 6:pass 8:unknown:out_of_memory", 60.0, 6, "non_monotone", 2, 4),
    ("1:unknown:out_of_memory 2:pass", 20.0, 2, "non_monotone", 1, 2),
    ("2:fail 2:pass", 20.0, 2, "non_monotone", 1, 2),
    ("4:pass 1:pass 8:fail", 40.0, 4, "bracketed", 2, 3),
    ("1:fail 2:fail", None, None, "none", 0, 2),
    ("1:unknown:missing", None, None, "none", 0, 1),
    ("", None, None, "none", 0, 0),
]


@pytest.mark.parametrize(("spec", "expected"), [(spec, expected) for spec, *expected in BRACKETS])
def test_maximum_and_bracket(spec, expected):
    summary = tuner.summarize(curve(spec))
    names = ("max_throughput", "best_level", "bracket", "compliant", "total")
    assert [getattr(summary, name) for name in names] == expected
    assert (summary.best is None) == (summary.best_level is None)
    assert json.dumps(summary.to_dict(), allow_nan=False)


def test_the_maximum_is_of_throughput_and_not_of_the_level():
    summary = tuner.summarize(curve("1:pass 4:pass 8:pass").assign(output_throughput=[10.0, 30.0, 20.0]))
    assert (summary.max_throughput, summary.best_level) == (30.0, 4)


def test_where_all_fail_everything_is_kept_with_penalties(caplog):
    judged = curve("1:fail 2:fail 4:unknown:missing").assign(penalty=[5.0, 2.0, math.nan])
    with caplog.at_level(logging.INFO):
        summary = tuner.summarize(judged)
    assert summary.max_throughput is None
    assert summary.fallback["concurrency"].tolist() == [2, 1]
    assert "No SLO-compliant batch: all 3 are kept with their penalties, and there is no maximum" in caplog.messages


def test_a_compliant_batch_of_unknown_throughput_is_no_maximum():
    summary = tuner.summarize(curve("1:pass").assign(output_throughput=math.nan))
    assert (summary.max_throughput, summary.compliant) == (None, 1)
    assert "none of them has a known throughput" in summary.text


def test_scenarios_are_never_mixed():
    judged = pd.concat([curve("1:pass 2:pass 4:fail"), curve("1:pass 2:fail").assign(scenario="D(9,9)")])
    summary = tuner.summarize(judged.reset_index(drop=True))
    assert {name: part.max_throughput for name, part in summary.scenarios.items()} == {"D(1,1)": 20.0, "D(9,9)": 10.0}
    assert {name: part.bracket for name, part in summary.scenarios.items()} == dict.fromkeys(
        summary.scenarios, "bracketed"
    )
    assert (summary.scenario, summary.max_throughput, summary.compliant, summary.total) == ("D(1,1)", 20.0, 3, 5)


def test_a_level_is_compared_within_its_trial_only():
    judged = pd.concat([curve("1:pass 2:pass"), curve("1:fail 4:fail").assign(trial=2)], ignore_index=True)
    assert tuner.summarize(judged).bracket == "open"


def test_a_level_that_was_run_again_is_asked_about_once():
    judged = curve("1:pass 2:pass 2:unknown").assign(superseded=[False, False, True])
    assert tuner.summarize(judged).total == 2


def test_the_log_lines(caplog, tmp_path):
    """Those of the issue, with units: 1 and 4 pass, 6 is over a soft limit, 8 violates."""
    for level, requests in ((1, [request()]), (4, [request()]), (6, [request(0.2)]), (8, [request(0.9)])):
        write(tmp_path / name(level), result(requests * 300, level=level))
    slo = {"ttft": {"threshold": 0.15, "fail_ratio": 1.0}}
    judged = tuner.judge(tuner.load_batches(tmp_path), slo)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        tuner.summarize(judged)
    assert caplog.messages == [
        "Filtering 4 batches by SLO compliance",
        "✓ Batch concurrency=1 met SLO",
        "✓ Batch concurrency=4 met SLO",
        "✓ Batch concurrency=6 met SLO with soft violations: {TTFT mean 0.2 s > 0.15 s (+33 %)}",
        "✗ Batch concurrency=8 violated SLO: {TTFT mean 0.9 s > 0.15 s (+500 %)}",
        "✓ 3/4 batches passed SLO",
        "Max throughput: 504.2 tokens/s at concurrency 6 (from 3 SLO-compliant batches)",
    ]


def test_a_batch_size_is_called_one(caplog):
    with caplog.at_level(logging.INFO):
        summary = tuner.summarize(curve("2:pass").assign(iteration_type="batch_size"))
    assert "✓ Batch batch_size=2 met SLO" in caplog.messages
    assert summary.text == "Max throughput: ≥ 20.0 tokens/s at batch_size 2 (from 1 SLO-compliant batch)"


words = st.tuples(
    st.integers(1, 9),
    st.sampled_from(["pass", "soft", "fail", "unknown"]),
    st.floats(0, 1e6),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(words, min_size=1, max_size=6), st.integers(1, 9), st.floats(0, 1e9), st.sampled_from(["fail", "unknown"])
)
def test_a_batch_that_does_not_comply_never_raises_the_maximum(batches, level, throughput, verdict):
    def summary_of(rows):
        frame = curve(" ".join(f"{row[0]}:{row[1]}" for row in rows))
        return tuner.summarize(frame.assign(output_throughput=[row[2] for row in rows]))

    before, after = summary_of(batches), summary_of([*batches, (level, verdict, throughput)])
    assert after.max_throughput == before.max_throughput
    assert after.compliant == before.compliant


def test_the_table_of_a_person(tmp_path):
    write(tmp_path / name(1), result())
    write(tmp_path / name(2), result([request()] * 10 + [failure()] * 10, level=2))
    write(tmp_path / "experiment_metadata.json", {"num_concurrency": [1, 2, 4], "traffic_scenario": ["D(100,100)"]})
    batches = tuner.load_batches(tmp_path)
    shown = table(tuner.judge(batches, {"ttft": {"threshold": 1}}))
    assert shown["verdict"].tolist() == ["pass", "fail", "unknown"]
    assert shown["TPOT p50 (ms)"].tolist()[:2] == [10.0, 10.0]
    assert shown["errors (%)"].tolist()[:2] == [0.0, 50.0]
    assert shown["why"].str.contains("error_rate|missing").tolist() == [False, True, True]
    assert "verdict" not in table(batches)
    assert not {"experiment", "trial", "repeat"} & set(shown)
    assert "experiment" in table(pd.concat([batches, batches.assign(experiment="other")]))
