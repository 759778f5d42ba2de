"""Runs of request rates as everything shows them: compared, beside a closed loop, as a search's trials, by name."""

from datetime import UTC, datetime

import numpy as np
import pytest
from support import result_files

import tuner
from tuner.core import request_log
from tuner.core.level import Rate, columns_of
from tuner.core.records import Sidecar, TrialFacts
from tuner.core.request_log import LevelRecord, SentRequest
from tuner.core.run_directory import Experiment
from tuner.report.compared import read_comparison
from tuner.report.results import read_results
from tuner.report.write import write_report
from tuner.search.early import cannot_win
from tuner.search.spec import TuneSpec
from tuner.sweep.spec import make_spec

SLO = {"ttft": {"p90": {"threshold": 0.5}}}


def rates_run(folder, rates=(1.0, 2.5), slower=1.0, repeats=3):
    """A run of rates, whose TTFT grows with the rate: 0.1 s for each request a second, times `slower`."""
    made = Experiment.at(folder)
    made.describe(name="made", kind="sweep", spec={"slo": SLO, "rates": list(rates)})
    trial = made.trial(1)
    facts = {"engine": "vllm", "model": "m", "scenarios": ["D(9,9)"], "repeats": repeats, "parameters": {}}
    TrialFacts(trial=1, levels=list(rates), iteration_type="request_rate", **facts).write(trial.folder)
    for rate in rates:
        for repeat in range(1, repeats + 1):
            level = trial.batch_folder("D(9,9)", Rate(rate), repeat)
            level.mkdir(parents=True)
            Sidecar.of("D(9,9)", Rate(rate), repeat, outcome="completed").write(level)
            request_log.write(level / request_log.REQUESTS_FILE, *content(rate, repeat, slower, folder.name))
    return folder


def content(rate, repeat, slower, name):
    draw = np.random.default_rng([repeat, int(10 * rate), sum(name.encode())])
    times = {"start": 0.0, "begin": 0.0, "end": 320 / rate, "monotonic": 0.0, "utc": datetime.now(UTC)}
    record = LevelRecord(scenario="D(9,9)", rate=rate, cv=1.0, max_in_flight=256, window="steady", **times)
    requests = []
    for number, ttft in enumerate((0.1 * rate * slower * draw.lognormal(0, 0.05, 320)).tolist(), 1):
        at = number / rate - 0.5 / rate
        times = {"scheduled": at, "sent": at, "first_token": at + ttft, "last_token": at + ttft + 0.5}
        requests.append(SentRequest(number=number, **times, end=at + ttft + 0.5, prompt_tokens=9, output_tokens=9))
    return record, requests


def closed_run(folder):
    trial = result_files.run(folder, [1, 4], scenarios=["D(9,9)"])
    for level in (1, 4):
        requests = [result_files.request(ttft=0.1 * level + n / 1e4) for n in range(60)]
        result_files.add_level(trial, level, result_files.result(requests, level=level), scenario="D(9,9)")
    return folder


def test_two_runs_of_rates_are_compared_rate_by_rate(tmp_path):
    sides = [rates_run(tmp_path / "before"), rates_run(tmp_path / "after", slower=1.3)]
    compared = read_comparison(sides[:1], sides[1:], tolerance=0.05)
    rows = compared.comparison.differences
    known = rows[rows["metric"] == "ttft_p50"]
    assert known["request_rate"].tolist() == [1.0, 2.5] and known["concurrency"].isna().all()
    assert set(known["verdict"]) == {"worse"}
    assert any("TTFT p50 at rate 2.5/s" in line for line in compared.answer)
    assert {"1/s", "2.5/s", "maximum"} <= {*compared.tables[next(iter(compared.tables))]["level"]}
    lost = read_comparison(sides[:1], [rates_run(tmp_path / "less", rates=(1.0,))], tolerance=0.05)
    assert lost.comparison.unmatched["request_rate"].tolist() == [2.5]


def test_a_rate_run_three_times_is_one_level_with_an_interval_over_its_runs(tmp_path):
    judged = read_results(rates_run(tmp_path / "run")).judged
    assert set(judged["interval_over"]) == {"runs"}
    summary = tuner.summarize(judged)
    assert (summary.best_level, summary.bracket) == (2.5, "open") and "at rate 2.5/s" in summary.text


def test_in_one_report_rates_and_levels_stand_in_figures_of_their_own(tmp_path):
    rates_run(tmp_path / "runs" / "open")
    closed_run(tmp_path / "runs" / "closed")
    results = read_results(tmp_path / "runs", slo=tuner.SLO.parse(SLO))
    titles = [figure.layout.xaxis.title.text for figure in results.figures]
    assert titles.count("request rate (requests/s)") == titles.count("concurrency (requests in flight)") > 2
    for figure in results.figures:
        texts = " ".join(str(trace.text) for trace in figure.data)
        assert not ("2.5/s" in texts and "<b>4</b>" in texts)
    assert {"level", "rate (1/s)"} <= {*results.table}
    again = read_results(write_report(tmp_path / "runs", tmp_path / "r.html", tuner.SLO.parse(SLO)))
    assert again.judged["request_rate"].dropna().unique().tolist() == [1.0, 2.5]
    assert len(again.figures) == len(results.figures)


def test_a_search_over_rates_ends_what_cannot_win_early(tmp_path):
    spec = make_spec({"rates": [1, 2.5], "slo": SLO, "gpus": 0}, TuneSpec)
    best = tuner.judge(tuner.load_batches(rates_run(tmp_path / "best")), SLO)
    worse = tuner.judge(tuner.load_batches(rates_run(tmp_path / "worse", slower=9.0)), SLO)
    assert "no higher one will" in cannot_win(worse, best, spec) and not cannot_win(best, best, spec)
    assert [str(level) for level in spec.fixed_levels] == ["1/s", "2.5/s"]


@pytest.mark.parametrize(("level", "columns"), [(4, (4, None)), (Rate(2.5), (None, 2.5))])
def test_a_level_stands_in_one_of_two_columns(level, columns):
    found = columns_of(level)
    assert (found.get("concurrency"), found.get("request_rate")) == columns
