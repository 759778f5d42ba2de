"""Contradictions in a batch file: what a reader must know before believing its numbers.

Each check is a function of one file and what was computed from it that gives sentences; `CHECKS` lists them.
"""

import math
import re
from collections.abc import Callable, Iterable

import numpy as np

from tuner.batches.result_file import UNITS, Columns, Measured, claim_of, possible, statistics, unit_of, usable
from tuner.core.level import CONCURRENCY, RATE
from tuner.core.metrics import DRIFTED, LATENCY_COLUMNS, PERCENTILES, WHOLE_FIRST, requests_needed, split
from tuner.core.text import plural

#: How far two numbers that should be equal may lie apart: 1 %.
TOLERANCE = 0.01


def audit(columns: Columns, batch: Measured) -> list[str]:
    """Everything that is suspicious about a batch, as sentences for a person; empty where nothing contradicts."""
    return [finding for check in CHECKS for finding in check(columns, batch)]


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


def _survivors_only(columns: Columns, batch: Measured) -> Iterable[str]:
    """Latency and throughput come from the survivors alone, and genai-bench 0.0.5 claims an error rate of 0."""
    if not batch.errors:
        return
    failed = f"{batch.errors} of {batch.requests} requests failed, {batch.error_rate:.0%}"
    if batch.completed:
        codes = ", ".join(f"{code} ×{count}" for code, count in batch.error_codes.items()) or "no code"
        words = f": {batch.first_error}" if batch.first_error else ""
        yield f"{failed} ({codes}){words}; latencies and throughput are those of the survivors"
    claimed = columns.file.aggregated_metrics.error_rate
    if claimed is not None and _differ(claimed, batch.error_rate):
        yield f"the file claims an error rate of {claimed:.3g}, but {failed}"


def _not_recomputed(columns: Columns, batch: Measured) -> Iterable[str]:
    if columns.requests:
        return
    yield "the file holds no individual requests: its own aggregates are used, unchecked"
    claims = columns.file.aggregated_metrics
    missing = [name for name in LATENCY_COLUMNS if split(name)[0] in WHOLE_FIRST and math.isnan(claim_of(claims, name))]
    if missing and batch.completed:
        yield f"the file says nothing of {', '.join(missing)}"


def _unusable_values(columns: Columns, batch: Measured) -> Iterable[str]:
    file = columns.file
    if file.time_unit is None:
        yield "the file names no time unit: seconds assumed"
    elif file.time_unit not in UNITS:
        yield f"the file's time unit is {file.time_unit!r}, none of {', '.join(UNITS)}: its latencies are left out"
    if file.mended:
        yield f"left out: {plural(file.mended, 'value')} of a wrong type, NaN or infinite"
    if impossible := sum(int((np.isnan(possible(one)) & ~np.isnan(one)).sum()) for one in columns.raw.values()):
        yield f"left out: {plural(impossible, 'latency')} below zero, or of decades"
    for name in ("e2e_latency",) if columns.ttft_doubt else ("ttft", "e2e_latency"):  # short answers may have no TPOT
        if missing := int(np.isnan(columns.latencies[name]).sum()):
            yield f"{missing} of {plural(batch.completed or 0, 'completed request')} without {name}"
    if batch.completed and not batch.duration > 0:
        yield "the file gives no run duration: throughput is unknown"


def _claims_differ(columns: Columns, batch: Measured) -> Iterable[str]:
    claims, unit = columns.file.aggregated_metrics, unit_of(columns.file)
    if not columns.requests:
        return
    completed = "completed", claims.num_completed_requests, batch.completed
    for what, said, held in (completed, ("failed", claims.num_error_requests, batch.errors)):
        if batch.completed and said is not None and said != held:
            yield f"the file claims {plural(said, f'{what} request')} but holds {held}"
    claimed, counted = usable(claims.mean_output_throughput_tokens_per_s), batch.output_throughput
    if _differ(claimed, counted):
        why = "a warm-up or cool-down ratio drops tokens but not time" if claimed < counted else "it is inflated"
        about = " over its duration" if batch.origin else f": {why}"
        yield f"the file claims {claimed:.1f} output tokens/s, its requests give {counted:.1f}{about}"
    elif not (batch.errors and batch.origin):  # other tools leave the prompts of failed requests out
        inputs = "input", usable(claims.mean_input_throughput_tokens_per_s), batch.input_throughput
        total = "total", usable(claims.mean_total_tokens_throughput_tokens_per_s), batch.total_throughput
        for what, claimed, counted in (inputs, total):
            if _differ(claimed, counted):
                yield f"the file claims {claimed:.1f} {what} tokens/s, its requests give {counted:.1f}"
    computed = [(name, value) for name, value in batch.latencies.items() if not math.isnan(value)]
    if different := [name for name, value in computed if _differ(claim_of(claims, name) / unit, value)]:
        yield f"the file's own {', '.join(different)} differ from its requests; recomputed over all of them"


def _too_few_for_percentiles(_: Columns, batch: Measured) -> Iterable[str]:
    short = {name: requests_needed(value / 100) for name, value in PERCENTILES.items()}
    lacking = [f"{name} ({needed})" for name, needed in short.items() if (batch.completed or needed) < needed]
    if lacking:
        yield f"{plural(batch.completed or 0, 'completed request')}: too few for {', '.join(lacking)}"


def _outputs_unlike(columns: Columns, batch: Measured) -> Iterable[str]:
    """Fewer output tokens than the scenario asked for make every request look fast; more were counted, not sent."""
    asked, mean = output_tokens_asked(batch.scenario), statistics(columns.output_tokens)["mean"]
    if asked and mean < asked * 0.95:
        yield f"outputs of {mean:.1f} tokens on average where {asked:g} were asked for"
    if asked and mean > asked * (1.05 if batch.scenario.startswith("D") else 1.5):
        cause = "the tokenizer that counts them may not be the model's, or max_tokens is not kept"
        yield f"outputs of {mean:.1f} tokens on average where {asked:g} at most were asked for: {cause}"


def _ttft_doubtful(columns: Columns, _: Measured) -> Iterable[str]:
    if doubt := columns.ttft_doubt:
        yield f"{doubt}: TTFT and TPOT are unknown"
    if (columns.raw["ttft"] > columns.raw["e2e_latency"] * (1 + TOLERANCE)).any():
        yield "some requests have a TTFT above their whole latency"


def _in_flight(_: Columns, batch: Measured) -> Iterable[str]:
    """Little's law: request throughput × mean latency is the number in flight, which the level fixes."""
    level = {CONCURRENCY: batch.level, RATE: None}.get(batch.iteration_type, 1)
    average = batch.request_throughput * batch.latencies["e2e_latency_mean"]
    if not level or math.isnan(average) or batch.error_rate > TOLERANCE:
        return
    if average > level * (1.1 + batch.latencies["e2e_latency_mean"] / batch.duration):  # the last ones end after it
        yield f"{average:.1f} requests in flight on average are more than the level of {level} allows"
    elif average < level * 0.9:
        yield f"only {average:.1f} of {level} requests in flight on average: {batch.duration:.1f} s is too short"


def _sent_late(_: Columns, batch: Measured) -> Iterable[str]:
    """A client that does not keep up with a rate: what it waits counts as the server's."""
    lag = batch.schedule_lag_p99
    if lag > max(0.01, 0.05 * batch.latencies["ttft_p50"]):  # seconds
        yield f"the load generator was late (p99 {lag:.2g} s after requests were due): it may be what was measured"


def _notes(columns: Columns, batch: Measured) -> Iterable[str]:
    return [note for source in (batch.origin, columns.file.window) if source for note in source.notes]


def _drifting(columns: Columns, _: Measured) -> Iterable[str]:
    """A latency that grows or falls through the level, by a regression over the means of ten parts of it."""
    whole = columns.latencies["e2e_latency"]
    whole = whole[~np.isnan(whole)]
    if len(whole) < 40:
        return
    edges = np.linspace(0, len(whole), 11).astype(int)
    means = np.add.reduceat(whole, edges[:-1]) / np.diff(edges)
    at = np.arange(10) - 4.5
    slope = float(at @ means / (at @ at))
    error = math.sqrt(float(((means - means.mean() - slope * at) ** 2).sum()) / 8 / float(at @ at))
    change = 9 * slope / float(means.mean()) if means.mean() > 0 else 0.0
    if abs(change) > 0.1 and abs(slope) > 5.04 * error:  # Student's t, 8 degrees of freedom: 1 in 1,000
        yield f"e2e latency {DRIFTED}{change:+.0%} through the level: measure longer"


CHECKS: tuple[Callable[[Columns, Measured], Iterable[str]], ...] = (
    *(_survivors_only, _not_recomputed, _unusable_values, _claims_differ, _too_few_for_percentiles, _outputs_unlike),
    *(_ttft_doubtful, _in_flight, _sent_late, _notes, _drifting),
)


def _differ(claimed: float, counted: float) -> bool:
    """By more than the tolerance; what one of them does not say is no difference."""
    is_close = math.isclose(claimed, counted, rel_tol=TOLERANCE, abs_tol=1e-9)
    return not (math.isnan(claimed) or math.isnan(counted) or is_close)
