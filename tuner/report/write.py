"""Reports and comparisons as files: HTML and JUnit."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree  # writes only; nothing from outside is parsed

from tuner.batches.batch import records
from tuner.core import files, timestamps
from tuner.core.level import level_title
from tuner.core.metrics import column_name
from tuner.errors import PathError
from tuner.judging import comparison_text
from tuner.judging.costs import Price, Target
from tuner.judging.estimates import UNKNOWN, WORSE
from tuner.judging.slo import SLO
from tuner.report import page
from tuner.report.compared import Compared, read_comparison, tolerance_of
from tuner.report.results import Results, read_results

#: what no XML 1.0 document may hold, escaped or not
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SUITE = "tuner compare"


def write_junit(compared: Compared, target: Path) -> Path:
    """Write a comparison as JUnit XML: regressions are failures, what cannot be told is skipped.

    Raises:
        PathError: it cannot be written.
    """
    root = ElementTree.Element("testsuites", name=_SUITE)
    now = timestamps.now().strftime("%Y-%m-%dT%H:%M:%S")  # the schema knows no zone; UTC as everywhere
    suite = ElementTree.SubElement(root, "testsuite", name=_clean(compared.title), timestamp=now)
    _add_configuration(suite, compared)
    for row in records(compared.comparison.differences):
        _add_difference(suite, row)
    for row in records(compared.comparison.unmatched):
        _add_unmatched(suite, row)
    counts = {"tests": "testcase", "failures": "testcase/failure", "skipped": "testcase/skipped"}
    for element in (root, suite):
        for name, path in counts.items():
            element.set(name, str(len(suite.findall(path))))
        element.set("errors", "0")
    ElementTree.indent(root)
    files.write_atomically(target, ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")
    return target


def _add_configuration(suite: ElementTree.Element, compared: Compared) -> None:
    """In what the sides differ, as properties of the suite."""
    properties = ElementTree.SubElement(suite, "properties")
    for row in records(compared.configuration):
        change = f"{row['baseline']} → {row['candidate']}"
        ElementTree.SubElement(properties, "property", name=_clean(row["what"]), value=_clean(change))


def _add_difference(suite: ElementTree.Element, row: dict[str, Any]) -> None:
    case = _case(suite, row, column_name(row["metric"]))
    text = _clean(", ".join(filter(None, [comparison_text.cell(row), comparison_text.between(row), row["note"] or ""])))
    if row["verdict"] == WORSE:
        failure = ElementTree.SubElement(case, "failure", type="regression", message=text)
        failure.text = _clean(f"baseline {row['baseline']}, candidate {row['candidate']} {row['unit']}")
    elif row["verdict"] == UNKNOWN:
        ElementTree.SubElement(case, "skipped", message=text)
    else:
        ElementTree.SubElement(case, "system-out").text = text


def _add_unmatched(suite: ElementTree.Element, row: dict[str, Any]) -> None:
    case = _case(suite, row, "has a result on both sides")
    text = _clean(f"{row['side']} has no result: {row['outcome']}: {row['reason']}")
    ElementTree.SubElement(case, "failure" if row["lost"] else "skipped", type=str(row["outcome"]), message=text)


def _case(suite: ElementTree.Element, row: dict[str, Any], name: str) -> ElementTree.Element:
    where = f"{row['scenario']}.{comparison_text.level(row, level_title)}"
    return ElementTree.SubElement(suite, "testcase", classname=_clean(where), name=_clean(name), time="0")


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)


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
        SecretFound: a key stands in the run; nothing was written.
        RequestError: a price was given, and nobody knows for how many GPUs.

    Example:
        >>> tuner.write_report(Path("runs/monday"), slo=tuner.SLO.load("slo.yaml")).name
        'report.html'
    """
    target = target or path / REPORT_FILE
    _must_have_folder(target)
    return save_report(read_results(path, slo=slo, price=price, target=load), target)


def save_report(results: Results, target: Path) -> Path:
    """Write the report of `results`; the path is given back.

    Raises:
        PathError: the file cannot be written.
        SecretFound: a key stands in the run; nothing was written.
    """
    results.run_facts.must_hold_no_secret(results.judged)
    files.write_atomically(target, page.render_report(results))
    return target


def save_comparison(compared: Compared, target: Path | None, junit_file: Path | None = None) -> None:
    """Write what is asked for of a comparison: its report, and JUnit XML.

    Raises:
        PathError: a file cannot be written.
        SecretFound: a key stands in a run of either side; nothing was written.
    """
    if target or junit_file:
        for known, batches in (*compared.baseline.runs, *compared.candidate.runs):
            known.must_hold_no_secret(batches)
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


def run_comparison(request: ComparisonRequest, show: Callable[[Compared], None]) -> Compared:
    """Compare two sides, `show` what came out, write what is asked for, and fail where that is asked for.

    Raises:
        RequestError: what is asked for is wrong; a regression was to fail, and a side has only one run.
        NothingSurvived: no level has a result on both sides.
        Regressed: the candidate is worse, and that was to fail.
    """
    for target in filter(None, (request.report, request.junit)):
        _must_have_folder(target)
    tolerance = tolerance_of(request.tolerance)
    compared = read_comparison(request.baseline, request.candidate, slo=request.slo, tolerance=tolerance)
    if request.fails:
        compared.must_have_runs()
    show(compared)
    save_comparison(compared, request.report, request.junit)
    compared.must_pass(fail_on_regression=request.fails)
    return compared


def _must_have_folder(target: Path) -> None:
    if not target.parent.is_dir():
        raise PathError(f"cannot write {target}: there is no folder {target.parent}")
