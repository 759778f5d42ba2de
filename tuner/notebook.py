"""What the notebooks call: the same cell shows a panel to a person and runs at once for papermill."""

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.engines.parameters import suggest
from tuner.errors import SpecError
from tuner.experiment import Experiment
from tuner.kinds import SEARCH, SWEEP, Kind
from tuner.page import table_html
from tuner.report import Results, read_results, save_report, write_report
from tuner.slo import SLO
from tuner.spec import ServeSpec, SweepSpec, make_spec, split

if TYPE_CHECKING:
    from tuner.panel import ServerPanel, SweepPanel, TunePanel

    Panel = SweepPanel | TunePanel

#: what a notebook's parameters cell may hold besides the spec's own parameters
RUN_NOW, RUN_FOLDER = "run_now", "run_folder"
_PLAIN = (str, int, float, bool, list, dict, tuple, type(None))
_JUPYTERS_OWN = {"In", "Out"}


def sweep(namespace: dict[str, Any]) -> "Panel | Results":
    """Show the sweep panel, or with `run_now` run the sweep and show its results.

    Args:
        namespace: the notebook's `globals()`; its plain values are the parameters.

    Returns:
        The panel, or the results of the finished sweep.

    Raises:
        SpecError: a parameter is unknown or has a wrong value.
    """
    return _shown_or_run(namespace, SWEEP)


def tune(namespace: dict[str, Any]) -> "Panel | Results":
    """Show the search panel, or with `run_now` run the search and show its results.

    Args:
        namespace: the notebook's `globals()`; its plain values are the parameters.

    Returns:
        The panel, or the results of the finished search.

    Raises:
        SpecError: a parameter is unknown or has a wrong value.
    """
    return _shown_or_run(namespace, SEARCH)


def _shown_or_run(namespace: dict[str, Any], kind: Kind) -> "Panel | Results":
    """The panel of a kind of run, shown; or with `run_now` the results of such a run."""
    parameters = parameters_in(namespace, {*kind.asks.model_fields, RUN_NOW, RUN_FOLDER})
    run_now = _yes_or_no(parameters.pop(RUN_NOW, False))
    folder = parameters.pop(RUN_FOLDER, None)
    if run_now:
        return run_here(kind, make_spec(parameters, kind.asks), folder)
    from tuner.panel import PANELS

    panel = PANELS[kind.name](parameters)
    panel.show()
    return panel


def launch_server(namespace: dict[str, Any]) -> "ServerPanel":
    """Show the panel that launches a server.

    Args:
        namespace: the notebook's `globals()`; its plain values are the parameters.

    Raises:
        SpecError: a parameter is unknown or has a wrong value.
    """
    from tuner.panel import ServerPanel

    panel = ServerPanel(parameters_in(namespace, set(ServeSpec.model_fields)))
    panel.show()
    return panel


def compare(namespace: dict[str, Any]) -> Results:
    """Show several runs side by side: one curve a run, one table, one answer each.

    Args:
        namespace: the notebook's `globals()`; `paths` are run directories, genai-bench folders or reports, `slo` is a
            file or its content (by default each run counts as it was asked to), `report` a file to write.

    Raises:
        SpecError: a parameter is unknown or has a wrong value.
        PathError: a path holds no batch.
    """
    parameters = parameters_in(namespace, {"paths", "slo", "report"})
    paths = [Path(path) for path in split(parameters.get("paths") or [])]
    if not paths:
        raise SpecError("paths: missing; name the runs to compare, such as paths = ['runs/…', 'runs/…']")
    asked = make_spec({"slo": parameters.get("slo") or None}, SweepSpec).slo
    results = read_results(*paths, slo=SLO.parse(asked) if asked else None)
    show(results)
    if target := parameters.get("report"):
        save_report(results, Path(target))
    return results


def run_here(kind: Kind, spec: SweepSpec, folder: str | None) -> Results:
    """Run a sweep or a search in this process, write its report whatever happens, and show figures and table."""
    experiment = Experiment.at(Path(folder)) if folder else Experiment.create(spec.runs, kind.name, spec.name)
    try:
        kind.run(spec, experiment, None)
    finally:
        if experiment.trial(1).facts_file.exists():
            write_report(experiment.folder)
    results = read_results(experiment.folder)
    show(results)
    results.must_have_survivors()
    return results


def show(results: Results) -> None:
    """Display a run's answer, figures and table in the notebook; of a search, the trials' and how to run the best."""
    from IPython.display import HTML, Markdown, display

    from tuner.figures import notebook_bundle
    from tuner.summary import table

    display(Markdown("\n\n".join(escape(line, quote=False) for line in results.answer)))
    if results.command:
        display(HTML(f"The best configuration again:<pre>{escape(results.command)}</pre>"))
    for figure in results.figures:
        display(notebook_bundle(figure), raw=True)
    display(HTML(table_html(results.searched.table if results.searched else table(results.judged))))


def parameters_in(namespace: dict[str, Any], known: set[str]) -> dict[str, Any]:
    """The parameters among a notebook's variables, which must be among the `known` ones.

    Raises:
        SpecError: a variable is no parameter; papermill itself takes a misspelt name for a new variable.
    """
    plain = {name: value for name, value in namespace.items() if _is_parameter(name, value)}
    for name in plain:
        if name not in known:
            raise SpecError(f"unknown parameter {name!r}; {suggest(name, known)}")
    return plain


def _is_parameter(name: str, value: Any) -> bool:
    return isinstance(value, _PLAIN) and not name.startswith("_") and name not in _JUPYTERS_OWN


def _yes_or_no(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise SpecError(f"run_now must be True or False, got {value!r} (papermill: -p run_now True)")
