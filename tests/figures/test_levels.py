"""What the figures of levels draw."""

import pytest
from support import result_files

import tuner
from tuner import figures


@pytest.mark.parametrize(("statistic", "drawn"), [("p90", {"p90"}), ("mean", {"mean"}), (None, {"p50", "p99"})])
def test_of_several_curves_the_statistic_is_drawn_that_the_slo_limits(statistic, drawn, tmp_path):
    for number, scenario in enumerate(("D(1,1)", "D(2,2)")):
        trial = result_files.run(tmp_path / str(number), [1, 2], scenarios=[scenario])
        for level in (1, 2):
            requests = [result_files.request(ttft=0.1 * level + n * 1e-4) for n in range(60)]
            result_files.add_level(trial, level, result_files.result(requests, level=level), scenario=scenario)
    slo = {"ttft": {statistic: {"threshold": 0.15}} if statistic not in ("mean", None) else {"threshold": 0.15}}
    judged = tuner.judge(tuner.load_batches(tmp_path / "0", tmp_path / "1"), slo if statistic else {})
    figure = figures.latency_vs_concurrency(judged, metric="ttft")
    assert {trace.name.split()[0] for trace in figure.data if trace.visible is True} == drawn


@pytest.mark.parametrize(("slo", "said"), [({}, "measured; no SLO was given"), (None, "meets the SLO")])
def test_without_an_slo_no_mark_says_that_it_meets_one(slo, said, tmp_path):
    trial = result_files.run(tmp_path / "run", [1])
    result_files.add_level(trial, 1, result_files.result(level=1))
    judged = tuner.judge(tuner.load_batches(tmp_path / "run"), {"ttft": {"threshold": 9}} if slo is None else slo)
    (marks,) = [trace for trace in figures.throughput_vs_latency(judged).data if trace.mode == "markers" and trace.x]
    assert marks.name == said and said in marks.hovertext[0]


def test_no_hover_label_is_a_bare_pair_of_numbers(tmp_path):
    trial = result_files.run(tmp_path / "run", [1, 2])
    for level in (1, 2):
        result_files.add_level(trial, level, result_files.result(level=level))
    judged = tuner.judge(tuner.load_batches(tmp_path / "run"), {})
    spreads = [(0.1, 0.2, 0.3, 0.4, 0.5, 0.6)] * 2
    drawn = [
        figures.throughput_vs_latency(judged),
        figures.trade_off(judged),
        figures.latency_vs_concurrency(judged, metric="ttft"),
        figures.distribution(judged, spreads),
    ]
    traces = [trace for figure in drawn for trace in figure.data if trace.type == "scatter"]
    assert all(trace.hoverinfo in {"skip", "text"} or trace.hovertemplate for trace in traces)
