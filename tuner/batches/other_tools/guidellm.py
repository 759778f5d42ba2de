"""GuideLLM: one file, one batch for each strategy that it ran."""

import json
from pathlib import Path
from typing import Any

from tuner.batches.other_tools.values import (
    DATASET,
    Found,
    at,
    completed,
    count,
    drawn,
    entries,
    failed,
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


def convert(document: Any) -> list[Found]:
    """The batches of one report."""
    version = text(at(document, "metadata", "guidellm_version"))
    scenario = _scenario(at(document, "config", "spec", "data") or at(document, "args", "data"))
    return [_benchmark(benchmark, scenario, version) for benchmark in entries(at(document, "benchmarks"))]


def _benchmark(benchmark: Any, scenario: str, version: str) -> Found:
    metrics = at(benchmark, "metrics")
    known = [count(at(metrics, "request_totals", name)) for name in ("successful", "errored")]
    kept = [*map(_completed, _requests(benchmark, "successful")), *map(_failed, _requests(benchmark, "errored"))]
    requests = kept if len(kept) >= sum(value or 0 for value in known) else []
    level, note = level_of(_strategy(benchmark))
    notes = [
        f"written by {TOOL} {version}: {RECOMPUTED if requests else CLAIMED}; {THROUGHPUT}",
        note,
        _cut_off(len(_requests(benchmark, "incomplete"))),
        f"the file keeps only {len(kept)} of its requests" if kept and not requests else "",
    ]
    return Found(
        _origin(benchmark, notes),
        scenario,
        level,
        number(at(benchmark, "duration")),
        requests,
        _claims(metrics, known, bool(requests)),
        {name: _statistics(at(metrics, key, "successful"), unit) for name, (key, unit) in LATENCIES.items()},
    )


def _requests(benchmark: Any, ending: str) -> list[Any]:
    return entries(at(benchmark, "requests", ending))


def _cut_off(requests: int) -> str:
    return (
        f"{requests} requests were cut off at the end and count neither as completed nor as failed" if requests else ""
    )


def _origin(benchmark: Any, notes: list[str]) -> Origin:
    backend = at(benchmark, "config", "backend") or at(benchmark, "backend") or at(benchmark, "worker")
    return Origin(
        TOOL,
        engine="vllm" if text(at(backend, "kind")).startswith("vllm") else "",
        model=text(at(backend, "model")),
        started_at=instant(number(at(benchmark, "start_time"))),
        finished_at=instant(number(at(benchmark, "end_time"))),
        notes=[note for note in notes if note],
    )


def _strategy(benchmark: Any) -> Any:
    """What drove the load; earlier versions kept it elsewhere."""
    return (
        at(benchmark, "config", "strategy")
        or at(benchmark, "scheduler", "strategy")
        or at(benchmark, "args", "strategy")
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


def _completed(entry: Any) -> Request:
    return completed(
        number(at(entry, "time_to_first_token_ms"), 1000.0),
        number(at(entry, "request_latency")),
        number(at(entry, "prompt_tokens")),
        number(at(entry, "output_tokens")),
    )


def _failed(entry: Any) -> Request:
    return failed(at(entry, "info", "error") or at(entry, "error"))


def _claims(metrics: Any, known: list[int | None], recomputed: bool) -> dict[str, float | int | None]:
    """Its counts; its throughputs too where there is nothing to compute them from, as its means weigh by time."""
    claims: dict[str, float | int | None] = dict(
        zip(("num_completed_requests", "num_error_requests"), known, strict=True)
    )
    names = {
        "mean_output_throughput_tokens_per_s": "output_tokens_per_second",
        "mean_input_throughput_tokens_per_s": "prompt_tokens_per_second",
        "mean_total_tokens_throughput_tokens_per_s": "tokens_per_second",
        "requests_per_second": "requests_per_second",
    }
    claimed = {ours: number(at(metrics, theirs, "successful", "mean")) for ours, theirs in names.items()}
    return claims if recomputed else claims | claimed


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
