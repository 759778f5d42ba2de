"""A level's own file of requests → what of it is judged, in the form of genai-bench's files."""

import math

import msgspec
import numpy as np

from tuner.batches.parsing import parse
from tuner.batches.result_file import Aggregates, Damage, Request, ResultFile, Window
from tuner.core import request_log, timestamps
from tuner.core.files import is_changed
from tuner.core.level import CONCURRENCY, RATE
from tuner.core.request_log import COMPLETED, FAILED, IN_FLIGHT, NEVER_SENT, STEADY, LevelRecord, SentRequest
from tuner.core.text import plural

CHANGED = "the file is damaged, or was changed after it was written: its checksum is another"
#: What a request has under the same name here and there.
_SAME = ("status", "finish_reason", "cached_tokens", "error_code", "error_message")


class LoggedRequest(Request, gc=False):
    """A request of which more is known; latencies in seconds."""

    status: str = COMPLETED
    is_counted: bool = True
    sent_at: int | None = None  # microseconds since 1970, UTC
    itl_p50: float | None = None  # as `itl`, the median
    cached_tokens: int | None = None
    finish_reason: str = ""


def parse_any(data: bytes, name: str) -> ResultFile | Damage:
    """The batch in `data`: a level's requests, or genai-bench's file; `name` is only for messages."""
    if not data.startswith(request_log.MARK):
        return parse(data, name)
    try:
        level, requests = request_log.parse(data)
        return _judged_part(level, requests, [CHANGED] if is_changed(data) else [])
    except msgspec.MsgspecError as error:
        return Damage("truncated" if "truncated" in str(error) else "unreadable", f"{name} is damaged: {error}")


def _judged_part(level: LevelRecord, requests: list[SentRequest], notes: list[str]) -> ResultFile:
    every = [_logged_request(request, level) for request in requests]
    duration, kind = level.end - level.begin, CONCURRENCY if level.rate is None else RATE
    aggregates = Aggregates(level.scenario, kind, level.concurrency, request_rate=level.rate, run_duration=duration)
    counted = [request for request in every if request.is_counted]
    window = _window(level, requests, notes)
    return ResultFile(aggregates, counted, "s", window=window, every_request=every)


def _logged_request(request: SentRequest, level: LevelRecord) -> LoggedRequest:
    sent = level.utc.timestamp() - level.monotonic + request.sent  # seconds since 1970
    logged = LoggedRequest(**{name: getattr(request, name) for name in _SAME}, is_counted=level.counts(request))
    logged.sent_at = round(sent * 1e6) if request.sent and timestamps.instant(sent) else None
    if logged.is_counted and not request.has_ended:
        logged.error_code = request.status
        logged.error_message = f"due in the window, and not answered when the level ended ({request.status})"
    if request.status != COMPLETED or request.end is None:
        return logged
    first, answer, outputs = request.first_token, request.first_answer_token, request.output_tokens
    logged.e2e_latency = request.end - request.scheduled
    logged.ttft = None if first is None else first - request.scheduled
    logged.ttfa = None if answer is None else answer - request.scheduled
    logged.num_input_tokens, logged.num_output_tokens = request.prompt_tokens, outputs
    none = 0.0 if outputs == 1 else None  # as TPOT of a single token
    logged.itl_p50, logged.itl = request.gaps.get("p50", none), request.gaps.get("p99", none)
    return logged


def _window(level: LevelRecord, requests: list[SentRequest], notes: list[str]) -> Window:
    """What happened in the window, whenever it was sent; of a whole level only what completed in it."""
    done = [request for request in requests if request.status == COMPLETED and level.spans(request.end)]
    outputs, prefilled = sum(request.output_tokens or 0.0 for request in done), done
    if level.window == STEADY:
        sound = [request for request in requests if request.status not in (FAILED, NEVER_SENT)]
        outputs = sum((request.output_tokens or 0) * _share(request, level) for request in sound)
        prefilled = [request for request in sound if level.spans(request.first_token)]
    first = [request for request in requests if request.number == 1 and request.turn == 1 and request.first_token]
    bursts = [(request.first_token or 0.0) - request.scheduled for request in first if level.rate is None]
    waits = _waits(level, requests)
    counted = ((request.cached_tokens, request.prompt_tokens) for request in requests if level.counts(request))
    prompts = [(cached, tokens) for cached, tokens in counted if cached is not None and tokens is not None]
    return Window(
        output_tokens=outputs,
        input_tokens=sum(request.prompt_tokens or 0 for request in prefilled),
        completed=len(done),
        schedule_lag_p99=float(np.percentile([lag for _, lag in waits], 99)) if waits else math.nan,
        burst_ttft_p90=float(np.percentile(bursts, 90)) if bursts else math.nan,
        cache_hit_rate=sum(cached for cached, _ in prompts) / (sum(tokens for _, tokens in prompts) or math.nan),
        notes=[*_notes(level, requests), *notes],
    )


def _waits(level: LevelRecord, requests: list[SentRequest]) -> list[tuple[float, float]]:
    """Seconds that what was due in the window waited for a place in flight, and after that for the client."""
    sent = sorted((request for request in requests if request.sent and request.turn == 1), key=lambda one: one.sent)
    ends: dict[int, float] = {}  # when the place of each was free again: after the last turn
    for request in requests if level.max_in_flight else ():
        ends[request.number] = max(ends.get(request.number, 0.0), request.end or math.inf)
    free = [0.0] * (level.max_in_flight or 0) + sorted(ends.values())
    ready = [(request, max(request.scheduled, place)) for request, place in zip(sent, free, strict=False)]
    return [(at - one.scheduled, one.sent - at) for one, at in ready if level.spans(one.scheduled)]


def _share(request: SentRequest, level: LevelRecord) -> float:
    """Which share of its tokens came in the window, as evenly spaced as they are between its first and its last."""
    first, last = request.first_token, request.last_token
    if first is None or last is None:
        return float(level.spans(request.end))
    tokens = request.output_tokens or 1
    gap = (last - first) / max(tokens - 1, 1)
    before = [
        np.clip(np.ceil((edge - first) / gap if gap else (edge - first) * 1e9), 0, tokens)
        for edge in (level.begin, level.end)
    ]
    return float(before[1] - before[0]) / tokens


def _notes(level: LevelRecord, requests: list[SentRequest]) -> list[str]:
    is_steady = level.window == STEADY
    sent = [request for request in requests if not is_steady or level.spans(request.scheduled)]
    flying = is_steady * sum(request.status == IN_FLIGHT for request in sent)
    unsent = sum(request.status == NEVER_SENT for request in sent)
    failed = "" if level.rate is None else ": counted as failed"
    delays = [wait for wait, _ in _waits(level, requests) if wait > 0.05]
    full = f"max_in_flight ({level.max_in_flight}) was reached"
    unstreamed = sum(not request.streamed for request in sent if request.status == COMPLETED)
    wrong = sum(request.wrong_usage for request in sent)
    estimated = sum(request.estimated for request in sent if request.status == COMPLETED)
    notes = {
        level.note: len(level.note),
        f"{plural(flying, 'request')} sent in the window had not ended when the level did{failed}": flying,
        f"{plural(unsent, 'request')} never sent, since {full}{failed}": unsent,
        f"{plural(len(delays), 'request')} waited in the client, up to {max(delays, default=0):.3g} s, as the latency "
        f"tells, since {full}": len(delays),
        f"{plural(unstreamed, 'answer')} not streamed, so without TTFT and TPOT": unstreamed,
        f"{plural(wrong, 'answer')} with a usage that can be no count of tokens, which is not believed": wrong,
        f"the output tokens of {plural(estimated, 'request')} are the tokenizer's count: usage says none": estimated,
    }
    return [note for note, count in notes.items() if count]
