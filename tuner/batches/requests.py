"""Folders and files → one DataFrame, one row a request; a Parquet copy beside each run makes the next time fast."""

import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tuner.batches.cache import WORTH_KEEPING, Identity, identity, kept, save
from tuner.batches.load import is_part, is_run, load_batches
from tuner.batches.other_tools import Reader, statuses
from tuner.batches.result_file import Columns, Damage, Request

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

#: What of a batch stands on each of its requests.
BATCH_COLUMNS = ("trial", "scenario", "iteration_type", "concurrency", "repeat")
#: The columns of `load_requests`, in their order.
COLUMNS = (
    *("experiment", *BATCH_COLUMNS, "request", "ttft", "tpot", "e2e_latency"),
    *("input_tokens", "output_tokens", "error_code", "error_message", "source"),
)
TEXTS = ("scenario", "iteration_type", "error_code", "error_message", "source")
#: The copy's name in a run directory of ours, and in a folder of others, where it hides.
OWN_COPY, HIDDEN_COPY = "requests.parquet", ".tuner-requests.parquet"
#: Raise it whenever the columns change.
SCHEMA = 1
STAMP = b"tuner"


def load_requests(*paths: str | os.PathLike[str]) -> pd.DataFrame:
    """Read every request of runs, plain genai-bench folders or result files; one row a request.

    A Parquet copy is kept beside each run (`requests.parquet`; in folders that tuner did not make a hidden file, and
    only where they are large) and used as long as no file has changed; in the user's cache folder where the run cannot
    be written. Result files are read one at a time.

    Args:
        paths: as for `load_batches`.

    Returns:
        `ttft`, `tpot` and `e2e_latency` in seconds (NaN where the request failed), tokens, `error_code` and
        `error_message` (missing where it completed), and what batch it belongs to (`concurrency` is missing where none
        was held). Texts are categories.

    Raises:
        PathError: a path does not exist, cannot be read, or holds no batch.

    Example:
        >>> requests = tuner.load_requests("runs/monday")
        >>> float(requests["ttft"].quantile(0.5))
        0.1
    """
    batches = load_batches(*paths)
    batches = batches[batches["source"].notna()]
    whole = not any(is_part(Path(path).expanduser()) for path in paths)
    runs = [_of_run(Path(str(folder)), rows, whole) for folder, rows in batches.groupby("run_folder", sort=False)]
    return _joined(runs)


def _joined(runs: list[pd.DataFrame]) -> pd.DataFrame:
    """The requests of all runs; the categories of their texts are made one first, so that they stay categories."""
    if not runs:
        return _framed(_schema(b"").empty_table(), "")
    if len(runs) == 1:
        return runs[0]
    for name in ("experiment", *TEXTS):
        every = list(dict.fromkeys(category for run in runs for category in run[name].cat.categories))
        for run in runs:
            run[name] = run[name].cat.set_categories(every)
    return pd.concat(runs, ignore_index=True)


def _of_run(folder: Path, batches: pd.DataFrame, whole: bool) -> pd.DataFrame:
    """The requests of the batches of one run; for a whole run from its copy, where that is as new as they are."""
    stamp = _stamp(batches)
    name = OWN_COPY if is_run(folder) else HIDDEN_COPY
    places = kept(folder, name) if whole else ()
    table = next((table for place in places if (table := _read_copy(place, stamp)) is not None), None)
    if table is None:
        content = _parquet(batches, stamp)
        if whole and (name == OWN_COPY or _size(batches) >= WORTH_KEEPING):
            save(folder, name, content)
        table = _read(io.BytesIO(content))
    return _framed(table, str(batches["experiment"].iloc[0]))


def _framed(table: "pa.Table", experiment: str) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True)
    frame.insert(0, "experiment", pd.Series(experiment, frame.index, dtype="category"))
    return frame


def _size(batches: pd.DataFrame) -> int:
    return sum(found[1] for source in batches["source"] if (found := _identity(Path(source))))


def _read(file: Any) -> "pa.Table":
    import pyarrow.parquet as pq

    return pq.read_table(file)


def _stamp(batches: pd.DataFrame) -> bytes:
    """What the copy must have been made from: the schema, the files, and what the batches are called."""
    files = [[*row, _identity(Path(row[-1]))] for row in batches[[*BATCH_COLUMNS, "source"]].itertuples(index=False)]
    return json.dumps([SCHEMA, files], default=str).encode()


def _identity(path: Path) -> Identity | None:
    try:
        return identity(*statuses(path))
    except OSError:
        return None


def _read_copy(place: Path, stamp: bytes) -> "pa.Table | None":
    """The copy at `place`; None where it is damaged or older than the files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(place) as file:
            if (file.schema_arrow.metadata or {}).get(STAMP) == stamp:
                return file.read()
    except (OSError, ValueError, pa.ArrowException) as error:
        logger.debug("the copy %s is not used: %s", place, error)
    return None


def _parquet(batches: pd.DataFrame, stamp: bytes) -> bytes:
    """The requests as the content of a Parquet file, made from one result file at a time."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, _schema(stamp), compression="lz4", use_dictionary=list(TEXTS)) as writer:
        for table in _tables(batches, stamp):
            writer.write_table(table)
    return buffer.getvalue()


def _tables(batches: pd.DataFrame, stamp: bytes) -> Iterator["pa.Table"]:
    import pyarrow as pa

    reader = Reader()
    for row in batches.to_dict("records"):
        file = reader.read(Path(row["source"]))
        if isinstance(file, Damage) or not file.individual_request_metrics:
            continue
        columns = Columns(file)
        arrays = {name: _repeated(row[name], len(columns.requests)) for name in (*BATCH_COLUMNS, "source")}
        yield pa.table(arrays | _values(columns), schema=_schema(stamp))


def _schema(stamp: bytes) -> "pa.Schema":
    import pyarrow as pa

    integers = dict.fromkeys(("trial", "concurrency", "repeat", "request"), pa.int32())
    texts = dict.fromkeys(TEXTS, pa.dictionary(pa.int32(), pa.string()))
    kinds = integers | texts
    return pa.schema([(name, kinds.get(name, pa.float64())) for name in COLUMNS[1:]], {STAMP: stamp})


def _repeated(value: Any, count: int) -> Any:
    import pyarrow as pa

    if isinstance(value, str):
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([value]))
    if pd.isna(value):
        return pa.nulls(count, pa.int32())
    return pa.array(np.full(count, value, np.int32))


def _values(columns: Columns) -> dict[str, Any]:
    """One value a request, failed ones too."""
    import pyarrow as pa

    requests = columns.requests
    done = np.array([not request.error_code for request in requests], bool)
    found = {**columns.latencies, "input_tokens": columns.input_tokens, "output_tokens": columns.output_tokens}
    return {
        "request": pa.array(np.arange(len(requests), dtype=np.int32)),
        **{name: pa.array(_spread(values, done)) for name, values in found.items()},
        "error_code": _texts(requests, "error_code"),
        "error_message": _texts(requests, "error_message"),
    }


def _spread(values: "np.ndarray[Any, Any]", where: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    whole = np.full(len(where), np.nan)
    whole[where] = values
    return whole


def _texts(requests: list[Request], name: str) -> Any:
    import pyarrow as pa

    values = [getattr(request, name) or None for request in requests]
    return pa.array([None if value is None else str(value) for value in values], pa.string()).dictionary_encode()
