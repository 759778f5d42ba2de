"""A server with exactly known times, to measure the load generator with (`python -m tuner.traffic.stub`).

OpenAI-compatible and streaming, on loopback, with the standard library alone. The first token of an answer is due
`ttft` seconds after the request had arrived, each further one `itl` seconds later; every token has its own deadline, so
that lateness does not add up. It prints `listening on http://127.0.0.1:PORT` when it is ready.
"""

import argparse
import asyncio
import contextlib
import json
import re
import selectors
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any, cast

MODEL = "stub"
_PROMPT_TOKENS = 100


class _Selector(selectors.DefaultSelector):
    """Knows since when the requests that are read one after the other have been there at the latest."""

    woken = 0.0

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(timeout)
        self.woken = time.monotonic()
        return found


@dataclass
class Stub:
    """The answers, and when they really were sent."""

    ttft: float  # seconds from a request to its first token
    itl: float  # seconds from one token to the next
    selector: _Selector = field(default_factory=_Selector)
    served: list[tuple[float, float]] = field(default_factory=list)  # TTFT and TPOT in seconds, as they were sent

    def report(self) -> dict[str, Any]:
        """The medians of what was sent since the last report, in seconds."""
        served, self.served = self.served, []
        ttft, tpot = (median(times) for times in zip(*served, strict=True)) if served else (None, None)
        return {"requests": len(served), "ttft": ttft, "tpot": tpot}


class _Connection(asyncio.Protocol):
    """One connection, which has one request at a time; without coroutines, whose switches would cost half of it."""

    def __init__(self, stub: Stub) -> None:
        self._stub, self._loop = stub, asyncio.get_running_loop()
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or len(body) < (int(length[1]) if length else 0):
            return
        self._received = b""
        path = head.split(b" ", 2)[1]
        if path != b"/v1/chat/completions":
            models = {"data": [{"id": MODEL, "object": "model"}], "object": "list"}
            self._transport.write(_json(self._stub.report() if path == b"/served" else models))
            return
        asked = json.loads(body)
        self._tokens = int(asked.get("max_tokens") or asked.get("max_completion_tokens") or 16)
        self._arrived, self._sent = self._stub.selector.woken, 0
        self._transport.write(_HEAD)
        self._loop.call_at(self._arrived + self._stub.ttft, self._send)

    def _send(self) -> None:
        """Send the token that is due; asyncio's clock is the monotonic one."""
        if self._transport.is_closing():
            return
        self._transport.write(_TOKEN)
        self._sent, sent_at = self._sent + 1, time.monotonic()
        if self._sent == 1:
            self._first = sent_at
        if self._sent < self._tokens:
            self._loop.call_at(self._arrived + self._stub.ttft + self._sent * self._stub.itl, self._send)
        else:
            self._transport.write(_last_words(self._tokens))
            tpot = (sent_at - self._first) / max(self._tokens - 1, 1)
            self._stub.served.append((self._first - self._arrived, tpot))


_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _json(content: Any) -> bytes:
    body = json.dumps(content).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _event(content: str) -> bytes:
    event = f"data: {content}\n\n".encode()
    return f"{len(event):x}\r\n".encode() + event + b"\r\n"


def _chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
    return _event(json.dumps({"id": MODEL, "object": "chat.completion.chunk", "choices": choices, **more}))


_TOKEN = _chunk([{"index": 0, "delta": {"content": " a"}, "finish_reason": None}])


def _last_words(tokens: int) -> bytes:
    usage = {"prompt_tokens": _PROMPT_TOKENS, "completion_tokens": tokens, "total_tokens": _PROMPT_TOKENS + tokens}
    finish = _chunk([{"index": 0, "delta": {}, "finish_reason": "length"}])
    return finish + _chunk([], usage=usage) + _event("[DONE]") + b"0\r\n\r\n"


async def _serve(stub: Stub) -> None:
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: _Connection(stub), "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"listening on http://127.0.0.1:{listener.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await listener.serve_forever()


def main() -> None:
    """Serve until we are ended."""
    parser = argparse.ArgumentParser("python -m tuner.traffic.stub", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ttft", type=float, default=0.1, help="seconds to the first token")
    parser.add_argument("--itl", type=float, default=0.01, help="seconds between tokens")
    times = parser.parse_args()
    stub = Stub(times.ttft, times.itl)
    loop = partial(asyncio.SelectorEventLoop, stub.selector)
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=loop) as runner:
        runner.run(_serve(stub))


if __name__ == "__main__":
    main()
