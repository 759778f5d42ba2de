"""What a report carries inside itself: its batches and what stands beside them, so that one file is the data too."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from tuner.batches.batch import COLUMNS, Batch, Place, records, with_types
from tuner.core.files import RESULTS, is_regular, read_bytes
from tuner.core.level import level_of
from tuner.errors import PathError

OPENING = '<script type="application/json" id="tuner-data">'
_CLOSING = "</script>"
FORMAT = 1


class ReportTrial(msgspec.Struct, kw_only=True):
    """A trial of a search, as `load_trials` has it; None for what is missing."""

    trial: int
    role: str
    of: str = ""
    state: str
    parameters: dict[str, Any]
    promise: str = ""
    value: float | None
    values: list[float | None]
    unit: str
    penalty: float | None
    cause: str
    kind: str
    gpus: int
    max_throughput: float | None
    best_level: int | None
    best_rate: float | None = None
    bracket: str
    started_at: str | None
    finished_at: str | None
    duration: float | None
    is_best: bool
    is_pareto: bool


class ReportData(msgspec.Struct, kw_only=True):
    """The data of a report; seconds, tokens/s, UTC to the microsecond with a `Z`."""

    format: int = FORMAT  # raised when a reader of today could not read it any more
    slo: dict[str, Any] | None = None  # the SLO's document, None where nobody asked for one
    columns: list[str]  # those of `load_batches`
    rows: list[list[Any]]  # one a batch; None for what is missing
    attainment: list[float | None] = []  # of each batch under `slo`, which needs the single requests
    spreads: dict[str, list[list[float] | None]] = {}  # quantiles of each batch's requests, by latency
    # of each batch's numbers, one list a column, as `tuner.judging.intervals` names them
    intervals: dict[str, list[Any]] = {}
    facts: dict[str, Any] = {}  # `experiment.json`
    servers: list[dict[str, Any]] = []  # each trial's `server.json`
    runs: list[dict[str, Any]] = []  # what each run was made with
    telemetry: dict[str, list[Any]] = {}  # samples, one list a column
    trials: list[ReportTrial] = []  # of a search


def columns_and_rows(batches: pd.DataFrame) -> tuple[list[str], list[list[Any]]]:
    """The batches as JSON has them, each number to its last bit and each time to the microsecond."""
    return list(COLUMNS), [list(row.values()) for row in records(batches[list(COLUMNS)])]


def pack(data: ReportData) -> str:
    """`data` as JSON that no text in it can end early: every `<` is written as an escape."""
    text = msgspec.json.encode(data).decode()
    for character in ("<", ">", "&", "\u2028", "\u2029"):
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def is_page(path: Path) -> bool:
    """Whether `path` is an HTML file, perhaps a report."""
    return path.suffix.lower() in (".html", ".htm") and is_regular(path)


def unpack(path: Path) -> ReportData:
    """What the report `path` carries.

    Raises:
        PathError: it carries nothing (other pages do not), is damaged, or comes from a later tuner.
    """
    text = read_bytes(path, RESULTS).decode(errors="replace")
    found = re.search(f"{re.escape(OPENING)}([^<]*){_CLOSING}", text)
    if not found:
        raise PathError(f"{path} carries no batches: only a report that tuner made does, and only where it is whole")
    try:
        data = msgspec.json.decode(found[1], type=ReportData)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise PathError(f"{path}: the data in the report is damaged: {error}") from error
    if data.format > FORMAT:
        raise PathError(f"{path} was made by a later tuner; install that one to read it")
    return data


def read_report(path: Path) -> list[Batch]:
    """The batches that the report `path` carries, as they were when it was made.

    Raises:
        PathError: it carries none, or is damaged.
    """
    data = unpack(path)
    try:
        rows = [dict(zip(data.columns, row, strict=True)) for row in data.rows]
        with_types(pd.DataFrame(rows, columns=data.columns))
        return [_batch(row) for row in rows]
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise PathError(f"{path}: the batches in the report are damaged: {error}") from error


def _batch(row: dict[str, Any]) -> Batch:
    names = ("experiment", "trial", "engine", "model")
    place = Place(Path(row["run_folder"] or ""), **{name: row[name] for name in names})
    keys = {name: row[name] for name in ("scenario", "iteration_type", "repeat", "outcome", "superseded")}
    file = Path(row["source"]) if row["source"] else None
    return Batch(place, level=level_of(row), file=file, report_row=row, **keys)
