"""One batch: its numbers, its samples, its row; the DataFrame that many of them make, and that as plain values."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tuner.batches._audit import audit
from tuner.batches.result_file import OF_WINDOW, Columns, Floats, Measured, ResultFile, measure
from tuner.core import timestamps
from tuner.core.bottleneck import bottleneck
from tuner.core.level import COLUMNS as LEVEL_COLUMNS
from tuner.core.level import CONCURRENCY, Level, columns_of
from tuner.core.metrics import LATENCY_COLUMNS
from tuner.core.records import COMPLETED, Sidecar
from tuner.core.secrets import redactor
from tuner.core.text import printable

TEXTS = ("experiment", "engine", "model", "scenario", "iteration_type", "outcome", "reason", "time_source")
COUNTS = ("requests", "completed", "errors")
TIMES = ("started_at", "finished_at")
THROUGHPUTS = ("output_throughput", "input_throughput", "total_throughput", "request_throughput")
LIMIT = ("limit", "limit_evidence")
#: Of the load generator: the share of a core that a process used, seconds of TTFT and TPOT that are its own, processes.
CLIENT = ("client_cpu_share", "client_ttft", "client_tpot", "client_workers")
#: The columns of `load_batches`, in their order.
COLUMNS = (
    *("experiment", "trial", "engine", "model", "scenario", "iteration_type", *LEVEL_COLUMNS, "repeat"),
    *("outcome", "reason", *TIMES, "time_source", "duration", *COUNTS, "error_rate", *THROUGHPUTS, *LATENCY_COLUMNS),
    *(*OF_WINDOW, "energy_per_token", *LIMIT, "warnings", "superseded", *CLIENT, "run_folder", "source"),
)
_NUMBERS = (*("duration", "error_rate", "request_rate", "energy_per_token"), *THROUGHPUTS, *LATENCY_COLUMNS)
KINDS: dict[str, str] = {
    **dict.fromkeys((*TEXTS, *LIMIT, "run_folder", "source"), "str"),
    **dict.fromkeys((*COUNTS, "concurrency"), "Int64"),
    **dict.fromkeys((*_NUMBERS, *OF_WINDOW, *CLIENT), "float64"),
    **{"trial": "int64", "repeat": "int64", "superseded": "bool"},
}
#: Where `DataFrame.attrs` has the samples of its batches.
SAMPLES = "samples"


@dataclass(frozen=True)
class Reading:
    """What was read of one batch's file: its audited numbers, and those of its completed requests (NaN: unknown)."""

    batch: Measured
    latencies: Mapping[str, Floats]  # in seconds
    output_tokens: Floats
    recomputed: bool  # from individual requests

    @classmethod
    def of(cls, file: ResultFile) -> "Reading":
        """The numbers of a file, without its requests."""
        columns = Columns(file)
        batch = measure(columns)
        batch.warnings = audit(columns, batch)
        return cls(batch, columns.latencies, columns.output_tokens, bool(columns.requests))


class Samples(dict[str, Any]):
    """What was read of the batches of a frame, by `source`, so that nobody reads their files again.

    pandas copies what is in `attrs` with every frame, wants it equal where frames are joined, and writes it as JSON: to
    all of these it is an empty mapping, and copies share what it holds. It is not pickled.
    """

    def __init__(self, readings: dict[str, Reading | None]) -> None:
        super().__init__()
        self.readings = readings

    def __deepcopy__(self, _: object) -> "Samples":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, ()


@dataclass(frozen=True)
class Place:
    """The trial that a batch belongs to."""

    folder: Path  # the run directory, or the plain folder
    experiment: str
    trial: int = 1
    engine: str = ""
    model: str = ""


@dataclass
class Batch:
    """One (scenario, level) run: asked for, found, or both."""

    place: Place
    scenario: str
    level: Level | None
    iteration_type: str = CONCURRENCY
    repeat: int = 1
    outcome: str = COMPLETED
    reason: str = ""
    file: Path | None = None
    folder: Path | None = None  # the level's own, in a run directory
    reading: Reading | None = None
    sidecar: Sidecar | None = None
    superseded: bool = False  # the same level was run again later
    notes: list[str] = field(default_factory=list)
    report_row: dict[str, Any] | None = None  # the whole row, where a report carries it

    @property
    def numbers(self) -> Measured | None:
        """Those of its file; None without one that can be used."""
        return self.reading.batch if self.reading else None

    @property
    def key(self) -> tuple[str, str, Level | None, int]:
        """What tells the batches of one trial apart."""
        return self.scenario, self.iteration_type, self.level, self.repeat

    @property
    def modified(self) -> float:
        """When the file was last written, in seconds since 1970; NaN without one, and for one of its parts."""
        try:
            return self.file.stat().st_mtime if self.file else math.nan
        except OSError:
            return math.nan


def to_frame(batches: Iterable[Batch]) -> pd.DataFrame:
    """One row a batch, with the columns and types of `load_batches`, and what was read of their files in `attrs`."""
    every, redact = list(batches), redactor()
    rows = [row | {name: redact(row.get(name)) for name in (*TEXTS, "warnings")} for row in map(_row, every)]
    frame = with_types(pd.DataFrame(rows, columns=list(COLUMNS)))
    known = {printable(b.file): b.reading for b in sorted(every, key=lambda b: b.report_row is None) if b.file}
    frame.attrs[SAMPLES] = Samples(known)
    return frame


def with_types(frame: pd.DataFrame) -> pd.DataFrame:
    """Give batches, perhaps judged, the types of `load_batches` again, after JSON, CSV or a report have lost them.

    A column that is missing is added empty, further ones are kept as they are.
    """
    missing = {name: None for name in COLUMNS if name not in frame}
    whole = frame.assign(**missing)
    with np.errstate(invalid="ignore"):  # a whole number that is none is a TypeError
        whole = whole.astype({name: kind for name, kind in KINDS.items() if name in whole}).copy()  # in few blocks
    # a list of sentences, that Parquet makes an array and CSV a text
    lists = [[value] if isinstance(value, str) and value else value for value in whole["warnings"]]
    lists = [[str(part) for part in value] if pd.api.types.is_list_like(value) else [] for value in lists]
    warnings = pd.Series(lists, whole.index, dtype="object")
    return whole.assign(warnings=warnings, **{name: timestamps.to_utc(whole[name]) for name in TIMES})


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as JSON has them: None for what is missing, UTC with a `Z` for times."""
    return [{str(name): json_value(value) for name, value in row.items()} for row in frame.to_dict("records")]


def json_value(value: Any) -> Any:
    """A cell of a DataFrame as a value that JSON has."""
    if isinstance(value, dict):
        return {str(key): json_value(part) for key, part in value.items()}
    if isinstance(value, list):
        return [json_value(part) for part in value]
    if pd.isna(value):
        return None
    if isinstance(value, pd.Timestamp):
        return timestamps.to_text(value.to_pydatetime(), "microseconds")
    return value.item() if hasattr(value, "item") else value


def _row(batch: Batch) -> dict[str, Any]:
    place = batch.place
    if batch.report_row is not None:
        return batch.report_row | {"experiment": place.experiment}
    texts = {name: getattr(place, name) for name in ("experiment", "engine", "model")}
    texts |= {name: getattr(batch, name) for name in ("scenario", "outcome", "reason")}
    times, time_notes = _times(batch)
    return {
        **{name: printable(text) for name, text in texts.items()},
        **{"run_folder": printable(place.folder), "trial": place.trial},
        **{name: getattr(batch, name) for name in ("iteration_type", "repeat", "superseded")},
        **columns_of(batch.level),
        **times,
        **_numbers(batch),
        **_limit(batch),
        "warnings": [*map(printable, [*batch.notes, *time_notes]), *(batch.numbers.warnings if batch.numbers else [])],
        **{name: client(batch.sidecar, name) for name in CLIENT},
        "source": printable(batch.file) if batch.file else None,
    }


def _numbers(batch: Batch) -> dict[str, Any]:
    numbers = batch.numbers
    if numbers is None:  # nothing was recorded, so no request is known
        return dict.fromkeys(COUNTS, 0) | {"duration": batch.sidecar.duration if batch.sidecar else None}
    names = ("duration", *COUNTS, "error_rate", *THROUGHPUTS, *OF_WINDOW)
    return {name: getattr(numbers, name) for name in names} | numbers.latencies


def _limit(batch: Batch) -> dict[str, Any]:
    """What limits a level of ours, and joules an output token, as watts over tokens/s."""
    usage, share = batch.sidecar.usage if batch.sidecar else None, client(batch.sidecar, "client_cpu_share")
    if batch.numbers is None or usage is None:
        return {"energy_per_token": math.nan, "limit": "", "limit_evidence": ""}
    limit, evidence = bottleneck(usage, share)
    energy = (usage.power or math.nan) / (batch.numbers.output_throughput or math.nan)
    return {"energy_per_token": energy, "limit": limit, "limit_evidence": printable(evidence)}


def client(sidecar: Sidecar | None, name: str) -> float:
    """What the sidecar says of the load generator, by the name of its column; NaN where nobody recorded it."""
    value = sidecar.client.get(name.removeprefix("client_")) if sidecar else None
    return float(value) if isinstance(value, float | int) and abs(value) < 1e6 else math.nan


def _times(batch: Batch) -> tuple[dict[str, Any], list[str]]:
    """Start and end, and what must be said of them: as recorded, or else from the file's time, which copies change."""
    (started, start_notes), (finished, end_notes) = (_read_time(batch.sidecar, name) for name in TIMES)
    source = "recorded" if started or finished else ""
    if not source and (finished := timestamps.instant(batch.modified)):
        duration = batch.numbers.duration if batch.numbers else math.nan
        started, source = timestamps.instant(batch.modified - duration), "file_mtime"
    return {"started_at": started, "finished_at": finished, "time_source": source}, [*start_notes, *end_notes]


def _read_time(sidecar: Sidecar | None, name: str) -> tuple[datetime | None, list[str]]:
    """One recorded time; a time without a zone is taken for UTC, and the note says so."""
    text = getattr(sidecar, name, "")
    if not text:
        return None, []
    try:
        instant, assumed = timestamps.read(text)
    except ValueError:
        return None, [f"{name} is no time: {text!r}"]
    return instant, [f"{name} names no time zone: {assumed} assumed"] if assumed else []
