"""An answer as it arrives: the events of the stream (the SSE standard, and what servers really send), and their times.

Nothing here reads a clock or a socket: whoever feeds it says when the bytes came.
"""

import json
import re
from typing import Any

import msgspec

from tuner.core.text import one_line, server_words, shorten

#: A chunk with visible text and nothing else that we want to know: it is kept unread.
_TEXT = re.compile(rb'"delta":\s*+\{[^{}]*"content":\s*+"[^"]')
_MORE = re.compile(rb'"(?:finish_reason|usage|error)":\s*+(?!null)')
#: Bytes of an answer and of one of its events, and tokens, beyond which nobody means it.
_LONGEST, _LONGEST_EVENT, _MOST_TOKENS = 1 << 27, 1 << 23, 10**8
#: What genai-bench calls an error that the server gave no code for.
SERVER_ERROR = 500
#: What a delta holds of reasoning and of the answer, as servers call it; fields of events that hold neither.
_THOUGHTS = ("reasoning", "reasoning_content", "reasoning_details", "thinking")
_ANSWERS = ("content", "tool_calls", "function_call", "refusal")
_NO_DATA = {b"", b"event", b"id", b"retry"}
#: How an answer ends that was given up.
_GIVEN_UP = ("abort", "error")


def _event(text: bytes) -> tuple[bytes, bytes] | None:
    """(type, data); one without data is none."""
    if text.startswith(b"data: ") and b"\n" not in text:
        return b"", text[6:].strip()
    fields: dict[bytes, list[bytes]] = {}
    for line in text.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        name, _, value = line.partition(b":")
        fields.setdefault(name, []).append(value.removeprefix(b" "))
    if b"data" in fields:
        return fields.get(b"event", [b""])[-1], b"\n".join(fields[b"data"]).strip()
    if b"error" in fields:  # as llama.cpp had it
        return b"error", b"\n".join(fields[b"error"])
    return None if fields.keys() <= _NO_DATA else (b"", text)  # it is no stream, but words


class Answer:
    """What has come of an answer, and when (seconds on the caller's clock)."""

    def __init__(self) -> None:
        self.arrivals: list[float] = []  # of each chunk with something in it
        self.first_answer_token: float | None = None
        self.end: float | None = None
        self.usage: dict[str, Any] = {}
        self.finish_reason = ""
        self.error: tuple[int | str, str] | None = None
        self.streamed = True
        self._rest = b""  # of the event that is not whole yet
        self._chunks: list[bytes] = []  # those with something in them
        self._is_first = True  # piece
        self._size = 0  # bytes
        self._whole = b""  # an answer that is no stream
        self._words = ""  # what the server said without any form
        self._is_done = False

    def feed(self, piece: bytes, at: float) -> bool:
        """Take what arrived; whether the answer is over, even if the stream is not."""
        self._size += len(piece)
        if self._size > _LONGEST or len(self._whole) > _LONGEST_EVENT or len(self._rest) > _LONGEST_EVENT:
            self.fail(SERVER_ERROR, f"the answer, or a part of it, is too long: it was ended after {self._size} bytes")
            self.end = at
            return True
        if self._whole or (self._is_first and piece.lstrip()[:1] == b"{"):
            self._whole += piece
            return False
        self._is_first = self._is_first and not piece.strip()
        self._take_events(piece, at)
        if self._is_done or self.error:
            self.end = at
        return self.end is not None

    def close(self, at: float) -> None:
        """The stream has ended, or was over: what is missing is an error."""
        if self._whole:
            self._take_whole(at)
        elif not self.end:
            self._take_events(b"\n\n", at)  # of which the last one may lack its blank line
        self.end = self.end or at
        is_complete = self.finish_reason or self.usage or (self._is_done and not self._words)
        is_empty = not self.arrivals and not self.usage.get("completion_tokens") and self.streamed
        if not self.error and (is_empty or not is_complete):
            cause = "the answer is empty" if is_complete else "the stream ended in the middle of the answer"
            self.fail(SERVER_ERROR, self._words or cause)

    def fail(self, code: int | str, message: str) -> None:
        """It is an error, with the server's own words or ours; what is known already stays."""
        self.error = self.error or (code, one_line(message))

    @property
    def text(self) -> str:
        """The answer without its reasoning."""
        return "".join(_texts(self._chunks, "content"))

    @property
    def every_text(self) -> str:
        """Reasoning, answer and calls: all that are output tokens."""
        return "".join(_texts(self._chunks, *_THOUGHTS, *_ANSWERS))

    def tokens(self, name: str) -> int | None:
        """A count of usage's, also of the details of its prompt; None where it says nothing that can be one."""
        count = self._counts.get(name)
        return count if _is_count(count) else None

    @property
    def wrong_usage(self) -> bool:
        """Whether usage says something of tokens that no count can be."""
        counts = map(self._counts.get, ("prompt_tokens", "completion_tokens", "cached_tokens"))
        return not all(count is None or _is_count(count) for count in counts)

    @property
    def _counts(self) -> dict[str, Any]:
        details = self.usage.get("prompt_tokens_details")
        counts = {**(details if isinstance(details, dict) else {}), **self.usage}
        nothing = {"prompt_tokens", "completion_tokens"} if self.arrivals else {}  # of which something came cannot be 0
        return {name: count for name, count in counts.items() if count or name not in nothing}

    @property
    def gaps(self) -> dict[str, float]:
        """Seconds between chunks: p50, p90, p99 (nearest rank) and the longest."""
        gaps = sorted(later - earlier for earlier, later in zip(self.arrivals, self.arrivals[1:], strict=False))
        shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
        return {name: round(gaps[int(share * (len(gaps) - 1) + 0.5)], 6) for name, share in shares.items() if gaps}

    def _take_events(self, piece: bytes, at: float) -> None:
        """Take what is whole by now of a stream, whose pieces are cut anywhere (HTML standard, 9.2.6)."""
        text = self._rest + piece
        if b"\r" in text:  # the last one may be half of a line's end
            kept = b"\r" if text.endswith(b"\r") else b""
            text = text.removesuffix(kept).replace(b"\r\n", b"\n").replace(b"\r", b"\n") + kept
        *events, self._rest = text.split(b"\n\n")
        for event in filter(None, map(_event, events)):
            self._take(*event, at)

    def _take(self, kind: bytes, data: bytes, at: float) -> None:
        if self.first_answer_token is not None and _TEXT.search(data) and not _MORE.search(data):
            self.arrivals.append(at)
            self._chunks.append(data)
        elif data == b"[DONE]":
            self._is_done = True
        elif data and not data.startswith(b":"):
            value = _json(data)
            if isinstance(value, dict):
                self._read(value, data, at)
            else:
                self._words = _words(data)
            if kind == b"error":
                self.fail(SERVER_ERROR, _words(data))

    def _read(self, value: dict[str, Any], data: bytes, at: float) -> None:
        choices = _deltas(value)
        if error := next((one["error"] for one, _ in choices if one.get("error")), None):
            data = json.dumps(error).encode()
        elif not (error := value.get("error")) and "choices" not in value:
            error = value if value.get("message") or value.get("detail") else None
        if error:
            code = error.get("code") if isinstance(error, dict) else None
            self.fail(_code(code), _words(data))
        for place in (value, value.get("x_groq"), *(choice for choice, _ in choices)):
            if isinstance(place, dict) and isinstance(usage := place.get("usage"), dict):
                self.usage = usage or self.usage
        for choice, delta in choices:
            self.finish_reason = shorten(str(choice.get("finish_reason") or self.finish_reason), 50)
            if self.finish_reason in _GIVEN_UP:
                self.fail(SERVER_ERROR, f"the server gave the answer up (finish_reason {self.finish_reason})")
            is_answer = any(map(delta.get, _ANSWERS))
            if is_answer or any(map(delta.get, _THOUGHTS)):
                self.arrivals.append(at)
                self._chunks.append(data)
            if is_answer and self.first_answer_token is None:
                self.first_answer_token = at

    def _take_whole(self, at: float) -> None:
        """An answer in one piece tells nothing of when its tokens were there."""
        self.streamed = False
        value = _json(self._whole)
        self._read(value if isinstance(value, dict) else {"error": "no JSON"}, self._whole, at)
        self._is_done = bool(self.arrivals)
        self.arrivals, self.first_answer_token = [], None


def _is_count(count: Any) -> bool:
    return isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= _MOST_TOKENS


def _words(data: bytes) -> str:
    """What the server said; of chunks that nothing keeps apart, that they are."""
    first, _, rest = data.partition(b"\n")
    if rest.lstrip()[:1] == b"{" and isinstance(value := _json(first), dict) and not value.get("error"):
        return "the answer is lines of JSON, not server-sent events (`data: …`, each ended by a blank line)"
    return server_words(data.decode(errors="replace"))


def _code(code: Any) -> int | str:
    if isinstance(code, str) and code and not code.isdecimal():
        return shorten(code, 50)
    return int(code) if code and isinstance(code, int | str) and len(str(code)) < 10 else SERVER_ERROR


def _json(data: bytes) -> Any:
    """The value, or None where it is none; half a surrogate pair is replaced."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        try:
            return json.loads(data.decode(errors="replace"))
        except (ValueError, RecursionError):
            return None


def _deltas(value: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    choices = value.get("choices")
    objects = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    found = [(choice, choice.get("delta") or choice.get("message") or {}) for choice in objects]
    return [(choice, delta) for choice, delta in found if isinstance(delta, dict)]


def _texts(chunks: list[bytes], *names: str) -> list[str]:
    deltas = [delta for chunk in chunks for _, delta in _deltas(_json(chunk))]
    found = [next((value for name in names if (value := delta.get(name))), "") for delta in deltas]
    return [value if isinstance(value, str) else json.dumps(value) for value in found]
