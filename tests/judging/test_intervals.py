"""Confidence intervals: how often they hold the truth, what they make of few requests and of repeats."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import result_files
from support.resampled import waves

import tuner
from tuner.batches.load import readings_of
from tuner.core.metrics import LATENCIES, LATENCY_COLUMNS
from tuner.judging.intervals import (
    BOUNDED,
    intervals,
    of_percentile,
    of_requests,
    wilson,
)
from tuner.judging.memory import reach_and_worth
from tuner.judging.slo import SLO
from tuner.judging.summary import answer

THROUGHPUTS = ("output_throughput", "request_throughput")


def batches_of(folder, latencies, level=4, repeat=False):
    """A folder with one batch whose TTFTs are given, each request twice as long."""
    requests = [result_files.request(float(each), 0.01, 101) for each in latencies]
    result_files.write(folder / result_files.name(level), result_files.result(requests, level=level))
    result_files.write(folder / "experiment_metadata.json", result_files.metadata([level]))
    return tuner.load_batches(folder)


@pytest.mark.parametrize(("share", "least"), [(0.0, 0.95), (0.3, 0.93), (0.7, 0.93)])
@pytest.mark.parametrize("percentile", [0.5, 0.9])
def test_an_interval_holds_the_true_percentile_as_often_as_it_says(percentile, share, least):
    """Nominally 95 %, of 300 requests, 16 in flight, that share up to 70 % of their variance."""
    dice, truth, held = np.random.default_rng(7), {0.5: 0.0, 0.9: 1.2815516}[percentile], []
    for _ in range(200):
        low, high = of_percentile(waves(dice, 300, 16, share), percentile)
        held += [low <= truth <= high] if low < high else []
    assert len(held) > 140  # of some it says that they are too few
    assert np.mean(held) >= least


@pytest.mark.parametrize("share", [0.0, 0.7])
def test_intervals_of_mean_and_throughput_hold_the_truth(share, tmp_path):
    """The same of a mean, and of a throughput, which Σ tokens / Σ e2e latency varies with."""
    dice, held = np.random.default_rng(8), []
    (reading,) = readings_of(batches_of(tmp_path, np.ones(300), level=16))
    for _ in range(100):
        ttft = 2 + 0.5 * waves(dice, 300, 16, share)
        latencies = {"ttft": ttft, "e2e_latency": ttft + 1}
        drawn = replace(reading, latencies=latencies, output_tokens=np.full(300, 101.0))
        drawn.batch.output_throughput = 16 * 300 * 101 / float((ttft + 1).sum())
        mean, rate = (of_requests(drawn, column) for column in ("ttft_mean", "output_throughput"))
        bounds = ((2, mean), (16 * 101 / 3, rate))
        held.append([low <= true <= high if low < high else math.nan for true, (low, high) in bounds])
    assert np.isfinite(held).mean(axis=0).min() >= 0.9
    assert np.nanmean(held, axis=0).min() >= 0.93


def test_requests_that_hang_together_tell_less():
    """The interval as of independent requests would be far too narrow."""
    dice = np.random.default_rng(1)
    widths = {share: [np.ptp(of_percentile(waves(dice, 320, 16, share), 0.5)) for _ in range(20)] for share in (0, 0.8)}
    assert np.nanmean(widths[0.8]) > 2 * np.nanmean(widths[0])


@pytest.mark.parametrize(("percentile", "count"), [(0.9, 28), (0.95, 58), (0.99, 298)])
def test_too_few_requests_have_no_interval(percentile, count):
    values = np.random.default_rng(0).normal(size=count)
    assert np.isnan(of_percentile(values, percentile)).all()


def test_few_independent_ones_among_many_have_none_either():
    assert np.isnan(of_percentile(waves(np.random.default_rng(0), 300, 16, 0.9), 0.99)).all()


def test_every_column_of_a_batch(tmp_path):
    dice = np.random.default_rng(3)
    batches = batches_of(tmp_path, np.exp(0.2 * dice.normal(size=600)), level=2)
    found = intervals(batches)
    assert found.index.equals(batches.index)
    assert found["interval_over"].tolist() == ["requests"]
    row = pd.concat([found.iloc[0], batches.iloc[0]])
    for column in (*(name for name in LATENCY_COLUMNS if name.startswith(("ttft", "e2e"))), *THROUGHPUTS):
        assert row[f"{column}_low"] < row[column] < row[f"{column}_high"], column
    assert row["tpot_p50_low"] == row["tpot_p50"] == row["tpot_p50_high"]  # all the same: no chance in it
    assert (row["error_rate_low"], row["error_rate_high"]) == pytest.approx((0, 0.00636), abs=1e-5)


def test_without_requests_there_are_none(tmp_path):
    result_files.write(tmp_path / result_files.name(1), result_files.result() | {"individual_request_metrics": None})
    batches = pd.concat([tuner.load_batches(tmp_path), tuner.load_batches(tmp_path).assign(source=None)])
    found = intervals(batches)
    assert found.drop(columns="interval_over").isna().all().all()
    assert found["interval_over"].tolist() == ["", ""]
    assert intervals(batches.iloc[:0]).empty


def runs_of(folder, levels_of_runs):
    trial = result_files.run(folder, [1])
    for repeat, ttft in enumerate(levels_of_runs, start=1):
        result_files.add_level(
            trial, 1, result_files.result([result_files.request(ttft + 0.001 * n) for n in range(60)]), repeat=repeat
        )
    return tuner.load_batches(folder)


def test_several_runs_tell_more_than_their_requests(tmp_path):
    """Three runs, each steady in itself, that differ: their spread is the truth, by Student's t."""
    batches = runs_of(tmp_path / "three", [0.1, 0.2, 0.3])
    found = intervals(batches)
    assert found["interval_over"].tolist() == ["runs"] * 3
    reach = 4.302653 * batches["ttft_mean"].std() / math.sqrt(3)  # t of 2 degrees of freedom at 95 %
    assert found["ttft_mean_high"].tolist() == pytest.approx([batches["ttft_mean"].mean() + reach] * 3)
    assert found["ttft_mean_low"].tolist() == [0.0] * 3  # no latency is below
    assert intervals(runs_of(tmp_path / "two", [0.1, 0.2]))["interval_over"].tolist() == ["requests"] * 2


def test_a_run_that_was_measured_again_does_not_count(tmp_path):
    batches = runs_of(tmp_path / "three", [0.1, 0.2, 0.3]).assign(superseded=[True, False, False])
    assert intervals(batches)["interval_over"].tolist() == ["requests"] * 3


def test_a_verdict_that_its_interval_leaves_open_is_weak(tmp_path):
    batches = batches_of(tmp_path, 0.5 + 0.1 * np.random.default_rng(2).normal(size=300))
    bounds = intervals(batches).iloc[0]
    slo = {"ttft": {"p90": {"threshold": float(bounds["ttft_p90_high"]) * 0.999}}}
    [row] = tuner.judge(batches, slo).to_dict("records")
    assert (row["verdict"], row["evidence"]) == ("pass", "weak")
    told = f"between {bounds['ttft_p90_low']:.3g} and {bounds['ttft_p90_high']:.3g} s at 95 %"
    assert told in row["evidence_reason"]
    assert "both sides of the threshold" in row["evidence_reason"]
    for factor, verdict in ((1.001, "pass"), (0.5, "fail")):
        limit = {"ttft": {"p90": {"threshold": float(bounds["ttft_p90_high"]) * factor}}}
        [row] = tuner.judge(batches, limit).to_dict("records")
        assert (row["verdict"], row["evidence"]) == (verdict, "strong")


def test_the_hard_limit_may_be_in_doubt_too(tmp_path):
    batches = batches_of(tmp_path, 0.5 + 0.1 * np.random.default_rng(2).normal(size=300))
    hard = float(batches["output_throughput"].iloc[0])
    slo = {"min_throughput": {"threshold": hard * 2, "fail_ratio": 0.499}}
    [row] = tuner.judge(batches, slo).to_dict("records")
    assert "both sides of the hard limit" in row["evidence_reason"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=80), st.sampled_from([0.5, 0.9]))
def test_any_values_have_a_sound_interval_or_none(values, share):
    values = np.array(values)
    low, high = of_percentile(values, share)
    assert math.isnan(low) == math.isnan(high)
    assert math.isnan(low) or values.min() <= low <= np.quantile(values, share, method="inverted_cdf") <= high


@given(st.integers(0, 50), st.integers(0, 50))
def test_wilson(found, others):
    low, high = wilson(found, found + others)
    if not found + others:
        assert math.isnan(low)
    else:
        assert 0 <= low <= found / (found + others) + 1e-12 and found / (found + others) - 1e-12 <= high <= 1


def test_all_columns_that_have_an_interval_are_columns():
    assert {*BOUNDED} == {*LATENCY_COLUMNS, "output_throughput", "request_throughput", "error_rate"}


def test_a_throughput_covers_what_the_ends_of_its_level_take(tmp_path):
    """20 requests, 4 at a time, of which the last run alone: steadily there were 4 · 101 tokens a mean latency."""
    batches = batches_of(tmp_path, 1 + 0.2 * np.random.default_rng(0).random(20))
    (reading,) = readings_of(batches)
    steady = reading.batch.output_throughput
    reading.batch.output_throughput = 0.9 * steady
    low, high = of_requests(reading, "output_throughput")
    assert low < 0.9 * steady < steady < high
    reading.batch.output_throughput = 0.5 * steady  # more than the ends can take: fewer were in flight all along
    assert of_requests(reading, "output_throughput")[1] < 0.7 * steady


@pytest.mark.parametrize("column", THROUGHPUTS)
def test_waves_of_equal_requests_have_no_interval_of_width_zero(column, tmp_path):
    (reading,) = readings_of(batches_of(tmp_path, np.ones(300), level=16))
    low, high = of_requests(reading, column)
    assert low < getattr(reading.batch, column) < high


def remembering(dice, memory, share):
    """300 values with mean 10, of whose variance a share is remembered over so many of them."""
    keeps = math.exp(-1 / memory) if memory else 0.0
    steps, remembered, last = dice.normal(size=300) * math.sqrt(1 - keeps**2), np.empty(300), dice.normal()
    for place, step in enumerate(steps):
        remembered[place] = last = keeps * last + step
    return 10 + math.sqrt(share) * remembered + math.sqrt(1 - share) * dice.normal(size=300)


@pytest.mark.parametrize(("memory", "least_known"), [(0, 1.0), (8, 0.97), (32, 0.85), (64, 0.7)])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_what_is_said_of_a_mean_holds_however_long_its_level_remembers(memory, least_known, share, tmp_path):
    """Nine in ten intervals at least hold the truth, and where a level is too short for that it has none."""
    dice, truth = np.random.default_rng(3), []
    (reading,) = readings_of(batches_of(tmp_path, np.ones(300), level=8))
    for _ in range(100):
        drawn = replace(reading, latencies=dict.fromkeys(LATENCIES, remembering(dice, memory, share)))
        truth.append([of_requests(drawn, "ttft_mean"), of_requests(drawn, "ttft_p90")])
    for column, expected in enumerate((10, 11.2815516)):
        held = [low <= expected <= high for low, high in (pair[column] for pair in truth) if low < high]
        assert len(held) >= least_known * 100 or column
        assert np.mean(held) >= (0.9 if len(held) > 60 else 0.8)


def test_independent_values_have_hardly_wider_intervals_than_student_s():
    dice = np.random.default_rng(5)
    reaches = [reach_and_worth(values, 0.95)[0] / values.std(ddof=1) for values in dice.normal(size=(50, 300))]
    assert np.median(reaches) < 1.4 * 1.968 / math.sqrt(300)


def test_a_level_too_short_for_what_it_remembers_says_so(tmp_path):
    """TTFT wanders through the level: no interval, weak evidence, and the answer says why."""
    wandering = 1 + 0.3 * np.sin(np.linspace(0, 3, 300)) + 0.001 * np.random.default_rng(0).normal(size=300)
    batches = batches_of(tmp_path, wandering)
    judged = tuner.judge(batches.assign(**intervals(batches)), {"ttft": {"threshold": 5}})
    assert judged["evidence"].tolist() == ["weak"]
    assert "how far TTFT mean may be off is not known: the level is too short" in judged["evidence_reason"].iloc[0]
    [row] = intervals(judged).to_dict("records")
    assert math.isnan(row["ttft_mean_low"]) and row["interval_over"] == "requests"
    said = answer(judged, tuner.summarize(judged), SLO.parse({"ttft": {"threshold": 5}}))
    assert any("interval not known: the level is too short" in line for line in said)
