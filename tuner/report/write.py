"""Reports and comparisons as files: HTML and JUnit."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.batches.batch import records
from tuner.core import files, timestamps
from tuner.core.level import level_title
from tuner.core.metrics import column_name
from tuner.errors import PathError, SpecError
from tuner.judging import comparison_text
from tuner.judging.costs import Price, Target
from tuner.judging.estimates import UNKNOWN, WORSE
from tuner.judging.slo import SLO
from tuner.report import page
from tuner.report.compared import Compared, read_comparison, tolerance_of
from tuner.report.results import Results, read_results

#: what no XML 1.0 document may hold, escaped or not
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(compared: Compared, target: Path) -> Path:
    """Write a comparison as JUnit XML: regressions are failures, what cannot be told is skipped.

    Raises:
        PathError: it cannot be written.
    """
    differences, unmatched = (
        records(each) for each in (compared.comparison.differences, compared.comparison.unmatched)
    )
    cases = [*map(_difference_case, differences), *map(_unmatched_case, unmatched)]
    now = timestamps.now().strftime("%Y-%m-%dT%H:%M:%S")  # the schema knows no zone; UTC as everywhere
    template, settings = page.environment().get_template("compare.xml"), records(compared.configuration)
    text = template.render(title=compared.title, now=now, configuration=settings, cases=cases)
    files.write_atomically(target, _FORBIDDEN.sub("\ufffd", text))
    return target


def _difference_case(row: dict[str, Any]) -> dict[str, str]:
    said = (comparison_text.cell(row), comparison_text.between(row), row["note"] or "")
    return {
        "where": f"{row['scenario']}.{comparison_text.level(row, level_title)}",
        "name": column_name(row["metric"]),
        "ended": {WORSE: "failure", UNKNOWN: "skipped"}.get(row["verdict"], ""),
        "type": "regression" if row["verdict"] == WORSE else "not judged",
        "text": ", ".join(filter(None, said)),
        "detail": f"baseline {row['baseline']}, candidate {row['candidate']} {row['unit']}",
    }


def _unmatched_case(row: dict[str, Any]) -> dict[str, str]:
    return {
        "where": f"{row['scenario']}.{comparison_text.level(row, level_title)}",
        "name": "has a result on both sides",
        "ended": "failure" if row["lost"] else "skipped",
        "type": str(row["outcome"]),
        "text": f"{row['side']} has no result: {row['outcome']}: {row['reason']}",
    }


REPORT_FILE = "report.html"


def write_report(
    path: Path,
    target: Path | None = None,
    slo: SLO | None = None,
    price: Price | None = None,
    load: Target | None = None,
) -> Path:
    """Write the report of a run directory, a folder of batch files, or another report.

    Args:
        path: what to report on.
        target: the HTML file; by default `report.html` in `path`.
        slo: judges the batches; by default the run's own.
        price: of a GPU-hour, so that the answer says what the best level costs.
        load: that a fleet is to carry, so that the answer says how many servers it takes.

    Returns:
        The HTML file's path.

    Raises:
        PathError: there is nothing to report on, or the file cannot be written.
        RequestError: a price was given, and nobody knows for how many GPUs.

    Example:
        >>> tuner.write_report(Path("runs/monday"), slo=tuner.SLO.load("slo.yaml")).name
        'report.html'
    """
    target = target or path / REPORT_FILE
    _must_be_writable(target)
    return save_report(read_results(path, slo=slo, price=price, target=load), target)


def save_report(results: Results, target: Path) -> Path:
    """Write the report of `results`; the path is given back.

    Raises:
        PathError: the file cannot be written.
    """
    files.write_atomically(target, page.render_report(results))
    return target


def save_comparison(compared: Compared, target: Path | None, junit_file: Path | None = None) -> None:
    """Write what is asked for of a comparison: its report, and JUnit XML.

    Raises:
        PathError: a file cannot be written.
    """
    if target:
        files.write_atomically(target, page.render_comparison(compared))
    if junit_file:
        write_junit(compared, junit_file)


@dataclass(frozen=True)
class ComparisonRequest:
    """What a comparison is asked to do."""

    baseline: Sequence[Path]  # run directories, genai-bench folders, files or reports
    candidate: Sequence[Path]  # likewise
    slo: SLO | None = None  # judges both; by default the one that all runs were asked to meet, where it is the same
    tolerance: str | float = "5%"  # a share such as `5%`; a smaller change is no regression
    report: Path | None = None  # an HTML file to write
    junit: Path | None = None  # an XML file to write
    fails: bool = False  # whether a regression is an error


_ONE_RUN = (
    "fail-on-regression asks for two runs or more a side: repeats: 3, or name more runs of each with --baseline and "
    "--candidate"
)


def run_comparison(request: ComparisonRequest, show: Callable[[Compared], None]) -> Compared:
    """Compare two sides, `show` what came out, write what is asked for, and fail where that is asked for.

    Raises:
        RequestError: what is asked for is wrong; a regression was to fail, and a side has only one run.
        NothingSurvived: no level has a result on both sides.
        Regressed: the candidate is worse, and that was to fail.
    """
    for target in filter(None, (request.report, request.junit)):
        _must_be_writable(target)
    tolerance = tolerance_of(request.tolerance)
    compared = read_comparison(request.baseline, request.candidate, slo=request.slo, tolerance=tolerance)
    if request.fails and not (compared.comparison.is_judged or compared.comparison.differences.empty):
        raise SpecError(_ONE_RUN)
    show(compared)
    save_comparison(compared, request.report, request.junit)
    compared.must_pass(fail_on_regression=request.fails)
    return compared


def _must_be_writable(target: Path) -> None:
    if not target.parent.is_dir():
        raise PathError(f"cannot write {target}: there is no folder {target.parent}")
    if target.is_symlink():  # which would be replaced by a file
        raise PathError(f"cannot write {target}: it is a link; name the file that it leads to")
