"""The notebooks without a person, by papermill itself: a truthful exit code, and nothing of ours left behind."""

import asyncio
import os
import signal
import subprocess
import sys

import nbformat
import pytest
from nbconvert import HTMLExporter
from support import result_files
from support.chromium import browser_page, needs_chromium
from support.commands import environment, papermill
from support.processes import processes_of, wait_until

import tuner
from tuner.report.results import read_results

pytestmark = pytest.mark.real


def asked(model, **more):
    return {"run_now": True, "model": str(model), "levels": "1,2", "scenarios": "D(20,8)", "max_seconds": 2} | more


def test_sigterm_ends_kernel_and_server_and_keeps_what_had_finished(tiny_gguf, tmp_path):
    with papermill(tmp_path, "sweep", asked(tiny_gguf)) as process:
        wait_until(lambda: list(tmp_path.glob("runs/*/trials/0001/batches/*/concurrency-2.part/*.log")), 60)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(20) == -signal.SIGTERM
    wait_until(lambda: not processes_of(tmp_path), 15)
    (run,) = (tmp_path / "runs").iterdir()
    outcomes = tuner.load_batches(run).set_index("concurrency")["outcome"]
    assert outcomes[1] == "completed" and outcomes[2] != "completed"
    assert read_results(run).facts["state"] == "interrupted"


def test_a_timeout_ends_with_1_and_leaves_nothing_running(tiny_gguf, tmp_path):
    endless = asked(tiny_gguf, max_seconds=60, max_requests=10**6)
    with papermill(tmp_path, "sweep", endless, "--execution-timeout", "12") as process:
        assert process.wait(90) == 1
    wait_until(lambda: not processes_of(tmp_path), 15)
    assert nbformat.read(tmp_path / "out.ipynb", as_version=4).cells
    (run,) = (tmp_path / "runs").iterdir()
    assert read_results(run).facts["state"] == "interrupted"


def test_compare_shows_runs_side_by_side_and_writes_their_report(tmp_path):
    paths = [str(result_files.plain_folder(tmp_path / name, [1, 2, 4])) for name in ("before", "after")]
    with papermill(tmp_path, "compare", {"paths": paths, "report": "both.html"}) as process:
        assert process.wait(90) == 0, (tmp_path / "papermill.log").read_text()
    cells = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells
    outputs = [output["data"] for cell in cells for output in cell.get("outputs", []) if "data" in output]
    figure = next(data for data in outputs if "application/vnd.plotly.v1+json" in data)
    curves = [trace["name"] for trace in figure["application/vnd.plotly.v1+json"]["data"] if "lines" in trace["mode"]]
    assert curves == ["after", "before"]
    assert set(tuner.load_batches(tmp_path / "both.html")["experiment"]) == {"before", "after"}


@pytest.mark.parametrize(
    ("parameters", "said"),
    [({"pahts": ["x"]}, "unknown parameter 'pahts'; did you mean paths"), ({"paths": "none"}, "none does not exist")],
)
def test_compare_refuses_what_is_wrong_in_one_line(parameters, said, tmp_path):
    from tuner import notebook
    from tuner.errors import RequestError

    with pytest.raises(RequestError, match=said):
        notebook.compare(parameters)


def test_by_hand_by_papermill_and_by_command_line_the_table_is_the_same(tmp_path):
    from tuner.judging.table import table
    from tuner.notebook.views import ResultsView
    from tuner.report.static import table_html

    folder = result_files.plain_folder(tmp_path / "run", [1, 2, 4])
    expected = table_html(table(read_results(folder).judged))
    view = ResultsView()
    asyncio.run(view.show(read_results(folder)))
    assert view._rows._table.value == expected
    with papermill(tmp_path, "compare", {"paths": [str(folder)]}) as process:
        assert process.wait(90) == 0
    cells = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells
    shown = [
        output["data"].get("text/html", "") for cell in cells for output in cell.get("outputs", []) if "data" in output
    ]
    assert expected in shown
    command = [sys.executable, "-m", "tuner", "load", str(folder)]
    printed = subprocess.check_output(command, env=environment(tmp_path), text=True)
    for column in table(read_results(folder).judged):
        assert column in printed


def executed(folder, name, parameters):
    """The page that nbconvert makes of an executed notebook."""
    with papermill(folder, name, parameters) as process:
        assert process.wait(200) == 0, (folder / "papermill.log").read_text()
    (folder / "page.html").write_text(HTMLExporter().from_filename(str(folder / "out.ipynb"))[0])
    return (folder / "page.html").as_uri()


SPACE = {"space": {"n_batch": [64]}, "trials": 2, "confirm": 0}


@needs_chromium
@pytest.mark.browser
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("name", "more", "rows", "pictures"), [("sweep", {}, 2, 3), ("tune", SPACE, 2, 2), ("compare", None, 3, 1)]
)
def test_an_executed_notebook_is_read_without_scripts_and_widgets(name, more, rows, pictures, tiny_gguf, tmp_path):
    paths = {"paths": [str(result_files.plain_folder(tmp_path / "run", [1, 2, 4]))]}
    page = executed(tmp_path, name, paths if more is None else asked(tiny_gguf) | more)
    with browser_page(java_script_enabled=False) as seen:
        seen.page.goto(page)
        assert seen.page.get_by_text("output tokens/s at concurrency").first.is_visible()
        assert seen.page.locator(".tuner-rows").last.locator("tbody tr").count() == rows
        shown = seen.page.locator("img.tuner-still")
        assert shown.count() >= pictures and shown.first.bounding_box()["height"] > 200


@needs_chromium
@pytest.mark.browser
@pytest.mark.parametrize("name", ["sweep", "launch_server"])
def test_a_panel_that_was_not_used_says_so_where_no_script_runs(name, tmp_path):
    with browser_page(java_script_enabled=False) as seen:
        seen.page.goto(executed(tmp_path, name, {"engine": "llamacpp"}))
        assert seen.page.get_by_text("shown once the cells have been run").first.is_visible()
