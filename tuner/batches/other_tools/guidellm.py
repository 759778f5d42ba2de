"""GuideLLM: one file, one batch for each strategy that it ran."""

import json
from pathlib import Path
from typing import Any

from tuner.batches.other_tools.values import (
    DATASET,
    ToolBatch,
    at,
    claims_of,
    completion,
    count,
    drawn,
    entries,
    failure,
    instant,
    number,
    rate_note,
    text,
)
from tuner.batches.result_file import Origin, Request

TOOL = "GuideLLM"
#: Its names of our latencies, and how many of its unit are a second.
LATENCIES = {
    "ttft": ("time_to_first_token_ms", 1000.0),
    "tpot": ("inter_token_latency_ms", 1000.0),
    "e2e_latency": ("request_latency", 1.0),
}
#: Its names of `values.THROUGHPUTS`.
THROUGHPUTS = ("requests_per_second", "output_tokens_per_second", "prompt_tokens_per_second", "tokens_per_second")
PERCENTILES = ("p50", "p90", "p95", "p99")
RECOMPUTED = (
    "TPOT is (latency − TTFT) / (output tokens − 1), up to the end of the request: its own inter_token_latency ends at "
    "the last token, and its time_per_output_token includes the first; its own percentiles do not interpolate"
)
CLAIMED = (
    "TPOT is its own inter_token_latency, weighed by tokens and up to the last one; percentiles do not interpolate"
)
THROUGHPUT = "throughput is over the time it measured, without its warm-up and cool-down"


def fullest(path: Path) -> Path:
    """Of the files that GuideLLM wrote of the run of `path` the one that says most, and is read fastest."""
    others = (path.with_suffix(suffix) for suffix in (".json", ".yaml", ".yml"))
    return next((other for other in others if other.is_file()), path)


def convert(document: Any) -> list[ToolBatch]:
    """The batches of one report."""
    version = text(at(document, "metadata", "guidellm_version"))
    scenario = _scenario(at(document, "config", "spec", "data") or at(document, "args", "data"))
    return [_benchmark(benchmark, scenario, version) for benchmark in entries(at(document, "benchmarks"))]


def _benchmark(benchmark: Any, scenario: str, version: str) -> ToolBatch:
    metrics = at(benchmark, "metrics")
    done, errors = (count(at(metrics, "request_totals", name)) for name in ("successful", "errored"))
    sent = {name: entries(at(benchmark, "requests", name)) for name in ("successful", "errored", "incomplete")}
    kept = [*map(_completion, sent["successful"]), *map(_failure, sent["errored"])]
    requests = kept if len(kept) >= (done or 0) + (errors or 0) else []
    strategies = (at(benchmark, place, "strategy") for place in ("config", "scheduler", "args"))  # of several versions
    level, note = level_of(next(filter(None, strategies), None))
    cut = len(sent["incomplete"])
    names = () if requests else THROUGHPUTS  # its means weigh by time: only where nothing else is there
    throughputs = [number(at(metrics, name, "successful", "mean")) for name in names]
    notes = [
        f"written by {TOOL} {version}: {RECOMPUTED if requests else CLAIMED}; {THROUGHPUT}",
        note,
        f"{cut} requests were cut off at the end and count neither as completed nor as failed" if cut else "",
        f"the file keeps only {len(kept)} of its requests" if kept and not requests else "",
    ]
    return ToolBatch(
        _origin(benchmark, notes),
        scenario,
        level,
        number(at(benchmark, "duration")),
        requests,
        claims_of(done, errors, throughputs),
        {name: _statistics(at(metrics, key, "successful"), unit) for name, (key, unit) in LATENCIES.items()},
    )


def _origin(benchmark: Any, notes: list[str]) -> Origin:
    backend = at(benchmark, "config", "backend") or at(benchmark, "backend") or at(benchmark, "worker")
    return Origin(
        TOOL,
        engine="vllm" if text(at(backend, "kind")).startswith("vllm") else "",
        model=text(at(backend, "model")),
        started_at=instant(number(at(benchmark, "start_time"))),
        finished_at=instant(number(at(benchmark, "end_time"))),
        notes=notes,
    )


def level_of(strategy: Any) -> tuple[int | None, str]:
    """The concurrency that the strategy held, and what must be said of it."""
    kind, streams = text(at(strategy, "type_")), count(at(strategy, "streams"))
    if kind == "synchronous":
        return 1, ""
    if kind == "concurrent" and streams:
        return streams, ""
    if kind == "throughput":
        limit = count(at(strategy, "max_concurrency"))
        return limit, f"all requests were sent at once, {limit or 'any number'} in flight"
    return None, rate_note(number(at(strategy, "rate")) or "unknown")


def _completion(entry: Any) -> Request:
    return completion(
        number(at(entry, "time_to_first_token_ms"), 1000.0),
        number(at(entry, "request_latency")),
        number(at(entry, "prompt_tokens")),
        number(at(entry, "output_tokens")),
    )


def _failure(entry: Any) -> Request:
    return failure(at(entry, "info", "error") or at(entry, "error"))


def _statistics(summary: Any, unit: float) -> dict[str, float | None]:
    if not count(at(summary, "count")):
        return {}
    found = {name: number(at(summary, "percentiles", name), unit) for name in PERCENTILES}
    return found | {"mean": number(at(summary, "mean"), unit)}


def _scenario(data: Any) -> str:
    """What was asked for: the lengths of synthetic prompts, `dataset` for all others."""
    first = (entries(data) or [None])[0]
    asked = _described(first) if isinstance(first, str) else first
    pairs = [
        [number(at(asked, f"{what}_tokens")), number(at(asked, f"{what}_tokens_stdev"))]
        for what in ("prompt", "output")
    ]
    return drawn(*pairs) if pairs[0][0] and pairs[1][0] else DATASET


def _described(asked: str) -> Any:
    """Lengths as earlier versions keep them, `prompt_tokens=60,output_tokens=16` or JSON, as an object."""
    try:
        return json.loads(asked)
    except ValueError:
        pairs = [part.partition("=") for part in asked.split(",")]
        return {key.strip(): int(value) for key, _, value in pairs if value.strip().isdecimal() and len(value) < 10}
