"""A comparison as JUnit XML, which CI systems show: one case a scenario, level and metric."""

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree  # writes only; nothing from outside is parsed

from tuner.batches.batch import records
from tuner.core import files, timestamps
from tuner.judging import comparison_tables as changes
from tuner.judging import comparison_words as words
from tuner.judging.comparison import UNKNOWN, WORSE
from tuner.report.compared import Compared

#: what no XML 1.0 document may hold, escaped or not
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SUITE = "tuner compare"


def write_junit(compared: Compared, target: Path) -> Path:
    """Write a comparison as JUnit XML: regressions are failures, what cannot be told is skipped.

    Returns:
        The file's path.

    Raises:
        PathError: it cannot be written.
    """
    root = ElementTree.Element("testsuites", name=_SUITE)
    suite = ElementTree.SubElement(root, "testsuite", name=_clean(compared.title), timestamp=_now())
    _add_configuration(suite, compared)
    for row in records(compared.comparison.differences):
        _add_difference(suite, row)
    for row in records(compared.comparison.unmatched):
        _add_unmatched(suite, row)
    for element in (root, suite):
        _count(element, suite)
    ElementTree.indent(root)
    files.write_atomically(target, ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")
    return target


def _now() -> str:
    return timestamps.now().strftime("%Y-%m-%dT%H:%M:%S")  # the schema knows no zone; UTC as everywhere


def _add_configuration(suite: ElementTree.Element, compared: Compared) -> None:
    """In what the sides differ, as properties of the suite."""
    properties = ElementTree.SubElement(suite, "properties")
    for row in records(compared.configuration):
        said = f"{row['baseline']} → {row['candidate']}"
        ElementTree.SubElement(properties, "property", name=_clean(row["what"]), value=_clean(said))


def _add_difference(suite: ElementTree.Element, row: dict[str, Any]) -> None:
    case = _case(suite, row, words.name(row["metric"]))
    said = _clean(", ".join(filter(None, [changes.cell(row), changes.between(row), row["note"] or ""])))
    if row["verdict"] == WORSE:
        failure = ElementTree.SubElement(case, "failure", type="regression", message=said)
        failure.text = _clean(f"baseline {row['baseline']}, candidate {row['candidate']} {row['unit']}")
    elif row["verdict"] == UNKNOWN:
        ElementTree.SubElement(case, "skipped", message=said)
    else:
        ElementTree.SubElement(case, "system-out").text = said


def _add_unmatched(suite: ElementTree.Element, row: dict[str, Any]) -> None:
    case = _case(suite, row, "has a result on both sides")
    said = _clean(f"{row['side']} has no result: {row['outcome']}: {row['reason']}")
    ElementTree.SubElement(case, "failure" if row["lost"] else "skipped", type=str(row["outcome"]), message=said)


def _case(suite: ElementTree.Element, row: dict[str, Any], name: str) -> ElementTree.Element:
    where = f"{row['scenario']}.concurrency {changes.level(row)}"
    return ElementTree.SubElement(suite, "testcase", classname=_clean(where), name=_clean(name), time="0")


def _count(element: ElementTree.Element, suite: ElementTree.Element) -> None:
    counts = {"tests": "testcase", "failures": "testcase/failure", "skipped": "testcase/skipped"}
    for name, path in counts.items():
        element.set(name, str(len(suite.findall(path))))
    element.set("errors", "0")


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
