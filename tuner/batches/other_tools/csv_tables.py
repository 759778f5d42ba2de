"""The aggregates that GuideLLM and AIPerf write as CSV, for where their JSON is gone."""

import csv
import io
import json
from typing import Any

from tuner.batches.other_tools import aiperf, guidellm
from tuner.batches.other_tools.values import Found, at, count, number, text
from tuner.batches.result_file import Origin

#: GuideLLM's names of latencies: the first row and the second, and how many of its unit are a second.
GUIDELLM_LATENCIES = {
    "ttft": ("Time to First Token", "Successful ms", 1000.0),
    "tpot": ("Inter Token Latency", "Successful ms", 1000.0),
    "e2e_latency": ("Request Latency", "Successful Sec", 1.0),
}
#: Where its list of percentiles (0.1, 1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9) has ours.
PERCENTILES = {"p50": 5, "p90": 7, "p95": 8, "p99": 9}
GUIDELLM_CLAIMS = {
    "num_completed_requests": ("Request Counts", "Successful", ""),
    "num_error_requests": ("Request Counts", "Errored", ""),
    "requests_per_second": ("Server Throughput", "Successful Requests/Sec", "Mean"),
    "mean_output_throughput_tokens_per_s": ("Token Throughput", "Successful Output Tokens/Sec", "Mean"),
    "mean_input_throughput_tokens_per_s": ("Token Throughput", "Successful Input Tokens/Sec", "Mean"),
    "mean_total_tokens_throughput_tokens_per_s": ("Token Throughput", "Successful Total Tokens/Sec", "Mean"),
}
AIPERF_LATENCIES = {
    "ttft": "Time to First Token (ms)",
    "tpot": "Inter Token Latency (ms)",
    "e2e_latency": "Request Latency (ms)",
}
AIPERF_CLAIMS = {
    "num_completed_requests": "Request Count",
    "num_error_requests": "Error Request Count",
    "requests_per_second": "Request Throughput (requests/sec)",
    "mean_output_throughput_tokens_per_s": "Output Token Throughput (tokens/sec)",
    "mean_input_throughput_tokens_per_s": "Input Token Throughput (tokens/sec)",
    "mean_total_tokens_throughput_tokens_per_s": "Total Token Throughput (tokens/sec)",
}
Cells = dict[tuple[str, ...], Any]


def guidellm_batches(content: str) -> list[Found]:
    """One batch a row; the first three rows name the columns."""
    rows = _rows(content)
    names = list(zip(*rows[:3], strict=False))
    return [_guidellm({name: _value(cell) for name, cell in zip(names, row, strict=False)}) for row in rows[3:]]


def _guidellm(cells: Cells) -> Found:
    kind, _, speed = text(cells.get(("Benchmark", "Strategy", ""))).partition("@")
    level, note = guidellm.level_of({"type_": kind, "streams": _value(speed), "rate": _value(speed)})
    origin = Origin(
        guidellm.TOOL,
        model=text(at(cells.get(("Run Info", "Backend", "")), "model")),
        started_at=text(cells.get(("Timings", "Measure Start Time", ""))),
        finished_at=text(cells.get(("Timings", "Measure End Time", ""))),
        notes=[f"written by {guidellm.TOOL}: {guidellm.CLAIMED}; {guidellm.THROUGHPUT}", *([note] if note else [])],
    )
    return Found(
        origin,
        level=level,
        duration=number(cells.get(("Timings", "Duration", "Sec"))),
        claims=_claims({ours: cells.get(theirs) for ours, theirs in GUIDELLM_CLAIMS.items()}),
        statistics={ours: _guidellm_statistics(cells, *theirs) for ours, theirs in GUIDELLM_LATENCIES.items()},
    )


def _guidellm_statistics(cells: Cells, latency: str, which: str, unit: float) -> dict[str, float | None]:
    values = cells.get((latency, which, "Percentiles"))
    known = values if isinstance(values, list) and len(values) > max(PERCENTILES.values()) else [None] * 10
    found = {name: number(known[place], unit) for name, place in PERCENTILES.items()}
    return found | {"mean": number(cells.get((latency, which, "Mean")), unit)}


def aiperf_batch(content: str) -> list[Found]:
    """The one batch: first a table of statistics, then one of single values, each with a header."""
    header, *rows = _rows(content)
    table = {row[0]: {name: _value(cell) for name, cell in zip(header, row, strict=False)} for row in rows if row}
    values = {name: row.get("avg") for name, row in table.items()}
    note = "a CSV file names no concurrency: the level is unknown"
    return [
        Found(
            Origin(aiperf.TOOL, notes=[f"written by {aiperf.TOOL}: {aiperf.SAME}", note]),
            duration=number(values.get("Benchmark Duration (sec)")),
            claims=_claims({ours: values.get(theirs) for ours, theirs in AIPERF_CLAIMS.items()}),
            statistics={
                ours: {name: number(at(table, theirs, key), 1000.0) for name, key in aiperf.STATISTICS.items()}
                for ours, theirs in AIPERF_LATENCIES.items()
            },
        )
    ]


def _claims(values: dict[str, Any]) -> dict[str, float | int | None]:
    return {name: count(value) if name.startswith("num_") else number(value) for name, value in values.items()}


def _rows(content: str) -> list[list[str]]:
    """The rows; none behind one that is damaged."""
    rows: list[list[str]] = []
    try:
        rows.extend(csv.reader(io.StringIO(content)))
    except csv.Error:
        return rows or [[]]
    return rows or [[]]


def _value(cell: str) -> Any:
    """A cell as JSON has it, where it is JSON, else as a text."""
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return cell
