"""The cell of each notebook that shows the library at work: for the run that was made, and while there is none."""

import nbformat
import papermill
import pytest
from support import CHECKOUT, result_files, searches

from tuner import notebook
from tuner.notebook.run_panel import SweepPanel, TunePanel
from tuner.notebook.server_panel import ServerPanel
from tuner.report.compared import read_comparison
from tuner.report.results import read_results
from tuner.search.spec import TuneSpec
from tuner.sweep.spec import ServeSpec, SweepSpec

CELLS = {"sweep": "library", "tune": "library", "compare": "library", "launch_server": "ask"}


def execute(name, **namespace):
    """Run the cell of the notebook `name`; returns what it displayed and the variables it left."""
    cells = nbformat.read(CHECKOUT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    (source,) = [cell.source for cell in cells if cell.id == CELLS[name]]
    displayed = []
    variables = {"display": displayed.append, **namespace}
    exec(source, variables)
    assert notebook.parameters_in(variables, set(namespace)).keys() <= namespace.keys()  # all cells can be run again
    return displayed


@pytest.fixture
def swept(tmp_path):
    """A run of two levels."""
    trial = result_files.run(tmp_path / "run", [1, 2])
    for level in (1, 2):
        result_files.add_level(trial, level, result_files.result(level=level))
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("name", "nothing_yet", "said"),
    [
        ("sweep", {"results": SweepPanel}, "No run yet: press Run sweep"),
        ("tune", {"results": TunePanel}, "No run yet: press Run search"),
        ("compare", {"results": None, "baseline": None, "candidate": None}, "Name a baseline and a candidate"),
        ("launch_server", {"panel": ServerPanel}, "No server yet: press Start server"),
    ],
)
def test_before_there_is_a_run_one_line_says_what_to_do(name, nothing_yet, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    values = {key: value({}) if callable(value) else value for key, value in nothing_yet.items()}
    assert execute(name, **values) == []
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(said)


def test_a_sweep_is_loaded_judged_and_drawn(swept, capsys):
    (figure,) = execute("sweep", results=read_results(swept))
    assert len(figure.data) > 0
    assert capsys.readouterr().out.startswith("most output tokens/s within the SLO: 183.")


def test_a_search_shows_its_trials_and_the_best_ones_levels(tmp_path):
    table, figure = execute("tune", results=read_results(searches.run(tmp_path / "run")))
    assert list(table["trial"]) == [1, 2, 3, 4, 5, 6] and len(figure.data) > 0


def test_two_sides_are_compared(swept, capsys):
    sides = read_comparison([swept], [swept], tolerance=0.05)
    (differences,) = execute("compare", results=sides, baseline=str(swept), candidate=str(swept))
    assert "output_throughput" in set(differences["metric"]) and capsys.readouterr().out


@pytest.mark.parametrize(("name", "spec"), [("sweep", SweepSpec), ("tune", TuneSpec), ("launch_server", ServeSpec)])
def test_papermill_knows_every_parameter_that_a_notebook_takes(name, spec):
    more = set() if spec is ServeSpec else {"run_now", "run_folder"}
    assert {*papermill.inspect_notebook(CHECKOUT / "notebooks" / f"{name}.ipynb")} == {*spec.model_fields} | more
