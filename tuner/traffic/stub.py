"""A server with exactly known times, to measure the load generator with (`python -m tuner.traffic.stub`).

OpenAI-compatible and streaming, on loopback, with the standard library alone. The first token of an answer is due
`ttft` seconds after the request was read, each further one `itl` seconds later; every token has its own deadline, so
that lateness does not add up. It prints `listening on http://127.0.0.1:PORT` when it is ready.
"""

import argparse
import asyncio
import contextlib
import json
import sys
from dataclasses import dataclass, field
from statistics import median
from typing import Any

MODEL = "stub"
_PROMPT_TOKENS = 100
_JSON, _STREAM = "application/json", "text/event-stream\r\ntransfer-encoding: chunked"


@dataclass
class Stub:
    """The answers, and when they really were sent.

    Args:
        ttft: seconds from a request to its first token.
        itl: seconds from one token to the next.
    """

    ttft: float
    itl: float
    served: list[tuple[float, float]] = field(default_factory=list)  # TTFT and TPOT in seconds, as they were sent

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            while not writer.is_closing():
                await self._answer(*await _request(reader), writer)
                await writer.drain()
        writer.close()

    async def _answer(self, path: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        if path == "/v1/chat/completions":
            await self._stream(int(json.loads(body).get("max_tokens") or 16), writer)
        else:
            models = {"data": [{"id": MODEL, "object": "model"}], "object": "list"}
            _write_json(writer, self._report() if path == "/served" else models)

    def _report(self) -> dict[str, Any]:
        """The medians of what was sent since the last report, in seconds."""
        served, self.served = self.served, []
        ttft, tpot = (median(times) for times in zip(*served, strict=True)) if served else (None, None)
        return {"requests": len(served), "ttft": ttft, "tpot": tpot}

    async def _stream(self, tokens: int, writer: asyncio.StreamWriter) -> None:
        """One answer, each token at its deadline."""
        clock = asyncio.get_running_loop().time
        start = clock()
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: {_STREAM}\r\n\r\n".encode())
        sent = []
        for number in range(tokens):
            await asyncio.sleep(start + self.ttft + number * self.itl - clock())
            writer.write(_TOKEN)
            sent.append(clock())
        writer.write(_last_words(tokens))
        self.served.append((sent[0] - start, (sent[-1] - sent[0]) / max(tokens - 1, 1)))


async def _request(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    """The path and the body of the next request."""
    first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
    headers = dict(line.split(":", 1) for line in rest if ":" in line)
    return first.split(" ")[1], await reader.readexactly(int(headers.get("content-length", 0)))


def _write_json(writer: asyncio.StreamWriter, content: Any) -> None:
    body = json.dumps(content).encode()
    writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: {_JSON}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)


def _event(content: str) -> bytes:
    """One event of the stream, as one chunk of the body."""
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
    listener = await asyncio.start_server(stub.connected, "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"listening on http://127.0.0.1:{listener.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await listener.serve_forever()


def main() -> None:
    """Serve until we are ended."""
    parser = argparse.ArgumentParser("python -m tuner.traffic.stub", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ttft", type=float, default=0.1, help="seconds to the first token")
    parser.add_argument("--itl", type=float, default=0.01, help="seconds between tokens")
    times = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(Stub(times.ttft, times.itl)))


if __name__ == "__main__":
    main()
