"""NVIDIA AIPerf: a folder a batch; `profile_export.jsonl` has its requests, `profile_export_aiperf.json` the rest."""

import contextlib
import math
from pathlib import Path
from typing import Any

from tuner.batches.other_tools import values
from tuner.batches.other_tools.values import at, count, entries, number, text
from tuner.batches.result_file import Damage, Origin, Request, ResultFile, Scalar
from tuner.core.files import RESULTS, read_bytes
from tuner.core.level import Level
from tuner.core.text import plural
from tuner.errors import PathError

TOOL = "AIPerf"
#: How the two files are named: `--profile-export-prefix NAME` makes them `NAME.jsonl` and `NAME.json`.
SUMMARY, RECORDS = "_aiperf.json", ".jsonl"
#: What else of JSON it puts beside them.
OTHER_FILES = ("inputs.json", "run_config.json", "phase_manifest.json")
#: The kind of error of a request that it was told to cancel.
CANCELLED = "RequestCancellationError"
#: What stands in each line of the single requests; the phase is a `benchmark_phase`, in 2025 a `credit_phase`.
RECORD_MARKS = (b'"x_request_id"', b'_phase":', b'"metrics":')
PHASES = ("benchmark_phase", "credit_phase")
#: Its names of our latencies, those of 2025 behind them.
LATENCIES = {
    "ttft": ("time_to_first_token", "ttft"),
    "tpot": ("inter_token_latency",),
    "e2e_latency": ("request_latency",),
}
STATISTICS = {"mean": "avg", "p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99"}
#: Its names of `CLAIMED_THROUGHPUTS`.
THROUGHPUTS = ("request_throughput", "output_token_throughput", "input_token_throughput", "total_token_throughput")
UNITS = {"ns": 1e9, "us": 1e6, "ms": 1e3, "s": 1.0, "sec": 1.0}
SAME = "TPOT is its inter_token_latency, throughput is over its benchmark_duration, from first request to last answer"
#: Where a line says when its request was sent and answered, in nanoseconds; the second of 2025.
BEGINS = ("metadata", "request_start_ns"), ("metadata", "timestamp_ns")
ENDS = ("metadata", "request_end_ns"), ("metrics", "max_response_timestamp", "value")
#: The server's count of a request's tokens, and AIPerf's own, which it makes with a tokenizer.
OUTPUTS = ("usage_completion_tokens", "output_sequence_length")
INPUTS = ("usage_prompt_tokens", "input_sequence_length")


def fullest(path: Path) -> list[Path]:
    """Of the files that AIPerf wrote of the run of `path`, the one that says most: requests, a summary, a table."""
    stem = path.stem.removesuffix("_aiperf")
    others = (path.with_name(name) for name in (stem + RECORDS, stem + SUMMARY, stem + ".json"))
    return [next((other for other in others if other.is_file()), path)]


def convert(summary: Any) -> list[ResultFile]:
    """The one batch of a `profile_export_aiperf.json`."""
    return [_batch(summary, [], "")]


def convert_run(run: tuple[Path, list[Any]]) -> list[ResultFile]:
    """The one batch of a `profile_export.jsonl`, a path and its lines, and the summary beside it."""
    path, every = run
    lines = [line for line in every if not isinstance(line, Damage)]
    lost = len(every) - len(lines)
    phases = [text(line, "metadata", PHASES[0]) or text(line, "metadata", PHASES[1]) for line in lines]
    kept = [line for line, phase in zip(lines, phases, strict=True) if phase in ("profiling", "")]  # no warm-up
    damage = f"{lost} of {len(every)} lines of {path.name} are damaged and left out" if lost else ""
    return [_batch(_summary(path), kept, damage)]


def _summary(records: Path) -> Any:
    usual = records.with_name(records.stem + SUMMARY)
    beside = usual if usual.is_file() else records.with_suffix(".json")
    with contextlib.suppress(PathError):
        document = values.documents(beside, read_bytes(beside, RESULTS))[0]
        return None if isinstance(document, Damage) else document
    return None


def _batch(summary: Any, every: list[Any], damage: str) -> ResultFile:
    uncancelled = [line for line in every if at(line, "metadata", "was_cancelled") is not True]
    lines = [line for line in uncancelled if text(line, "error", "type") != CANCELLED]  # which is no server's error
    kinds = entries(summary, "error_summary")
    claimed = sum(count(kind, "count") or 0 for kind in kinds if text(kind, "error_details", "type") == CANCELLED)
    cancelled = len(every) - len(lines) if every else claimed
    is_cut = at(summary, "was_cancelled") is True or at(summary, "is_complete") is False
    metrics = at(summary, "records") or summary
    model, scenario, level, note, settings = _configuration(at(summary, "input_config"))
    recounted = _recounted(lines)
    version = text(summary, "aiperf_version") or ("" if summary is None else "of 2025")
    first, last = _times(lines, metrics)
    notes = [
        *(f"written by {TOOL} {version}".rstrip() + f": {SAME}", note, recounted),
        f"the run was cut short: {text(summary, 'incomplete_reason') or 'cancelled'}" if is_cut else "",
        *(_uncounted(lines, what, names) for what, names in (("prompt", INPUTS), ("output", OUTPUTS))),
        f"{plural(cancelled, 'request')} cancelled by {TOOL}: neither completed nor failed" if cancelled else "",
        damage,
    ]
    times = values.instant(first) or text(summary, "start_time"), values.instant(last) or text(summary, "end_time")
    origin = Origin(TOOL, "", model, *times, notes, settings)
    return values.batch(
        origin,
        level,
        list(map(_request, lines)),
        scenario=scenario,
        run_duration=number(metrics, "benchmark_duration", "avg") or (last - first if first and last else None),
        stats={
            name: {ours: _latency(metrics, name, theirs) for ours, theirs in STATISTICS.items()}
            for name in LATENCIES
            if not (recounted and name == "tpot")
        },
        **_claims(metrics, cancelled, bool(recounted)),
    )


def _request(line: Any) -> Request:
    if error := at(line, "error"):
        return values.failure(at(error, "message"), at(error, "code") or text(error, "type"))
    ttft, latency = (_latency(at(line, "metrics"), name, "value") for name in ("ttft", "e2e_latency"))
    return Request(ttft, None, latency, _tokens(line, INPUTS), _tokens(line, OUTPUTS))


def _latency(metrics: Any, latency: str, statistic: str) -> float | None:
    """What is said of one of our latencies, in seconds."""
    metric = next(filter(None, (at(metrics, name) for name in LATENCIES[latency])), None)
    return number(metric, statistic, unit=UNITS.get(text(metric, "unit"), math.nan))


def _tokens(line: Any, names: tuple[str, ...]) -> float | None:
    """By the server's count where there is one, as genai-bench and the other tools have it."""
    return values.first_number(number(line, "metrics", name, "value") for name in names)


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


def _uncounted(lines: list[Any], what: str, names: tuple[str, str]) -> str:
    """What must be said where the server counted the tokens of some requests, so that those of others are AIPerf's."""
    counted = [_tokens(line, names[:1]) is not None for line in lines if not at(line, "error")]
    lacking = counted.count(False)
    whose = f"the server does not count the {what} tokens of {lacking} of {len(counted)} requests: there AIPerf's count"
    return whose if lacking and any(counted) else ""


def _configuration(config: Any) -> tuple[str, str, Level | None, str, dict[str, Scalar]]:
    """Model, workload, level, what must be said of it, settings: of `input_config`, of 2025 the command line's."""
    if at(config, "endpoint", "model_names") or at(config, "loadgen"):
        model = (entries(config, "endpoint", "model_names") or [None])[0]
        data, load = at(config, "input"), at(config, "loadgen")
        prompts = at(data, "prompt")
        lengths, rate = [at(prompts, f"{what}_tokens") for what in ("input", "output")], number(load, "request_rate")
    else:
        model = at((entries(config, "models", "items") or [None])[0], "name")
        data = (entries(config, "datasets") or [None])[0]
        prompts = at(data, "prompts")
        phases = entries(config, "phases")
        load = next((phase for phase in phases if (text(phase, "kind") or text(phase, "name")) == "profiling"), None)
        lengths, rate = [at(prompts, what) for what in ("isl", "osl")], number(load, "rate")
    inputs, outputs = ((number(length, "mean"), number(length, "stddev")) for length in lengths)
    held = count(load, "concurrency")
    unknown = "" if held else f"no …{SUMMARY} names the concurrency: the level is unknown"
    level, note = (held, unknown) if rate is None else values.level_of_rate(rate, held)
    tokens = "prompt_tokens", "prompt_tokens_stdev", "output_tokens", "output_tokens_stdev"
    asked = dict(zip(tokens, (*inputs, *outputs), strict=True)) | {"request_rate": rate}
    asked["cancellation"] = number(load, "request_cancellation_rate")
    settings = values.settings(data, bool) | values.settings(asked, bool)
    return text(model), values.scenario(inputs, outputs), level, note, settings


def _times(lines: list[Any], metrics: Any) -> values.Spread:
    """When the first request was sent and the last one ended, in seconds since 1970."""
    whole = [number(metrics, name, "avg", unit=1e9) for name in ("min_request_timestamp", "max_response_timestamp")]
    begins, ends = (
        [*filter(None, (values.first_number(number(line, *keys, unit=1e9) for keys in places) for line in lines))]
        for places in (BEGINS, ENDS)
    )
    return min(begins, default=whole[0]), max(ends, default=whole[1])


def _claims(metrics: Any, cancelled: int, recounted: bool) -> values.Claims:
    done, errors = (count(metrics, name, "avg") for name in ("request_count", "error_request_count"))
    errors = max(errors - cancelled, 0) if errors else errors
    throughputs = [] if recounted else [number(metrics, name, "avg") for name in THROUGHPUTS]
    return values.claims_of(done, errors or (0 if done is not None else None), throughputs)
