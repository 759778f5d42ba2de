"""The sweep notebook by hand: in a real JupyterLab, in a real Chromium, with the real engine."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from support import CHECKOUT, result_files
from support.chromium import needs_chromium
from support.lab import opened_notebook, run_all_cells, running_lab
from support.processes import free_port, processes_of, wait_until

from tuner import notebook
from tuner.core.records import SWEEP, ServerRecord
from tuner.core.run_directory import Experiment
from tuner.errors import SpecError
from tuner.sweep.spec import make_spec, read_spec

FOLDER = CHECKOUT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def found_again_and_stopped(page, run, stop, going_on, told, seconds):
    """Start a run; a tab that is opened anew finds it going on, can start no second one, and stops it at once."""
    from playwright.sync_api import expect

    run.click()
    said = page.locator(".tuner-panel .tuner-words").get_by_text(going_on)
    expect(said).to_be_visible(timeout=seconds * 1000)
    page.reload()  # as if the tab had been closed
    run_all_cells(page)
    expect(said).to_be_visible(timeout=seconds * 1000)
    expect(run).to_be_disabled()
    stop.click()
    stop.click()
    expect(page.get_by_text(re.compile(told))).to_be_visible(timeout=30_000)


def resumed_and_stopped(page, stop):
    """Resume the run that is shown, which goes on with the level that was cut off, and stop it again."""
    from playwright.sync_api import expect

    resume = page.get_by_role("button", name="Resume")
    expect(resume).to_be_enabled()
    resume.click()
    going_on = page.locator(".tuner-panel .tuner-words").get_by_text("at concurrency 1")
    expect(going_on).to_be_visible(timeout=60_000)
    stop.click()
    stop.click()
    expect(page.get_by_text(re.compile(r"interrupted: \d+ levels?; report"))).to_be_visible(timeout=30_000)


def picked_and_searched_from(page, done, home):
    """Pick an earlier run, and hand on what it proposes to the notebook of searches."""
    from playwright.sync_api import expect

    (done / "search.yaml").write_text("space: {n_parallel: [2, 4]}\n")
    page.get_by_label("run", exact=True).select_option(index=1)
    expect(page.get_by_text("done: 2 levels")).to_be_visible()
    expect(page.get_by_role("button", name="Resume")).to_be_disabled()
    page.get_by_role("button", name="Search from here").click()
    expect(page.get_by_text("open tune.ipynb and run its cells")).to_be_visible()
    assert (home / "next-search.yaml").exists()


def fill(page, **values):
    """Fill in fields of a form, and leave them."""
    for field, value in values.items():
        page.get_by_label(field.replace("_", " "), exact=True).fill(str(value))
        page.keyboard.press("Tab")


def reopen_without_its_kernel(page):
    """Save the notebook, end its kernel and open it again: nothing of the panel is left but what it kept."""
    from playwright.sync_api import expect

    page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
    page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    page.reload()
    expect(page.locator(".tuner-kept table")).to_be_visible()
    expect(page.locator(".tuner-kept img")).to_be_visible()
    expect(page.locator(".tuner-kept").get_by_text("output tokens/s at concurrency")).to_be_visible()


def open_tab(page, name):
    """Show a tab of the results."""
    page.get_by_role("tab", name=name).click()


#: what of a panel lies over something else, is cut off, or stands after a gap of nothing
LAYOUT = """() => {
  const panel = document.querySelector(".tuner-panel"), found = [];
  const parts = ".tuner-field, .tuner-card, .jupyter-widget-Collapse, button, .jupyter-widget-tab, pre, .widget-html";
  const seen = [...panel.querySelectorAll(parts)]
    .filter(one => one.offsetParent && one.getBoundingClientRect().height > 1);
  const over = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
  for (const [i, one] of seen.entries()) for (const other of seen.slice(i + 1))
    if (!one.contains(other) && !other.contains(one)
        && over(one.getBoundingClientRect(), other.getBoundingClientRect()))
      found.push(`${one.innerText.slice(0, 40)} lies over ${other.innerText.slice(0, 40)}`);
  const outer = panel.closest(".jp-OutputArea-output") || panel;
  if (outer.scrollWidth > outer.clientWidth + 1) found.push(`${outer.scrollWidth} > ${outer.clientWidth} px wide`);
  for (const button of panel.querySelectorAll("button"))
    if (button.offsetParent && button.scrollWidth > button.clientWidth + 1)
      found.push(`${button.innerText} is cut off`);
  const boxes = seen.map(one => one.getBoundingClientRect()).sort((a, b) => a.top - b.top);
  let bottom = boxes[0].top;
  for (const part of boxes) {
    if (part.top - bottom > 64) found.push(`${Math.round(part.top - bottom)} px of nothing`);
    bottom = Math.max(bottom, part.bottom);
  }
  return found;
}"""


@needs_chromium
@pytest.mark.browser
@pytest.mark.real
@pytest.mark.timeout(400)
def test_a_person_runs_sweeps(tiny_gguf, tmp_path):
    from playwright.sync_api import expect

    with running_lab(tmp_path, free_port()) as address, opened_notebook(address, "sweep") as page:
        run, stop = page.get_by_role("button", name="Run sweep"), page.get_by_role("button", name="Stop")
        expect(run).to_be_enabled()
        fill(page, levels="1 0")
        expect(page.get_by_text("must be a whole number greater than 0")).to_be_visible()
        run.click()
        expect(page.get_by_text("Not started: see the message in red above.")).to_be_visible()
        assert not list(tmp_path.glob("runs/*"))
        assert page.evaluate(LAYOUT) == []

        fill(page, model=tiny_gguf, levels="1,2", scenarios="D(20,8)", max_seconds=2)
        expect(page.get_by_text("takes 0.1 min at most")).to_be_visible()
        page.get_by_text("The same as a command and as a file").click()
        expect(page.get_by_text("tuner sweep --model")).to_be_visible()
        run.click()
        expect(run).to_be_disabled()
        expect(page.get_by_text("done: 2 levels")).to_be_visible(timeout=150_000)
        assert page.locator(".js-plotly-plot .scatterlayer .point").count() == 2
        assert page.evaluate(LAYOUT) == []

        page.locator(".noUi-handle").first.press("Home")
        expect(page.get_by_text("No batch meets the SLO")).to_be_visible()
        open_tab(page, "Batches")
        assert page.locator(".tuner-panel .tuner-rows tbody tr").count() == 2
        expect(page.locator(".tuner-panel .tuner-rows td").get_by_text("fail", exact=True)).to_have_count(2)
        fill(page, filter="no such batch")
        expect(page.locator(".tuner-panel .tuner-rows tbody tr")).to_have_count(0)
        open_tab(page, "Server")
        fill(page, search="model loaded")
        expect(page.locator(".tuner-log")).to_contain_text("model loaded")
        open_tab(page, "Figures")
        expect(page.locator(".js-plotly-plot").nth(3)).to_be_visible()
        open_tab(page, "Data")
        page.get_by_role("button", name="Write CSV").click()
        expect(page.get_by_text("written: runs/")).to_be_visible()
        assert page.evaluate(LAYOUT) == []

        fill(page, max_seconds=60, max_requests=10**6)
        found_again_and_stopped(page, run, stop, "at concurrency 1", r"interrupted: \d+ levels?", 60)
        done, cut_off = sorted(path.parent for path in tmp_path.glob("runs/*/experiment.json"))
        resumed_and_stopped(page, stop)
        assert len(json.loads((cut_off / "trials" / "0001" / "server.json").read_text())["previous"]) == 1
        picked_and_searched_from(page, done, tmp_path)
        page.get_by_label("compare with").select_option(index=0)
        page.get_by_role("button", name="Compare").click()
        expect(page.get_by_text("No differences in configuration").or_(page.get_by_text("same"))).not_to_have_count(0)
        assert page.evaluate(LAYOUT) == []

        reopen_without_its_kernel(page)
    wait_until(lambda: not processes_of(tmp_path), 20)


HOSTILE = (
    '</script><script>owned=1</script><img src=x onerror="owned=1"><a href="javascript:owned=1">x</a>'
    f"[x](javascript:owned=1) $x$ %{{text}} \x1b[31m \u202egnp '\"&lt; {'long' * 100}"
)


@needs_chromium
@pytest.mark.browser
@pytest.mark.real
def test_nothing_from_outside_is_executed_in_the_panel_or_in_an_executed_notebook(tmp_path):
    from playwright.sync_api import expect

    run = Experiment.create(tmp_path / "runs", SWEEP, "sweep")
    trial = result_files.run(run.folder, [1, 2], model=HOSTILE, scenarios=[HOSTILE])
    result_files.add_level(trial, 1, result_files.result(level=1), scenario=HOSTILE)
    result_files.add_level(trial, 2, scenario=HOSTILE, outcome="server_died", reason=HOSTILE)
    said = {"engine": HOSTILE, "model": HOSTILE, "version": HOSTILE, "command": [HOSTILE], "warnings": [HOSTILE]}
    ServerRecord(**said).write(trial.folder)
    trial.server_log.write_text(HOSTILE)
    spec = {"model": HOSTILE, "slo": {"ttft": {"p90": {"threshold": 1}}}}
    run.describe(kind=SWEEP, name="sweep", state="done", spec=spec, host={HOSTILE: HOSTILE}, versions={"x": HOSTILE})
    shutil.copytree(run.folder, run.folder.with_name("20260101T000000Z-sweep-sweep"))
    with running_lab(tmp_path, free_port()) as address:
        for name in ("sweep", "compare"):
            with opened_notebook(address, name) as page:
                expect(page.locator(".js-plotly-plot .scatterlayer .point").first).to_be_visible(timeout=120_000)
                if name == "sweep":
                    page.get_by_label("compare with").select_option(index=0)
                    page.get_by_role("button", name="Compare").click()
                    expect(
                        page.get_by_text("No differences in configuration").or_(page.get_by_text("same"))
                    ).not_to_have_count(0)
                    for tab in ("Batches", "Server", "Data", "Figures"):
                        open_tab(page, tab)
                        expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
                    drawn = page.locator(".tuner-panel .js-plotly-plot:visible").first
                    expect(drawn).to_be_visible(timeout=60_000)
                    assert page.evaluate(LAYOUT) == []
                assert page.get_by_text("owned=1").count() > 0  # it is shown, as words
                assert page.evaluate("[window.owned, document.querySelectorAll('img[onerror]').length]") == [None, 0]
                assert page.locator("a[href^='javascript:']").count() == 0
                assert not page.evaluate(
                    "/[\\x1b\\u202e]/.test(document.querySelector('.tuner-panel, .jp-Notebook').innerText)"
                )


@needs_chromium
@pytest.mark.browser
@pytest.mark.real
@pytest.mark.timeout(400)
def test_a_person_searches(tiny_gguf, tmp_path):
    from playwright.sync_api import expect

    with running_lab(tmp_path, free_port()) as address, opened_notebook(address, "tune") as page:
        run, stop = page.get_by_role("button", name="Run search"), page.get_by_role("button", name="Stop")
        expect(run).to_be_enabled()
        fill(page, space="n_paralel: [1, 2]")
        expect(page.get_by_text("'n_paralel'; did you mean n_parallel?")).to_be_visible()
        run.click()
        expect(page.get_by_text("Not started: see the message in red above.")).to_be_visible()

        fill(page, model=tiny_gguf, space="n_parallel: [1, 2]\nn_batch: [64, 128]", constraints="n_batch >= 64")
        fill(page, trials=2, confirm=0, max_seconds=2, levels=2, scenarios="D(20,8)")
        assert page.evaluate(LAYOUT) == []
        run.click()
        expect(run).to_be_disabled()
        page.get_by_text("done: 2 trials").wait_for(timeout=120_000)
        expect(page.locator(".js-plotly-plot").first).to_be_visible()
        expect(page.locator(".tuner-panel .tuner-copy").get_by_text("tuner sweep --model")).to_be_visible()
        open_tab(page, "Trials")
        expect(page.locator(".tuner-panel .tuner-rows td").get_by_text("baseline", exact=True)).to_be_visible()
        assert page.locator(".tuner-panel .tuner-rows tbody tr").count() == 2
        open_tab(page, "Figures")
        expect(page.locator(".gtitle", has_text="Throughput versus latency").first).to_be_visible(timeout=30_000)
        assert page.evaluate(LAYOUT) == []

        fill(page, scenarios="D(20,200)", max_seconds=60, trials=9)
        going_on = "trial 1 of 9: D(20,200) at concurrency 2"
        found_again_and_stopped(page, run, stop, going_on, r"interrupted: \d+ trials?", 120)
    assert len(list(tmp_path.glob("runs/*-tune-*/experiment.json"))) == 2
    wait_until(lambda: not processes_of(tmp_path), 20)


@needs_chromium
@pytest.mark.browser
@pytest.mark.real
def test_a_person_launches_a_server_and_hands_it_over(tiny_gguf, tmp_path):
    from playwright.sync_api import expect

    with running_lab(tmp_path, free_port()) as address, opened_notebook(address, "launch_server") as page:
        start, stop = page.get_by_role("button", name="Start server"), page.get_by_role("button", name="Stop")
        page.get_by_text("More settings").click()
        fill(page, port=70000)
        expect(page.get_by_text("port: must be less than or equal to 65535")).to_be_visible()
        fill(page, port="", model=tiny_gguf)
        command = page.locator("pre[title]")
        expect(command).to_contain_text(f"--model {tiny_gguf}")
        seen = command.inner_text()
        assert page.evaluate(LAYOUT) == []
        start.click()
        expect(page.get_by_text("ready: tiny at")).to_be_visible(timeout=60_000)
        (record,) = tmp_path.glob("servers/*/server.json")
        assert shlex.join(json.loads(record.read_text())["command"]) == seen
        expect(page.get_by_text("model loaded")).to_be_visible()
        expect(page.locator(".js-plotly-plot").first).to_be_visible(timeout=20_000)

        page.reload()
        run_all_cells(page)
        expect(page.get_by_text("ready: tiny at")).to_be_visible(timeout=20_000)
        expect(start).to_be_disabled()
        page.get_by_role("button", name="Hand over to sweep").click()
        expect(page.get_by_text("handed over: ")).to_be_visible()
        handed = make_spec(read_spec(tmp_path / "handover.yaml"))
        assert (handed.engine, handed.model) == ("attach", "tiny") and Path(handed.tokenizer or "").is_dir()
        stop.click()
        expect(start).to_be_enabled(timeout=30_000)
        assert json.loads(record.read_text())["state"] == "stopped"
    wait_until(lambda: not processes_of(tmp_path), 20)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_without_outputs(path):
    cells = nbformat.read(path, as_version=4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"levls": [1]}, "unknown parameter 'levls'; did you mean levels"),
        ({"run_now": "true"}, "run_now must be True or False"),
        ({"levels": "1,x", "run_now": True}, "levels"),
        ({"slo": {"ttft": {"p91": {"threshold": 1}}}, "run_now": True}, "p91"),
    ],
)
def test_a_wrong_parameter_is_one_clear_line(values, said):
    with pytest.raises(SpecError, match=said) as refused:
        notebook.sweep(values)
    assert "\n" not in str(refused.value)
    assert refused.value._render_traceback_() == [f"SpecError: {refused.value}"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"spaec": {}}, "unknown parameter 'spaec'; did you mean space"),
        ({"space": {"n_paralel": [1, 2]}, "run_now": True}, "did you mean n_parallel"),
        ({"constraints": ["n_batch <"], "run_now": True}, "constraint 'n_batch <'"),
    ],
)
def test_a_wrong_parameter_of_a_search_is_one_clear_line(values, said):
    with pytest.raises(SpecError, match=said) as refused:
        notebook.tune(values)
    assert "\n" not in str(refused.value)


def test_plain_papermill_ends_with_1_for_a_wrong_parameter(tmp_path):
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(FOLDER / "sweep.ipynb"),
        str(tmp_path / "out.ipynb"),
        "-k",
        "python3",
    ]
    asked = [*command, "-p", "run_now", "True", "-p", "levels", "0"]
    done = subprocess.run(asked, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "SpecError: levels: 0 is no concurrency level" in (tmp_path / "out.ipynb").read_text()
