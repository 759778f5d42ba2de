"""Sweeps over request rates: below the server's capacity the SLO holds, above it does not, and auto ends between."""

import shutil
import sys

import pytest
from support import FAULTY_SERVER
from support.simulated_levels import CURVES, find

from tuner.core.level import Rate
from tuner.core.run_directory import Experiment
from tuner.engines.gguf import tokenizer_folder
from tuner.errors import SpecError
from tuner.report.results import read_results
from tuner.report.write import write_report
from tuner.sweep.fields import command_line, read_levels
from tuner.sweep.limit import LimitSearch
from tuner.sweep.progress import read_sweep
from tuner.sweep.spec import make_spec, unlike_default
from tuner.sweep.sweep import limit_search, run_sweep

#: one prompt at a time, 0.1 s each: ten requests a second
PREFILLS = ("prefill=0.1", "ttft=0", "itl=0.001")
SLO = {"ttft": {"p90": {"threshold": 0.6}}}


@pytest.fixture
def swept(tiny_gguf, tmp_path):
    """Sweep a faulty server of our own; returns the results. `knobs` are the server's, the rest the spec's."""

    def sweep(*knobs, folder=tmp_path / "run", **asked):
        spec = make_spec(
            {
                "engine": "command",
                "command": [sys.executable, str(FAULTY_SERVER), "--port", "{port}", *knobs],
                "model": "faulty",
                "tokenizer": str(tokenizer_folder(tiny_gguf)),
                "scenarios": ["D(20,4)"],
                "max_seconds": 3,
                "warmup_requests": 0,
                "slo": SLO,
                **asked,
            }
        )
        run_sweep(spec, Experiment.at(folder))
        return read_results(folder)

    return sweep


@pytest.mark.real
def test_below_the_capacity_the_slo_holds_and_above_it_does_not(swept, tmp_path):
    results = swept(*PREFILLS, rates=[5, 20], max_seconds=4)
    judged = results.judged
    assert judged["request_rate"].tolist() == [5.0, 20.0] and judged["concurrency"].isna().all()
    assert judged["verdict"].tolist() == ["pass", "fail"]
    assert results.summary.best_level == 5.0 and results.summary.bracket == "bracketed"
    assert "at rate 5/s" in results.answer[0] and "between rate 5/s and 20/s" in results.answer[1]
    assert results.table["rate (1/s)"].tolist() == [5.0, 20.0] and "level" not in results.table
    again = read_results(write_report(tmp_path / "run", tmp_path / "r.html"))
    assert again.judged["request_rate"].tolist() == [5.0, 20.0] and again.answer == results.answer
    assert [state.level for state in read_sweep(Experiment(tmp_path / "run")).ended] == [5.0, 20.0]


@pytest.mark.real
def test_rates_auto_ends_on_both_sides_of_the_capacity(swept):
    results = swept("prefill=0.05", "ttft=0", "itl=0.001", rates="auto", max_seconds=1.5, highest=64)
    rates = results.judged["request_rate"]
    assert rates.min() < 20 < rates.max()  # the capacity
    assert 5 < results.summary.best_level < 30 and results.summary.bracket != "none"


@pytest.mark.real
def test_a_sweep_of_rates_that_is_resumed_measures_only_what_is_missing(swept, tmp_path):
    swept(rates=[4, 8.5], max_seconds=0.5)
    first, second = (next((tmp_path / "run").rglob(f"rate-{rate}/batch.json")) for rate in ("4", "8.5"))
    before = first.stat().st_mtime_ns
    shutil.rmtree(second.parent)
    judged = swept(rates=[4, 8.5], max_seconds=0.5).judged
    assert judged["outcome"].tolist() == ["completed"] * 2 and first.stat().st_mtime_ns == before
    with pytest.raises(SpecError, match="rates"):
        swept(rates=[4, 9], max_seconds=0.5)


def test_levels_and_rates_are_read_together():
    found = read_levels("1, 8 2.5/s,8/s")
    assert [*map(str, found)] == ["1", "8", "2.5/s", "8/s"] and [*map(type, found)] == [int, int, Rate, Rate]
    assert read_levels("3/s") == [Rate(3)]
    for wrong in ("0/s", "x/s", "0", "2.5", "1,/s", " "):
        with pytest.raises(SpecError, match=r"rate|level"):
            read_levels(wrong)


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("limit", [12, 41, 180])
def test_the_limit_is_found_among_rates_as_among_levels(curve, limit):
    search = LimitSearch(highest=256, least=0.5, step=0)
    find(search, curve, limit, 0.0)
    assert search.passing < limit + 1 and search.failing > limit
    assert search.failing <= 1.11 * search.passing


def test_below_the_first_rate_the_search_goes_down_to_where_a_window_has_too_few_requests():
    search = limit_search(make_spec({"rates": "auto", "slo": SLO, "max_seconds": 100}))
    tried = []
    while (rate := search.next_level()) is not None:
        tried.append(rate)
        search.tell(rate, 1.0)
    assert tried == [1.0, 0.25, 0.1]


def test_what_is_asked_is_the_same_as_flags_and_as_yaml():
    asked = {"rates": "1, 2.50 4", "arrivals": "gamma: {cv: 2}", "max_in_flight": "32"}
    spec = make_spec(asked)
    assert [str(level) for level in spec.fixed_levels] == ["1/s", "2.5/s", "4/s"] and spec.levels is None
    plain = unlike_default(spec)
    assert plain == {"rates": [1.0, 2.5, 4.0], "arrivals": {"gamma": {"cv": 2.0}}, "max_in_flight": 32}
    assert make_spec(plain) == spec and make_spec(spec.model_dump(mode="json", exclude_none=True)) == spec
    assert "--rates" in command_line("sweep", plain) and "--levels" not in command_line("sweep", plain)
    assert spec.arrivals_at(2.5, "x").cv == 2.0 and make_spec({"rates": 2}).arrivals_at(2, "x").cv == 1.0
