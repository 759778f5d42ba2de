"""The report: one HTML file made from a run directory, which opens with the network off.

plotly.js goes in once, compressed, and is unpacked by the browser. A Content-Security-Policy forbids every request, and
every script but the two whose hashes it names: ours and plotly.js.
"""

from pathlib import Path

from tuner import comparison_page, files, junit, page
from tuner.compared import Compared
from tuner.costs import Price
from tuner.errors import PathError
from tuner.findings import Results, read_results
from tuner.slo import SLO

__all__ = [
    "REPORT_FILE",
    "Results",
    "must_have_folder",
    "read_results",
    "save_comparison",
    "save_report",
    "write_report",
]

REPORT_FILE = "report.html"


def write_report(path: Path, target: Path | None = None, slo: SLO | None = None, price: Price | None = None) -> Path:
    """Write the report of a run directory, a folder of batch files, or another report.

    Args:
        path: what to report on.
        target: the HTML file; by default `report.html` in `path`.
        slo: judges the batches; by default the run's own.
        price: of a GPU-hour, so that the answer says what the best level costs.

    Returns:
        The HTML file's path.

    Raises:
        PathError: there is nothing to report on, or the file cannot be written.
        SecretFound: a key stands in the run; nothing was written.
        RequestError: a price was given, and nobody knows for how many GPUs.
    """
    target = target or path / REPORT_FILE
    must_have_folder(target)
    return save_report(read_results(path, slo=slo, price=price), target)


def save_report(results: Results, target: Path) -> Path:
    """Write the report of `results`; the path is given back.

    Raises:
        PathError: the file cannot be written.
        SecretFound: a key stands in the run; nothing was written.
    """
    results.beside.must_hold_no_secret(results.judged)
    files.write_atomically(target, page.render(results))
    return target


def save_comparison(compared: Compared, target: Path | None, junit_file: Path | None = None) -> list[Path]:
    """Write what is asked for of a comparison: its report, and JUnit XML.

    Returns:
        What was written.

    Raises:
        PathError: a file cannot be written.
        SecretFound: a key stands in a run of either side; nothing was written.
    """
    if target or junit_file:
        compared.must_hold_no_secret()
    if target:
        files.write_atomically(target, comparison_page.render(compared))
    if junit_file:
        junit.write_junit(compared, junit_file)
    return [path for path in (target, junit_file) if path]


def must_have_folder(target: Path | None) -> None:
    """Refuse a file that could not be written, before the work for it is done.

    Raises:
        PathError: there is no such folder.
    """
    if target and not target.parent.is_dir():
        raise PathError(f"cannot write {target}: there is no folder {target.parent}")
