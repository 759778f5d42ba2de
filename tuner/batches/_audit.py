"""Contradictions in a batch file: what a reader must know before believing its numbers.

Each check is a function of one batch that returns a sentence, or nothing; `CHECKS` lists them and `audit` runs them.
"""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from tuner.batches.result_file import UNITS, Aggregates, Columns, Measured, claim_of, statistics, unit_of
from tuner.core.level import CONCURRENCY, RATE
from tuner.core.metrics import LATENCY_COLUMNS, PERCENTILES, WHOLE_FIRST, requests_needed, split

#: How far two numbers that should be equal may lie apart: 1 %.
TOLERANCE = 0.01
#: Share of the asked-for level that must be in flight on average, or the level was too short to say much.
IN_FLIGHT_LEAST = 0.9
#: So many requests and so large a change of latency through a level are called a drift, where Student's t of ten parts
#: (8 degrees of freedom) is beyond that of 1 in 1,000.
DRIFT_LEAST, DRIFT, T_OF_DRIFT = 40, 0.1, 5.04


@dataclass(frozen=True)
class Evidence:
    """One file, its requests, and what was computed from them."""

    columns: Columns
    batch: Measured

    @property
    def claims(self) -> Aggregates:
        """What the file says of itself."""
        return self.columns.file.aggregated_metrics

    @property
    def recomputed(self) -> bool:
        """Whether the file holds individual requests."""
        return bool(self.columns.requests)


def audit(columns: Columns, batch: Measured) -> list[str]:
    """Everything that is suspicious about a batch.

    Returns:
        Sentences for a person; empty where nothing contradicts.
    """
    evidence = Evidence(columns, batch)
    return [finding for check in CHECKS for finding in check(evidence)]


def output_tokens_asked(scenario: str) -> float | None:
    """The mean number of output tokens that a genai-bench text scenario asks for; None where it does not say."""
    numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", scenario)]
    match scenario[:1], numbers:
        case "D", [_, outputs]:
            return outputs
        case "N", [_, _, outputs, _]:
            return outputs
        case "U", [_, _, least, most]:
            return (least + most) / 2
    return None


def errors_hidden(evidence: Evidence) -> Iterable[str]:
    """genai-bench 0.0.5 writes an error rate of 0 whatever happened."""
    claimed, batch = evidence.claims.error_rate, evidence.batch
    if not batch.errors or claimed is None or _close(claimed, batch.error_rate):
        return
    yield f"the file claims an error rate of {claimed:.3g}, but {_errors(batch)}"


def origin_notes(evidence: Evidence) -> Iterable[str]:
    """What other tools define in their own way."""
    origin = evidence.batch.origin
    return origin.notes if origin else []


def window_notes(evidence: Evidence) -> Iterable[str]:
    """What the load generator knows of the part that is judged."""
    window = evidence.columns.file.window
    return window.notes if window else []


def survivors_only(evidence: Evidence) -> Iterable[str]:
    """Latency and throughput come from the survivors alone."""
    batch = evidence.batch
    if batch.errors and batch.completed:
        codes = ", ".join(f"{code} ×{count}" for code, count in batch.error_codes.items()) or "no code"
        yield f"{_errors(batch)} ({codes}); latencies and throughput are those of the survivors"


def not_recomputed(evidence: Evidence) -> Iterable[str]:
    """Older and foreign files, and what even their aggregates do not say."""
    if evidence.recomputed:
        return
    yield "the file holds no individual requests: its own aggregates are used, unchecked"
    claims = evidence.claims
    missing = [name for name in LATENCY_COLUMNS if split(name)[0] in WHOLE_FIRST and math.isnan(claim_of(claims, name))]
    if missing and evidence.batch.completed:
        yield f"the file says nothing of {', '.join(missing)}"


def unit_unknown(evidence: Evidence) -> Iterable[str]:
    """A unit that is missing or none."""
    unit = evidence.columns.file.time_unit
    if unit is None:
        yield "the file names no time unit: seconds assumed"
    elif unit not in UNITS:
        yield f"the file's time unit is {unit!r}, none of {', '.join(UNITS)}: its latencies are left out"


def values_mended(evidence: Evidence) -> Iterable[str]:
    """What had the wrong type, or cannot be a measurement."""
    if evidence.columns.file.mended:
        yield f"{evidence.columns.file.mended} values of a wrong type, NaN or infinite, were left out"
    if evidence.columns.impossible:
        yield f"{evidence.columns.impossible} latencies that are negative or not finite were left out"


def latencies_missing(evidence: Evidence) -> Iterable[str]:
    """Completed requests of which nobody knows how long they took; TPOT may be missing for very short answers."""
    for name in ("e2e_latency",) if evidence.columns.ttft_doubt else ("ttft", "e2e_latency"):
        missing = int(np.isnan(evidence.columns.latencies[name]).sum())
        if missing:
            yield f"{missing} of {evidence.batch.completed} completed requests have no {name}"


def counts_differ(evidence: Evidence) -> Iterable[str]:
    """The file's counts against its requests."""
    claims, batch = evidence.claims, evidence.batch
    pairs = {
        "completed": (claims.num_completed_requests, batch.completed),
        "failed": (claims.num_error_requests, batch.errors),
    }
    for what, (said, counted) in pairs.items():
        if evidence.recomputed and batch.completed and said is not None and said != counted:
            yield f"the file claims {said} {what} requests but holds {counted}"


def throughput_deflated(evidence: Evidence) -> Iterable[str]:
    """A warm-up or cool-down ratio of genai-bench drops tokens but not the time they took."""
    claimed = evidence.claims.mean_output_throughput_tokens_per_s
    counted = evidence.batch.output_throughput
    if not evidence.recomputed or claimed is None or math.isnan(counted) or _close(claimed, counted):
        return
    if evidence.batch.origin:
        yield f"the file claims {claimed:.1f} output tokens/s, its requests give {counted:.1f} over its duration"
        return
    why = "a warm-up or cool-down ratio drops tokens but not time" if claimed < counted else "it is inflated"
    yield f"the file claims {claimed:.1f} output tokens/s, its requests give {counted:.1f}: {why}"


def latencies_differ(evidence: Evidence) -> Iterable[str]:
    """The file's statistics against its requests, in one sentence for all of them."""
    unit = unit_of(evidence.columns.file)
    computed = evidence.batch.latencies.items()
    different = [name for name, value in computed if _differ(claim_of(evidence.claims, name) / unit, value)]
    if evidence.recomputed and different:
        yield f"the file's own {', '.join(different)} differ from its requests; recomputed over all of them"


def too_few_for_percentiles(evidence: Evidence) -> Iterable[str]:
    """A percentile of fewer requests than it needs."""
    completed = evidence.batch.completed
    if completed is None or not completed:
        return
    short = {name: requests_needed(value / 100) for name, value in PERCENTILES.items()}
    lacking = [f"{name} ({needed})" for name, needed in short.items() if completed < needed]
    if lacking:
        yield f"{completed} completed requests are too few for {', '.join(lacking)}"


def outputs_unlike(evidence: Evidence) -> Iterable[str]:
    """Fewer output tokens than the scenario asked for make every request look fast; more were counted, not sent."""
    asked = output_tokens_asked(evidence.batch.scenario)
    mean = statistics(evidence.columns.output_tokens)["mean"]
    if asked and mean < asked * 0.95:
        yield f"outputs of {mean:.1f} tokens on average where {asked:g} were asked for"
    if asked and mean > asked * (1.05 if evidence.batch.scenario.startswith("D") else 1.5):
        cause = "the tokenizer that counts them may not be the model's, or max_tokens is not kept"
        yield f"outputs of {mean:.1f} tokens on average where {asked:g} at most were asked for: {cause}"


def ttft_doubtful(evidence: Evidence) -> Iterable[str]:
    """A TTFT that cannot be a measurement: all the same, or that of an answer that came in one piece."""
    if doubt := evidence.columns.ttft_doubt:
        yield f"{doubt}: TTFT and TPOT are unknown"
    first, whole = (evidence.columns.raw[name] for name in ("ttft", "e2e_latency"))
    if (first > whole * (1 + TOLERANCE)).any():
        yield "some requests have a TTFT above their whole latency"


def in_flight(evidence: Evidence) -> Iterable[str]:
    """Little's law: request throughput × mean latency is the number in flight, which the level fixes."""
    batch = evidence.batch
    level = {CONCURRENCY: batch.level, RATE: None}.get(batch.iteration_type, 1)
    average = batch.request_throughput * batch.latencies["e2e_latency_mean"]
    if not level or math.isnan(average) or batch.error_rate > TOLERANCE:
        return
    if average > level * 1.1:
        yield f"{average:.1f} requests in flight on average are more than the level of {level} allows"
    elif average < level * IN_FLIGHT_LEAST:
        yield f"only {average:.1f} of {level} requests in flight on average: {batch.duration:.1f} s is too short"


def no_duration(evidence: Evidence) -> Iterable[str]:
    """Without a duration there is no throughput."""
    if evidence.batch.completed and not evidence.batch.duration > 0:
        yield "the file gives no run duration: throughput is unknown"


def drifting(evidence: Evidence) -> Iterable[str]:
    """A latency that grows or falls through the level, by a regression over the means of ten parts of it."""
    whole = evidence.columns.latencies["e2e_latency"]
    whole = whole[~np.isnan(whole)]
    if len(whole) < DRIFT_LEAST:
        return
    means = np.array([part.mean() for part in np.array_split(whole, 10)])
    at = np.arange(10) - 4.5
    slope = float(at @ means / (at @ at))
    error = math.sqrt(float(((means - means.mean() - slope * at) ** 2).sum()) / 8 / float(at @ at))
    change = 9 * slope / float(means.mean()) if means.mean() > 0 else 0.0
    if abs(change) > DRIFT and abs(slope) > T_OF_DRIFT * error:
        yield f"e2e latency drifted by {change:+.0%} through the level: intervals are too narrow, measure longer"


CHECKS: tuple[Callable[[Evidence], Iterable[str]], ...] = (
    *(survivors_only, errors_hidden, not_recomputed, unit_unknown, values_mended, latencies_missing, counts_differ),
    *(no_duration, throughput_deflated, latencies_differ, too_few_for_percentiles, outputs_unlike, ttft_doubtful),
    *(in_flight, origin_notes, window_notes, drifting),
)


def _errors(batch: Measured) -> str:
    return f"{batch.errors} of {batch.requests} requests failed, {batch.error_rate:.0%}"


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=1e-9)


def _differ(claimed: float, counted: float) -> bool:
    return not (math.isnan(claimed) or math.isnan(counted) or _close(claimed, counted))
