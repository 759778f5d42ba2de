"""Pages as people see them: light or dark, by keyboard and screen reader, on the first screen."""

from importlib import resources

import pytest
from support import result_files, searches
from support.chromium import needs_chromium, opened_report

import tuner
from tuner.judging.slo import SLO
from tuner.report.page import render_report
from tuner.report.results import read_results
from tuner.report.write import ComparisonRequest, run_comparison

pytestmark = [needs_chromium, pytest.mark.browser]
RULES = "axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']})"
OBJECTIVES = {"ttft": {"p90": {"threshold": 0.4}}, "error_rate": {"threshold": 0.01}}


def sweep_page(folder):
    trial = result_files.run(folder / "run", [1, 2, 4])
    for level in (1, 2, 4):
        result_files.add_level(trial, level, result_files.result(level=level))
    return tuner.write_report(folder / "run", folder / "sweep.html", SLO.parse(OBJECTIVES))


def search_page(folder):
    return tuner.write_report(searches.run(folder / "run"), folder / "search.html")


def comparison_page(folder):
    sides = [[result_files.plain_folder(folder / name, [1, 2, 4])] for name in ("before", "after")]
    request = ComparisonRequest(*sides, SLO.parse(OBJECTIVES), "5%", folder / "compared.html", None, False)
    run_comparison(request, lambda compared: None)
    return folder / "compared.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", [sweep_page, search_page, comparison_page])
def test_everybody_can_read_and_use_every_page(page, scheme, tmp_path):
    with opened_report(page(tmp_path), color_scheme=scheme, bypass_csp=True) as seen:
        seen.page.evaluate(resources.files("axe_playwright_python").joinpath("axe.min.js").read_text())
        found = seen.page.evaluate(RULES)["violations"]
        assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
        assert seen.errors == []
        ground = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 25, 31)"}[scheme]
        for part in (seen.page.locator("body"), seen.page.locator(".main-svg").first):
            assert part.evaluate("part => getComputedStyle(part).backgroundColor") == ground


def test_the_first_screen_of_many_batches_holds_answer_and_figure(tmp_path):
    folder = result_files.plain_folder(tmp_path / "run", list(range(1, 94)))
    page = tuner.write_report(folder, tmp_path / "page.html", SLO.parse(OBJECTIVES))
    assert page.stat().st_size < 2.3e6
    with opened_report(page, width=1280, height=800) as seen:
        for part in ("#answer", "#figure-1 .nsewdrag"):
            box = seen.page.locator(part).first.bounding_box()
            assert box["y"] >= 0 and box["y"] + box["height"] <= 800, part
        assert seen.page.locator("#figure-2").is_hidden()
        seen.page.get_by_text("more figures").click()
        figure = seen.page.locator("#figure-2 .main-svg").first
        assert figure.is_visible() and figure.bounding_box()["width"] > 900


def test_warnings_that_differ_in_numbers_alone_are_one_line(tmp_path):
    results = read_results(result_files.plain_folder(tmp_path / "run", list(range(1, 9))))
    results.judged["warnings"] = [[f"{level} of 9 requests were cut off"] for level in range(1, 8)] + [["all alike"]]
    (tmp_path / "page.html").write_text(render_report(results))
    with opened_report(tmp_path / "page.html") as seen:
        lines = seen.page.locator(".warnings li").all_inner_texts()
    assert lines[0] == "7 batches: 1 of 9 requests were cut off"
    assert len(lines) == 2 and lines[1].endswith("concurrency 8: all alike")
