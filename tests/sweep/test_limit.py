"""The search for the limit, on simulated noisy servers; the excess of a judged batch; when a sweep is saturated."""

import math
import random
import statistics

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.simulated_levels import CURVES, excess_of, find

import tuner
from tuner.judging.slo import SLO
from tuner.sweep.limit import LimitSearch, excess, is_saturated

RUNS = range(20)


def some_limit(curve, run):
    """A limit of 1 to 256, small ones as often as large ones."""
    return round(2 ** random.Random(f"{curve} {run}").uniform(0, 8))


def searched(curve, limit, run=0, noise=0.03, **options):
    search = LimitSearch(**options)
    return search, find(search, curve, limit, noise, run)


@pytest.mark.parametrize("curve", CURVES)
def test_twenty_of_twenty_runs_find_the_limit_within_10_percent(curve):
    """Or within one level, which is more than that below 10."""
    for run in RUNS:
        limit = some_limit(curve, run)
        search, batches = searched(curve, limit, run)
        assert abs(search.passing - limit) <= max(0.1 * limit, 1), search.excesses
        assert batches == search.batches <= 12


def test_at_most_9_batches_in_the_median():
    batches = [searched(curve, limit)[1] for curve in CURVES for limit in range(1, 257, 5)]
    assert statistics.median(batches) <= 9


@pytest.mark.parametrize("limit", [*range(1, 33), 50, 64, 100, 128, 200, 255, 256, 500, 1000, 1023])
@pytest.mark.parametrize("curve", CURVES)
def test_without_noise_the_bracket_closes_around_the_limit(curve, limit):
    search, _ = searched(curve, limit, noise=0.0)
    assert search.passing <= limit < search.failing
    assert search.failing - search.passing == 1 or search.failing <= 1.1 * search.passing


#: (excess of every level that passes, of every one that fails): interpolation is wrong each time
CLIFFS = [(-5.0, 0.07), (-0.07, 6.0), (-5.0, 6.0), (-0.5, math.inf)]


@pytest.mark.parametrize(("low", "high"), CLIFFS)
@pytest.mark.parametrize("limit", [1, 7, 20, 63, 64, 65, 100, 255, 256, 511, 800])
def test_where_interpolation_misleads_bisection_still_ends_in_time(low, high, limit):
    search = LimitSearch()
    while (level := search.next_level()) is not None:
        search.tell(level, low if level <= limit else high)
    assert search.passing <= limit < search.failing
    assert search.failing - search.passing == 1 or search.failing <= 1.1 * search.passing


EXCESSES = st.none() | st.just(math.inf) | st.floats(-6, 6) | st.floats(-0.05, 0.05)


@settings(max_examples=300, deadline=None)
@given(st.lists(EXCESSES, min_size=12, max_size=12), st.integers(1, 2000), st.integers(1, 4))
def test_whatever_it_is_told_it_ends_and_asks_only_what_may_still_decide(told, highest, repeats):
    search = LimitSearch(highest=highest, repeats=repeats)
    for value in told:
        level = search.next_level()
        if level is None:
            break
        assert search.next_level() == level
        assert 1 <= level <= highest
        assert level >= (search.passing or 1) and (search.failing is None or level <= search.failing)
        assert len(search.excesses.get(level, [])) < max(repeats, 2)
        search.tell(level, value)
    assert search.next_level() is None


@pytest.mark.parametrize(
    ("told", "levels", "bracket"),
    [
        ({1: math.inf}, [1], (None, 1)),
        ({1: 2.0}, [1], (None, 1)),
        ({1: None}, [1, 1], (None, 1)),
        ({1: -2.0, 8: -2.0, 64: -2.0, 100: -1.0}, [1, 8, 64, 100], (100, None)),
        ({1: -0.2, 2: 1.0}, [1, 2], (1, 2)),
    ],
)
def test_how_it_ends(told, levels, bracket):
    search, asked = LimitSearch(highest=100), []
    while (level := search.next_level()) is not None:
        asked.append(level)
        search.tell(level, told[level])
    assert (asked, (search.passing, search.failing)) == (levels, bracket)


def test_levels_measured_earlier_count():
    """A fixed sweep of 1 to 512 in powers of two leaves only the bracket to narrow down."""
    search, dice = LimitSearch(), random.Random(0)
    earlier = [2**power for power in range(10)]
    for level in reversed(earlier):
        search.tell(level, excess_of("queueing: five times", 100, level, 0.0, dice))
    assert (search.passing, search.failing) == (64, 128)
    assert find(search, "queueing: five times", 100, noise=0.0) <= 4
    assert search.passing == pytest.approx(100, rel=0.1)


@pytest.mark.parametrize("curve", CURVES)
def test_a_search_that_was_cut_off_goes_on_as_if_it_had_not_been(curve):
    whole, _ = searched(curve, 77)
    again, order = LimitSearch(), []
    told = {level: iter(values) for level, values in whole.excesses.items()}
    while (level := again.next_level()) is not None:
        order.append((level, next(told[level])))
        resumed = LimitSearch()
        for earlier in order:
            resumed.tell(*earlier)
        again.tell(*order[-1])
        assert (resumed.next_level(), resumed.batches) == (again.next_level(), again.batches)
    assert again.excesses == whole.excesses


def test_a_level_at_the_edge_is_repeated_and_counts_by_all_its_runs():
    search = LimitSearch()
    for level, value in ((1, -1.0), (8, -0.5), (64, 1.0), (20, 0.01)):
        search.tell(level, value)
    assert (search.failing, search.next_level()) == (20, 20)
    search.tell(20, -0.045)
    assert (search.passing, search.failing) == (20, 64)


def test_what_broke_the_server_is_not_repeated_and_what_nobody_can_judge_is_once():
    for value, again in ((math.inf, False), (None, True)):
        search = LimitSearch()
        search.tell(1, -1.0)
        search.tell(8, value)
        assert (search.next_level() == 8) == again
        search.tell(8, -0.5 if value is None else value)  # a level that broke the server once stays too much
        assert (search.passing == 8) == again


GOOD = {"outcome": "completed", "completed": 1000, "error_rate": 0.0, "output_throughput": 100.0}
LIMITS = {"ttft": {"p90": {"threshold": 0.5}}, "tpot": {"threshold": 0.1, "fail_ratio": 0.2}}
#: values of a batch → its excess
CASES = [
    ({"ttft_p90": 0.5}, 0.0),
    ({"ttft_p90": 0.25}, -math.log(2)),
    ({"ttft_p90": 1.0}, math.log(2)),
    ({"tpot_mean": 0.11}, math.log(0.11 / 0.12)),  # soft
    ({"tpot_mean": 0.24}, math.log(2)),
    ({"error_rate": 0.2}, math.log(2)),  # the implied limit of a p90 is 0.1
    ({"error_rate": math.nan}, -math.log(50)),
    ({"output_throughput": 1.0}, -math.log(50)),  # below min_throughput, which more load helps
    ({"ttft_p90": math.nan}, None),
    ({"completed": 3}, None),
    ({"outcome": "client_failed"}, None),
    ({"outcome": "out_of_memory"}, math.inf),
    ({"outcome": "timeout"}, math.inf),
]


@pytest.mark.parametrize(("values", "expected"), CASES)
def test_the_excess_of_a_batch(values, expected):
    slo = SLO.parse(LIMITS | {"min_throughput": {"threshold": 50}, "confidence": 0.95})
    frame = pd.DataFrame([GOOD | {"ttft_p90": 0.01, "tpot_mean": 0.002} | values])
    [row] = tuner.judge(frame, slo).to_dict("records")
    assert excess(row, slo) == (None if expected is None else pytest.approx(expected, abs=1e-8))


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 2), st.floats(0, 0.3), st.floats(0, 0.2))
def test_the_excess_passes_where_the_verdict_does(ttft, tpot, errors):
    slo = SLO.parse(LIMITS)
    frame = pd.DataFrame([GOOD | {"ttft_p90": ttft, "tpot_mean": tpot, "error_rate": errors}])
    [row] = tuner.judge(frame, slo).to_dict("records")
    assert (excess(row, slo) <= 0) == (row["verdict"] in ("pass", "soft"))


#: (level, throughput, verdict or outcome) … → whether the rest can be skipped
SWEEPS = [
    ([(1, 10, "pass"), (2, 20, "fail"), (4, 20, "fail")], True),
    ([(1, 10, "pass"), (2, 20, "pass"), (4, 20, "fail"), (8, 20.1, "fail")], True),
    ([(1, 10, "pass"), (2, 20, "pass"), (4, 20, "fail"), (8, 25, "fail")], False),  # still growing
    ([(1, 10, "pass"), (2, 20, "fail"), (4, 20, "pass"), (8, 20, "fail")], False),  # not twice in a row
    ([(1, 10, "pass"), (2, 20, "pass"), (4, None, "out_of_memory"), (8, None, "server_died")], True),
    ([(1, 10, "pass"), (2, 20, "pass"), (4, None, "client_failed"), (8, 19, "fail")], False),
    (
        [(1, 10, "pass"), (2, 20, "pass"), (4, 20, "fail"), (8, 20, "fail"), (8, 20, "pass")],
        True,
    ),  # not all of its runs pass
    ([(1, 10, "fail"), (2, 10, "fail")], True),
    ([(1, 10, "fail")], False),
]


@pytest.mark.parametrize(("rows", "expected"), SWEEPS)
def test_a_sweep_is_saturated(rows, expected):
    frame = pd.DataFrame(rows, columns=["concurrency", "output_throughput", "verdict"])
    done = frame["verdict"].isin(["pass", "fail"])
    frame = frame.assign(
        outcome=frame["verdict"].mask(done, "completed"), verdict=frame["verdict"].where(done, "unknown")
    )
    assert is_saturated(frame) is expected
    assert is_saturated(frame.iloc[::-1]) is expected
