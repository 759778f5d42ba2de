"""`tuner compare`: what differs besides numbers, what differs for sure, and how CI learns of it."""

import itertools
import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import numpy as np
import pytest
from support import SAMPLES, result_files
from support.chromium import needs_chromium, opened_report
from support.commands import end_of, papermill, run
from support.lab import opened_notebook, running_lab
from support.processes import free_port

import tuner
from tuner import notebook
from tuner.core import files
from tuner.errors import Regressed, SpecError
from tuner.judging import comparison_text
from tuner.report.compared import read_comparison, tolerance_of
from tuner.report.static import table_html
from tuner.report.write import save_comparison, write_report

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">'\"\u2028&lt;"
SLO = {"ttft": {"p90": {"threshold": 5.0}}}


def measured(folder, slower=1.0, lost=None, levels=(1, 4), scenario="D(100,100)", repeats=2, **facts):
    """A run of 320 requests a level, twice; TTFT is `slower` times as long, and the level `lost` runs out of memory."""
    trial = result_files.run(folder, list(levels), scenarios=[scenario])
    for level, repeat in itertools.product(levels, range(1, repeats + 1)):
        draw = np.random.default_rng([level, repeat, sum(folder.name.encode())])
        requests = [
            result_files.request(ttft=float(ttft) * slower, tpot=float(tpot))
            for ttft, tpot in zip(draw.lognormal(-2, 0.1, 320), draw.lognormal(-4.5, 0.02, 320), strict=True)
        ]
        if level == lost and repeat > 1:
            continue
        if level == lost:
            result_files.add_level(
                trial, level, scenario=scenario, outcome="out_of_memory", reason="CUDA out of memory"
            )
        else:
            content = result_files.result(requests, level=level)
            result_files.add_level(trial, level, content, scenario=scenario, repeat=repeat)
    known = files.read_json(folder / "experiment.json")
    files.write_json(folder / "experiment.json", known | facts)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Four runs: two alike, one slower, and one that loses a level."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        "before": measured(folder / "before", spec={"parameters": {"seqs": 64}, "slo": SLO}, versions={"vllm": "1"}),
        "same": measured(folder / "same", spec={"parameters": {"seqs": 64}, "slo": SLO}, versions={"vllm": "1"}),
        "single": measured(folder / "single", repeats=1),
        "slow": measured(folder / "slow", 1.5, spec={"parameters": {"seqs": 128}, "slo": SLO}, versions={"vllm": "2"}),
        "lost": measured(folder / "lost", lost=4, spec={"slo": SLO | {"confidence": 0.9}}),
    }


def compared(before, after, **more):
    sides = [[side] if isinstance(side, Path) else side for side in (before, after)]
    return read_comparison(*sides, **({"tolerance": 0.05} | more))


# ------------------------------------------------------------------------------------------------ command line
@pytest.mark.parametrize(
    ("candidate", "flags", "expected"),
    [
        ("same", ["--fail-on-regression"], 0),
        ("slow", [], 0),
        ("slow", ["--fail-on-regression"], 1),
        ("slow", ["--fail-on-regression", "--tolerance", "80%"], 0),
        ("lost", ["--fail-on-regression"], 1),
    ],
)
def test_exit_codes(candidate, flags, expected, runs, monkeypatch, capsys):
    code, out, err = end_of(["compare", str(runs["before"]), str(runs[candidate]), *flags], monkeypatch, capsys)
    assert code == expected and f"{candidate} against before" in out
    assert len(err.splitlines()) == expected and err.startswith("tuner: " * expected)
    assert ("WORSE" in out) == (candidate != "same" and "80%" not in flags)


@pytest.mark.parametrize("sides", [("before", "slow"), ("before", "lost"), ("single", "slow")])
def test_one_screen_and_one_page_have_one_style(sides, runs, tmp_path, monkeypatch, capsys):
    """One minus sign, one spelling of percent, one word for percentage points."""
    errors = [result_files.request()] * 200 + [result_files.failure()] * 200
    for folder, content in (("good", [result_files.request(0.1 + 0.001 * n) for n in range(200)]), ("bad", errors)):
        trial = result_files.run(tmp_path / folder, [1, 2])
        for level, repeat in itertools.product((1, 2), (1, 2)):
            changed = [one | {"tpot": (one["tpot"] or 0) * 0.5} for one in content] if folder == "bad" else content
            result_files.add_level(trial, level, result_files.result(changed, level=level), repeat=repeat)
    for one, other in (("good", "bad"), sides):
        folders = [str(runs.get(name, tmp_path / name)) for name in (one, other)]
        _, out, _ = end_of(["compare", *folders, "-o", str(tmp_path / "c.html")], monkeypatch, capsys)
        assert one != "good" or ("pp" in out and "−" in out)
        page = re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", (tmp_path / "c.html").read_text(), flags=re.DOTALL)
        for shown in (out, page):
            assert not re.search(r"(?<![\w(-])-\d", shown), "a hyphen for a minus sign"
            assert not re.search(r"\d%|\d points", shown), "another spelling of percent or points"


def test_one_run_a_side_is_shown_and_not_judged(runs, tmp_path, monkeypatch, capsys):
    sides = [str(runs["single"]), str(measured(tmp_path / "slower", 1.5, repeats=1))]
    code, out, _ = end_of(["compare", *sides], monkeypatch, capsys)
    assert code == 0 and "One run a side: not judged" in out and "WORSE" not in out
    assert re.search(r"\? \+\d+(\.\d)? % \(\+\d+ to \+\d+ %\)", out)
    for one in (sides, [str(runs["before"]), sides[1]]):
        code, out, err = end_of(["compare", *one, "--fail-on-regression"], monkeypatch, capsys)
        assert code == 2 and out == "" and len(err.splitlines()) == 1 and "two runs or more a side" in err


def test_configuration_comes_before_the_answer_and_sizes_after_verdicts(runs, monkeypatch, capsys):
    _, out, _ = end_of(["compare", str(runs["before"]), str(runs["slow"])], monkeypatch, capsys)
    rows = [line.split() for line in out.splitlines()]
    assert ["vllm", "version", "1", "2"] in rows and ["parameters.seqs", "64", "128"] in rows
    assert out.index("vllm version") < out.index("WORSE") < out.index("✗ worse +")
    assert "TTFT p90 ≤ 5 s" in out


def test_json_says_all_with_its_format(runs, monkeypatch, capsys):
    arguments = ["compare", str(runs["before"]), str(runs["lost"]), "--format", "json"]
    code, out, _ = end_of(arguments, monkeypatch, capsys)
    said = json.loads(out)
    assert code == 0 and said["format"] == 1 and said["regressed"] is True and said["tolerance"] == 0.05
    assert said["slo"] is None and "not all asked to meet the same SLO" in said["slo_note"]
    assert [(row["concurrency"], row["outcome"]) for row in said["unmatched"]] == [(4, "out_of_memory")]
    assert {"what": "slo.confidence", "baseline": "–", "candidate": "0.9"} in said["configuration"]
    assert {"scenario", "concurrency", "metric", "change", "low", "high", "verdict"} <= said["differences"][0].keys()


def test_real_folders_in_a_process_of_their_own(tmp_path):
    sides = [SAMPLES / "healthy", SAMPLES / "overload-429"]
    code, out, _ = run(tmp_path, "compare", *sides, "--junit", "j.xml", "-o", "c.html")
    assert code == 0 and "TTFT p50" in out and "it was not measured" in out
    assert (tmp_path / "j.xml").exists() and (tmp_path / "c.html").exists()
    code, out, err = run(tmp_path, "compare", *sides, "--fail-on-regression")
    assert code == 2 and out == "" and len(err.splitlines()) == 1 and err.startswith("tuner: fail-on-regression")


def test_more_runs_of_a_side(runs, monkeypatch, capsys):
    options = ["--baseline", str(runs["same"]), "--candidate", str(runs["slow"]), "--format", "json"]
    _, out, _ = end_of(
        ["compare", str(runs["before"]), str(runs["slow"]), *options[:2], *options[4:]], monkeypatch, capsys
    )
    said = json.loads(out)
    assert said["baseline"]["experiments"] == ["before", "same"]
    assert {row["baseline_runs"] for row in said["differences"]} == {4}
    _, again, _ = end_of(["compare", str(runs["before"]), *options], monkeypatch, capsys)
    assert json.loads(again)["differences"] == said["differences"]


WRONG = {
    "one side": (["{before}"], ["candidate", "missing", "tuner compare"]),
    "no side": ([], ["baseline", "missing"]),
    "a path that is missing": (["{before}", "nowhere"], ["nowhere", "does not exist"]),
    "a folder without batches": (["{before}", "{empty}"], ["holds no batch"]),
    "a tolerance in percent without its sign": (["{before}", "{slow}", "--tolerance", "5"], ["'5'", "5% or 0.05"]),
    "a negative tolerance": (["{before}", "{slow}", "--tolerance", "-1%"], ["'-1%'"]),
    "an unknown format": (["{before}", "{slow}", "--format", "csv"], ["csv", "table, json"]),
    "an SLO that is missing": (["{before}", "{slow}", "--slo", "none.yaml"], ["none.yaml", "No such file"]),
    "a folder for JUnit that is missing": (["{before}", "{slow}", "--junit", "no/j.xml"], ["no folder no"]),
    "a folder for the report that is missing": (["{before}", "{slow}", "-o", "no/c.html"], ["no folder no"]),
    "a page of others": (["{before}", "{page}"], ["carries no batches"]),
    "a comparison": (["{before}", "{comparison}"], ["is a comparison itself"]),
}


@pytest.mark.parametrize(("arguments", "said"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_one_line_and_exit_code_2(arguments, said, runs, tmp_path, monkeypatch, capsys):
    names = {"empty": tmp_path / "empty", "page": tmp_path / "page.html", "comparison": tmp_path / "c.html", **runs}
    names["empty"].mkdir()
    names["page"].write_text("<html></html>")
    if "{comparison}" in arguments:
        save_comparison(compared(runs["before"], runs["same"]), names["comparison"])
    monkeypatch.chdir(tmp_path)
    code, out, err = end_of(["compare", *(part.format(**names) for part in arguments)], monkeypatch, capsys)
    assert code == 2 and out == "" and len(err.strip().splitlines()) == 1 and err.startswith("tuner: ")
    for word in said:
        assert word in err


def test_nothing_in_common_ends_with_1(runs, tmp_path, monkeypatch, capsys):
    other = measured(tmp_path / "other", levels=(2,))
    code, out, err = end_of(["compare", str(runs["before"]), str(other)], monkeypatch, capsys)
    assert code == 1 and "nothing could be compared" in err
    assert all(f"at concurrency {level}" in out for level in (1, 2, 4))


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("0.05", 0.05), (0.05, 0.05), (0, 0.0), ("150 %", 1.5)])
def test_a_tolerance_is_a_share(text, share):
    assert tolerance_of(text) == pytest.approx(share)


@pytest.mark.parametrize("wrong", ["", "%", "x", "nan", "inf%", "-5%", 5, "1", True, None, [0.1]])
def test_what_is_no_tolerance(wrong):
    with pytest.raises(SpecError, match="a share of the baseline"):
        tolerance_of(wrong)


# ------------------------------------------------------------------------------------------------ what differs
def test_what_plain_folders_say_of_themselves(tmp_path):
    for name, engine, seconds in (("a", "vLLM", 60), ("b", "SGLang", 30)):
        folder = result_files.plain_folder(tmp_path / name, [1])
        more = {
            "server_engine": engine,
            "max_time_per_run_s": seconds,
            "server_gpu_type": "L4",
            "cmd": "--api-key sk-1",
        }
        result_files.write(folder / "experiment_metadata.json", result_files.metadata([1], **more))
    rows = compared(tmp_path / "a", tmp_path / "b").configuration.to_numpy().tolist()
    assert rows == [["engine", "vLLM", "SGLang"], ["max_seconds", "60", "30"]]


def test_facts_of_reports_servers_and_several_runs(runs, tmp_path):
    for number, version in enumerate(("0.31", "0.32")):
        server = {"engine": "vllm", "version": version, "gpus": ["GPU-1"] * (number + 1), "parameters": {"a": number}}
        folder = measured(tmp_path / version, levels=(1,), host={"name": f"host-{number}"}, gpus=["NVIDIA L4"])
        files.write_json(folder / "trials/0001/server.json", server)
    report = write_report(tmp_path / "0.31", tmp_path / "r.html")
    shutil.rmtree(tmp_path / "0.31")
    rows = compared([report, runs["same"]], tmp_path / "0.32").configuration.set_index("what")
    assert rows.loc["server version"].tolist() == ["0.31 | –", "0.32"]
    assert rows.loc["gpus"].tolist() == ["1 | –", "2"]
    assert rows.loc["GPU"].tolist() == ["1 × NVIDIA L4 | –", "1 × NVIDIA L4"]
    assert rows.loc["host name"].tolist() == ["host-0 | –", "host-1"]
    assert rows.loc["parameters.a"].tolist() == ["0 | –", "1"]
    assert rows.index[0] == "server version"


def test_no_secret_is_among_the_differences_or_in_a_file(tmp_path, runs, monkeypatch):
    secret = "sk-proj-abc123def456"
    leaky = measured(tmp_path / "leaky", spec={"environment": {"A": secret}})
    for sides in ((runs["before"], leaky), (leaky, runs["before"])):
        result = compared(*sides)
        save_comparison(result, tmp_path / "c.html", tmp_path / "j.xml")
        written = [json.dumps(result.to_dict()), (tmp_path / "c.html").read_text(), (tmp_path / "j.xml").read_text()]
        assert all(secret not in text and "[redacted]" in text for text in written)


def test_the_slo_is_the_one_both_were_asked_to_meet(runs, tmp_path):
    agreed = compared(runs["before"], runs["slow"])
    assert agreed.slo is not None and agreed.slo.to_dict() == tuner.SLO.parse(SLO).to_dict()
    assert compared(runs["before"], runs["lost"]).slo is None
    assert compared(runs["before"], measured(tmp_path / "free", levels=(1,))).slo is None
    strict = tuner.SLO.parse({"ttft": {"p50": {"threshold": 0.17}}})
    given = compared(runs["before"], runs["slow"], slo=strict)
    assert set(given.baseline.judged["verdict"]) == {"pass"} and set(given.candidate.judged["verdict"]) == {"fail"}
    assert "nothing complies" in "".join(given.comparison.differences["note"])


def test_reports_say_the_same_as_their_runs(runs, tmp_path):
    reports = [write_report(runs[name], tmp_path / f"{name}.html") for name in ("before", "slow")]
    there, here = compared(runs["before"], runs["slow"]), compared(*reports)
    columns = ["scenario", "concurrency", "metric", "baseline", "candidate", "change"]
    assert here.comparison.differences[columns].equals(there.comparison.differences[columns])
    assert here.configuration.equals(there.configuration) and here.slo_note == there.slo_note


def test_lost_and_unmatched_levels_are_listed_everywhere(runs, tmp_path):
    result = compared(runs["before"], runs["lost"])
    save_comparison(result, tmp_path / "c.html", tmp_path / "j.xml")
    for text in (" ".join(result.answer), (tmp_path / "c.html").read_text(), (tmp_path / "j.xml").read_text()):
        assert "CUDA out of memory" in text
    assert result.regressed
    reverse = compared(runs["lost"], runs["before"])
    assert not reverse.regressed and len(reverse.comparison.unmatched) == 1


# ------------------------------------------------------------------------------------------------ JUnit
def test_junit_counts_and_names(runs, tmp_path):
    result = compared(runs["before"], runs["slow"])
    save_comparison(result, None, tmp_path / "j.xml")
    [suite] = ElementTree.parse(tmp_path / "j.xml").getroot()
    verdicts = result.comparison.differences["verdict"]
    assert int(suite.get("tests")) == len(suite.findall("testcase")) == len(verdicts)
    assert int(suite.get("failures")) == (verdicts == "worse").sum() > 0
    assert int(suite.get("skipped")) == (verdicts == "unknown").sum() and suite.get("errors") == "0"
    failed = {(case.get("classname"), case.get("name")) for case in suite if case.find("failure") is not None}
    assert ("D(100,100).concurrency 4", "TTFT p90") in failed
    assert {entry.get("name") for entry in suite.iter("property")} == {"vllm version", "parameters.seqs"}


def test_junit_has_a_failure_for_a_lost_level_and_skips_one_nobody_measured(runs, tmp_path):
    lost = compared(runs["before"], runs["lost"])
    gone = compared(runs["before"], measured(tmp_path / "fewer", levels=(1,)))
    for result, kind in ((lost, "failure"), (gone, "skipped")):
        save_comparison(result, None, tmp_path / "j.xml")
        root = ElementTree.parse(tmp_path / "j.xml").getroot()
        [case] = [case for case in root.iter("testcase") if case.get("name") == "has a result on both sides"]
        assert case.find(kind) is not None and case.get("classname") == "D(100,100).concurrency 4"


def test_junit_is_well_formed_whatever_names_hold(tmp_path):
    name = f"{HOSTILE}\x00\x1b[31m\ud800]]>"
    sides = [
        measured(tmp_path / side, lost=lost, scenario=name.replace("\ud800", ""))
        for side, lost in (("a", None), ("b", 4))
    ]
    files.write_json(sides[0] / "experiment.json", {"spec": {"model": name}})
    save_comparison(compared(*sides), None, tmp_path / "j.xml")
    root = ElementTree.parse(tmp_path / "j.xml").getroot()
    assert all("<script>" in case.get("classname") for case in root.iter("testcase"))


# ------------------------------------------------------------------------------------------------ figure and page
def test_the_figure_tells_real_differences_apart_by_shape(runs):
    differences = compared(runs["before"], runs["slow"]).comparison.differences
    figure = tuner.figures.changes(differences, 0.05)
    looks = {trace.name: (trace.marker.symbol, trace.error_x.thickness) for trace in figure.data}
    assert len({symbol for symbol, _ in looks.values()}) == 4
    assert looks["worse"][1] > 2 * looks["no difference found"][1]
    [band] = [shape for shape in figure.layout.shapes if shape.type == "rect"]
    assert (band.x0, band.x1) == (-5, 5)
    [worse] = [trace for trace in figure.data if trace.name == "worse"]
    telling = comparison_text.telling_rows(differences)  # what its kin says is not said again
    assert len(worse.x) == (telling["verdict"] == "worse").sum() < (differences["verdict"] == "worse").sum()
    ticks = figure.layout.yaxis.ticktext
    assert ticks.index("<b>TTFT p50</b>") + 1 == ticks.index("1", ticks.index("<b>TTFT p50</b>"))


def test_the_page_carries_both_sides(runs, tmp_path):
    save_comparison(compared([runs["before"], runs["same"]], runs["slow"]), tmp_path / "c.html")
    batches = tuner.load_batches(tmp_path / "c.html")
    assert set(batches["experiment"]) == {"baseline: before", "baseline: same", "candidate"}
    assert len(batches) == 12


@needs_chromium
@pytest.mark.browser
@pytest.mark.parametrize("width", [1200, 390])
def test_nothing_from_outside_is_markup(width, tmp_path):
    names = ("<img src=x onerror=alert(1)>", "b")
    sides = [
        measured(tmp_path / name, 1.5 * n + 1, scenario=HOSTILE, levels=(1, 2, 4 + n), repeats=1)
        for n, name in enumerate(names)
    ]
    for side, host in zip(sides, (HOSTILE, f"{HOSTILE} again"), strict=True):
        facts = {"name": HOSTILE, "spec": {"model": host, "slo": SLO}, "host": {host: host}}
        files.write_json(side / "experiment.json", facts)
    save_comparison(compared(*sides), tmp_path / "c.html")
    with opened_report(tmp_path / "c.html", width=width, height=800) as seen:
        page = seen.page
        assert page.title().startswith("b against <img") and page.locator("img").count() == 0
        assert seen.requests == [] and seen.errors == []
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        point = page.locator("#plot-1 .scatterlayer .point").first
        point.scroll_into_view_if_needed()
        at = point.bounding_box()
        page.mouse.move(at["x"] + at["width"] / 2, at["y"] + at["height"] / 2)
        page.wait_for_selector(".hoverlayer text")
        assert page.locator("#plot-2 .scatterlayer .point").count() == 6
        assert page.locator("script").count() == 5
        page.get_by_role("button", name="change").click()
        assert page.locator("#differences tbody").count() > 20
        assert seen.errors == [] and "</script>" in page.locator("#configuration").inner_text()


# ------------------------------------------------------------------------------------------------ notebook
def test_the_notebook_shows_the_tables_of_the_command_line(runs, tmp_path, monkeypatch, capsys):
    sides = {name: str(runs[side]) for name, side in (("baseline", "before"), ("candidate", "slow"))}
    result = notebook.compare(sides | {"junit": str(tmp_path / "j.xml"), "report": str(tmp_path / "c.html")})
    capsys.readouterr()
    _, out, _ = end_of(["compare", *sides.values()], monkeypatch, capsys)
    lines = [" ".join(line.split()) for line in out.splitlines()]
    for table in (result.configuration, *result.tables.values()):
        for row in table.to_numpy().tolist():
            assert " ".join(" ".join(map(str, row)).split()) in lines
    assert (tmp_path / "c.html").exists() and (tmp_path / "j.xml").exists()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"baseline": "a"}, "candidate: missing"),
        ({"baseline": 7, "candidate": "b"}, "7 is no path"),
        ({"baseline": "a", "candidate": "b", "fail_on_regression": "yes"}, "fail_on_regression must be True or False"),
        ({"baseline": "a", "candidate": "b", "tolerance": "5"}, "5% or 0.05"),
        ({"baseline": "a", "candidat": "b"}, "did you mean candidate"),
    ],
)
def test_a_wrong_parameter_is_one_clear_line(values, said, runs, monkeypatch):
    monkeypatch.chdir(runs["before"].parent)
    with pytest.raises(SpecError, match=said) as refused:
        notebook.compare(values | ({"baseline": "before"} if values.get("baseline") == "a" else {}))
    assert "\n" not in str(refused.value)


def test_a_regression_can_be_made_to_fail(runs):
    sides = {"baseline": str(runs["before"]), "candidate": [str(runs["slow"])], "fail_on_regression": True}
    with pytest.raises(Regressed, match="slow is worse than before"):
        notebook.compare(sides)


@pytest.mark.real
def test_papermill_compares_and_ends_with_1_on_a_regression(runs, tmp_path):
    asked = {"baseline": str(runs["before"]), "candidate": str(runs["slow"]), "tolerance": "10%", "junit": "j.xml"}
    for fails, expected in ((False, 0), (True, 1)):
        with papermill(tmp_path, "compare", asked | {"fail_on_regression": fails, "report": "c.html"}) as process:
            assert process.wait(90) == expected, (tmp_path / "papermill.log").read_text()
        text = (tmp_path / "out.ipynb").read_text()
        assert ("Regressed: slow is worse than before" in text) == fails
        assert (tmp_path / "c.html").exists() and (tmp_path / "j.xml").exists()
    cells = nbformat.reads(text, as_version=4).cells
    shown = [output["data"] for cell in cells for output in cell.get("outputs", []) if "data" in output]
    assert sum("application/vnd.plotly.v1+json" in data for data in shown) == 2
    levels = table_html(compared(runs["before"], runs["slow"], tolerance=0.1).tables["Levels"])
    assert any(levels in data.get("text/html", "") for data in shown)


@needs_chromium
@pytest.mark.browser
@pytest.mark.real
def test_a_person_compares(runs, tmp_path):
    from playwright.sync_api import expect

    with running_lab(tmp_path, free_port()) as address:
        path = tmp_path / "compare.ipynb"
        text = path.read_text()
        for name, side in (("baseline", "before"), ("candidate", "slow")):
            text = text.replace(f"{name} = None", f"{name} = '{runs[side]}'")
        path.write_text(text)
        with opened_notebook(address, "compare") as page:
            expect(page.locator(".js-plotly-plot")).to_have_count(2, timeout=60_000)
            assert page.locator(".js-plotly-plot").first.locator(".scatterlayer .point").count() > 10
            expect(page.get_by_text("vllm version")).to_be_visible()
            expect(page.get_by_text("✗ worse").first).to_be_visible()
