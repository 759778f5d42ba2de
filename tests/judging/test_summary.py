"""What judged batches amount to."""

import logging
import math
from collections import Counter

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import result_files
from support.result_files import failure, name, request, result, write

import tuner
from tuner.judging.levels import levels_of
from tuner.judging.summary import answer
from tuner.judging.table import table
from tuner.sweep.limit import excess


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
    ("2:fail 2:pass", None, None, "none", 1, 2),
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
    assert "no level that does has a known throughput" in summary.text


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
    assert (after.max_throughput or 0) <= (before.max_throughput or 0)
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
    assert "burst TTFT p90 (s)" not in table(batches.assign(burst_ttft_p90=1.05 * batches["ttft_p90"]))
    shown = table(batches.assign(burst_ttft_p90=4 * batches["ttft_p90"]))
    assert shown["burst TTFT p90 (s)"].tolist() == pytest.approx(
        (4 * batches["ttft_p90"]).round(3).tolist(), nan_ok=True
    )


def levels_run(folder, *runs):
    """A run of levels of 300 requests each, as (concurrency, TTFT in s or the outcome without a result)."""
    trial = result_files.run(folder, sorted({level for level, _ in runs}))
    repeats = Counter()
    for level, ttft in runs:
        repeats[level] += 1
        requests = None if isinstance(ttft, str) else [request(ttft=ttft + n * 1e-6) for n in range(300)]
        content = requests and result(requests, level=level)
        ended = {} if requests else {"outcome": ttft, "reason": "why"}
        result_files.add_level(trial, level, content, repeat=repeats[level], **ended)
    return folder


LIMIT = {"ttft": {"p90": {"threshold": 0.5}}}
#: (level, TTFT) of each run → (best level, bracket, concurrency and verdict of each level)
REPEATS = {
    "the best of three is not the level's": (
        [(16, 0.4), (20, 0.45), (20, 0.52), (20, 0.56)],
        16,
        {16: "pass", 20: "fail"},
    ),
    "nor is the worst": ([(16, 0.4), (20, 0.45), (20, 0.46), (20, 0.54)], 20, {16: "pass", 20: "pass"}),
    "two that disagree": ([(16, 0.4), (20, 0.52), (20, 0.47)], 20, {16: "pass", 20: "pass"}),
    "one broke the server": ([(16, 0.4), (20, 0.4), (20, "out_of_memory")], 16, {16: "pass", 20: "unknown"}),
    "one of two is far below": ([(16, 0.4), (20, 0.35), (20, 0.52)], 20, {16: "pass", 20: "pass"}),
    "the last of three broke it": ([(16, 0.4), *[(20, 0.4)] * 2, (20, "server_died")], 16, {16: "pass", 20: "unknown"}),
    "one was interrupted": ([(16, 0.4), (20, "interrupted"), (20, 0.6)], 16, {16: "pass", 20: "fail"}),
}


@pytest.mark.parametrize(("runs", "best", "verdicts"), REPEATS.values(), ids=REPEATS)
def test_a_level_has_one_verdict_from_all_of_its_runs(runs, best, verdicts, tmp_path):
    slo = tuner.SLO.parse(LIMIT)
    judged = tuner.judge(tuner.load_batches(levels_run(tmp_path, *runs)), slo)
    levels, summary = levels_of(judged), tuner.summarize(judged)
    assert dict(zip(levels["concurrency"], levels["verdict"], strict=True)) == verdicts
    assert levels.attrs["slo"] == slo.to_dict()  # else a figure of them says that nobody gave one
    assert (summary.best_level, summary.total) == (best, len(runs))
    assert summary.bracket == ("open" if best == 20 else "bracketed")
    excesses = {row["concurrency"]: excess(row, slo) for row in levels.to_dict("records")}
    assert max(level for level, value in excesses.items() if value <= 0) == best  # as `levels: auto` has it
    drawn = tuner.figures.throughput_vs_latency(judged, slo, metric="ttft")
    assert sum(len(trace.x) for trace in drawn.data if trace.meta) + (verdicts[20] == "unknown") == 2
    told = answer(judged, summary, slo)
    assert f"concurrency {best}" in told[0] and (best == 20 or "between concurrency 16 and 20" in told[1])
    tiered = tuner.tiers(judged, {"tiers": {"a": LIMIT, "b": {"ttft": {"p90": {"threshold": 0.41}}}}})
    assert [tier.summary.best_level for tier in tiered.tiers.values()] == [best, 16]


def test_levels_that_ran_once_are_the_batches_themselves(tmp_path):
    judged = tuner.judge(tuner.load_batches(levels_run(tmp_path, (1, 0.1), (2, 0.6))), LIMIT)
    pd.testing.assert_frame_equal(levels_of(judged), judged)


def test_the_level_of_several_runs_is_their_mean(tmp_path):
    judged = tuner.judge(tuner.load_batches(levels_run(tmp_path, (4, 0.1), (4, 0.3), (4, 0.2))), LIMIT)
    (level,) = levels_of(judged).to_dict("records")
    assert len(levels_of(pd.concat([levels_of(judged)] * 2, ignore_index=True))) == 1
    assert level["ttft_p90"] == pytest.approx(0.2, abs=0.001) and level["completed"] == 900 and level["runs"] == 3
    assert level["output_throughput"] == pytest.approx(judged["output_throughput"].mean())
    assert level["goodput"] == pytest.approx(judged["goodput"].mean())


LEAST = {"ttft": {"p90": {"threshold": 0.5}}, "min_throughput": {"threshold": 200}}
LEAST_RATE = {"ttft": {"p90": {"threshold": 0.5}}, "min_request_throughput": {"threshold": 2, "fail_ratio": 0.1}}


@pytest.mark.parametrize(
    ("least", "said"),
    [
        (LEAST, "output throughput 91"),
        (LEAST_RATE, "request throughput 0.91"),
        (LEAST | LEAST_RATE, "output throughput 91"),
    ],
)
def test_a_limit_from_below_bounds_the_compliant_levels_from_below(least, said, tmp_path):
    """Level 1 gives 92 tokens/s, 4 and 8 comply, 16 is too slow."""
    judged = tuner.judge(tuner.load_batches(levels_run(tmp_path, (1, 0.1), (4, 0.1), (8, 0.2), (16, 0.6))), least)
    summary = tuner.summarize(judged)
    assert judged["verdict"].tolist() == ["fail", "pass", "pass", "fail"]
    assert (summary.bracket, summary.best_level) == ("bracketed", 8)
    limit = answer(judged, summary, tuner.SLO.parse(least))[1]
    assert limit.startswith("The limit lies between concurrency 8 and 16, which does not meet the SLO (TTFT p90")
    assert "It takes at least concurrency 4, since 1 does not meet the SLO (" in limit and said in limit


def test_too_little_throughput_above_a_compliant_level_bounds_it_from_above(tmp_path):
    judged = tuner.judge(tuner.load_batches(levels_run(tmp_path, (4, 0.1), (8, 0.4))), LEAST)
    judged.loc[1, "output_throughput"] = 100.0
    assert tuner.summarize(tuner.judge(judged, LEAST)).bracket == "bracketed"
    judged.loc[0, "ttft_p90"] = 0.6
    assert tuner.summarize(tuner.judge(judged, LEAST)).bracket == "none"


@pytest.mark.parametrize(
    "ends", [("interrupted", "client_failed"), ("skipped", "missing"), ("incomplete", "truncated")]
)
def test_higher_levels_that_were_tried_are_named(ends, tmp_path):
    folder = levels_run(tmp_path, (4, 0.1), (8, ends[0]), (16, ends[1]))
    judged = tuner.judge(tuner.load_batches(folder), LIMIT)
    limit = answer(judged, tuner.summarize(judged), tuner.SLO.parse(LIMIT))[1]
    named = f"8 ({ends[0]}: why), 16 ({ends[1].replace('_', ' ')}: why)"
    assert f"measure them again: {named}" in limit and "highest" not in limit


def test_each_scenario_has_an_answer_and_all_of_them_together_have_one():
    """The first holds to 8, the second to 2, and the third only from 2 on."""
    parts = [
        ("D(1,1)", "1:pass 4:pass 8:pass 16:fail"),
        ("D(2,2)", "1:pass 2:pass 4:fail"),
        ("D(3,3)", "2:pass 4:pass"),
    ]
    judged = pd.concat([curve(spec).assign(scenario=name) for name, spec in parts], ignore_index=True)
    judged = judged.assign(evidence="strong", evidence_reason="", completed=300)
    summary = tuner.summarize(judged)
    assert (summary.common_level, summary.best_level) == (2, 8)
    told = answer(judged, summary, tuner.SLO.parse(LIMIT))
    assert told[0] == "Concurrency 2 is the highest that meets the SLO in each of 3 scenarios"
    assert [line.split(":")[0] for line in told[1:4]] == [name for name, _ in parts]
    assert "20.0 output tokens/s at concurrency 2. The limit lies between concurrency 2 and 4" in told[2]
    without = judged[~(judged["scenario"].eq("D(2,2)") & judged["verdict"].eq("pass"))]
    assert tuner.summarize(without).common_level is None
    assert answer(without, tuner.summarize(without), None)[0].startswith("No concurrency meets the SLO in each of 3")


def test_of_two_equal_throughputs_the_lower_level_is_the_answer():
    assert tuner.summarize(curve("1:pass 4:pass 8:pass").assign(output_throughput=[10.0, 30.0, 30.0])).best_level == 4


@pytest.mark.parametrize(
    ("throughputs", "said"),
    [
        ((100, 130, 90), "its throughput is below that at concurrency 2: higher ones promise no more"),
        ((100, 130, 127), "measure higher ones for the limit"),  # within the noise
        ((100, 130, 160), "measure higher ones for the limit"),
    ],
)
def test_higher_levels_are_advised_only_where_they_promise_more(throughputs, said, tmp_path):
    folder = tmp_path / "run"
    for level, throughput in zip((1, 2, 4), throughputs, strict=True):
        tpot = level / throughput  # 100 tokens after the first
        content = result([request(ttft=tpot, tpot=tpot, outputs=101)] * 60, level=level)
        write(folder / name(level), content)
    write(folder / "experiment_metadata.json", result_files.metadata([1, 2, 4]))
    slo = tuner.SLO.parse({"latency": {"p50": {"threshold": 1000}}})
    judged = tuner.judge(tuner.load_batches(folder), slo)
    found = answer(judged, tuner.summarize(judged), slo)
    assert any(line.startswith("Concurrency 4") and said in line for line in found), found


def test_where_nothing_counts_the_answer_says_why(tmp_path):
    write(tmp_path / name(1), result([request()] * 60 + [failure(503, "engine is dead")] * 60))
    write(tmp_path / name(2), result([failure(429, "overloaded")] * 60, level=2))
    slo = tuner.SLO.parse({"error_rate": {"threshold": 0.01}})
    judged = tuner.judge(tuner.load_batches(tmp_path), slo)
    first, why, *_ = answer(judged, tuner.summarize(judged), slo)
    assert first == "No batch meets the SLO, so there is no maximum"
    assert why == "Concurrency 1: error rate 0.5 > 0.01 (50 times)."
    failed = judged[judged["concurrency"] == 2]
    assert "429 ×60" in answer(failed, tuner.summarize(failed), slo)[1]


def test_rows_that_name_no_run_have_a_level_for_all_scenarios():
    fixed = {"requests": 300, "completed": 300, "errors": 0, "error_rate": 0.0}
    latencies = [("D(1,1)", 1, 0.1), ("D(1,1)", 4, 0.9), ("D(2,2)", 1, 0.1), ("D(2,2)", 4, 2.0)]
    names = ("scenario", "concurrency", "ttft_p90", "output_throughput")
    rows = [fixed | dict(zip(names, (*values, 10.0 * values[1]), strict=True)) for values in latencies]
    summary = tuner.summarize(tuner.judge(pd.DataFrame(rows), {"ttft": {"p90": {"threshold": 1.0}}}))
    assert (summary.common_level, summary.best_level) == (1, 4)
