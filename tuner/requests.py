"""Folders and files → one DataFrame, one row a request."""

import os
from pathlib import Path
from typing import Any

import pandas as pd

from tuner import results
from tuner.batches import load_batches
from tuner.results import Damage

#: What of a batch stands on each of its requests.
BATCH_COLUMNS = ["experiment", "trial", "scenario", "concurrency", "repeat"]


def load_requests(*paths: str | os.PathLike[str]) -> pd.DataFrame:
    """Read every request of runs, plain genai-bench folders or result files; one row a request.

    Args:
        paths: as for `load_batches`.

    Returns:
        Latencies in seconds, tokens, `error_code` (missing where the request completed).

    Raises:
        PathError: a path does not exist or holds no batch.
    """
    batches = load_batches(*paths)
    parts = [_requests(row) for _, row in batches[batches["source"].notna()].iterrows()]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=BATCH_COLUMNS)


def _requests(row: "pd.Series[Any]") -> pd.DataFrame:
    file = results.read(Path(row["source"]))
    requests = [] if isinstance(file, Damage) else file.individual_request_metrics or []
    unit = 1.0 if isinstance(file, Damage) else results.unit_of(file)
    columns: dict[str, Any] = {name: row[name] for name in BATCH_COLUMNS}
    columns |= {name: results.column(requests, name) / unit for name in results.LATENCIES}
    columns |= {name: results.column(requests, f"num_{name}") for name in ("input_tokens", "output_tokens")}
    columns |= {"error_code": [request.error_code for request in requests]}
    return pd.DataFrame(columns, index=range(len(requests)))
