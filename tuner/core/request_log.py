"""`requests.jsonl`: every request of a level, a line each, below one that says when the level was and what counts."""

import contextlib
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from tuner.core import files
from tuner.errors import PathError

REQUESTS_FILE = "requests.jsonl"
LIVE_FILE = "live.json"  # beside it, while the level runs: what it does at the moment
WORKLOAD_FILE = "workload.jsonl"  # and what is to be sent, a request a line
COMPLETED, FAILED, IN_FLIGHT, NEVER_SENT = "completed", "failed", "in flight", "never sent"
Window = Literal["steady", "whole"]
STEADY: Window = "steady"
WHOLE: Window = "whole"


class LevelRecord(msgspec.Struct, kw_only=True):
    """The first line; instants are seconds on the monotonic clock, which showed `monotonic` when it was `utc`."""

    schema_of_requests: int = 1
    checksum: str = files.UNSEALED  # of the whole file; see `files.seal`
    scenario: str
    concurrency: int | None = None
    rate: float | None = None  # of an open loop: requests that were due per second; then no concurrency was held
    cv: float | None = None  # of the gaps between them
    max_in_flight: int | None = None
    start: float | None = None  # when the first one was due
    window: Window
    begin: float
    end: float
    monotonic: float
    utc: Annotated[datetime, msgspec.Meta(tz=True)]
    note: str = ""  # what a reader must know of the window

    @property
    def window_in_utc(self) -> tuple[datetime, datetime]:
        """When the part of the level began and ended that is judged."""
        zero = self.utc - timedelta(seconds=self.monotonic)  # of that clock
        return zero + timedelta(seconds=self.begin), zero + timedelta(seconds=self.end)

    def spans(self, instant: float | None) -> bool:
        """Whether an instant is in the window."""
        return instant is not None and self.begin <= instant < self.end

    def counts(self, request: "SentRequest") -> bool:
        """Whether a request is judged: due in the window and ended; of a whole level, ended within it.

        In an open loop also what had not ended when the level did, `max_seconds` after the window: the slowest ones.
        """
        is_judged = request.has_ended or (self.rate is not None and self.window == STEADY and request.turn == 1)
        return is_judged and self.spans(request.scheduled if self.window == STEADY else request.end)


class SentRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One request; instants are seconds on the monotonic clock, None where they never came."""

    status: str = COMPLETED  # completed, failed, in flight when the level ended, or never sent until then
    worker: int = 0
    user: int = 0
    number: int = 1  # of its user's requests, the first ones being the burst; of an open loop: of its level's
    turn: int = 1  # of its conversation
    scheduled: float = 0.0  # when it was due; in a closed loop it is sent at once
    sent: float = 0.0
    first_token: float | None = None  # of whatever kind
    first_answer_token: float | None = None  # after reasoning
    last_token: float | None = None
    end: float | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None  # of the prompt, as usage says
    gaps: dict[str, float] = {}  # p50, p90, p99 and max of the seconds between chunks
    finish_reason: str = ""
    http_status: int | None = None
    error_code: int | str | None = None
    error_message: str | None = None
    streamed: bool = True
    estimated: bool = False  # the output tokens: by the tokenizer, as usage said nothing
    wrong_usage: bool = False  # usage said what no count of tokens can be

    @property
    def has_ended(self) -> bool:
        """Whether it was answered, or failed."""
        return self.status in (COMPLETED, FAILED)


MARK = b'{"schema_of_requests":'  # how the file begins
decode_request = msgspec.json.Decoder(SentRequest).decode
_decode_requests = msgspec.json.Decoder(SentRequest).decode_lines


def parse(data: bytes) -> tuple[LevelRecord, list[SentRequest]]:
    """The file's content; msgspec.MsgspecError: it is damaged, or ends in the middle."""
    first, _, rest = data.partition(b"\n")
    return msgspec.json.decode(first, type=LevelRecord), _decode_requests(rest)


def read_level(path: Path) -> LevelRecord | None:
    """What the file says of its level; None where there is none, or its beginning is damaged."""
    with contextlib.suppress(PathError, msgspec.MsgspecError):
        return msgspec.json.decode(files.read_bytes(path, files.RESULTS).partition(b"\n")[0], type=LevelRecord)
    return None


def statuses(path: Path) -> set[str]:
    """How the requests in the file ended; none where there is no file, or it is damaged."""
    with contextlib.suppress(PathError, msgspec.MsgspecError):
        return {request.status for request in parse(files.read_bytes(path, files.RESULTS))[1]}
    return set()


def write(path: Path, level: LevelRecord, requests: list[SentRequest]) -> None:
    """Write the file, whole or not at all: what ended first comes first, as in genai-bench's own file."""
    ordered = sorted(requests, key=lambda request: request.end or float("inf"))
    files.write_atomically(path, msgspec.json.Encoder().encode_lines([level, *ordered]))
