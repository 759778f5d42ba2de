"""One genai-bench file → its numbers, recomputed from the individual requests and in seconds.

What the file claims in its aggregates is kept beside the recomputed numbers only so that `tuner.audit` can compare.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

LATENCIES = ("ttft", "tpot", "e2e_latency")
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0}
STATISTICS = ("mean", *PERCENTILES)
#: The latency columns of a batch, `ttft_mean` … `e2e_latency_p99`.
LATENCY_COLUMNS = tuple(f"{latency}_{statistic}" for latency in LATENCIES for statistic in STATISTICS)
#: What one second is in the unit that a file names in `_time_unit`.
UNITS = {"s": 1.0, "ms": 1000.0}

Floats = NDArray[np.float64]


class Request(msgspec.Struct, gc=False):
    """The wanted keys of one entry of `individual_request_metrics`; latencies in the file's unit."""

    ttft: float | None = None
    tpot: float | None = None
    e2e_latency: float | None = None
    num_input_tokens: float | None = None
    num_output_tokens: float | None = None
    error_code: int | None = None
    error_message: str | None = None


class Aggregates(msgspec.Struct, gc=False):
    """The wanted keys of `aggregated_metrics`, as the file claims them."""

    scenario: str | None = None
    iteration_type: str | None = None
    num_concurrency: int | None = None
    batch_size: int | None = None
    run_duration: float | None = None
    mean_output_throughput_tokens_per_s: float | None = None
    mean_input_throughput_tokens_per_s: float | None = None
    mean_total_tokens_throughput_tokens_per_s: float | None = None
    requests_per_second: float | None = None
    error_rate: float | None = None
    error_codes_frequency: dict[str, int] | None = None
    num_error_requests: int | None = None
    num_completed_requests: int | None = None
    stats: dict[str, dict[str, float | None]] | None = None


class ResultFile(msgspec.Struct):
    """One file as genai-bench wrote it."""

    aggregated_metrics: Aggregates
    individual_request_metrics: list[Request] | None = None
    _time_unit: str | None = msgspec.field(default=None, name="_time_unit")
    mended: int = 0  # values of the wrong type that were left out

    @property
    def time_unit(self) -> str | None:
        """The unit the file names for its latencies."""
        return self._time_unit


class Measured(msgspec.Struct, kw_only=True):
    """The numbers of one batch: seconds, tokens/s, requests; NaN where nobody knows."""

    scenario: str
    iteration_type: str
    level: int | None
    duration: float
    requests: int | None
    completed: int | None
    errors: int | None
    error_rate: float
    output_throughput: float
    input_throughput: float
    total_throughput: float
    request_throughput: float
    latencies: dict[str, float]
    error_codes: dict[str, int]
    first_error: str = ""
    warnings: list[str] = []


@dataclass(frozen=True)
class Damage:
    """Why a file is no usable batch: an outcome of `tuner.experiment.OUTCOMES` and the reason."""

    outcome: str
    reason: str


_decode = msgspec.json.Decoder(ResultFile).decode


def read(path: Path) -> ResultFile | Damage:
    """Read the genai-bench file at `path`, whatever is in it.

    Returns:
        The file's wanted keys; values of a wrong type are None and counted in `mended`. Or what is wrong with it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        return Damage("unreadable", f"cannot read {path.name}: {error.strerror}")
    return parse(data, path.name)


def parse(data: bytes, name: str) -> ResultFile | Damage:
    """The result file in `data`; `name` is only for messages."""
    try:
        return _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        if "truncated" in str(error):
            return Damage("truncated", f"{name} ends in the middle ({len(data)} bytes)")
        return _parse_leniently(data, name)


def _parse_leniently(data: bytes, name: str) -> ResultFile | Damage:
    """The slow way, for NaN, Infinity, wrong types and what is no batch at all."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return Damage("unreadable", f"{name} is not valid JSON")
    if not isinstance(value, dict) or not isinstance(value.get("aggregated_metrics"), dict):
        return Damage("unreadable", f"{name} is JSON but no genai-bench batch (it has no aggregated_metrics)")
    return mend(value)


def mend(value: dict[str, Any]) -> ResultFile:
    """Take from `value`, the JSON of a result file, what has the right type."""
    losses: list[str] = []
    aggregates = _mend_struct(Aggregates, value["aggregated_metrics"], losses)
    entries = value.get("individual_request_metrics")
    requests = [_mend_struct(Request, entry, losses) for entry in entries] if isinstance(entries, list) else None
    unit = value.get("_time_unit")
    return ResultFile(aggregates, requests, None if unit is None else str(unit), len(losses))


def _mend_struct(kind: Any, value: Any, losses: list[str]) -> Any:
    if not isinstance(value, dict):
        losses.append(kind.__name__)
        return kind()
    fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
    return kind(**{name: _mend(value[name], fields[name], name, losses) for name in fields.keys() & value.keys()})


def _mend(value: Any, kind: Any, name: str, losses: list[str]) -> Any:
    if name == "stats" and isinstance(value, dict):
        return {key: _mend_numbers(entry, losses) for key, entry in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None  # genai-bench means "no value" by it
    try:
        return msgspec.convert(value, kind)
    except (msgspec.MsgspecError, OverflowError):
        losses.append(name)
        return None


def _mend_numbers(value: Any, losses: list[str]) -> dict[str, float | None]:
    entries = value.items() if isinstance(value, dict) else ()
    return {str(key): _mend(number, float | None, str(key), losses) for key, number in entries}


def measure(result: ResultFile) -> Measured:
    """Recompute the numbers of one batch from its requests; from its aggregates where it holds no requests."""
    if result.individual_request_metrics:
        return _measure_requests(result)
    return _measure_aggregates(result)


def level_of(aggregates: Aggregates) -> int | None:
    """The level of the batch: its concurrency, or its batch size where that is what was varied."""
    return aggregates.batch_size if aggregates.iteration_type == "batch_size" else aggregates.num_concurrency


def unit_of(result: ResultFile) -> float:
    """How many of the file's time unit are a second; NaN where its unit is none we know."""
    return UNITS.get(result.time_unit or "s", math.nan)


def failed(request: Request) -> bool:
    """Whether the request ended in an error (genai-bench's own rule: an error code that is not 0)."""
    return bool(request.error_code)


def column(requests: list[Request], name: str) -> Floats:
    """One value a request; NaN where it is missing, not finite or negative, which no latency and no count can be."""
    values = np.array([getattr(request, name) for request in requests], dtype=np.float64)
    values[~((values >= 0) & np.isfinite(values))] = np.nan
    return values


def statistics(values: Floats) -> dict[str, float]:
    """Mean and percentiles (linear interpolation, as numpy and genai-bench do) of the values that are there."""
    known = values[~np.isnan(values)]
    if not known.size:
        return dict.fromkeys(STATISTICS, math.nan)
    percentiles = np.percentile(known, list(PERCENTILES.values()))
    return dict(zip(STATISTICS, [float(known.mean()), *percentiles.tolist()], strict=True))


def _measure_requests(result: ResultFile) -> Measured:
    requests = result.individual_request_metrics or []
    completed = [request for request in requests if not request.error_code]
    errors = [request for request in requests if request.error_code]
    unit = unit_of(result)
    latencies = {name: statistics(column(completed, name) / unit) for name in LATENCIES}
    claims = result.aggregated_metrics
    duration = _known(claims.run_duration)
    window = duration if duration > 0 else math.nan
    inputs, outputs = (_total(completed, name) for name in ("num_input_tokens", "num_output_tokens"))
    return Measured(
        scenario=claims.scenario or "",
        iteration_type=claims.iteration_type or "num_concurrency",
        level=level_of(claims),
        duration=duration,
        requests=len(requests),
        completed=len(completed),
        errors=len(errors),
        error_rate=len(errors) / len(requests),
        input_throughput=inputs / window,
        output_throughput=outputs / window,
        total_throughput=(inputs + outputs) / window,
        request_throughput=len(completed) / window,
        latencies=_flat(latencies),
        error_codes=_tally([str(request.error_code) for request in errors]),
        first_error=next((request.error_message for request in errors if request.error_message), "")[:300],
    )


def _total(requests: list[Request], name: str) -> float:
    """The sum over the requests; NaN where no request says."""
    values = column(requests, name)
    return float(np.nansum(values)) if values.size and not np.isnan(values).all() else math.nan


def _tally(codes: list[str]) -> dict[str, int]:
    return {code: codes.count(code) for code in sorted(set(codes))}


def _flat(latencies: dict[str, dict[str, float]]) -> dict[str, float]:
    return {f"{name}_{key}": value for name, values in latencies.items() for key, value in values.items()}


def _measure_aggregates(result: ResultFile) -> Measured:
    """Nothing to recompute from: the file's own numbers, but the error rate and the unit put right."""
    claims = result.aggregated_metrics
    unit = unit_of(result)
    codes = claims.error_codes_frequency or {}
    errors = sum(codes.values()) if claims.num_error_requests is None else claims.num_error_requests
    completed = claims.num_completed_requests
    requests = None if completed is None else completed + errors
    return Measured(
        scenario=claims.scenario or "",
        iteration_type=claims.iteration_type or "num_concurrency",
        level=level_of(claims),
        duration=_known(claims.run_duration),
        requests=requests,
        completed=completed,
        errors=errors,
        error_rate=errors / requests if requests else math.nan,
        input_throughput=_known(claims.mean_input_throughput_tokens_per_s),
        output_throughput=_known(claims.mean_output_throughput_tokens_per_s),
        total_throughput=_known(claims.mean_total_tokens_throughput_tokens_per_s),
        request_throughput=_known(claims.requests_per_second),
        latencies={name: claimed(claims, name) / unit for name in LATENCY_COLUMNS},
        error_codes={code: count for code, count in codes.items() if count},
    )


def claimed(aggregates: Aggregates, name: str) -> float:
    """What the file claims for a latency column such as `ttft_p99`, in the file's unit; NaN where it does not say."""
    latency, _, statistic = name.rpartition("_")
    return _known(((aggregates.stats or {}).get(latency) or {}).get(statistic))


def _known(value: float | None) -> float:
    return math.nan if value is None or not math.isfinite(value) or value < 0 else float(value)
