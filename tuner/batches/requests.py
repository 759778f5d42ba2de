"""Folders and files → one DataFrame, one row a request."""

import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from msgspec.structs import replace

from tuner.batches.load import load_batches
from tuner.batches.other_tools import read_all
from tuner.batches.result_file import Columns, ResultFile
from tuner.core.files import split_part
from tuner.core.level import COLUMNS
from tuner.core.metrics import LATENCIES
from tuner.core.request_log import COMPLETED, FAILED
from tuner.core.text import printable

#: What of a batch stands on each of its requests.
OF_BATCH = ("experiment", "trial", "scenario", "iteration_type", *COLUMNS, "repeat")
#: The columns of `load_requests`, in their order.
REQUEST_COLUMNS = (
    *(*OF_BATCH, "request", *LATENCIES),
    *("input_tokens", "output_tokens", "error_code", "error_message", "source"),
    *("status", "is_counted", "sent_at", "itl_p50", "cached_tokens", "finish_reason"),
)
TEXTS = ("experiment", "scenario", "iteration_type", "error_code", "error_message", "source", "status", "finish_reason")
_KINDS = {
    **dict.fromkeys(("trial", "concurrency", "repeat", "request"), pa.int32()),
    **dict.fromkeys(TEXTS, pa.dictionary(pa.int32(), pa.string())),
    **{"is_counted": pa.bool_(), "sent_at": pa.timestamp("us", "UTC")},
}
_SCHEMA = pa.schema([(name, _KINDS.get(name, pa.float64())) for name in REQUEST_COLUMNS])
#: What only our own files say of a request.
LOGGED = {"is_counted": True, "finish_reason": ""} | dict.fromkeys(("sent_at", "itl_p50", "cached_tokens"))


def load_requests(*paths: str | os.PathLike[str]) -> pd.DataFrame:
    """Read every request of runs, plain genai-bench folders or result files; one row a request.

    Result files are read one at a time. To have them faster another time, keep them: `load_requests(…).to_parquet(…)`.

    Returns:
        `ttft`, `tpot` and `e2e_latency` in seconds (NaN where the request failed), tokens, `error_code` and
        `error_message` (missing where it completed), and what batch it belongs to (`concurrency` is missing where none
        was held, as at a `request_rate`). Of levels that tuner measured also those that are not judged (`is_counted` is
        false: they were due outside the window, or in flight at its end, see `status`), when each was sent (UTC),
        `ttfa`, the first token of the answer after reasoning, `itl` and `itl_p50`, the 99th percentile and the median
        of the gaps between chunks (seconds), cached prompt tokens. Texts are categories.

    Paths and errors are those of `load_batches`.

    Example:
        >>> requests = tuner.load_requests("runs/monday")
        >>> float(requests["ttft"].quantile(0.5))
        0.1
    """
    batches = load_batches(*paths)
    batches.attrs.clear()  # the samples, of which only the requests themselves are wanted
    rows = batches[batches["source"].notna()].to_dict("records")
    table = pa.concat_tables([_SCHEMA.empty_table(), *_tables(rows)]).unify_dictionaries()
    requests: pd.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True)
    return requests


def _tables(rows: Iterable[dict[Any, Any]]) -> Iterator[pa.Table]:
    read = lru_cache(maxsize=1)(read_all)  # the batches of a file follow each other
    for row in rows:
        path = Path(row["source"])
        file = read(split_part(path)[0]).get(path)
        if not isinstance(file, ResultFile) or not file.individual_request_metrics:
            continue
        every = file.every_request or file.individual_request_metrics
        columns = Columns(replace(file, individual_request_metrics=every))
        same = {name: None if pd.isna(row[name]) else row[name] for name in (*OF_BATCH, "source")}
        repeated = {name: pa.repeat(value, len(columns.requests)) for name, value in same.items()}
        yield pa.table(repeated | _values(columns), schema=_SCHEMA)


def _values(columns: Columns) -> dict[str, Any]:
    requests = columns.requests
    done = np.array([not request.error_code for request in requests], bool)  # or in flight
    numbers = {**columns.latencies, "input_tokens": columns.input_tokens, "output_tokens": columns.output_tokens}
    spread = {name: np.full(len(requests), np.nan) for name in numbers}
    for name, values in numbers.items():
        spread[name][done] = values
    said = {name: [getattr(request, name) for request in requests] for name in ("error_code", "error_message")}
    known = {name: [printable(text) if text else None for text in texts] for name, texts in said.items()}
    known["status"] = [getattr(request, "status", FAILED if request.error_code else COMPLETED) for request in requests]
    logged = {name: [getattr(request, name, otherwise) for request in requests] for name, otherwise in LOGGED.items()}
    return spread | {"request": np.arange(len(requests))} | known | logged
