"""GuideLLM: one file, one batch for each strategy that it ran."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.batches import _salvage
from tuner.batches.other_tools import values
from tuner.batches.other_tools.values import at, count, entries, number, text
from tuner.batches.result_file import Damage, Origin, Request, ResultFile, Scalar
from tuner.core.level import Level
from tuner.core.text import plural

TOOL = "GuideLLM"
#: Its names of our latencies, and how many of its unit are a second.
LATENCIES = {
    "ttft": ("time_to_first_token_ms", 1000.0),
    "tpot": ("inter_token_latency_ms", 1000.0),
    "e2e_latency": ("request_latency", 1.0),
}
#: Its names of `CLAIMED_THROUGHPUTS`.
THROUGHPUTS = ("requests_per_second", "output_tokens_per_second", "prompt_tokens_per_second", "tokens_per_second")
PERCENTILES = ("p50", "p90", "p95", "p99")
RECOMPUTED = (
    "TPOT is (latency − TTFT) / (output tokens − 1), up to the end of the request: its own inter_token_latency ends at "
    "the last token, and its time_per_output_token includes the first; its own percentiles do not interpolate"
)
CLAIMED = "TPOT is its own inter_token_latency, weighed by tokens, up to the last; percentiles do not interpolate"
THROUGHPUT = "throughput is over the time it measured, without its warm-up and cool-down"
UNTIMED = "its requests include those of warm-up and cool-down and do not say when they were: its own aggregates count"
#: Names of a request's begin and end, in several versions: its own, and then those of `info.timings`.
BEGINS = ("request_start_time", "start_time", "request_start", "resolve_start")
ENDS = ("request_end_time", "end_time", "request_end", "resolve_end")
#: Seconds, and a share, that are no difference; and a share of what the file says itself.
EDGE, SAME = 1e-3, 0.01
#: A length as `prompt_tokens=60,output_tokens=16` has it.
LENGTH = re.compile(r"\s*(\w+)\s*=\s*(\d{1,9})\s*")


def fullest(path: Path) -> list[Path]:
    """Of the files that GuideLLM wrote of the run of `path` the one that says most."""
    other = path.with_suffix(".json")
    return [other if other.is_file() else path]


def convert(document: Any) -> list[ResultFile | Damage]:
    """The batches of one report."""
    version = text(document, "metadata", "guidellm_version") or "0.2 or 0.3"  # which name none
    data = at(document, "config", "spec", "data") or at(document, "args", "data")
    model = text(document, "args", "model")
    return [_benchmark(benchmark, data, version, model) for benchmark in entries(document, "benchmarks")]


def salvage(text: str) -> dict[str, Any]:
    """The report, with those of its batches that are whole; nothing where none is."""
    whole = _salvage.elements(text, "benchmarks", lambda one: isinstance(one, dict) and "metrics" in one)
    return _salvage.before(text, "benchmarks") | {"benchmarks": whole} if whole else {}


def _benchmark(benchmark: Any, data: Any, version: str, model: str) -> ResultFile | Damage:
    metrics = at(benchmark, "metrics")
    if metrics is None:
        return Damage("unreadable", f"it holds no metrics, as those of {TOOL} 0.1: files from 0.2 on are read")
    totals = at(metrics, "request_totals") or at(benchmark, "request_totals")
    done, errors = (count(totals, name) for name in ("successful", "errored"))
    sent, cut = _sent(benchmark), entries(benchmark, "requests", "incomplete")
    window = _Window.of(benchmark, [*(span for span, _ in sent), *map(_span, cut)])
    inside, edges = _within(window, sent, (done or 0) + (errors or 0))
    requests = [request for _, request in inside] if len(inside) >= (done or 0) + (errors or 0) else []
    if not requests:
        window = _Window.of(benchmark, [])
    strategies = (at(benchmark, place, "strategy") for place in ("config", "scheduler", "args"))  # of several versions
    strategy = next(filter(None, strategies), None)
    level, rate = level_of(strategy)
    asked = _asked(data or at(benchmark, "request_loader", "data"))
    settings = values.settings(asked, bool) | values.settings(strategy, {"type_", "rate"}.__contains__)
    lengths = [(number(asked, key), number(asked, f"{key}_stdev")) for key in ("prompt_tokens", "output_tokens")]
    names = () if requests else THROUGHPUTS  # its means weigh by time: only where nothing else is there
    notes = [
        f"written by {TOOL} {version}: {RECOMPUTED if requests else CLAIMED}; {THROUGHPUT}",
        rate,
        edges,
        f"{plural(len(cut), 'request')} cut off at the end: neither completed nor failed" if cut else "",
        f"the file keeps only {len(inside)} of its requests" if inside and not requests else "",
        *([] if edges else _differing_counts(metrics, requests)),
    ]
    return values.batch(
        _origin(benchmark, window, notes, settings, model),
        level,
        requests,
        scenario=values.scenario(*lengths),
        run_duration=window.divisor(inside if requests else []),
        stats={name: _statistics(at(metrics, key, "successful"), unit) for name, (key, unit) in LATENCIES.items()},
        **values.claims_of(done, errors, [number(metrics, name, "successful", "mean") for name in names]),
    )


def _differing_counts(metrics: Any, requests: list[Request]) -> Iterator[str]:
    """Where the file's own mean counts of tokens are not those of its requests."""
    done = [request for request in requests if request.error_code is None]
    counts = {"prompt": [one.num_input_tokens for one in done], "output": [one.num_output_tokens for one in done]}
    for what, each in counts.items():
        known = [one for one in each if one is not None]
        claimed = number(metrics, f"{what}_token_count", "successful", "mean")
        counted = sum(known) / (len(known) or 1)
        if claimed and known and not math.isclose(claimed, counted, rel_tol=SAME):
            yield f"the file claims {claimed:.1f} {what} tokens a request, its requests hold {counted:.1f}"


def _statistics(claimed: Any, unit: float) -> dict[str, float | None]:
    known = {name: number(claimed, "percentiles", name, unit=unit) for name in PERCENTILES}
    return known | {"mean": number(claimed, "mean", unit=unit)} if count(claimed, "count") else {}


Span = tuple[float, float]
Sent = tuple[Span | None, Request]


@dataclass(frozen=True)
class _Window:
    """The time that was measured, in seconds since 1970, which may reach beyond the requests; None where unknown.

    GuideLLM keeps the requests of its warm-up and cool-down beside those of this time, and counts those that reach
    across an edge as within.
    """

    begin: float | None
    end: float | None
    duration: float | None

    @classmethod
    def of(cls, benchmark: Any, spans: list[Span | None]) -> "_Window":
        """The time that the file names, without what lies before the first of the requests or after the last."""
        begin, end, duration = (number(benchmark, name) for name in ("start_time", "end_time", "duration"))
        if begin is None or end is None or not spans or None in spans:
            return cls(begin, end, duration)
        firsts, lasts = zip(*filter(None, spans), strict=True)
        begin, end = max(begin, min(firsts)), min(end, max(lasts))
        is_shorter = duration is None or end - begin < duration * (1 - EDGE)
        return cls(begin, end, max(end - begin, 0.0) if is_shorter else duration)

    def share(self, span: Span | None) -> float | None:
        """The part of the time of a request that lies within; None where nobody knows."""
        if span is None or self.begin is None or self.end is None:
            return None
        first, last = span
        if last - first < EDGE or (self.begin - EDGE <= first and last <= self.end + EDGE):
            return float(self.begin - EDGE <= first <= self.end + EDGE)
        return max(0.0, min(last, self.end) - max(first, self.begin)) / (last - first)

    def divisor(self, inside: list[Sent]) -> float | None:
        """The time in which the tokens of all requests `inside` come at the rate of those tokens that came within."""
        tokens = [(request.num_output_tokens or 0.0, self.share(span)) for span, request in inside]
        within = sum(count * (1.0 if share is None else share) for count, share in tokens)
        return self.duration * sum(count for count, _ in tokens) / within if self.duration and within else self.duration


def _sent(benchmark: Any) -> list[Sent]:
    sent = [(_span(one), _completion(one)) for one in entries(benchmark, "requests", "successful")]
    failed = entries(benchmark, "requests", "errored")
    return sent + [(_span(one), values.failure(at(one, "info", "error") or at(one, "error"))) for one in failed]


def _within(window: _Window, sent: list[Sent], total: int) -> tuple[list[Sent], str]:
    """Those `sent` requests that count, and what must be said of the others, of which GuideLLM counts `total`."""
    shares = [window.share(span) for span, _ in sent]
    if None in shares:
        return (sent, "") if len(sent) <= total else ([], UNTIMED)
    inside = [one for one, share in zip(sent, shares, strict=True) if share]
    across = sum(0 < (share or 0) < 1 for share in shares)
    if len(inside) == len(sent) and not across:
        return sent, ""
    return inside, (
        f"{len(sent) - len(inside)} of {len(sent)} requests lie outside the {window.duration or 0:.1f} s that were "
        f"measured; {across} reach across an edge, and of their tokens those within count"
    )


def _span(entry: Any) -> Span | None:
    """When a request began and ended, in seconds since 1970; None where nobody knows when it began."""
    places = entry, at(entry, "info", "timings")
    every = ((number(place, name) for place in places for name in names) for names in (BEGINS, ENDS))
    begin, end = map(values.first_number, every)
    return None if begin is None else (begin, max(begin, end or begin))  # a failed one may have no end


def _origin(benchmark: Any, window: _Window, notes: list[str], settings: dict[str, Scalar], model: str) -> Origin:
    backend = at(benchmark, "config", "backend") or at(benchmark, "backend") or at(benchmark, "worker")
    engine = "vllm" if text(backend, "kind").startswith("vllm") else ""
    model = text(backend, "model") or text(backend, "backend_model") or model
    return Origin(TOOL, engine, model, values.instant(window.begin), values.instant(window.end), notes, settings)


def level_of(strategy: Any) -> tuple[Level | None, str]:
    """The concurrency that the strategy held, or the rate at which it sent, and what must be said of it."""
    kind, streams = text(strategy, "type_"), count(strategy, "streams")
    if kind == "synchronous":
        return 1, ""
    if kind == "concurrent" and streams:
        return streams, ""
    if kind == "throughput":
        limit = count(strategy, "max_concurrency")
        return limit, f"all requests were sent at once, {limit or 'any number'} in flight"
    return values.level_of_rate(number(strategy, "rate") or "nothing")


def _completion(entry: Any) -> Request:
    ttft, latency = number(entry, "time_to_first_token_ms", unit=1000.0), number(entry, "request_latency")
    return Request(ttft, None, latency, number(entry, "prompt_tokens"), number(entry, "output_tokens"))


def _asked(data: Any) -> Any:
    """What was asked for, as an object: lengths of synthetic prompts, or the `data` set's name."""
    first = data if isinstance(data, str) else (entries(data) or [None])[0]
    if not isinstance(first, str):
        return first
    try:
        return json.loads(first) or {"data": first}
    except (ValueError, RecursionError):
        lengths = filter(None, map(LENGTH.fullmatch, first.split(",")))
        return {length[1]: int(length[2]) for length in lengths} or {"data": first}
