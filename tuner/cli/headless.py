"""Run a notebook without a person: papermill in a process of its own, ended with everything below it.

The process is `python -m tuner.cli.headless`; its parameters come over a file, since a command line is public.
"""

import json
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tuner import errors
from tuner.core import files
from tuner.core.run_directory import Experiment
from tuner.core.timestamps import now, to_text
from tuner.errors import ClusterError, PathError, RequestError, TunerError
from tuner.report.write import REPORT_FILE, write_report
from tuner.servers.supervised import Supervised
from tuner.sweep.spec import SweepSpec

_log = logging.getLogger(__name__)

NOTEBOOK = "report.ipynb"
PARAMETERS = "parameters.json"
LOG = "notebook.log"
_POLL_SECONDS = 0.25
_NO_OUTPUT_SECONDS = 24 * 3600  # of one cell: it measures for as long as the sweep takes


def notebook_path(name: str) -> Path:
    """The notebook `name` of this package, installed or in a checkout.

    Raises:
        PathError: it came with neither.
    """
    package = Path(__file__).parents[1]
    candidates = [folder / "notebooks" / f"{name}.ipynb" for folder in (package, package.parent)]
    for path in candidates:
        if path.exists():
            return path
    raise PathError(f"the notebook {name}.ipynb is missing from this installation; install tuner again")


def run_experiment_notebook(name: str, spec: SweepSpec, experiment: Experiment, tick: Callable[[], None]) -> Path:
    """Run the notebook `name` on `spec`; a report of what survived is there however it ends.

    Args:
        name: of the notebook: `sweep` or `tune`.
        spec: what to measure, of the notebook's kind.
        experiment: a new run directory.
        tick: called a few times a second meanwhile.

    Returns:
        The report.

    Raises:
        TunerError: what the notebook raised.
    """
    asked = spec.model_dump(mode="json")  # all of it: the notebook's own defaults are for its form
    try:
        run_notebook(name, experiment, asked | {"run_now": True, "run_folder": str(experiment.folder)}, tick)
    except BaseException as error:
        if experiment.is_new and isinstance(error, (RequestError, ClusterError)):  # refused before it began
            shutil.rmtree(experiment.folder, ignore_errors=True)
        _close(experiment)
        raise
    return experiment.folder / REPORT_FILE


def _close(experiment: Experiment) -> None:
    """Finish the books of a run that was cut off, and report on what it left."""
    if experiment.is_new or not experiment.trial(1).facts_file.exists():
        return
    if experiment.facts.get("state") == "running":
        experiment.describe(state="interrupted", finished_at=to_text(now()))
    try:
        write_report(experiment.folder)
    except TunerError as error:
        _log.warning("no report: %s", error)


def run_notebook(name: str, experiment: Experiment, parameters: dict[str, Any], tick: Callable[[], None]) -> None:
    """Execute a notebook into the run directory; nothing it started is left when this returns or raises.

    Args:
        name: of the notebook, such as `sweep`.
        experiment: where `report.ipynb` goes.
        parameters: for the notebook's parameters cell, plain JSON values.
        tick: called a few times a second meanwhile.

    Raises:
        TunerError: what the notebook raised, as the same class where it was one of ours.
    """
    folder = experiment.folder
    files.write_json(folder / PARAMETERS, parameters)
    command = [sys.executable, "-m", "tuner.cli.headless", str(notebook_path(name)), str(folder)]
    with Supervised(command, folder / LOG) as process:
        while not process.wait(_POLL_SECONDS):
            tick()
        tick()
    if process.exit_code != 0:
        raise _failure_in(folder / NOTEBOOK, folder / LOG)


def _failure_in(notebook: Path, log: Path) -> TunerError:
    """The error that stopped the notebook, as it was raised."""
    cells = files.read_json(notebook).get("cells", []) if notebook.exists() else []
    outputs = [output for cell in cells for output in cell.get("outputs", []) if output["output_type"] == "error"]
    if not outputs:
        return TunerError(f"the notebook's kernel ended early; {log} says more")
    kind = getattr(errors, outputs[0]["ename"], None)
    if isinstance(kind, type) and issubclass(kind, TunerError):
        return kind(outputs[0]["evalue"])
    return TunerError(f"the notebook failed: {outputs[0]['ename']}: {outputs[0]['evalue']}; see {notebook}")


def main(notebook: str, folder: str) -> None:
    """Execute `notebook` with papermill into `folder`; exit code 1 where a cell failed."""
    import papermill
    from papermill.exceptions import PapermillExecutionError

    try:
        papermill.execute_notebook(
            notebook,
            str(Path(folder) / NOTEBOOK),
            json.loads((Path(folder) / PARAMETERS).read_text()),
            kernel_name="python3",
            progress_bar=False,
            execution_timeout=_NO_OUTPUT_SECONDS,
        )
    except PapermillExecutionError as failure:
        sys.exit(f"{failure.ename}: {failure.evalue}")


if __name__ == "__main__":
    main(*sys.argv[1:])
