"""NVIDIA AIPerf: a folder a batch; `profile_export.jsonl` has its requests, `profile_export_aiperf.json` the rest."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.batches.other_tools.values import (
    DATASET,
    Claims,
    ToolBatch,
    at,
    claims_of,
    completion,
    count,
    documents,
    drawn,
    entries,
    failure,
    instant,
    number,
    rate_note,
    text,
)
from tuner.batches.result_file import Damage, Origin, Request

TOOL = "AIPerf"
#: How the two files are named: `--profile-export-prefix NAME` makes them `NAME.jsonl` and `NAME.json`.
SUMMARY, RECORDS = "_aiperf.json", ".jsonl"
#: What else of JSON it puts beside them.
OTHER_FILES = ("inputs.json", "run_config.json", "phase_manifest.json")
#: What stands in each line of the single requests.
RECORD_MARKS = (b'"x_request_id"', b'"benchmark_phase"', b'"metrics":{')
LATENCIES = {"ttft": "time_to_first_token", "tpot": "inter_token_latency", "e2e_latency": "request_latency"}
STATISTICS = {"mean": "avg", "p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99"}
#: Its names of `values.THROUGHPUTS`.
THROUGHPUTS = ("request_throughput", "output_token_throughput", "input_token_throughput", "total_token_throughput")
UNITS = {"ns": 1e9, "us": 1e6, "ms": 1e3, "s": 1.0, "sec": 1.0}
SAME = "TPOT is its inter_token_latency, throughput is over its benchmark_duration, from first request to last answer"
#: The server's count of a request's tokens, and AIPerf's own, which it makes with a tokenizer.
OUTPUTS = ("usage_completion_tokens", "output_sequence_length")
INPUTS = ("usage_prompt_tokens", "input_sequence_length")


@dataclass(frozen=True)
class Run:
    """One file of single requests, and its lines, some of which may be damaged."""

    path: Path
    lines: list[Any]


def fullest(path: Path) -> Path:
    """Of the files that AIPerf wrote of the run of `path`, the one that says most: requests, a summary, a table."""
    stem = path.stem.removesuffix("_aiperf")
    names = (stem + RECORDS, stem + SUMMARY, stem + ".json")
    return next((other for name in names if (other := path.with_name(name)).is_file()), path)


def summary_of(records: Path) -> Path:
    """The summary that belongs to a file of single requests, whether it is there or not."""
    usual = records.with_name(records.stem + SUMMARY)
    return usual if usual.is_file() else records.with_suffix(".json")


def convert(summary: Any) -> list[ToolBatch]:
    """The one batch of a `profile_export_aiperf.json`."""
    return [_batch(summary, [])]


def convert_run(run: Run) -> list[ToolBatch]:
    """The one batch of a `profile_export.jsonl` and the summary beside it."""
    lines = [line for line in run.lines if not isinstance(line, Damage)]
    lost = len(run.lines) - len(lines)
    phases = ((line, text(at(line, "metadata", "benchmark_phase"))) for line in lines)
    profiling = [line for line, phase in phases if phase in ("profiling", "")]  # without the warm-up
    found = _batch(_summary(run.path), profiling)
    if lost:
        found.origin.notes.append(f"{lost} of {len(run.lines)} lines of {run.path.name} are damaged and left out")
    return [found]


def _summary(records: Path) -> Any:
    """What stands beside a file of single requests; None where nothing does."""
    beside = summary_of(records)
    try:
        found = documents(beside, beside.read_bytes())[0]
    except OSError:
        return None
    return None if isinstance(found, Damage) else found


def _batch(summary: Any, lines: list[Any]) -> ToolBatch:
    recounted = _recounted(lines)
    level, note = _level(summary)
    written = f"written by {TOOL} {text(at(summary, 'aiperf_version'))}".rstrip()
    first, last = _times(lines)
    model = (entries(at(summary, "input_config", "models", "items")) or [None])[0]
    origin = Origin(
        TOOL,
        model=text(at(model, "name")),
        started_at=instant(first) or text(at(summary, "start_time")),
        finished_at=instant(last) or text(at(summary, "end_time")),
        notes=[f"{written}: {SAME}", note, recounted, _incomplete(summary)],
    )
    return ToolBatch(
        origin,
        _scenario(summary),
        level,
        _mean(summary, "benchmark_duration") or (last - first if first and last else None),
        list(map(_request, lines)),
        _claims(summary, bool(recounted)),
        _statistics(summary, bool(recounted)),
    )


def _request(line: Any) -> Request:
    error = at(line, "error")
    if error or at(line, "metadata", "was_cancelled") is True:
        return failure(at(error, "message") or "cancelled", at(error, "code") or text(at(error, "type")))
    metrics = (at(line, "metrics", LATENCIES[name]) for name in ("ttft", "e2e_latency"))
    ttft, latency = (number(at(metric, "value"), _unit(metric)) for metric in metrics)
    return completion(ttft, latency, _tokens(line, INPUTS), _tokens(line, OUTPUTS))


def _unit(metric: Any) -> float:
    return UNITS.get(text(at(metric, "unit")), math.nan)


def _tokens(line: Any, names: tuple[str, ...]) -> float | None:
    """By the server's count where there is one, as genai-bench and the other tools have it."""
    found = (number(at(line, "metrics", name, "value")) for name in names)
    return next((value for value in found if value is not None), None)


def _recounted(lines: list[Any]) -> str:
    """What must be said where the server counts other tokens than AIPerf, so that its own numbers are others."""
    pairs = [[_tokens(line, (name,)) for name in OUTPUTS] for line in lines]
    known = [(server, own) for server, own in pairs if server and own]
    other = sum(server != own for server, own in known)
    more = sum(own for _, own in known) / sum(server for server, _ in known) - 1 if known else 0.0
    if not other:
        return ""
    return (
        f"output tokens are the server's count, which AIPerf's tokenizer does not find in {other} of {len(lines)} "
        f"requests ({more:+.1%} in all): its own TPOT and throughput differ by that"
    )


def _level(summary: Any) -> tuple[int | None, str]:
    """The concurrency that was held, and what must be said of it."""
    phases = entries(at(summary, "input_config", "phases"))
    phase = next((phase for phase in phases if text(at(phase, "kind") or at(phase, "name")) == "profiling"), None)
    held, rate = count(at(phase, "concurrency")), number(at(phase, "rate"))
    if rate is not None:
        return held, rate_note(f"{rate:g}", held)
    return held, "" if held else f"no …{SUMMARY} names the concurrency: the level is unknown"


def _scenario(summary: Any) -> str:
    dataset = (entries(at(summary, "input_config", "datasets")) or [None])[0]
    inputs, outputs = (
        [number(at(dataset, "prompts", what, key)) for key in ("mean", "stddev")] for what in ("isl", "osl")
    )
    return drawn(inputs, outputs) if inputs[0] and outputs[0] else DATASET


def _times(lines: list[Any]) -> tuple[float | None, float | None]:
    """When the first request was sent and the last one ended, in seconds since 1970."""
    starts, ends = (
        [value for line in lines if (value := number(at(line, "metadata", name), 1e9))]
        for name in ("request_start_ns", "request_end_ns")
    )
    return min(starts, default=None), max(ends, default=None)


def _incomplete(summary: Any) -> str:
    if at(summary, "was_cancelled") is not True and at(summary, "is_complete") is not False:
        return ""
    return f"the run was cut short: {text(at(summary, 'incomplete_reason')) or 'cancelled'}"


def _mean(summary: Any, name: str) -> float | None:
    return number(at(summary, name, "avg"))


def _claims(summary: Any, recounted: bool) -> Claims:
    done, errors = (count(_mean(summary, name)) for name in ("request_count", "error_request_count"))
    throughputs = [] if recounted else [_mean(summary, name) for name in THROUGHPUTS]
    return claims_of(done, errors or (0 if done is not None else None), throughputs)


def _statistics(summary: Any, recounted: bool) -> dict[str, dict[str, float | None]]:
    known = {ours: at(summary, theirs) for ours, theirs in LATENCIES.items() if not (recounted and ours == "tpot")}
    return {
        name: {ours: number(at(metric, theirs), _unit(metric)) for ours, theirs in STATISTICS.items()}
        for name, metric in known.items()
    }
