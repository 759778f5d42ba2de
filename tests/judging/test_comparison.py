"""Comparing two sides: equal things stay equal, true changes are found, failures are first, nothing is dropped."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import result_files
from support.resampled import SERVERS, places, real, side, waves

import tuner
from tuner.batches.result_file import statistics
from tuner.core.metrics import LATENCIES
from tuner.judging import comparison_text
from tuner.judging.comparison import METRICS, NOT_JUDGED, compare
from tuner.judging.estimates import (
    Estimate,
    adjust_p_values,
    difference,
)

DIFFERENT = ["better", "worse"]


def batches_of(folder, levels, slo=None, runs=3):
    """Judged batches: for each level its requests, the same in each run, or the outcome with which it ended."""
    trial = result_files.run(folder, list(levels))
    for level, content in levels.items():
        if isinstance(content, str):
            result_files.add_level(trial, level, outcome=content, reason="said why")
        else:
            for repeat in range(1, runs + 1):
                result_files.add_level(trial, level, result_files.result(content, level=level), repeat=repeat)
    return tuner.judge(tuner.load_batches(folder), slo or {"ttft": {"p50": {"threshold": 1.0}}})


def noisy(seed, factor=1.0, count=300, spread=0.1):
    dice = np.random.default_rng(seed)
    return [result_files.request(factor * 0.1 * math.exp(spread * dice.normal()), factor * 0.01) for _ in range(count)]


def repeated(folder, means, level=2):
    """One level measured several times."""
    trial = result_files.run(folder, [level])
    for repeat, mean in enumerate(means, start=1):
        result_files.add_level(trial, level, result_files.result(noisy(repeat, mean), level=level), repeat=repeat)
    return tuner.judge(tuner.load_batches(folder), {})


def row_of(comparison, metric):
    rows = comparison.differences
    return rows[rows["metric"] == metric].iloc[0]


@pytest.mark.parametrize("name", SERVERS)
def test_equal_things_are_rarely_called_different(name, tmp_path):
    """Two samples from the same real batches, 13 metrics at each of four levels, at most 5 % by chance."""
    dice, levels = np.random.default_rng(11), real(name)
    alarms = 0
    for number in range(10):
        sides = [side(tmp_path / f"{number} {which}", levels, 150, dice) for which in "ab"]
        alarms += compare(*sides).differences["verdict"].isin(DIFFERENT).any()
    assert alarms <= 2  # of 10 with 5 % each, more happen once in 90


@pytest.mark.parametrize("name", SERVERS)
def test_ten_percent_are_found(name, tmp_path):
    dice, levels = np.random.default_rng(12), real(name)
    for number in range(3):
        sides = [side(tmp_path / f"{number} {factor}", levels, 300, dice, factor, runs=3) for factor in (1.0, 1.1)]
        rows = compare(*sides).differences.query("metric == 'e2e_latency_mean'")
        assert "worse" in rows["verdict"].tolist() and "better" not in rows["verdict"].tolist()
        assert ((rows["low"] < 0.1) & (rows["high"] > 0.1)).all()


@pytest.mark.parametrize("bound", [0.0, 0.5, 0.8])
def test_p_values_of_correlated_requests_are_no_smaller_than_they_should_be(bound, tmp_path):
    """Requests in flight together share part of their latency; under no change p is below 5 % in about 5 %."""
    dice, small = np.random.default_rng(5), []
    for _ in range(150):
        sides = [_sampled(np.exp(0.2 * waves(dice, 300, 8, bound))) for _ in range(2)]
        found = [difference(*(_estimate(one, metric) for one in sides)) for metric in ("ttft_mean", "ttft_p90")]
        small.append([one.p_value(0.0) < 0.05 for one in found])
    assert np.mean(small, axis=0).max() <= 0.11


def _sampled(ttft):
    from tuner.batches.batch import Reading
    from tuner.judging.estimates import CompletedBatch

    row = {f"ttft_{name}": value for name, value in statistics(ttft).items()}
    row |= {"completed": len(ttft), "concurrency": 8, "iteration_type": "num_concurrency"}
    return CompletedBatch(row, Reading(None, dict.fromkeys(LATENCIES, ttft), np.full(len(ttft), 9.0), True))


def _estimate(run, metric):
    return Estimate(np.array([run.row[metric]]), run.variance(metric))


def test_the_same_thing_twice_is_no_difference(tmp_path):
    batches = batches_of(tmp_path / "a", {1: noisy(1), 4: noisy(2)})
    found = compare(batches, batches)
    assert set(found.differences["verdict"]) <= {"same", "unknown"}
    assert found.differences.groupby("concurrency", dropna=False).size().tolist() == [len(METRICS)] * 2 + [1]
    assert found.unmatched.empty and found.regressions.empty
    assert "No difference was found" in found.text[0]


def test_constant_data_divide_by_nothing(tmp_path):
    """Quantised or simulated data have no spread at all."""
    same = [result_files.request()] * 60
    before = batches_of(tmp_path / "a", {1: same, 2: same})
    after = batches_of(tmp_path / "b", {1: same, 2: [result_files.request(0.2, 0.01)] * 60})
    found = compare(before, after).differences.set_index(["concurrency", "metric"])
    assert found.loc[(1, "ttft_mean"), "verdict"] == "same"
    assert found.loc[(2, "ttft_mean"), "verdict"] == "worse"
    assert found.loc[(2, "ttft_mean"), "change"] == pytest.approx(1.0)
    assert np.isfinite(found.loc[(2, "ttft_mean"), ["low", "high"]].astype(float)).all()


def test_a_tolerance_lets_small_changes_pass(tmp_path):
    sides = [batches_of(tmp_path / str(factor), {2: noisy(3, factor)}) for factor in (1.0, 1.06)]
    strict, lax = (row_of(compare(*sides, tolerance=tolerance), "e2e_latency_mean") for tolerance in (0.0, 0.1))
    assert (strict["verdict"], lax["verdict"]) == ("worse", "same")
    assert lax["low"] < 0.1 and strict["low"] > 0


@pytest.mark.parametrize("tolerance", [0.0, 0.05])
def test_an_interval_leaves_out_the_tolerance_exactly_where_there_is_a_verdict(tolerance, tmp_path):
    sides = [batches_of(tmp_path / str(seed), {2: noisy(seed, 1 + seed / 90), 4: noisy(seed)}) for seed in (1, 9)]
    rows = compare(*sides, tolerance=tolerance).differences
    rows = rows[rows["p_value"].notna() & (rows["metric"] != "max_throughput")]
    outside = (rows["low"] > tolerance) | (rows["high"] < -tolerance)
    assert rows["verdict"].isin(DIFFERENT).any()
    assert (outside == rows["verdict"].isin(DIFFERENT)).all()


def test_a_level_that_fails_now_is_the_first_regression(tmp_path):
    before = batches_of(tmp_path / "a", {1: noisy(1), 2: noisy(2), 4: noisy(3), 16: "timeout"})
    after = batches_of(tmp_path / "b", {1: noisy(1), 2: "out_of_memory", 8: noisy(3), 16: noisy(4)})
    found = compare(before, after)
    assert found.text[0].startswith(
        "WORSE: at concurrency 2 (D(100,100)) it completed before and has no result now: out of memory"
    )
    assert found.regressions.iloc[0][["concurrency", "metric", "verdict"]].tolist() == [2, "outcome", "worse"]
    assert found.lost["concurrency"].tolist() == [2]
    told = {tuple(row) for row in found.unmatched[["concurrency", "side", "outcome"]].to_numpy().tolist()}
    assert {(2, "candidate", "out_of_memory"), (16, "baseline", "timeout")} <= told
    assert {(4, "candidate", "missing"), (8, "baseline", "missing")} <= told
    assert not found.unmatched["reason"].eq("").any()


def test_percentiles_of_too_few_requests_are_unknown(tmp_path):
    found = compare(*(batches_of(tmp_path / name, {2: noisy(1, count=100)}) for name in "ab"))
    row = row_of(found, "ttft_p99")
    assert (row["verdict"], row["note"]) == ("unknown", "p99 needs 299 completed requests a run; the smallest has 100")
    assert row_of(found, "ttft_p50")["verdict"] == "same"


def test_runs_are_compared_where_both_sides_have_several(tmp_path):
    """Each run is steady, but runs differ by more than the sides do: only the runs tell."""
    before = repeated(tmp_path / "a", [1.0, 1.2, 1.4])
    after = repeated(tmp_path / "b", [1.1, 1.3, 1.5])
    row = row_of(compare(before, after), "e2e_latency_mean")
    assert (row["over"], row["verdict"], row["baseline_runs"]) == ("runs", "same", 3)
    alone = row_of(compare(before.iloc[:1], after.iloc[:1]), "e2e_latency_mean")
    assert (alone["over"], alone["verdict"], alone["note"]) == ("requests", "unknown", NOT_JUDGED)
    assert 0 < alone["low"] < alone["change"] < alone["high"]  # it is shown, as far as requests tell
    far = repeated(tmp_path / "c", [9.0, 9.1, 9.2])
    assert row_of(compare(before, far), "e2e_latency_mean")["verdict"] == "worse"


def test_what_drift_is_not_in_is_said(tmp_path):
    before, after = (repeated(tmp_path / name, [1.0, 1.2, 1.4]) for name in "ab")
    once = compare(before.iloc[:1], after.iloc[:1]).text
    assert once[0].startswith("One run a side: not judged")
    assert not any("not judged" in line for line in compare(before, after).text)
    some = before.assign(tpot_p50=[0.01, math.nan, math.nan])
    (line,) = [line for line in compare(some, after).text if "not judged" in line]
    assert line.startswith("TPOT p50: one run a side")
    assert not compare(before.iloc[:1], after).is_judged and compare(some, after).is_judged


def test_directions(tmp_path):
    sides = [batches_of(tmp_path / str(factor), {2: noisy(1, factor)}) for factor in (1.0, 0.5)]
    better, worse = compare(*sides), compare(*reversed(sides))
    for metric in ("output_throughput", "e2e_latency_mean", "ttft_p50", "max_throughput"):
        assert (row_of(better, metric)["verdict"], row_of(worse, metric)["verdict"]) == ("better", "worse")
    assert len(worse.regressions) and not len(better.regressions)


def test_errors_and_attainment_are_compared_as_shares(tmp_path):
    after = [*noisy(1, count=240), *[result_files.failure()] * 60]
    slo = {"ttft": {"p50": {"threshold": 1.0}}, "error_rate": {"threshold": 0.5}}
    found = compare(*(batches_of(tmp_path / n, {2: made_}, slo) for n, made_ in (("a", noisy(1)), ("b", after))))
    row = row_of(found, "error_rate")
    assert (row["verdict"], row["unit"]) == ("worse", "share")
    assert row["change"] == pytest.approx(0.2)
    assert row["low"] < 0.2 < row["high"]
    assert row_of(found, "attainment")["verdict"] == "worse"


def test_a_level_complies_in_all_of_its_runs_or_in_none(tmp_path):
    """The higher level misses the limit in one run of three: together they meet it, so that the maximum is theirs."""
    sides = [batches_of(tmp_path / name, {1: noisy(1), 2: noisy(2)}) for name in "ab"]
    sides[1].loc[sides[1]["repeat"].eq(1) & sides[1]["concurrency"].eq(2), "verdict"] = "fail"
    row = row_of(compare(*sides), "max_throughput")
    assert row["verdict"] == "same"
    assert abs(row["change"]) < 0.05
    assert row["note"] == "at concurrency 2"


def test_where_nothing_complies_any_more(tmp_path):
    slo = {"ttft": {"p90": {"threshold": 0.2}}}
    sides = [batches_of(tmp_path / str(factor), {2: noisy(1, factor)}, slo) for factor in (1.0, 5.0)]
    row = row_of(compare(*sides), "max_throughput")
    assert (row["verdict"], row["change"], row["candidate"]) == ("worse", -1.0, 0.0)
    assert row["note"] == "at concurrency 2, then nothing complies"
    assert row_of(compare(*reversed(sides)), "max_throughput")["verdict"] == "better"


def test_it_is_plain_json(tmp_path):
    before = batches_of(tmp_path / "a", {1: noisy(1, count=40), 2: "timeout", 4: noisy(2)})
    found = compare(before, batches_of(tmp_path / "b", {1: noisy(2, 1.5, count=40), 4: "server_died"}))
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert len(content["differences"]) == len(found.differences)
    assert content["text"] == found.text
    assert content["differences"][0]["concurrency"] is None  # the maximum comes first


def test_nothing_in_common(tmp_path):
    found = compare(batches_of(tmp_path / "a", {1: noisy(1)}), batches_of(tmp_path / "b", {2: noisy(1)}))
    assert found.differences.empty
    assert found.text[0].startswith("No level completed on both sides")
    assert len(found.unmatched) == 2
    nothing = batches_of(tmp_path / "c", {1: "timeout"})
    assert compare(nothing, nothing).differences.empty
    assert found.differences.dtypes["concurrency"] == "Int64"


def test_without_the_requests_one_run_tells_nothing(tmp_path):
    sides = [batches_of(tmp_path / n, {2: noisy(1, f)}, runs=1) for n, f in (("a", 1.0), ("b", 2.0))]
    row = row_of(compare(*(one.assign(source=None) for one in sides)), "e2e_latency_mean")
    assert (row["verdict"], row["note"]) == ("unknown", NOT_JUDGED)
    assert math.isnan(row["low"]) and row["change"] == pytest.approx(1.0, abs=0.01)


def test_a_report_is_compared_by_the_intervals_it_carries(tmp_path):
    from tuner.report.results import read_results
    from tuner.report.write import write_report

    sides = []
    for name, factor in (("a", 1.0), ("b", 1.5)):
        batches_of(tmp_path / name, {2: noisy(1, factor)}, runs=1)
        report = write_report(tmp_path / name, tmp_path / f"{name}.html")
        (tmp_path / name).rename(tmp_path / f"gone {name}")
        sides.append(read_results(report).judged)
    row = row_of(compare(*sides), "e2e_latency_mean")
    assert (row["verdict"], row["over"]) == ("unknown", "requests")
    assert row["low"] < 0.5 < row["high"] and row["note"] == NOT_JUDGED


def rows_of_runs(values):
    """Differences of two sides of runs, one for each column of `values`; the first half of its rows is the baseline."""
    names = tuple(map(str, range(len(values))))
    sides = slice(0, len(values) // 2), slice(len(values) // 2, None)
    return [
        difference(*(Estimate(row[side], log=False, runs=names[side]) for side in sides))
        for row in np.transpose(values)
    ]


def test_rows_of_one_speed_count_as_one_and_independent_rows_as_many():
    """Against the exact: of copies, p stays as it is; of independent rows, it is Šidák's 1 − (1 − p)ⁿ."""
    dice, p = np.random.default_rng(4), np.array([0.06, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    speed = dice.normal(size=(6, 1))
    of_copies, _ = adjust_p_values(rows_of_runs(speed * dice.uniform(1, 9, 8)), p, 0.95)
    assert of_copies == pytest.approx(p, abs=0.01)
    orthogonal = np.linalg.qr(np.column_stack([np.ones(200), dice.normal(size=(200, 8))]))[0][:, 1:]
    of_eight, confidence = adjust_p_values(rows_of_runs(orthogonal), p, 0.95)
    assert of_eight == pytest.approx(1 - (1 - p) ** 8, abs=0.02)
    assert confidence == pytest.approx(0.95 ** (1 / 8), abs=0.001)
    one_found, _ = adjust_p_values(rows_of_runs(orthogonal), np.array([0.001, *p[1:]]), 0.95)
    assert one_found[1] == pytest.approx(1 - 0.9**7, abs=0.02)  # what is found counts no more against the others
    unknown, _ = adjust_p_values([None], np.array([math.nan]), 0.95)
    assert np.isnan(unknown).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.03]), st.integers(2, 4), st.floats(0, 0.5))
def test_verdicts_and_intervals_agree(seed, tolerance, runs, change):
    values = np.random.default_rng(seed).normal(0, 0.05, (2 * runs, 5))
    values[runs:] += change * np.array([1, 1, 0.5, 0, -1])
    found = rows_of_runs(values)
    p_values, confidence = adjust_p_values(found, np.array([one.p_value(tolerance) for one in found]), 0.95)
    for one, p_value in zip(found, p_values, strict=True):
        low, high = one.interval(confidence)
        assert (p_value < 0.05) == (low > tolerance or high < -tolerance)


def test_students_t_on_runs_is_the_textbook_one():
    from scipy import stats

    before, after = np.array([1.0, 1.1, 0.9, 1.05]), np.array([1.3, 1.5, 1.4])
    found = difference(Estimate(before, log=False), Estimate(after, log=False))
    expected = stats.ttest_ind(after, before)
    assert found.p_value(0.0) == pytest.approx(expected.pvalue)
    assert found.interval(0.95) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_runs_vary_at_least_as_their_requests():
    """Two runs that are equal by chance, or by a coarse clock, do not make every difference certain."""
    sides = [Estimate(np.array([value] * 2), 0.01, 20) for value in (1.0, 1.1)]
    assert difference(*sides).p_value(0.0) > 0.05


def test_blocks_are_drawn_whole():
    drawn = places(10, 6, 3, np.random.default_rng(0))
    assert len(drawn) == 6 and all((drawn[1:3] - drawn[:2]) % 10 == 1)


def test_a_high_percentile_of_requests_that_hang_together_is_no_difference_by_chance(tmp_path):
    """Two runs whose p99 is the same slow request: nothing varies, and nobody knows how much it might."""
    sides = []
    for name, slowest in (("a", 9.0), ("b", 9.1)):
        waves_of_eight = np.repeat(np.random.default_rng(3).lognormal(-2, 0.2, 40), 8)
        content = [result_files.request(float(ttft)) for ttft in waves_of_eight[:-8]]
        content += [result_files.request(slowest)] * 8
        sides.append(batches_of(tmp_path / name, {8: content}, runs=2))
    row = row_of(compare(*sides), "ttft_p99")
    assert (row["verdict"], row["over"]) == ("unknown", "runs")
    assert "in flight together" in row["note"]


def test_runs_of_one_name_in_different_folders_are_different_runs(tmp_path):
    """`monday/out/run` and `tuesday/out/run` are two runs, whose speeds are not one."""
    folders = [tmp_path / day / "out" / "run" for day in ("monday", "tuesday")]
    for folder in folders:
        result_files.plain_folder(folder, [1, 2])
    batches = tuner.load_batches(*folders)
    assert batches["experiment"].unique().tolist() == ["monday/out/run", "tuesday/out/run"]
    found = compare(batches, batches)
    assert set(found.differences["baseline_runs"]) == {2} and found.noise < 0.002


def runs_at_speeds(folder, factors, dice, levels=(1, 4, 16, 64)):
    """Runs at several levels; each run is as much slower as its factor says, in everything."""
    for number, factor in enumerate(factors):
        one = result_files.plain_folder(folder / f"run {number}", list(levels))
        for level in levels:
            times = factor * np.exp(0.1 * dice.normal(size=(300, 2))) * (0.2, 0.02)
            content = result_files.result([result_files.request(*map(float, pair)) for pair in times], level=level)
            result_files.write(one / result_files.name(level), content)
    return tuner.judge(tuner.load_batches(*sorted(folder.iterdir())), {})


def test_a_quarter_slower_in_everything_is_found_beyond_the_noise_of_three_runs(tmp_path):
    """Runs are one factor: that all rows of a run share its speed must not count against them as 61 chances."""
    dice = np.random.default_rng(0)
    before = runs_at_speeds(tmp_path / "a", (0.96, 1.0, 1.04), dice)
    after = runs_at_speeds(tmp_path / "b", (1.2, 1.25, 1.3), dice)
    found = compare(before, after, tolerance=0.05)
    worse = found.differences[found.differences["verdict"] == "worse"]
    assert {"output_throughput", "ttft_p50", "tpot_p50", "e2e_latency_p90", "max_throughput"} <= set(worse["metric"])
    assert (worse["high"] - worse["low"] > 0.1).all()  # wide, though nothing varies in the rows that are left
    assert found.noise == pytest.approx(0.04, rel=0.1)
    (line,) = [line for line in found.text if "9 times in 10" in line]
    assert line.startswith("With 3 runs a side that vary by 4") and f"{100 * found.findable:.2g} %" in line
    again = compare(before, before.assign(experiment=before["experiment"] + " again"), tolerance=0.05)
    assert set(again.differences["verdict"]) <= {"same", "unknown"}


def test_the_interval_of_a_share_stays_between_0_and_1(tmp_path):
    """Three runs a side, of which 0 to 100 % meet the limit: what lies beyond is no share."""
    sides = []
    for name, scales in (("a", (1, 1, 20)), ("b", (20, 20, 1))):
        judged = repeated(tmp_path / name, scales)
        sides.append(tuner.judge(judged, {"ttft": {"p50": {"threshold": 1.0}}}))
    row = row_of(compare(*sides), "attainment")
    assert row["over"] == "runs" and row["low"] == -row["baseline"] and row["high"] <= 1 - row["baseline"] + 1e-9


def test_no_difference_found_says_everywhere_how_large_a_one_could_be_hidden(tmp_path):
    sides = [batches_of(tmp_path / which, {2: noisy(seed)}, runs=3) for which, seed in (("a", 1), ("b", 2))]
    found = compare(*sides)
    row = row_of(found, "ttft_mean")
    assert row["verdict"] == "same"
    hidden = f"a change of up to {100 * max(abs(row['low']), abs(row['high'])):.2g} % could be hidden"
    assert any("could be hidden" in line for line in found.text)
    (said,) = comparison_text.details(found).query("metric == 'TTFT mean'").to_dict("records")
    assert said["verdict"] == "≈ no difference found" and hidden in said["evidence"]
    figure = tuner.figures.changes(found.differences)
    hovers = " ".join(str(hover) for trace in figure.data for hover in (trace.hovertext or ()))
    assert "could be hidden" in hovers and "no difference found" in {trace.name for trace in figure.data}
    assert not any("same" in str(cell) for cell in comparison_text.overview(found).to_numpy().ravel())
