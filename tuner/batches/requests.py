"""Folders and files → one DataFrame, one row a request."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tuner.batches.load import load_batches
from tuner.batches.other_tools import BatchReader
from tuner.batches.result_file import Columns, Damage, Request

#: What of a batch stands on each of its requests.
OF_BATCH = ("experiment", "trial", "scenario", "iteration_type", "concurrency", "repeat")
#: The columns of `load_requests`, in their order.
REQUEST_COLUMNS = (
    *(*OF_BATCH, "request", "ttft", "tpot", "e2e_latency"),
    *("input_tokens", "output_tokens", "error_code", "error_message", "source"),
)
TEXTS = ("experiment", "scenario", "iteration_type", "error_code", "error_message", "source")


def load_requests(*paths: str | os.PathLike[str]) -> pd.DataFrame:
    """Read every request of runs, plain genai-bench folders or result files; one row a request.

    Result files are read one at a time. To have them faster another time, keep them: `load_requests(…).to_parquet(…)`.

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
    batches.attrs.clear()  # the samples, of which only the requests themselves are wanted
    rows = batches[batches["source"].notna()].to_dict("records")
    table = pa.concat_tables([_schema().empty_table(), *_tables(rows)]).unify_dictionaries()
    requests: pd.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True)
    return requests


def _tables(rows: Iterable[dict[Any, Any]]) -> Iterator[pa.Table]:
    reader = BatchReader()
    for row in rows:
        file = reader.read(Path(row["source"]))
        if isinstance(file, Damage) or not file.individual_request_metrics:
            continue
        columns = Columns(file)
        arrays = {name: _repeat(row[name], len(columns.requests)) for name in (*OF_BATCH, "source")}
        yield pa.table(arrays | _values(columns), schema=_schema())


def _schema() -> pa.Schema:
    integers = dict.fromkeys(("trial", "concurrency", "repeat", "request"), pa.int32())
    texts = dict.fromkeys(TEXTS, pa.dictionary(pa.int32(), pa.string()))
    kinds = integers | texts
    return pa.schema([(name, kinds.get(name, pa.float64())) for name in REQUEST_COLUMNS])


def _repeat(value: Any, count: int) -> Any:
    if isinstance(value, str):
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([value]))
    if pd.isna(value):
        return pa.nulls(count, pa.int32())
    return pa.array(np.full(count, value, np.int32))


def _values(columns: Columns) -> dict[str, Any]:
    """One value a request, failed ones too."""
    requests = columns.requests
    done = np.array([not request.error_code for request in requests], bool)
    numbers = {**columns.latencies, "input_tokens": columns.input_tokens, "output_tokens": columns.output_tokens}
    spread = {name: np.full(len(requests), np.nan) for name in numbers}
    for name, values in numbers.items():
        spread[name][done] = values
    return {
        "request": pa.array(np.arange(len(requests), dtype=np.int32)),
        **{name: pa.array(values) for name, values in spread.items()},
        "error_code": _texts(requests, "error_code"),
        "error_message": _texts(requests, "error_message"),
    }


def _texts(requests: list[Request], name: str) -> Any:
    values = [getattr(request, name) for request in requests]
    return pa.array([str(value) if value else None for value in values], pa.string()).dictionary_encode()
