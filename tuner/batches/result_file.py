"""One result file → its numbers, computed from the single requests."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tuner.core.level import CONCURRENCY, KINDS, Level, level_from
from tuner.core.metrics import LATENCIES, LATENCY_COLUMNS, PERCENTILES, STATISTICS
from tuner.core.text import server_words

#: No level, number of repeats, count of tokens or latency in seconds is this large; the file that says so is damaged.
MOST = 10**9
#: What one second is in the unit that a file names in `_time_unit`.
UNITS = {"s": 1.0, "ms": 1000.0}
#: From so many requests on, TTFTs that are all the same are no measurements: a clock has more digits than that.
SAME_LEAST = 5
ALL_THE_SAME = "TTFT is the same for all requests, as no clock measures it"
NOT_STREAMED = "TTFT equals the whole latency: nothing was streamed"
#: Share of the whole latency after the first token in which the rest comes at once; the shortest TPOT of an engine (s).
AT_ONCE, FASTEST_TPOT = 0.01, 1e-4


class Request(msgspec.Struct, gc=False):
    """The wanted keys of one entry of `individual_request_metrics`; latencies in the file's unit."""

    ttft: float | None = None
    tpot: float | None = None
    e2e_latency: float | None = None
    num_input_tokens: float | None = None
    num_output_tokens: float | None = None
    error_code: int | str | None = None
    error_message: str | None = None
    itl: float | None = None  # the 99th percentile of its gaps between chunks
    ttfa: float | None = None  # the first token of the answer, after reasoning


class Aggregates(msgspec.Struct, gc=False):
    """The wanted keys of `aggregated_metrics`, as the file claims them."""

    scenario: str | None = None
    iteration_type: str | None = None
    num_concurrency: int | None = None
    batch_size: int | None = None
    request_rate: float | None = None
    run_duration: float | None = None
    mean_output_throughput_tokens_per_s: float | None = None
    mean_input_throughput_tokens_per_s: float | None = None
    mean_total_tokens_throughput_tokens_per_s: float | None = None
    requests_per_second: float | None = None
    error_rate: float | None = None
    error_codes_frequency: dict[str, int] | None = None
    num_requests: int | None = None
    num_error_requests: int | None = None
    num_completed_requests: int | None = None
    stats: dict[str, dict[str, float | None]] | None = None


#: Our name of each throughput, and that in `aggregated_metrics`.
CLAIMED_THROUGHPUTS = {
    "request_throughput": "requests_per_second",
    "output_throughput": "mean_output_throughput_tokens_per_s",
    "input_throughput": "mean_input_throughput_tokens_per_s",
    "total_throughput": "mean_total_tokens_throughput_tokens_per_s",
}
Scalar = str | float | int | bool


class Origin(msgspec.Struct):
    """What a file of another benchmark tool says beyond the numbers; texts are empty where it does not say."""

    tool: str
    engine: str = ""
    model: str = ""
    started_at: str = ""  # ISO 8601
    finished_at: str = ""
    notes: list[str] = []  # what a reader must know, first of all where its definitions differ
    settings: dict[str, Scalar] = {}  # what was asked for, by the tool's own names


#: columns that only a level of ours has
OF_WINDOW = ("burst_ttft_p90", "cache_hit_rate", "schedule_lag_p99")


class Window(msgspec.Struct):
    """What happened in the part of a level that is judged, whichever request it belongs to."""

    output_tokens: float
    input_tokens: float
    completed: int
    burst_ttft_p90: float  # seconds, of each user's first request; NaN where none is known
    cache_hit_rate: float  # cached prompt tokens / prompt tokens of what is judged; NaN where usage does not say
    schedule_lag_p99: float  # seconds that requests of a rate were sent late though they could; NaN of a concurrency
    notes: list[str]


class ResultFile(msgspec.Struct):
    """One batch as genai-bench wrote it, or as it was converted from what another tool wrote (then with an origin)."""

    aggregated_metrics: Aggregates
    individual_request_metrics: Sequence[Request] | None = None
    time_unit: str | None = msgspec.field(default=None, name="_time_unit")  # of its latencies, as it names it
    mended: int = 0  # values of the wrong type that were left out
    origin: Origin | None = msgspec.field(default=None, name="_origin")
    window: Window | None = msgspec.field(default=None, name="_window")  # where the file is ours
    every_request: Sequence[Request] | None = msgspec.field(default=None, name="_every")  # also what is not judged


@dataclass(frozen=True)
class Damage:
    """Why a file, or a part of one, is no usable batch: an outcome of `core.records.OUTCOMES` and the reason."""

    outcome: str
    reason: str
    tool: str = ""  # which other tool wrote it, where one is known


Floats = NDArray[np.float64]


class Measured(msgspec.Struct, kw_only=True):
    """The numbers of one batch: seconds, tokens/s, requests; NaN or None where nobody knows."""

    scenario: str
    iteration_type: str
    level: Level | None
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
    burst_ttft_p90: float = math.nan  # seconds
    cache_hit_rate: float = math.nan
    schedule_lag_p99: float = math.nan  # seconds
    first_error: str = ""
    warnings: list[str] = []
    origin: Origin | None = None  # where another tool than genai-bench wrote it


@dataclass(frozen=True)
class Columns:
    """The individual requests of one file as arrays, made once and used by the numbers and by the audit alike."""

    file: ResultFile  # the file they come from; one that holds no requests has empty columns

    @cached_property
    def requests(self) -> Sequence[Request]:
        """All of them, in the order of the file."""
        return self.file.individual_request_metrics or []

    @cached_property
    def errors(self) -> list[Request]:
        """Those that ended in an error (genai-bench's own rule: an error code that is not 0)."""
        return [request for request in self.requests if request.error_code]

    @cached_property
    def completed(self) -> Sequence[Request]:
        """The others."""
        return [request for request in self.requests if not request.error_code] if self.errors else self.requests

    @cached_property
    def raw(self) -> dict[str, Floats]:
        """One value a completed request of each latency, in seconds; NaN where the file has none.

        A TPOT that genai-bench left out, since the tokens came faster than its clock, is computed by its definition; of
        a single token it is 0, as in `vllm bench serve`.
        """
        unit, tokens = unit_of(self.file), self.output_tokens
        raw = {name: self._values(name) / unit for name in LATENCIES}
        later = raw["e2e_latency"] - raw["ttft"]
        computed = np.where((tokens == 1) | (later > 0), later / np.maximum(tokens - 1, 1), np.nan) * (tokens > 1)
        return raw | {"tpot": np.where(np.isnan(raw["tpot"]) & (tokens > 0), computed, raw["tpot"])}

    @cached_property
    def latencies(self) -> dict[str, Floats]:
        """As `raw`, but NaN too where the value cannot be a latency, and TTFT and TPOT where TTFT is no measurement."""
        unknown = ("ttft", "tpot") if self.ttft_doubt else ()
        return {name: possible(values * (np.nan if name in unknown else 1)) for name, values in self.raw.items()}

    @cached_property
    def ttft_doubt(self) -> str:
        """Why no TTFT of the file is a measurement; empty where nothing speaks against them."""
        if not self.requests:
            return _claimed_ttft_doubt(self.file)
        first, whole = possible(self.raw["ttft"]), possible(self.raw["e2e_latency"])
        gaps, later = self.output_tokens - 1, whole - first
        answers, known = ~np.isnan(later) & (gaps > 0), first[~np.isnan(first)]
        if known.size >= SAME_LEAST and np.ptp(known) == 0:
            return ALL_THE_SAME
        at_once = (later <= AT_ONCE * whole) & (later < FASTEST_TPOT * gaps)
        return NOT_STREAMED if answers.any() and at_once[answers].mean() > 0.5 else ""

    @cached_property
    def input_tokens(self) -> Floats:
        """One value a completed request; NaN where missing or impossible."""
        return possible(self._values("num_input_tokens"))

    @cached_property
    def output_tokens(self) -> Floats:
        """One value a completed request; NaN where missing or impossible."""
        return possible(self._values("num_output_tokens"))

    def _values(self, name: str) -> Floats:
        return np.array([*map(attrgetter(name), self.completed)], np.float64)


def possible(values: Floats) -> Floats:
    """The values, but NaN where they are negative or of `MOST` and more, as no latency and no count can be."""
    return np.where((values >= 0) & (values < MOST), values, np.nan)


def measure(columns: Columns) -> Measured:
    """Compute the numbers of one batch from its requests; from its own aggregates where it holds no requests."""
    claims = columns.file.aggregated_metrics
    kind = iteration_type(claims.iteration_type)
    number = getattr(claims, kind)
    return Measured(
        scenario=claims.scenario or "",
        iteration_type=kind,
        level=level_from(number, kind) if number is not None and 0 < number < MOST else None,
        duration=usable(claims.run_duration),
        origin=columns.file.origin,
        **(_of_requests(columns) if columns.requests else _of_aggregates(columns)),
    )


def iteration_type(name: str | None) -> str:
    """What was varied from level to level: what a file names, where it is known, else `num_concurrency`."""
    return name if name in KINDS else CONCURRENCY


def unit_of(file: ResultFile) -> float:
    """How many of the file's time unit are a second; NaN where its unit is none we know."""
    return UNITS.get(file.time_unit or "s", math.nan)


def statistics(values: Floats) -> dict[str, float]:
    """Mean and percentiles (linear interpolation, as numpy and genai-bench do) of the values that are there.

    NaN for each where more than half of the values are missing, since the rest stands for little.
    """
    known = values[~np.isnan(values)]
    if not known.size or 2 * known.size < values.size:
        return dict.fromkeys(STATISTICS, math.nan)
    ranks = np.array([*PERCENTILES.values()]) / 100 * (known.size - 1)
    percentiles = np.interp(ranks, np.arange(known.size), np.sort(known))
    return dict(zip(STATISTICS, [float(known.mean()), *percentiles.tolist()], strict=True))


def claim_of(aggregates: Aggregates, name: str) -> float:
    """What the file claims for a latency column such as `ttft_p99`, in the file's unit; NaN where it does not say."""
    latency, _, statistic = name.rpartition("_")
    return usable(((aggregates.stats or {}).get(latency) or {}).get(statistic))


def usable(value: float | None) -> float:
    """The value, or NaN where it is missing or cannot be."""
    return math.nan if value is None or not 0 <= value < math.inf else float(value)


def _of_requests(columns: Columns) -> dict[str, Any]:
    total, errors, window = len(columns.requests), len(columns.errors), columns.file.window
    seconds, done = usable(columns.file.aggregated_metrics.run_duration) or math.nan, total - errors
    tokens = columns.input_tokens, columns.output_tokens
    inputs, outputs = (math.nan if np.isnan(part).all() else float(np.nansum(part)) for part in tokens)
    if window:
        inputs, outputs, done = window.input_tokens, window.output_tokens, window.completed
    computed = {name: statistics(values) for name, values in columns.latencies.items()}
    flows = {"input": inputs, "output": outputs, "total": inputs + outputs, "request": done}
    return {
        **{"requests": total, "completed": total - errors, "errors": errors, "error_rate": errors / total},
        **{f"{name}_throughput": flow / seconds for name, flow in flows.items()},
        **{name: getattr(window, name, math.nan) for name in OF_WINDOW},
        "latencies": {f"{name}_{key}": value for name in computed for key, value in computed[name].items()},
        "error_codes": dict(sorted(Counter(str(request.error_code) for request in columns.errors).items())),
        "first_error": next((server_words(one.error_message) for one in columns.errors if one.error_message), ""),
    }


def _of_aggregates(columns: Columns) -> dict[str, Any]:
    """Nothing to compute from: the file's own numbers, but the error rate and the unit put right."""
    file = columns.file
    claims, unit = file.aggregated_metrics, unit_of(file)
    names = [name for name in LATENCY_COLUMNS if not columns.ttft_doubt or name.startswith("e2e")]
    codes, errors = claims.error_codes_frequency or {}, claims.num_error_requests
    counted = errors if claims.error_codes_frequency is None or errors else sum(codes.values())
    completed, errors = _count(claims.num_completed_requests), _count(counted)
    if completed is None and (total := _count(claims.num_requests)) is not None and (errors is not None or not total):
        completed = max(total - (errors or 0), 0)
    requests = None if completed is None or errors is None else completed + errors
    return {
        **{"requests": requests, "completed": completed, "errors": errors},
        "error_rate": (errors or 0) / requests if requests else usable(claims.error_rate if errors is None else None),
        **{name: usable(getattr(claims, key)) for name, key in CLAIMED_THROUGHPUTS.items()},
        "latencies": dict.fromkeys(LATENCY_COLUMNS, math.nan) | {name: claim_of(claims, name) / unit for name in names},
        "error_codes": {code: count for code, count in codes.items() if _count(count)},
    }


def _claimed_ttft_doubt(file: ResultFile) -> str:
    """As `Columns.ttft_doubt`, from what a file without single requests says of them all."""
    claims, unit = file.aggregated_metrics, unit_of(file)
    firsts = [value for name in STATISTICS if not math.isnan(value := claim_of(claims, f"ttft_{name}"))]
    if len(firsts) > 2 and len(set(firsts)) == 1 and (claims.num_completed_requests or SAME_LEAST) >= SAME_LEAST:
        return ALL_THE_SAME
    whole, first, gap = (claim_of(claims, f"{name}_mean") / unit for name in ("e2e_latency", "ttft", "tpot"))
    rates = usable(claims.mean_output_throughput_tokens_per_s), usable(claims.requests_per_second) or math.nan
    is_at_once = whole - first <= AT_ONCE * whole and gap < FASTEST_TPOT
    return NOT_STREAMED if is_at_once and rates[0] / rates[1] > 1 else ""


def _count(value: int | None) -> int | None:
    return value if value is not None and 0 <= value < 10**12 else None
