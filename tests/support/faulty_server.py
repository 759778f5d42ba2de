"""An OpenAI-compatible streaming server on loopback that fails as it is told. Standard library only.

`python faulty_server.py [--port 0] [knob=value …]` prints `listening on http://127.0.0.1:PORT` when it is ready.
`GET /knobs` and `GET /stats` tell, `POST /knobs` (JSON) changes knobs while it runs. Every token is ` tok`.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import zlib

# an orphan leaves the group and the session, and does not mind SIGTERM, as an engine's worker may
ORPHAN = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.setsid(); time.sleep(600)"


@dataclasses.dataclass
class Knobs:
    """How it answers; a number 0 is off."""

    model: str = "faulty"
    ttft: float = 0.01  # seconds to the first token
    itl: float = 0.001  # seconds between tokens
    burst: int = 1  # tokens sent at once
    prefill: float = 0.0  # seconds of a prompt's prefill, one prompt at a time; before `ttft`
    slots: int = 0  # requests that it runs at once; others wait
    kv_slots: int = 0  # requests whose KV cache has room; others wait
    preempts: int = 0  # each request is preempted once
    cached_tokens: int = 0  # prompt tokens of each request that it finds in its prefix cache
    burns: int = 0  # it computes as long as a request is in flight
    wear: float = 0.0  # seconds that come on top of `ttft` for each further request that it ever had in flight
    stalls_after: float = 0.0  # seconds from the first request, when it stops for `stalls` seconds
    stalls: float = 0.0
    shortest: int = 0  # tokens of an answer: from here to `longest`, each length as often
    longest: int = 0
    word: str = " tok"  # every token of an answer that is not streamed
    cap: int = 0  # most tokens of an answer, whatever was asked
    prompt_tokens: int = 100  # what usage says
    usage: int = 1  # whether usage is sent
    empty: int = 0  # answers have no tokens
    api_key: str = ""  # without it: 401
    says: str = ""  # stands wherever a server can say something; <key> in it is the key that it was sent
    says_of: str = ""  # the variable that holds that
    error_above: int = 0  # with more requests than this in flight: error_code
    error_every: int = 0  # every Nth request: error_code
    error_code: int = 429
    error_text: str = "overloaded, as told"
    refuse: str = ""  # requests with this parameter are refused, as by a strict gateway
    hang_every: int = 0  # every Nth request is never answered
    close_every: int = 0  # every Nth answer is cut in its middle
    hangs_up_after: int = 0  # a connection is closed, without a word, when one more request than so many comes
    inband_every: int = 0  # every Nth answer has an error in its stream
    die_after: int = 0  # the process exits in the middle of the Nth answer
    # the life of the process
    die_after_seconds: float = 0.0
    exit_code: int = 9
    last_words: str = ""  # printed to stderr before it exits
    host: str = "127.0.0.1"  # where it listens
    trickle: str = ""  # the page with this path comes a byte at a time, and never ends
    endless: str = ""  # this one comes fast, and never ends
    never_ready: int = 0  # /health says 503 for ever
    ready_after: float = 0.0  # seconds of 503
    ignore_sigterm: int = 0
    orphans: int = 0  # children in sessions of their own that ignore SIGTERM

    def set(self, values):
        for name, value in values.items():
            if name not in self.__dataclass_fields__:
                raise KeyError(name)
            setattr(self, name, type(getattr(self, name))(value))


@dataclasses.dataclass
class Stats:
    active: int = 0
    total: int = 0
    peak: int = 0
    waiting: int = 0
    connections: int = 0


@dataclasses.dataclass
class Request:
    method: str
    path: str
    headers: dict
    body: bytes

    @classmethod
    async def read(cls, reader):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *rest = head.strip().split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
        return cls(method, path, headers, await reader.readexactly(int(headers.get("content-length", 0))))


class FaultyServer:
    def __init__(self, knobs):
        self.knobs = knobs
        self.stats = Stats()
        self.started = time.monotonic()
        self.prefilling = asyncio.Lock()
        self.slots = asyncio.Semaphore(knobs.slots or sys.maxsize)
        self.kv_slots = asyncio.Semaphore(knobs.kv_slots or sys.maxsize)
        self.first = None  # when the first request came
        self.sent = []  # when each token was

    async def serve(self, reader, writer):
        self.stats.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            for number in itertools.count():
                request = await Request.read(reader)
                if writer.is_closing() or (number and number == self.knobs.hangs_up_after):
                    break
                await self.answer(request, writer)
                await writer.drain()
        writer.close()

    async def answer(self, request, writer):
        self.hear(request)
        match request.method, request.path:
            case _, (self.knobs.trickle | self.knobs.endless):
                await self.flood(writer, is_slow=request.path == self.knobs.trickle)
            case "GET", "/health":
                reply(writer, 200 if self.is_ready() else 503, {})
            case "POST", "/knobs":
                self.knobs.set(json.loads(request.body))
                reply(writer, 200, dataclasses.asdict(self.knobs))
            case "GET", "/knobs":
                reply(writer, 200, dataclasses.asdict(self.knobs))
            case "GET", "/stats":
                reply(writer, 200, dataclasses.asdict(self.stats))
            case "GET", "/sent":
                reply(writer, 200, self.sent)
            case "GET", "/metrics":
                reply(writer, 200, self.metrics(), "text/plain; version=0.0.4")
            case _ if self.knobs.api_key and request.headers.get("authorization") != f"Bearer {self.knobs.api_key}":
                reply(writer, 401, error("wrong API key", 401))
            case "GET", "/v1/models":
                models = [{"id": self.knobs.model + self.says, "object": "model"}]
                reply(writer, 200, {"object": "list", "data": models}, more=f"x-says: {self.says!a}\r\n")
            case "POST", "/v1/chat/completions":
                await self.chat(json.loads(request.body), writer)
            case "POST", "/again":
                await WAYS["plain"](Stream(writer, self.knobs, json.loads(request.body)["max_tokens"]))
            case _:
                there = bool(self.says)  # as every version's page
                reply(writer, 200 if there else 404, {"version": self.says} if there else error("no such page", 404))

    def hear(self, request):
        """What it says from now on, in its log too."""
        self.says = (os.environ.get(self.knobs.says_of) or self.knobs.says).replace(
            "<key>", request.headers.get("authorization", "")[7:]
        )
        if self.says:
            sys.stderr.write(f"asked for {request.path} {self.says}\n")
            sys.stderr.flush()

    async def flood(self, writer, *, is_slow):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
        while not writer.is_closing():
            writer.write(b" " if is_slow else b" " * 65536)
            await writer.drain()
            await asyncio.sleep(0.1 if is_slow else 0)

    def is_ready(self):
        return not self.knobs.never_ready and time.monotonic() - self.started >= self.knobs.ready_after

    def metrics(self):
        knobs, total, running = self.knobs, self.stats.total, self.stats.active - self.stats.waiting
        counters = {
            "num_requests_waiting": self.stats.waiting,
            "kv_cache_usage_perc": min(1, running / (knobs.kv_slots or 1000)),
            "num_preemptions_total": total * knobs.preempts,
            "prefix_cache_queries_total": total * knobs.prompt_tokens,
            "prefix_cache_hits_total": total * knobs.cached_tokens,
        }
        lines = [f"vllm:{name} {number}" for name, number in counters.items()]
        name = json.dumps(knobs.model + self.says)
        return "\n".join([f"vllm:num_requests_running{{model_name={name}}} {running}.0", *lines, ""])

    async def chat(self, asked, writer):
        self.stats.total += 1
        self.stats.active += 1
        self.stats.peak = max(self.stats.peak, self.stats.active)
        number = self.stats.total
        try:
            async with self.turn(self.slots), self.turn(self.kv_slots):
                await self.generate(asked, number, writer)
        finally:
            self.stats.active -= 1

    @contextlib.asynccontextmanager
    async def turn(self, room):
        self.stats.waiting += 1
        try:
            await room.acquire()
        finally:
            self.stats.waiting -= 1
        try:
            yield
        finally:
            room.release()

    async def burn(self):
        while True:
            end = time.monotonic() + 0.02 * bool(self.stats.active)
            while time.monotonic() < end:
                pass
            await asyncio.sleep(0 if self.stats.active else 0.02)

    async def generate(self, asked, number, writer):
        knobs = self.knobs
        self.first = self.first or time.monotonic()
        since = time.monotonic() - self.first - knobs.stalls_after
        if 0 <= since < knobs.stalls:
            await asyncio.sleep(knobs.stalls - since)
        if is_nth(number, knobs.hang_every):
            await asyncio.sleep(3600)
        if knobs.refuse and knobs.refuse in asked:
            return reply(writer, 400, error(f"Unrecognized request argument supplied: {knobs.refuse}", None))
        if knobs.prefill:
            async with self.turn(self.prefilling):
                await asyncio.sleep(knobs.prefill)
        if (knobs.error_above and self.stats.active > knobs.error_above) or is_nth(number, knobs.error_every):
            said = error(knobs.error_text + self.says, self.says or knobs.error_code)
            return reply(writer, knobs.error_code, said, more=f"x-says: {self.says!a}\r\n")
        wanted = 0 if knobs.empty else min(asked.get("max_tokens") or 16, knobs.cap or sys.maxsize)
        if knobs.longest:
            evenly = number * 0.6180339887 % 1  # the golden ratio: neighbours differ, and few are spread as many are
            wanted = knobs.shortest + int(evenly * (knobs.longest - knobs.shortest + 1))
        way = asked["messages"][-1]["content"].removeprefix("stream as ")
        if way in WAYS:
            return await WAYS[way](Stream(writer, knobs, wanted))
        if not asked.get("stream"):
            await asyncio.sleep(knobs.ttft + knobs.itl * wanted)
            return reply(writer, 200, self.whole(wanted, asked))
        return await self.stream(number, wanted, writer)

    def whole(self, wanted, asked):
        message = {"role": "assistant", "content": self.knobs.word * wanted + self.says}
        choice = {"index": 0, "message": message, "finish_reason": "length"}
        if asked.get("logprobs"):
            told = {"token": self.knobs.word, "logprob": -0.1}
            choice["logprobs"] = {"content": [told | {"top_logprobs": [told]}] * wanted}
        return {
            "object": "chat.completion",
            "model": self.knobs.model,
            "choices": [choice],
            "usage": self.usage(wanted),
        }

    def usage(self, sent):
        prompt = self.knobs.prompt_tokens
        return {"prompt_tokens": prompt, "completion_tokens": sent, "total_tokens": prompt + sent}

    async def stream(self, number, wanted, writer):
        knobs = self.knobs
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        event(writer, self.chunk({"role": "assistant", "content": ""}))
        await writer.drain()
        await asyncio.sleep(knobs.ttft + knobs.wear * (self.stats.peak - 1))
        if is_nth(number, knobs.inband_every):
            event(writer, error(knobs.error_text + self.says, 500))
        else:
            for sent in range(wanted):
                self.sent.append(time.monotonic())  # before it can be read
                event(writer, self.chunk({"content": f" tok{self.says}"}))
                if sent >= wanted // 2:
                    if knobs.die_after and number >= knobs.die_after:
                        self.die()
                    if is_nth(number, knobs.close_every):
                        return writer.transport.abort()
                if (sent + 1) % knobs.burst == 0:
                    await writer.drain()
                    await asyncio.sleep(knobs.itl * knobs.burst)
            event(writer, self.chunk({}, finish_reason=f"length{self.says}"))
            if knobs.usage:
                event(writer, {**self.chunk({}), "choices": [], "usage": self.usage(wanted)})
        event(writer, "[DONE]")
        return writer.write(b"0\r\n\r\n")

    def chunk(self, delta, finish_reason=None):
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return {"id": "x", "object": "chat.completion.chunk", "model": self.knobs.model, "choices": [choice]}

    def die(self):
        sys.stderr.write(f"{self.knobs.last_words}\n")
        sys.stderr.flush()
        os._exit(self.knobs.exit_code)


def is_nth(number, every):
    return every and number % every == 0


def error(message, code):
    return {"error": {"message": message, "type": "error", "code": code}}


def reply(writer, status, content, kind="application/json", more=""):
    body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
    head = f"HTTP/1.1 {status} X\r\n{more}content-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)


def event(writer, content):
    data = f"data: {content if isinstance(content, str) else json.dumps(content)}\n\n".encode()
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


class Stream:
    """An answer in one of the ways that servers have; what is right of each stands in the tests."""

    def __init__(self, writer, knobs, tokens):
        self.writer, self.knobs, self.tokens = writer, knobs, tokens
        self.pack = lambda data: data

    def head(self, more="", status=200):
        kind = f"HTTP/1.1 {status} OK\r\ncontent-type: text/event-stream\r\n{more}transfer-encoding: chunked\r\n\r\n"
        self.writer.write(kind.encode())
        return self

    def raw(self, data):
        data = self.pack(data)
        self.writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def event(self, content):
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        self.raw(f"data: {text}\n\n".encode())

    async def later(self, seconds):
        await self.writer.drain()
        await asyncio.sleep(seconds)

    async def say(self, delta, times=None, **more):
        for _ in range(self.tokens if times is None else times):
            self.event(delta_chunk(delta) | more)
            await self.later(self.knobs.itl)

    def end(self, usage=True, finish="length", done=True):
        if finish:
            self.event(delta_chunk({}, finish))
        if usage:
            self.event({"choices": [], "usage": self.usage if usage is True else usage})
        if done:
            self.event("[DONE]")
        self.writer.write(b"0\r\n\r\n")

    @property
    def usage(self):
        return {"prompt_tokens": 100, "completion_tokens": self.tokens, "prompt_tokens_details": {"cached_tokens": 64}}


def delta_chunk(delta, finish=None):
    return {"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


WORD = {"content": " tok"}


def after(*first):
    """What comes before the first token, then an ordinary answer."""

    async def way(stream):
        stream.head()
        for data in first:
            stream.raw(data)
            await stream.later(0)
        await stream.later(stream.knobs.ttft)
        await stream.say(WORD)
        stream.end()

    return way


def saying(*deltas, **end):
    """These deltas in turn, each in its share of the tokens."""

    async def way(stream):
        stream.head().event(delta_chunk({"role": "assistant", "content": None}))
        await stream.later(stream.knobs.ttft)
        for delta in deltas:
            await stream.say(delta, stream.tokens // len(deltas))
        stream.end(**end)

    return way


def breaking(error, kind="", field="data"):
    """Half an answer, then an error in the stream."""

    async def way(stream):
        stream.head()
        await stream.say(WORD, stream.tokens // 2)
        stream.raw(f"{kind}{field}: {error}\n\n".encode())
        stream.end(usage=False, finish="")

    return way


async def cut_characters(stream):
    stream.head()
    for _ in range(stream.tokens):
        data = f"data: {json.dumps(delta_chunk({'content': '中'}), ensure_ascii=False)}\n\n".encode()
        place = data.index("中".encode()) + 1
        for part in (data[:place], data[place:]):
            stream.raw(part)
            await stream.later(stream.knobs.itl / 2)
    stream.end()


async def many_in_a_chunk(stream):
    stream.head()
    await stream.say({"content": " tok" * 4}, stream.tokens // 4)
    stream.end()


async def usage_in_every_chunk(stream):
    stream.head()
    await stream.later(stream.knobs.ttft)
    for sent in range(stream.tokens):
        await stream.say(WORD, 1, usage={"prompt_tokens": 100, "completion_tokens": sent + 1})
    stream.end(usage=False)


def usage_within(name):
    """Usage beside the finish reason, or in a field of a gateway's own."""

    async def way(stream):
        stream.head()
        await stream.say(WORD)
        last, usage = delta_chunk({}, "length"), {"usage": stream.usage}
        stream.event(last | {name: usage} if name else {"choices": [last["choices"][0] | usage]})
        stream.end(usage=False, finish="")

    return way


async def created(stream):
    stream.head(status=201)
    await stream.say(WORD)
    stream.end()


def page(text, kind):
    async def way(stream):
        reply(stream.writer, 200, text, kind)

    return way


async def gzipped(stream):
    packer = zlib.compressobj(wbits=31)
    stream.pack = lambda data: packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)
    stream.head("content-encoding: gzip\r\n")
    await stream.say(WORD)
    stream.end()


async def not_streamed(stream):
    await stream.later(stream.knobs.ttft)
    choice = {"index": 0, "message": {"content": " tok" * stream.tokens}, "finish_reason": "length"}
    reply(stream.writer, 200, {"object": "chat.completion", "choices": [choice], "usage": stream.usage})


async def empty(stream):
    stream.tokens = 0
    stream.head().end()


async def without_length(stream):
    """No chunks and no length: the answer ends with the connection."""
    stream.writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
    stream.raw = stream.writer.write
    await stream.say(WORD)
    stream.event(delta_chunk({}, "stop"))
    stream.event({"choices": [], "usage": stream.usage})
    await stream.later(0)
    stream.writer.close()


def closing(first):
    """The connection ends after these bytes."""

    async def way(stream):
        stream.writer.write(first)
        await stream.later(0)
        stream.writer.close()

    return way


def redirected(location):
    async def way(stream):
        stream.writer.write(f"HTTP/1.1 307 X\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n".encode())

    return way


def endless(head, piece, seconds=0.0):
    """What never ends, until nobody reads it any more."""

    async def way(stream):
        stream.writer.write(head)
        while not stream.writer.is_closing():
            stream.writer.write(piece)
            await stream.later(seconds)

    return way


ERROR_HEAD, STREAM_HEAD = (
    f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\n\r\n".encode()
    for status, kind in ((503, "text/plain"), (200, "text/event-stream"))
)
CHUNKED_HEAD = STREAM_HEAD.replace(b"\r\n\r\n", b"\r\ntransfer-encoding: chunked\r\n\r\n")

LINE, END = (
    json.dumps({"choices": [{"delta": {"content": text}, "finish_reason": end}]})
    for text, end in (("a", None), ("", "stop"))
)

WAYS = {
    "plain": after(),
    "comments": after(b": keep-alive\n\n", b":\n\n"),
    "a comment as data": after(b"data: : PROCESSING\n\n", b"data:\n\n"),
    "pings": after(b'event: ping\ndata: {"type": "ping"}\n\n', b"retry: 100\r\n\r\n"),
    "role first": saying(WORD),
    "many tokens in a chunk": many_in_a_chunk,
    "reasoning": saying({"reasoning": " hm"}, WORD),
    "reasoning_content alone": saying({"reasoning_content": " hm"}),
    "tool calls": saying({"tool_calls": [{"index": 0, "function": {"arguments": "x"}}]}),
    "a call of the old form": saying({"function_call": {"arguments": "x"}}),
    "a refusal": saying({"refusal": " no"}),
    "thinking": saying({"thinking": " hm"}, WORD),
    "usage in every chunk": usage_in_every_chunk,
    "usage in the choice": usage_within(""),
    "usage in a field": usage_within("x_groq"),
    "usage of zeros": saying(WORD, usage={"prompt_tokens": 0, "completion_tokens": 0}),
    "created": created,
    "no usage": saying(WORD, usage=False),
    "no [DONE]": saying(WORD, done=False),
    "no finish reason": saying(WORD, finish=""),
    "cut characters": cut_characters,
    "gzip": gzipped,
    "until the connection ends": without_length,
    "not streamed": not_streamed,
    "an error as object": breaking('{"error": {"message": "engine is dead", "code": 503}}'),
    "an error as text": breaking('{"error": "upstream timed out"}'),
    "an error event": breaking("bad gateway", "event: error\n"),
    "an error field": breaking('{"message": "context is full", "code": 500}', field="error"),
    "an error in its choice": breaking('{"choices": [{"delta": {}, "error": {"message": "it is gone", "code": 502}}]}'),
    "an error without a name": breaking('{"message": "engine is gone", "code": 503}'),
    "given up": saying(WORD, finish="abort"),
    "a page": page("<html><title>Sign in</title><p>x", "text/html"),
    "no event": page("upstream connect error: no healthy upstream", "text/plain"),
    "an error in a list": page('[{"error": {"message": "the key is not valid"}}]', "application/json"),
    "lines of JSON": page("\n".join([LINE, LINE, END]), "application/x-ndjson"),
    "lines as data": page(f"data: {LINE}\ndata: {LINE}\ndata: {END}\ndata: [DONE]\n", "text/event-stream"),
    "bare words": breaking("bad gateway"),
    "neither end nor usage": saying(WORD, usage=False, finish="", done=False),
    "empty": empty,
    "usage as text": saying(WORD, usage={"prompt_tokens": "100", "completion_tokens": "many"}),
    "negative usage": saying(WORD, usage={"prompt_tokens": -5, "completion_tokens": -1}),
    "absurd usage": saying(WORD, usage={"prompt_tokens": 10**18, "completion_tokens": 10**18}),
    "redirected here": redirected("/again"),
    "redirected elsewhere": redirected("http://elsewhere.invalid:1/v1/chat/completions"),
    "closed without an answer": closing(b""),
    "closed in its middle": closing(CHUNKED_HEAD + b"ff\r\ndata: {"),
    "no HTTP": closing(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    "an endless error": endless(ERROR_HEAD, b"no room " * 8192),
    "an error that trickles": endless(ERROR_HEAD, b"no ", 0.1),
    "an endless event": endless(STREAM_HEAD, b"data: " + b"x" * 65536),
}


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("knobs", nargs="*")
    asked = parser.parse_args()
    knobs = Knobs()
    knobs.set(dict(knob.split("=", 1) for knob in asked.knobs))
    if knobs.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for _ in range(knobs.orphans):
        subprocess.Popen([sys.executable, "-c", ORPHAN])
    server = FaultyServer(knobs)
    burning = asyncio.create_task(server.burn()) if knobs.burns else None  # noqa: F841 - a task that nobody holds ends
    if knobs.die_after_seconds:
        asyncio.get_running_loop().call_later(knobs.die_after_seconds, server.die)
    listener = await asyncio.start_server(server.serve, knobs.host, asked.port, backlog=1024)
    sys.stdout.write(f"listening on http://127.0.0.1:{listener.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await listener.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
