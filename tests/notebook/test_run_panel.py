"""The panels of a sweep and of a search, without a browser."""

import asyncio

import pytest
from support import result_files

from tuner import notebook
from tuner.core.run_directory import SWEEP, Experiment
from tuner.errors import PathError
from tuner.judging.slo import SLO
from tuner.notebook import form, run_panel
from tuner.notebook.views import ResultsView
from tuner.report.results import read_results


def test_a_panel_that_is_shown_anew_finds_the_run_of_a_name_with_a_space(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = []
    monkeypatch.setattr(form, "display", shown.append)
    experiment = Experiment.create(tmp_path, SWEEP, "my run")
    experiment.describe(kind=SWEEP, name="my run", state="done")

    async def show():
        panel = run_panel.SweepPanel({"name": "my run", "runs": str(tmp_path)})
        panel.show()
        await panel.task

    asyncio.run(show())
    assert any("done: 0 levels" in str(getattr(part, "value", "")) for part in shown[0].children)


def test_a_moved_slider_says_what_share_of_the_requests_meets_it(tmp_path):
    trial = result_files.run(tmp_path / "run", [1])
    requests = [result_files.request(ttft=number / 100) for number in range(1, 101)]
    result_files.add_level(trial, 1, result_files.result(requests, level=1))
    view = ResultsView()
    view.show(read_results(tmp_path / "run", slo=SLO.parse({"ttft": {"p90": {"threshold": 2}}})))
    assert "<td>100.0</td>" in view._table.value
    slider = view._limits[0][1]
    slider.value = min((value for _, value in slider.options), key=lambda value: abs(value - 0.405))
    share = sum(request["ttft"] <= slider.value for request in requests)
    assert 0 < share < 100 and f"<td>{share}.0</td>" in view._table.value


def test_where_there_is_no_run_to_compare_one_line_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PathError) as refused:
        notebook.compare({"paths": "runs"})
    (line,) = refused.value._render_traceback_()
    assert line == "PathError: runs does not exist: run sweep.ipynb first, or name runs as baseline and candidate"
