"""The sweep notebook by hand: in a real JupyterLab, in a real Chromium, with the real engine."""

import socket
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from chromium import needs_chromium
from lab import opened_notebook, running_lab
from processes import processes_of, wait_until

from tuner import notebook
from tuner.errors import SpecError

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@needs_chromium
@pytest.mark.browser
@pytest.mark.real
def test_a_person_runs_a_sweep(tiny_gguf, tmp_path):
    from playwright.sync_api import expect

    with running_lab(tmp_path, free_port()) as address, opened_notebook(address, "sweep") as page:
        run = page.get_by_role("button", name="Run sweep")
        expect(run).to_be_enabled()

        page.get_by_label("levels").fill("1 0")
        page.keyboard.press("Tab")
        run.click()
        expect(page.get_by_text("is no concurrency level")).to_be_visible()

        for field, value in {"model": tiny_gguf, "levels": "1 2", "scenarios": "D(20,8)", "max seconds": "2"}.items():
            page.get_by_label(field, exact=True).fill(str(value))
            page.keyboard.press("Tab")
        run.click()
        expect(run).to_be_disabled()
        expect(page.get_by_text("done: 2 levels")).to_be_visible(timeout=60_000)
        assert page.locator(".js-plotly-plot .scatterlayer .point").count() == 2
        assert page.locator("table tbody tr").count() == 2
        page.screenshot(path=tmp_path / "done.png")

        page.get_by_label("max seconds", exact=True).fill("60")
        page.keyboard.press("Tab")
        run.click()
        expect(page.get_by_text("at concurrency 1")).to_be_visible(timeout=60_000)
        stop = page.get_by_role("button", name="Stop")
        stop.click()
        stop.click()
        expect(run).to_be_enabled(timeout=30_000)
    reports = list(tmp_path.glob("runs/*/report.html"))
    assert len(reports) == 2
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


def test_plain_papermill_ends_with_1_for_a_wrong_parameter(tmp_path):
    command = [sys.executable, "-m", "papermill", str(FOLDER / "sweep.ipynb"), str(tmp_path / "out.ipynb"), "-k", "python3"]
    asked = [*command, "-p", "run_now", "True", "-p", "levels", "0"]
    done = subprocess.run(asked, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "SpecError: levels: 0 is no concurrency level" in (tmp_path / "out.ipynb").read_text()
