"""Many runs in a figure: the trend over weeks, and curves too many to be told apart."""

import json

import pandas as pd
import pytest
from support import result_files
from support.chromium import needs_chromium, opened_report

import tuner
from tuner import figures
from tuner.core.files import read_json, write_json
from tuner.judging.table import table
from tuner.report.results import read_results
from tuner.report.write import write_report

LIMIT = tuner.SLO.parse({"ttft": {"p90": {"threshold": 0.25}}})


def night(folder, day, ttft=0.1, *, vllm="0.30.0", parameters=None, outcome="completed", scenario="D(100,100)"):
    """A run of two levels at 04:00 UTC of a day of November."""
    trial = result_files.run(folder, [1, 2], scenarios=[scenario])
    for level in (1, 2):
        times = {"started_at": f"2026-11-{day:02}T04:0{level}:00Z", "finished_at": f"2026-11-{day:02}T04:0{level}:30Z"}
        content = (
            result_files.result([result_files.request(ttft=ttft * level)] * 60, level=level)
            if outcome == "completed"
            else None
        )
        if content:
            result_files.add_level(trial, level, content, scenario=scenario, **times)
    failure = None if outcome == "completed" else {"kind": outcome, "detail": "<b>no memory"}
    server = {"engine": "vllm", "model": "m", "parameters": parameters or {}, "gpus": ["GPU-1"], "failure": failure}
    write_json(trial.folder / "server.json", server)
    facts = {"versions": {"python": f"3.12.{day}", "tuner": "0.1.0", "vllm": vllm}, "state": "done"}
    file = folder / "experiment.json"
    write_json(file, read_json(file) | facts | {"started_at": f"2026-11-{day:02}T04:00:00Z"})
    return folder


@pytest.fixture
def weeks(tmp_path):
    """Five nights: the fourth without a server, before the third and the fifth something had changed."""
    runs = tmp_path / "runs"
    night(runs / "a", 1)
    night(runs / "b", 2, 0.12)
    night(runs / "c", 3, 0.2, vllm="0.31.0")
    night(runs / "d", 4, vllm="0.31.0", outcome="out_of_memory")
    night(runs / "e", 5, vllm="0.31.0", parameters={"max_num_seqs": 8})
    return runs


def traces(figure, **what):
    return [trace for trace in figure.data if all(trace[name] == value for name, value in what.items())]


def test_one_point_a_run_and_the_latency_of_the_same_batch(weeks):
    results = read_results(weeks, slo=LIMIT)
    figure = figures.trend(results.judged, results.runs, metric="ttft", statistic="p90")
    [most], [latency] = (traces(figure, name="best compliant batch", yaxis=axis) for axis in ("y", "y2"))
    assert [at[:16] for at in most.x] == [f"2026-11-0{day} 04:0{0 if day == 4 else 1}" for day in range(1, 6)]
    best = [tuner.summarize(results.judged[results.judged["experiment"] == name]).best for name in "abce"]
    assert [value for value in most.y if value is not None] == [row["output_throughput"] for row in best]
    assert [value for value in latency.y if value is not None] == [row["ttft_p90"] for row in best]
    assert most.y[3] is None and latency.y[3] is None


def test_a_run_that_failed_is_seen_with_its_reason_as_text(weeks):
    results = read_results(weeks, slo=LIMIT)
    [failed] = traces(figures.trend(results.judged, results.runs), name="no compliant batch")
    assert [at[:10] for at in failed.x] == ["2026-11-04"] and list(failed.y) == [0]
    assert "out of memory" in failed.hovertext[0] and "&lt;b&gt;no memory" in failed.hovertext[0]


def test_marks_stand_between_the_runs_that_differ_and_name_what_changed(weeks):
    results = read_results(weeks, slo=LIMIT)
    figure = figures.trend(results.judged, results.runs)
    [changed] = traces(figure, name="changed")
    assert [at[:10] for at in changed.x] == ["2026-11-02", "2026-11-04"]  # halfway
    assert [text.removeprefix("<b>changed</b><br>") for text in changed.hovertext] == [
        "vllm 0.30.0 → 0.31.0",
        "max_num_seqs – → 8",
    ]
    assert [note.text for note in figure.layout.annotations] == ["vllm 0.30.0 → 0.31.0", "max_num_seqs – → 8"]
    assert [shape.x0 for shape in figure.layout.shapes] == list(changed.x)


def test_without_facts_a_change_of_the_model_is_still_seen(weeks):
    judged = tuner.judge(tuner.load_batches(weeks), LIMIT)
    judged.loc[judged["experiment"] == "c", "model"] = "other"
    [changed] = traces(figures.trend(judged), name="changed")
    assert [text.split("<br>")[1] for text in changed.hovertext] == ["model m → other", "model other → m"]


def test_scenarios_are_never_mixed_in_one_line(tmp_path):
    for day, scenario in enumerate(("D(100,100)", "D(100,32)") * 2, start=1):
        night(tmp_path / "runs" / str(day), day, scenario=scenario)
    figure = figures.trend(tuner.judge(tuner.load_batches(tmp_path / "runs"), LIMIT))
    lines = traces(figure, yaxis="y")
    assert {line.name: len(line.x) for line in lines} == {"D(100,100)": 2, "D(100,32)": 2}
    assert len({(line.line.dash, line.marker.symbol[0]) for line in lines}) == 2  # in black and white too


@pytest.mark.parametrize("rows", [0, 1])
def test_few_batches_are_no_reason_to_fail(rows, weeks):
    judged = tuner.judge(tuner.load_batches(weeks), LIMIT)[:rows]
    assert figures.trend(judged).to_json()


def test_the_report_has_it_from_three_times_on_and_carries_what_it_needs(weeks, tmp_path):
    assert not read_results(weeks / "a", weeks / "b").has_trend
    results = read_results(weeks, slo=LIMIT)
    again = read_results(write_report(weeks, tmp_path / "r.html", LIMIT))
    for found in (results, again):
        titles = [figure.layout.title.text for figure in found.figures]
        assert titles[1].startswith("Trend")
    assert again.figures[1].to_json() == results.figures[1].to_json()


def test_the_slo_that_all_of_several_runs_were_asked_to_meet_judges_them(weeks):
    for folder in sorted(weeks.iterdir()):
        write_json(
            folder / "experiment.json", read_json(folder / "experiment.json") | {"spec": {"slo": LIMIT.to_dict()}}
        )
    assert read_results(weeks).slo == LIMIT
    write_json(weeks / "a" / "experiment.json", {"spec": {"slo": {"ttft": {"threshold": 9}}}})
    assert read_results(weeks).slo is None


@pytest.mark.parametrize("content", ["{", "[1]", '{"versions": 7, "host": [], "spec": 3}'])
def test_damaged_facts_of_one_run_do_no_harm(content, weeks):
    (weeks / "b" / "experiment.json").write_text(content)
    (weeks / "c" / "trials" / "0001" / "server.json").write_text(content)
    assert len(read_results(weeks, slo=LIMIT).figures) > 2


def test_very_many_curves_are_one_grey_trace_and_the_latest(tmp_path):
    for day in range(1, 15):
        night(tmp_path / "runs" / f"run-{day:02}", day, 0.1 + 0.001 * day)
    results = read_results(tmp_path / "runs", slo=LIMIT)
    figure = results.figures[0]
    grey, latest = figure.data[:2]
    assert (grey.name, latest.name) == ("13 earlier curves", "latest: run-14")
    assert len(grey.x) == 13 * 3 and list(grey.x[2::3]) == [None] * 13
    markers = [trace for trace in figure.data if trace.meta]
    assert sum(len(trace.x) for trace in markers) == 28
    assert "run-03" in "".join(text for trace in markers for text in trace.hovertext or ())
    assert [each.layout.title.text.split(":")[0] for each in results.figures] == [
        "Throughput versus latency",
        "Trend",
        "The trade-off",
    ]
    assert (
        json.loads(
            write_report(tmp_path / "runs", tmp_path / "r.html")
            .read_text()
            .split('id="tuner-data">')[1]
            .split("</script>")[0]
        )["telemetry"]
        == {}
    )


@needs_chromium
@pytest.mark.browser
def test_the_page_draws_the_trend_and_goes_back_to_the_answer_that_was_asked(weeks, tmp_path):
    slo = tuner.SLO.parse({"tiers": {"chat": LIMIT.to_dict(), "batch": {"latency": {"p90": {"threshold": 60}}}}})
    with opened_report(write_report(weeks, tmp_path / "r.html", slo)) as seen:
        page = seen.page
        before = page.locator("#answer").inner_text()
        assert before.startswith("chat:") and "batch:" in before
        assert page.locator("#plot-2 .annotation").count() == 2
        assert page.locator("td.attainment").count() == 20
        page.get_by_label("TTFT p90 at most").focus()
        page.keyboard.press("Home")
        assert "batch:" not in page.locator("#answer").inner_text()
        assert set(page.locator("td.attainment").all_inner_texts()) == {"–"}
        assert "The trend doesn't" in page.locator("#changed").inner_text()
        page.get_by_role("button", name="Back to what was asked").click()
        assert page.locator("#answer").inner_text() == before
        assert seen.requests == [] and seen.errors == []


def test_times_of_files_are_said_to_be_such(tmp_path):
    for number in range(3):
        result_files.plain_folder(tmp_path / str(number), [1])
    judged = tuner.judge(tuner.load_batches(tmp_path), {})
    judged["started_at"] += pd.to_timedelta(range(3), unit="D")
    assert "nobody recorded when: files of" in figures.trend(judged).layout.title.subtitle.text


def subtitle(figure):
    return figure.layout.title.subtitle.text


def test_the_dates_of_files_are_not_called_measured(tmp_path):
    """Nobody recorded when; what was recorded is still called so, beside those that were not."""
    plain = result_files.plain_folder(tmp_path / "plain", [1, 2])
    night(tmp_path / "ours", 3)
    draws = (figures.timeline, figures.trend, figures.throughput_vs_latency, figures.latency_vs_concurrency)
    for draw in draws:
        guessed, both = (
            subtitle(draw(tuner.judge(tuner.load_batches(*paths), LIMIT))) for paths in ([plain], [tmp_path])
        )
        assert "measured" not in guessed and "nobody recorded when: files of 2" in guessed
        assert "measured 2026-11-03 04:01:00 to 04:02:30 UTC" in both and "nobody recorded when" in both
    shown = table(tuner.judge(tuner.load_batches(tmp_path), LIMIT))["start (UTC)"]
    assert shown.str.contains("file").tolist() == [False, False, True, True]


@pytest.mark.parametrize("growth", [0.0, 0.5])
def test_a_level_whose_latency_drifted_says_by_how_much_in_the_timeline(tmp_path, growth):
    trial = result_files.run(tmp_path / "run", [1])
    slower = [0.01 * (1 + growth * number / 100) for number in range(100)]
    requests = [result_files.request(ttft=0.1 + tpot / 10, tpot=tpot) for tpot in slower]
    times = {"started_at": "2026-11-03T04:00:00Z", "finished_at": "2026-11-03T04:01:00Z"}
    result_files.add_level(trial, 1, result_files.result(requests, level=1), **times)
    figure = figures.timeline(tuner.judge(tuner.load_batches(tmp_path / "run"), LIMIT))
    texts, hovers = ([part for bar in figure.data for part in bar[name]] for name in ("text", "hovertext"))
    assert bool(texts[0].startswith("drift +")) == ("measure longer" in hovers[0].replace("<br>", " ")) == (growth > 0)
