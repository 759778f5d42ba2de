"""The report: the answer and the data in one file, judged again by its sliders, and safe to send to anybody."""

import base64
import gzip
import html
import json
import random
import re

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from support import DATA, SAMPLES, result_files
from support.chromium import needs_chromium, opened_report
from support.commands import run

import tuner
from tuner.core import files
from tuner.errors import PathError
from tuner.judging.levels import levels_of
from tuner.report.results import read_results
from tuner.report.write import save_report, write_report

SLO = {
    "ttft": {"p90": {"threshold": 0.05}, "p50": {"threshold": 0.03, "hard_fail": False}},
    "tpot": {"p95": {"threshold": 0.05, "fail_ratio": 0.2}},
    "min_throughput": {"threshold": 100},
}
HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">'\"\u2028&lt;"


def levels_run(folder, reason="", model="m", scenario="D(100,100)"):
    """A run of six levels that get slower, one of them without a result."""
    trial = result_files.run(folder, [1, 2, 4, 8, 16, 32], model=model, scenarios=[scenario])
    for level in (1, 2, 4, 8, 16):
        requests = [
            result_files.request(ttft=0.02 * level + 0.0001 * n, tpot=0.01 + 0.001 * level) for n in range(60 + level)
        ]
        times = {"started_at": f"2026-11-24T04:{level:02}:00.123Z", "finished_at": f"2026-11-24T04:{level:02}:30.456Z"}
        share = {"ttft": 0.005 * level, "tpot": 0.0005 * level}
        result_files.add_level(
            trial, level, result_files.result(requests, level=level), scenario=scenario, client=share, **times
        )
    result_files.add_level(trial, 32, scenario=scenario, outcome="server_died", reason=reason or "out of memory")
    return folder


@pytest.mark.parametrize("name", [path.name for path in sorted(SAMPLES.iterdir()) if path.is_dir()])
def test_a_report_carries_its_batches(name, tmp_path):
    report = write_report(SAMPLES / name, tmp_path / "r.html")
    assert_frame_equal(tuner.load_batches(report), tuner.load_batches(SAMPLES / name))
    again = write_report(report, tmp_path / "again.html")
    assert_frame_equal(tuner.load_batches(again), tuner.load_batches(SAMPLES / name))


def test_a_report_keeps_slo_times_and_attainment_without_the_run(tmp_path):
    levels_run(tmp_path / "run")
    report = write_report(tmp_path / "run", tmp_path / "r.html", tuner.SLO.parse(SLO))
    there = read_results(tmp_path / "run", slo=tuner.SLO.parse(SLO))
    (tmp_path / "run").rename(tmp_path / "gone")
    here = read_results(report)
    assert_frame_equal(here.judged, there.judged)
    assert here.answer == there.answer
    assert str(here.judged["started_at"].dt.tz) == "UTC"
    assert here.judged["started_at"].iloc[0] == pd.Timestamp("2026-11-24T04:01:00.123Z")


def test_a_report_names_the_engines_version(tmp_path):
    (run_of_before,) = (DATA / "earlier_version").glob("*-sweep-before")
    page = write_report(run_of_before, tmp_path / "r.html").read_text()
    assert "<dd>llamacpp b0-unknown</dd>" in page and '"llamacpp":"b0-unknown"' in page


def test_tuner_load_reads_a_report(tmp_path):
    report = write_report(levels_run(tmp_path / "run"), tmp_path / "r.html")
    printed = [run(tmp_path, "load", path, "--format", "json") for path in (tmp_path / "run", report)]
    assert printed[0][:2] == printed[1][:2] and printed[0][0] == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: "<html></html>", "carries no batches"),
        (lambda text: text[: text.index("tuner-data") + 200], "damaged"),
        (lambda text: text.replace('"format":1', '"format":99'), "later tuner"),
        (lambda text: text.replace('"columns":[', '"columns":7,"x":['), "damaged"),
    ],
)
def test_a_page_that_is_no_whole_report_is_refused_in_one_line(change, said, tmp_path):
    report = write_report(SAMPLES / "healthy", tmp_path / "r.html")
    report.write_text(change(report.read_text()))
    with pytest.raises(PathError, match=said) as refused:
        tuner.load_batches(report)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        (lambda text: text.replace('"rows":[[', '"rows":[[1,'), 3),
        (lambda text: text.replace('"rows":[[', '"rows":[['[:-1]), 3),
        (lambda text: text[: text.rindex('"],[') + 3], 3),
        (lambda text: text.replace('"facts":{', '"facts":{x'), 4),
        (lambda text: text.replace('"num_concurrency",1,', '"num_concurrency",1e300,'), 3),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_is_whole_in_a_damaged_report_is_kept(change, kept, tmp_path):
    report = write_report(SAMPLES / "healthy", tmp_path / "r.html")
    whole = tuner.load_batches(report)
    report.write_text(change(report.read_text()))
    batches = tuner.load_batches(report)
    done = batches[batches["outcome"] == "completed"]
    assert len(done) == kept and set(done["ttft_p90"]) <= set(whole["ttft_p90"])
    assert set(batches["outcome"]) - {"unreadable"} == {"completed"} and (len(batches) > len(done)) == (kept < 4)
    assert all("its checksum is another" in " ".join(words) for words in done["warnings"])
    assert tuner.read_results(report).answer


def test_a_report_of_a_run_that_goes_on_carries_what_its_levels_have(tmp_path, caplog):
    trial = result_files.run(tmp_path / "run", [1, 2, 4])
    for level in (2, 1):
        result_files.add_level(trial, level, result_files.result(level=level))
    shown = read_results(tmp_path / "run").ended_levels()
    carried = read_results(save_report(shown, tmp_path / "r.html"))
    assert len(shown.judged) == 2 == len(carried.judged)
    assert {len(every) for every in carried.run_facts.spreads.values()} == {2}
    assert "ttft_p90_low" in carried.run_facts.intervals and not caplog.records


SECRETS = {
    "value of the named variable": ("pass phrase 77", {"PLAIN": "pass phrase 77"}),
    "value of a variable that looks secret": ("hunter2hunter2", {"DB_PASSWORD": "hunter2hunter2"}),
    "password of a proxy": ("geheim&4711", {"https_proxy": "http://me:geheim&4711@127.0.0.1:9"}),
    "OpenAI-style": ("sk-proj-abc123def456", {}),
    "Hugging Face": ("hf_abcdefghijklmnopqrstuvwx", {}),
    "GitHub": ("ghp_abcdefghijklmnop1234", {}),
    "AWS": ("AKIAABCDEFGHIJKLMNOP", {}),
    "bearer": ("Bearer abcdef123456", {}),
}


@pytest.mark.parametrize(("secret", "variables"), SECRETS.values(), ids=SECRETS)
def test_a_secret_costs_no_report_and_stands_in_none(secret, variables, tmp_path, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    folder = levels_run(tmp_path / "run", f"name {secret}", f"model {secret}", f"reason {secret}")
    path = folder / "experiment.json"
    known = json.loads(path.read_text())
    spec = known.get("spec", {}) | {"api_key_env": "PLAIN", "environment": {"A": secret}}
    path.write_text(json.dumps(known | {"spec": spec, "name": f"asked {secret}"}))  # as others left it
    server = folder / "trials/0001/server.json"
    server.write_text(json.dumps({"engine": "vllm", "version": f"0.1 {secret}", "parameters": {"a": secret}}))
    report = write_report(folder)
    shown = report.read_text() + unpacked(report)
    assert not [form for form in (secret, html.escape(secret), json.dumps(secret)[1:-1]) if form in shown]
    assert "0.1 [redacted]" in shown and "asked [redacted]" in shown
    assert len(tuner.load_batches(report)) == len(tuner.load_batches(folder)) > 0


def unpacked(report):
    """What a page carries packed."""
    packed = re.findall(r">([A-Za-z0-9+/=]{200,})<", report.read_text())
    return "".join(gzip.decompress(base64.b64decode(text)).decode() for text in packed)


def test_what_only_resembles_a_secret_is_let_through(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "falsefalse")
    monkeypatch.setenv("SHORT_KEY", "m")
    reason = "falsefalse, Bearer authentication, task-1234567890, sk-learn-model"
    text = write_report(levels_run(tmp_path / "run", reason=reason)).read_text()
    assert "falsefalse, Bearer" in text and "task-1234567890" in text


@pytest.fixture
def judged_page(tmp_path):
    """A report of six levels on a desktop's screen, with its path."""
    report = write_report(levels_run(tmp_path / "run"), tmp_path / "r.html", tuner.SLO.parse(SLO))
    with opened_report(report) as seen:
        yield seen, report


JUDGED = """([limits, confidence]) => {
  const judged = judge(rows, limits, confidence), best = bestOf(levelsOf(judged, limits, confidence));
  return [judged.map(row => row.verdict), best && best.concurrency];
}"""


def limits_of(slo):
    from tuner.report.page import _limit

    return [_limit(limit, limit.threshold, slo) for limit in slo.constraints]


def some_slo(random):
    """An SLO that splits the levels somewhere."""
    document = {"confidence": 0.95} if random.random() < 0.3 else {}
    for section in ("ttft", "tpot", "latency"):
        if random.random() < 0.6:
            statistic = random.choice(["p50", "p90", "p95", "p99"])
            limit = {"threshold": round(random.uniform(0.01, 0.5), random.choice([2, 3, 5]))}
            limit |= {"hard_fail": random.random() < 0.7, "fail_ratio": random.choice([0, 0.2])}
            document[section] = {statistic: limit} if random.random() < 0.8 else limit
    if random.random() < 0.3:
        document["min_throughput"] = {"threshold": random.choice([80, 200.5, 1e6])}
    if random.random() < 0.3:
        document["error_rate"] = {"threshold": 0.01}
    return tuner.SLO.parse(document)


@needs_chromium
@pytest.mark.browser
def test_the_page_judges_as_python_does(judged_page):
    seen, report = judged_page
    chance, batches = random.Random(6), tuner.load_batches(report)
    for slo in [some_slo(chance) for _ in range(60)]:
        judged = tuner.judge(batches, slo)
        expected = [judged["verdict"].tolist(), tuner.summarize(judged).best_level]
        assert seen.page.evaluate(JUDGED, [limits_of(slo), slo.confidence]) == expected, slo


LEVELS = """([limits, confidence]) => {
  const levels = levelsOf(judge(rows, limits, confidence), limits, confidence), best = bestOf(levels);
  return [Object.fromEntries(levels.map(level => [level.concurrency, level.verdict])), best && best.concurrency];
}"""


@needs_chromium
@pytest.mark.browser
def test_the_page_judges_the_runs_of_a_level_together_as_python_does(tmp_path):
    times = [(4, 0.1), (8, 0.2), (8, 0.24), (16, 0.3), (16, 0.42), (16, 0.45), (32, 0.5), (32, "timeout"), (64, 0.5)]
    report = what_if_page(tmp_path, times, LIMITED)
    chance, batches = random.Random(7), tuner.load_batches(report)
    with opened_report(report) as seen:
        drawn = seen.page.evaluate(DRAWN)
        for slo in [some_slo(chance) for _ in range(40)]:
            judged = tuner.judge(batches, slo)
            levels = levels_of(judged)
            verdicts = dict(zip(levels["concurrency"].astype(str), levels["verdict"], strict=True))
            expected = [verdicts, tuner.summarize(judged).best_level]
            assert seen.page.evaluate(LEVELS, [limits_of(slo), slo.confidence]) == expected, slo
        move(seen.page, "TTFT p90 at most", "ArrowLeft")
        assert drawn[0] == 5 and seen.page.evaluate(DRAWN) == drawn and seen.errors == []


@needs_chromium
@pytest.mark.browser
def test_a_slider_judges_table_answer_and_figure_again(judged_page):
    seen, _ = judged_page
    page = seen.page
    before = page.locator("#answer").inner_text()
    assert page.locator("tbody tr.fail:not(.note)").count() == 4
    page.get_by_label("TTFT p90 at most").focus()
    page.keyboard.press("End")
    for label, end in (
        ("TPOT p95 at most", "End"),
        ("TTFT p50 at most", "End"),
        ("output throughput at least", "Home"),
    ):
        page.get_by_label(label).focus()
        page.keyboard.press(end)
    assert page.locator("tbody tr.fail:not(.note)").count() == 0
    assert "concurrency 16" in page.locator("#answer strong").inner_text()
    marked = "document.getElementById('plot-1').data.map(trace => [trace.meta?.verdict, trace.x.length])"
    assert ["pass", 5] in page.evaluate(marked) and ["fail", 0] in page.evaluate(marked)
    page.get_by_role("button", name="Back to what was asked").click()
    assert page.locator("#answer").inner_text() == before
    assert ["fail", 4] in page.evaluate(marked)
    assert seen.requests == [] and seen.errors == []


def what_if_page(tmp_path, levels, slo):
    """A report of levels given as (concurrency, TTFT in s or the outcome of one without a result)."""
    trial = result_files.run(tmp_path / "run", [level for level, _ in levels])
    for place, (level, ttft) in enumerate(levels):
        repeat = [before for before, _ in levels[:place]].count(level) + 1
        if isinstance(ttft, str):
            result_files.add_level(trial, level, repeat=repeat, outcome=ttft, reason="somebody stopped it")
        else:
            requests = [result_files.request(ttft=ttft + n * 1e-6) for n in range(60)]
            result_files.add_level(trial, level, result_files.result(requests, level=level), repeat=repeat)
    return write_report(tmp_path / "run", tmp_path / "r.html", tuner.SLO.parse(slo))


def move(page, label, key="ArrowRight"):
    page.get_by_label(label).focus()
    page.keyboard.press(key)


LIMITED = {"ttft": {"p90": {"threshold": 0.5}}}


@needs_chromium
@pytest.mark.browser
def test_an_interrupted_level_above_a_passing_one_is_not_said_to_fail(tmp_path):
    report = what_if_page(tmp_path, [(2, 0.1), (4, 0.2), (8, "interrupted")], LIMITED)
    with opened_report(report) as seen:
        answered = seen.page.locator("#answer")
        asked = answered.inner_text()
        move(seen.page, "TTFT p90 at most", "End")
        assert "at concurrency 4" in answered.locator("strong").inner_text()
        assert "does not meet" not in answered.inner_text()
        move(seen.page, "TTFT p90 at most", "Home")
        assert "there is no maximum" in answered.locator("strong").inner_text()
        notes = seen.page.locator("tr.note:visible").all_inner_texts()
        assert [note.strip() for note in notes] == ["interrupted: somebody stopped it"]
        seen.page.get_by_role("button", name="Back to what was asked").click()
        assert answered.inner_text() == asked
        assert seen.errors == []


@needs_chromium
@pytest.mark.browser
def test_an_attainment_is_unknown_once_a_latency_slider_has_moved(tmp_path):
    report = what_if_page(tmp_path, [(2, 0.1), (4, 0.2)], LIMITED | {"attainment": {"threshold": 0.95}})
    with opened_report(report) as seen:
        verdicts = seen.page.locator("tr:not(.note) td.verdict")
        assert verdicts.all_inner_texts() == ["pass", "pass"]
        move(seen.page, "attainment at least")
        assert verdicts.all_inner_texts() == ["pass", "pass"]  # it is 1 of both
        move(seen.page, "TTFT p90 at most", "ArrowLeft")
        assert verdicts.all_inner_texts() == ["unknown", "unknown"]
        seen.page.get_by_role("button", name="Back to what was asked").click()
        assert verdicts.all_inner_texts() == ["pass", "pass"] and seen.errors == []


@needs_chromium
@pytest.mark.browser
def test_a_batch_without_a_concurrency_has_no_concurrency_after_a_slider_moved(tmp_path):
    folder = SAMPLES.parent / "foreign/vllm-0.32.0/rate-errors.json"
    assert tuner.load_batches(folder)["concurrency"].isna().all()
    lenient = LIMITED | {"error_rate": {"threshold": 1.0}}
    report = write_report(folder, tmp_path / "r.html", tuner.SLO.parse(lenient))
    with opened_report(report) as seen:
        asked = seen.page.locator("#answer").inner_text()
        move(seen.page, "TTFT p90 at most", "End")
        told = seen.page.locator("#answer").inner_text()
        assert "at rate 20/s" in told
        assert "null" not in told and "highest" not in told
        seen.page.get_by_role("button", name="Back to what was asked").click()
        assert seen.page.locator("#answer").inner_text() == asked


@needs_chromium
@pytest.mark.browser
@pytest.mark.parametrize(("first", "later"), [([0.05] * 60, 1.0), ([1 + n / 100 for n in range(60)], 0.0)])
def test_ttfts_that_cannot_be_measurements_are_unknown_wherever_the_slider_stands(first, later, tmp_path):
    """All the same, and answers in one piece: the report's script believes them no more than Python does."""
    requests = [
        result_files.request() | {"ttft": ttft, "tpot": later / 99, "e2e_latency": ttft + later} for ttft in first
    ]
    content = result_files.result(requests, level=1) | {"individual_request_metrics": requests}
    result_files.add_level(result_files.run(tmp_path / "run", [1]), 1, content)
    report = write_report(tmp_path / "run", tmp_path / "r.html", tuner.SLO.parse({"ttft": {"p90": {"threshold": 5.0}}}))
    with opened_report(report) as seen:
        page, verdicts = seen.page, seen.page.locator("tr:not(.note) td.verdict")
        for key in ("", "ArrowLeft", "Home"):
            if key:
                move(page, "TTFT p90 at most", key)
            assert verdicts.all_inner_texts() == ["unknown"]
            assert page.locator("#answer strong").inner_text().startswith(("No batch", "no level"))
        assert seen.errors == []


#: the markers that a reader sees, by figure, and the text over each
DRAWN = "[...document.querySelectorAll('.plot')].map(plot => plot.querySelectorAll('.scatterlayer .point').length)"
HOVERS = "[...document.querySelectorAll('.plot')].flatMap(plot => plot.data.flatMap(trace => trace.hovertext || []))"


@needs_chromium
@pytest.mark.browser
def test_every_marker_stays_drawn_when_a_slider_moves(judged_page):
    seen, _ = judged_page
    page = seen.page
    drawn, hovers = page.evaluate(DRAWN), page.evaluate(HOVERS)
    assert drawn[0] >= 6
    move(page, "TTFT p90 at most", "End")
    assert page.evaluate(DRAWN) == drawn
    move(page, "TPOT p95 at most", "Home")
    assert page.evaluate(DRAWN) == drawn
    page.get_by_role("button", name="Back to what was asked").click()
    assert page.evaluate(DRAWN) == drawn
    assert sorted(page.evaluate(HOVERS)) == sorted(hovers)


@needs_chromium
@pytest.mark.browser
def test_the_table_sorts(judged_page):
    page = judged_page[0].page
    levels = page.locator("tbody.batch tr:first-child td:first-child")
    header = page.get_by_role("button", name="output (tokens/s)")
    header.click()
    header.click()
    assert [text.strip() for text in levels.all_inner_texts()][-1] == "32"  # without a number: last, both ways
    page.get_by_role("button", name="level").click()
    assert levels.all_inner_texts() == ["1", "2", "4", "8", "16", "32"]


@needs_chromium
@pytest.mark.browser
@pytest.mark.parametrize("width", [1200, 390])
def test_nothing_from_outside_is_markup(width, tmp_path):
    folder = levels_run(tmp_path / "<img src=x onerror=alert(1)>", HOSTILE, HOSTILE, HOSTILE)
    known = files.read_json(folder / "experiment.json")
    spec = {"model": HOSTILE, "slo": {"ttft": {"p90": {"threshold": 0.1}}}}
    files.write_json(folder / "experiment.json", known | {"name": HOSTILE, "spec": spec, "host": {HOSTILE: HOSTILE}})
    with opened_report(write_report(folder), width=width, height=800) as seen:
        assert seen.page.title().startswith("</script><script>")
        assert seen.requests == [] and seen.errors == []
        assert seen.page.locator("img").count() == 0
        assert seen.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        seen.page.locator("#plot-1").scroll_into_view_if_needed()
        at = seen.page.locator("#plot-1 .scatterlayer .point").first.bounding_box()
        seen.page.mouse.move(at["x"] + at["width"] / 2, at["y"] + at["height"] / 2)
        seen.page.wait_for_selector(".hoverlayer text")
        assert seen.page.locator("#plot-1 .scatterlayer .point").count() == 6
        assert seen.page.locator("script").count() == 5
    assert tuner.load_batches(folder / "report.html")["model"].iloc[0] == HOSTILE


def test_a_header_of_the_table_can_be_called_otherwise(tmp_path, monkeypatch):
    from tuner.judging import table

    folder = levels_run(tmp_path / "run")
    otherwise = tuple((f"the {header}", *rest) for header, *rest in table.TABLE)
    monkeypatch.setattr(table, "TABLE", otherwise)
    page = write_report(folder, tmp_path / "r.html", tuner.SLO.parse(SLO)).read_text()
    assert page.count('class="verdict"') == 6
    assert page.count('class="attainment"') == 12
    assert page.count('<time datetime="2026-11-24T04:') >= 5 and "the scenario" not in page


def test_ten_figures_and_a_hundred_batches_stay_below_2_3_mb(tmp_path):
    for number in range(10):
        result_files.plain_folder(tmp_path / "all" / f"run-{number}", list(range(1, 11)))
    results = read_results(tmp_path / "all")
    report = write_report(tmp_path / "all", tmp_path / "r.html")
    assert len(results.judged) == 100
    assert report.stat().st_size <= 2_300_000
    assert "plotly_min" not in json.dumps(results.facts)


@pytest.mark.parametrize("content", ["", "[]", '{"name": '])
def test_batches_are_reported_without_what_was_asked(tmp_path, content):
    result_files.add_level(result_files.run(tmp_path / "run", [1]), 1, result_files.result())
    (tmp_path / "run/experiment.json").write_text(content)
    results = read_results(tmp_path / "run")
    assert results.facts == {} and results.judged["outcome"].tolist() == ["completed"]
