"""The report: one HTML file made from a run directory, which opens with the network off.

plotly.js goes in once, compressed, and is unpacked by the browser. A Content-Security-Policy forbids every request, and
every script but the two whose hashes it names: ours and plotly.js.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuner.core import files
from tuner.errors import PathError
from tuner.judging.costs import Price
from tuner.judging.verdicts import SLO
from tuner.report import comparison_page, junit, page
from tuner.report.compared import Compared, read_comparison, tolerance_of
from tuner.report.results import Results, read_results

__all__ = [
    "REPORT_FILE",
    "Asked",
    "Results",
    "read_results",
    "run_comparison",
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
    _must_have_folder(target)
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


def save_comparison(compared: Compared, target: Path | None, junit_file: Path | None = None) -> None:
    """Write what is asked for of a comparison: its report, and JUnit XML.

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


@dataclass(frozen=True)
class Asked:
    """What a comparison is asked to do.

    Args:
        baseline: run directories, genai-bench folders, files or reports.
        candidate: likewise.
        slo: judges both; by default the one that all runs were asked to meet, where it is the same.
        tolerance: a share such as `5%`; a smaller change is no regression.
        report: an HTML file to write.
        junit: an XML file to write.
        fails: whether a regression is an error.
    """

    baseline: Sequence[Path]
    candidate: Sequence[Path]
    slo: SLO | None = None
    tolerance: str | float = "5%"
    report: Path | None = None
    junit: Path | None = None
    fails: bool = False


def run_comparison(asked: Asked, show: Callable[[Compared], None]) -> Compared:
    """Compare two sides, show what came out, write what is asked for, and fail where that is asked for.

    Args:
        asked: what to do.
        show: called before anything is written.

    Raises:
        RequestError: what is asked for is wrong.
        NothingSurvived: no level has a result on both sides.
        Regressed: the candidate is worse, and that was to fail.
    """
    for target in filter(None, (asked.report, asked.junit)):
        _must_have_folder(target)
    tolerance = tolerance_of(asked.tolerance)
    compared = read_comparison(asked.baseline, asked.candidate, slo=asked.slo, tolerance=tolerance)
    show(compared)
    save_comparison(compared, asked.report, asked.junit)
    compared.must_be_comparable()
    if asked.fails:
        compared.must_not_have_regressed()
    return compared


def _must_have_folder(target: Path) -> None:
    if not target.parent.is_dir():
        raise PathError(f"cannot write {target}: there is no folder {target.parent}")
