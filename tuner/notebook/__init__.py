"""What the notebooks call: the same cell shows a panel to a person and runs at once for papermill."""

from pathlib import Path
from typing import Any

from IPython.display import HTML, display

from tuner.core.run_directory import Experiment
from tuner.core.text import suggest
from tuner.errors import PathError, SpecError
from tuner.figures import notebook_bundle
from tuner.judging.slo import SLO
from tuner.notebook.run_panel import RunPanel, SweepPanel, TunePanel
from tuner.notebook.server_panel import ServerPanel
from tuner.report.compared import Compared
from tuner.report.results import Results, read_results
from tuner.report.static import answer_html, comparison_html, picture_html, table_html
from tuner.report.write import ComparisonRequest, run_comparison, save_report, write_report
from tuner.search.search import Kind
from tuner.sweep.spec import ServeSpec, SweepSpec, make_spec

#: what a notebook's parameters cell may hold besides the spec's own parameters
RUN_NOW, RUN_FOLDER = "run_now", "run_folder"
_COMPARES = {"paths", "baseline", "candidate", "slo", "tolerance", "report", "junit", "fail_on_regression"}
_PLAIN = (str, int, float, bool, list, dict, tuple, type(None))
_JUPYTERS_OWN = {"In", "Out"}


def sweep(namespace: dict[str, Any]) -> RunPanel | Results:
    """Show the sweep panel, or with `run_now` run the sweep and show its results.

    The plain values of the notebook's `globals()` are the parameters; a SpecError says which is unknown or wrong.
    """
    return _show_or_run(namespace, SweepPanel)


def tune(namespace: dict[str, Any]) -> RunPanel | Results:
    """Show the search panel, or with `run_now` run the search and show its results; as `sweep` otherwise."""
    return _show_or_run(namespace, TunePanel)


def _show_or_run(namespace: dict[str, Any], panel_of: type[RunPanel]) -> RunPanel | Results:
    kind = panel_of.kind
    parameters = parameters_in(namespace, {*kind.spec.model_fields, RUN_NOW, RUN_FOLDER})
    run_now = _yes_or_no(RUN_NOW, parameters.pop(RUN_NOW, False))
    folder = parameters.pop(RUN_FOLDER, None)
    if parameters.get("rates"):
        parameters["levels"] = None  # those of the notebook's own cell
    if run_now:
        return run_here(kind, make_spec(parameters, kind.spec), folder)
    panel = panel_of(parameters)
    panel.show()
    return panel


def launch_server(namespace: dict[str, Any]) -> ServerPanel:
    """Show the panel that launches a server; the plain values of the notebook's `globals()` are its parameters."""
    panel = ServerPanel(parameters_in(namespace, set(ServeSpec.model_fields)))
    panel.show()
    return panel


def compare(namespace: dict[str, Any]) -> Compared | Results:
    """Show what changed from baseline to candidate, or several runs side by side.

    Args:
        namespace: the notebook's `globals()`. `baseline` and `candidate` are run directories, genai-bench folders or
            reports, one or a list of each; where neither is given, `paths`, or all runs there are, are shown side by
            side. `slo` is a file or its content, `tolerance` a share such as `5%`, `report` an HTML file and `junit` an
            XML file to write; `fail_on_regression` ends with an error where the candidate is worse.

    Raises:
        SpecError: a parameter is unknown or has a wrong value.
        PathError: a path holds no batch.
        Regressed: the candidate is worse, and that was to fail.
    """
    parameters = parameters_in(namespace, _COMPARES)
    spec = make_spec({"slo": parameters.get("slo") or None}, SweepSpec)
    slo = SLO.parse(spec.slo) if spec.slo else None
    report, junit = (Path(parameters[name]) if parameters.get(name) else None for name in ("report", "junit"))
    if parameters.get("baseline") or parameters.get("candidate"):
        fails = _yes_or_no("fail_on_regression", parameters.get("fail_on_regression", False))
        baseline, candidate = (_paths(parameters.get(name)) for name in ("baseline", "candidate"))
        request = ComparisonRequest(baseline, candidate, slo, parameters.get("tolerance", "5%"), report, junit, fails)
        return run_comparison(request, show)
    paths = _paths(parameters.get("paths")) or [spec.runs]
    if missing := next((path for path in paths if not path.exists()), None):
        raise PathError(f"{missing} does not exist: run sweep.ipynb first, or name runs as baseline and candidate")
    results = read_results(*paths, slo=slo)
    show(results)
    if report:
        save_report(results, report)
    return results


def _paths(value: Any) -> list[Path]:
    if value is not None and not isinstance(value, (str, list, tuple)):
        raise SpecError(f"{value!r} is no path; write one as text, or a list of them")
    return [Path(path) for path in ([value] if isinstance(value, str) else value or [])]


def run_here(kind: Kind, spec: SweepSpec, folder: str | None) -> Results:
    """Run a sweep or a search in this process, write its report whatever happens, and show figures and table."""
    made = Experiment.at(Path(folder)) if folder else Experiment.create(spec.runs, kind.name, spec.name)
    with made.only_writer() as experiment:
        try:
            kind.run(spec, experiment, None)
        finally:
            if experiment.has_begun:
                write_report(experiment.folder)
    results = read_results(experiment.folder)
    show(results)
    results.must_have_survivors()
    return results


def show(results: Results | Compared) -> None:
    """Display answer, figures and table of a run in the notebook, or what a comparison found."""
    if isinstance(results, Compared):
        above, below = comparison_html(results)
    else:
        above, below = answer_html(results), table_html(results.shown_table)
    # the pictures are for readers that run no script; JupyterLab hides them
    display(HTML(f"{above}<style>.jp-NotebookPanel .tuner-still {{display: none}}</style>"))
    for figure in results.figures:
        display(notebook_bundle(figure), raw=True)
        display(HTML(picture_html(figure)))
    display(HTML(below))


def parameters_in(namespace: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """The parameters among a notebook's variables; SpecError where one is not among `names`: papermill takes any."""
    own = {name: value for name, value in namespace.items() if not name.startswith("_") and name not in _JUPYTERS_OWN}
    plain = {name: value for name, value in own.items() if isinstance(value, _PLAIN)}
    if unknown := next((name for name in plain if name not in names), None):
        raise SpecError(f"unknown parameter {unknown!r}; {suggest(unknown, names)}")
    return {name: value for name, value in plain.items() if value is not None}  # None: its default


def _yes_or_no(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise SpecError(f"{name} must be True or False, got {value!r} (papermill: -p {name} True)")
