"""One batch as a row: what is known of it, and the DataFrame that many of them make."""

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from tuner import timestamps
from tuner.experiment import COMPLETED, Sidecar
from tuner.measure import LATENCY_COLUMNS, Measured

logger = logging.getLogger(__name__)

TEXTS = ("experiment", "engine", "model", "scenario", "iteration_type", "outcome", "reason", "time_source")
COUNTS = ("requests", "completed", "errors")
TIMES = ("started_at", "finished_at")
THROUGHPUTS = ("output_throughput", "input_throughput", "total_throughput", "request_throughput")
#: The columns of `load_batches`, in their order.
COLUMNS = (
    *("experiment", "trial", "engine", "model", "scenario", "iteration_type", "concurrency", "repeat"),
    *("outcome", "reason", *TIMES, "time_source", "duration", *COUNTS, "error_rate", *THROUGHPUTS, *LATENCY_COLUMNS),
    *("warnings", "superseded", "client_cpu_share", "run_folder", "source"),
)


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
    level: int | None
    iteration_type: str = "num_concurrency"
    repeat: int = 1
    outcome: str = COMPLETED
    reason: str = ""
    file: Path | None = None
    numbers: Measured | None = None
    sidecar: Sidecar | None = None
    superseded: bool = False  # the same level was run again later
    notes: list[str] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, str, int | None, int]:
        """What tells the batches of one trial apart."""
        return self.scenario, self.iteration_type, self.level, self.repeat

    @property
    def modified(self) -> float:
        """When the file was last written, in seconds since 1970; NaN without a file."""
        try:
            return self.file.stat().st_mtime if self.file else math.nan
        except OSError:
            return math.nan


def to_frame(batches: Iterable[Batch]) -> pd.DataFrame:
    """One row a batch, with the columns and types of `COLUMNS`."""
    frame = pd.DataFrame([_row(batch) for batch in batches], columns=list(COLUMNS))
    counts = dict.fromkeys((*COUNTS, "concurrency"), "Int64")
    floats = dict.fromkeys(("duration", "error_rate", *THROUGHPUTS, *LATENCY_COLUMNS, "client_cpu_share"), "float64")
    texts = dict.fromkeys((*TEXTS, "run_folder", "source"), "str")
    frame = frame.astype(counts | floats | texts | {"trial": "int64", "repeat": "int64", "superseded": "bool"})
    for name in TIMES:
        frame[name] = pd.to_datetime(frame[name], utc=True).astype("datetime64[us, UTC]")
    return frame


def _row(batch: Batch) -> dict[str, Any]:
    return {
        "experiment": batch.place.experiment,
        "trial": batch.place.trial,
        "engine": batch.place.engine,
        "model": batch.place.model,
        "scenario": batch.scenario,
        "iteration_type": batch.iteration_type,
        "concurrency": batch.level,
        "repeat": batch.repeat,
        "outcome": batch.outcome,
        "reason": batch.reason,
        **_times(batch),
        **_numbers(batch.numbers),
        "warnings": [*batch.notes, *(batch.numbers.warnings if batch.numbers else [])],
        "superseded": batch.superseded,
        "client_cpu_share": _cpu_share(batch.sidecar),
        "run_folder": str(batch.place.folder),
        "source": str(batch.file) if batch.file else None,
    }


def _numbers(numbers: Measured | None) -> dict[str, Any]:
    if numbers is None:
        return dict.fromkeys(COUNTS, 0)  # nothing was recorded, so nothing is missing from the rates either
    names = ("duration", *COUNTS, "error_rate", *THROUGHPUTS)
    return {name: getattr(numbers, name) for name in names} | numbers.latencies


def _cpu_share(sidecar: Sidecar | None) -> float:
    share = sidecar.client.get("cpu_share") if sidecar else None
    return float(share) if isinstance(share, (int, float)) else math.nan


def _times(batch: Batch) -> dict[str, Any]:
    """Start and end: as recorded, or else from the file's own time, which is only as good as its copies were."""
    started, finished = (_instant(batch, name) for name in TIMES)
    if started or finished:
        return {"started_at": started, "finished_at": finished, "time_source": "recorded"}
    if math.isnan(batch.modified):
        return {"time_source": ""}
    return _times_of_file(batch)


def _times_of_file(batch: Batch) -> dict[str, Any]:
    duration = batch.numbers.duration if batch.numbers else math.nan
    finished = datetime.fromtimestamp(batch.modified, UTC)
    began = batch.modified - duration
    started = datetime.fromtimestamp(began, UTC) if began > 0 else None
    return {"started_at": started, "finished_at": finished, "time_source": "file_mtime"}


def _instant(batch: Batch, name: str) -> datetime | None:
    """One recorded time; a time without a zone is taken for UTC, and the batch says so."""
    text = getattr(batch.sidecar, name, "")
    if not text:
        return None
    try:
        instant, assumed = timestamps.read(text)
    except ValueError:
        batch.notes.append(f"{name} {text!r} is no time")
        return None
    if assumed:
        batch.notes.append(f"{name} names no time zone: {assumed} assumed")
    return instant
