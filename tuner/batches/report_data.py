"""What a report carries inside itself: its batches and what stands beside them, so that one file is the data too."""

import contextlib
import json
import logging
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from tuner.batches import _salvage
from tuner.batches.batch import COLUMNS, Batch, Place, records, with_types
from tuner.core.files import RESULTS, UNSEALED, fitting, is_changed, is_regular, must_be_plain, read_bytes, seal
from tuner.core.level import level_of
from tuner.core.secrets import redactor
from tuner.errors import PathError

OPENING = '<script type="application/json" id="tuner-data">'
FORMAT = 1
_CHANGED = "the report is damaged, or its data was changed after it was written: its checksum is another"
logger = logging.getLogger(__name__)


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
    answers: str = ""
    answers_evidence: str = ""
    is_best: bool
    is_pareto: bool


class ReportData(msgspec.Struct, kw_only=True):
    """The data of a report; seconds, tokens/s, UTC to the microsecond with a `Z`."""

    format: int = FORMAT  # raised when a reader of today could not read it any more
    checksum: str = UNSEALED  # of all this; see `files.seal`
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
    is_damaged: bool = False  # where it was read: whether rows of it are missing,
    is_changed: bool = False  # and whether it is not as it was written


def columns_and_rows(batches: pd.DataFrame) -> tuple[list[str], list[list[Any]]]:
    """The batches as JSON has them, each number to its last bit and each time to the microsecond."""
    return list(COLUMNS), [list(row.values()) for row in records(batches[list(COLUMNS)])]


def pack(data: ReportData) -> str:
    """`data` as JSON that no text in it can end early: every `<` is written as an escape."""
    text = str(redactor()(msgspec.json.encode(data).decode()))
    for character in ("<", ">", "&", "\u2028", "\u2029"):
        text = text.replace(character, f"\\u{ord(character):04x}")
    return seal(text.encode()).decode()


def is_page(path: Path) -> bool:
    """Whether `path` is an HTML file, perhaps a report."""
    return path.suffix.lower() in (".html", ".htm") and is_regular(path)


def unpack(path: Path) -> ReportData:
    """What the report `path` carries; PathError: nothing (as other pages), or it is damaged, or of a later tuner."""
    _, opening, rest = read_bytes(path, RESULTS).partition(OPENING.encode())
    if not opening:
        raise PathError(f"{path} carries no batches: only a report that tuner made does")
    carried = rest.partition(b"</script>")[0]
    try:
        data = msgspec.json.decode(carried, type=ReportData)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        data = _whole_part(carried.decode(errors="replace"), path, error)
    if data.format > FORMAT:
        raise PathError(f"{path} was made by a later tuner; install that one to read it")
    return msgspec.structs.replace(data, is_changed=is_changed(carried))


def _whole_part(text: str, path: Path, error: Exception) -> ReportData:
    """What is whole in the damaged data of a report: its rows, and what else has the type that it should have."""
    whole = _salvage.members(text, ReportData.__struct_fields__)
    columns = whole.get("columns")
    if not isinstance(columns, list):
        raise PathError(f"{path}: the data in the report is damaged: {error}") from error
    logger.warning("%s: the data in the report is damaged, what is whole is kept: %s", path, error)

    def fits(row: Any) -> bool:
        with contextlib.suppress(ValueError):
            return isinstance(row, list) and len(must_be_plain(row)) == len(columns)
        return False

    rows = _salvage.elements(text, "rows", fits)
    if whole.get("rows") != rows:  # nobody knows any more which of them the lists beside them are about
        whole = {name: whole[name] for name in whole.keys() - {"attainment", "spreads", "intervals"}}
    whole |= {"rows": rows, "is_damaged": whole.get("rows") != rows}
    known = json.loads(json.dumps(whole, ensure_ascii=False).encode("utf-8", "replace"))  # no halves of pairs
    return msgspec.convert({"columns": [], "rows": []} | fitting(known, ReportData, path), ReportData)


def read_report(path: Path) -> list[Batch]:
    """The batches that the report `path` carries, as they were when it was made; PathError: none, or it is damaged."""
    data = unpack(path)
    batches = _batches(data.columns, data.rows)
    if batches is None:
        each = [_batches(data.columns, [row]) for row in data.rows]
        batches = [one[0] if one else _damaged(path, number) for number, one in enumerate(each, 1)]
    if not any(batch.report_row for batch in batches):
        raise PathError(f"{path}: the batches in the report are damaged")
    for row in (batch.report_row for batch in batches if batch.report_row and data.is_changed):
        row["warnings"].append(_CHANGED)
    return [*batches, _damaged(path, len(batches) + 1)] if data.is_damaged else batches


def _damaged(path: Path, number: int) -> Batch:
    reason = f"{path.name} is damaged: a batch, or several, cannot be read"
    return Batch(Place(path.resolve(), path.name), "", None, repeat=number, outcome="unreadable", reason=reason)


def _batches(columns: list[str], rows: list[list[Any]]) -> list[Batch] | None:
    """The batches of rows that have the types of `load_batches`; None where they have not."""
    try:
        values = [dict(zip(columns, row, strict=True)) for row in rows]
        with_types(pd.DataFrame(values, columns=columns))
        return [_batch(row) for row in values]
    except (ValueError, TypeError, KeyError, OverflowError, AttributeError):
        return None


def _batch(row: dict[str, Any]) -> Batch:
    names = ("experiment", "trial", "engine", "model")
    place = Place(Path(row["run_folder"] or ""), **{name: row[name] for name in names})
    keys = {name: row[name] for name in ("scenario", "iteration_type", "repeat", "outcome", "superseded")}
    file = Path(row["source"]) if row["source"] else None
    row["warnings"] = [*(row.get("warnings") or [])]
    return Batch(place, level=level_of(row), file=file, report_row=row, **keys)
