"""A user's own prompts: a file of requests, read strictly, each line that cannot be sent named with its number."""

import csv
import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tuner.core.files import read_bytes
from tuner.core.text import shorten
from tuner.errors import PathError, SpecError

#: bytes of a file, unpacked
LARGEST = 128 * 2**20
_ROLES = ("system", "developer", "user", "assistant")
#: what only a request for something else than text has
_NOT_TEXT = {"input": "embeddings", "documents": "a reranking", "size": "an image"}

Message = dict[str, str]


class Request(msgspec.Struct, frozen=True):
    """One user's request: its turns, each the messages to add; the server's answers come in between."""

    turns: list[list[Message]]  # the messages of each turn; several are a conversation
    max_tokens: int | None = None  # output tokens of each answer at most; None leaves the end to the model
    fixed: bool = False  # exactly `max_tokens`, whatever the model would say


@dataclass(frozen=True)
class PromptFile:
    """The requests of a file, and what they are called: its name and the beginning of a SHA-256."""

    name: str
    requests: tuple[Request, ...]


def read_prompt_file(path: Path, *, fixed: bool = False) -> PromptFile:
    """Read JSON lines of `prompt`, of `messages` or of logged OpenAI requests, CSV, or text, a prompt a line; or `.gz`.

    With `fixed` each answer is to have exactly `max_tokens`. PathError where it cannot be read, SpecError where it has
    no prompt, is too large, or a line cannot be sent as it stands.
    """
    content = _content(path)
    requests = []
    try:
        text = content.decode("utf-8-sig")
        for number, line in _lines(path.name.removesuffix(".gz"), text):
            try:
                requests.append(_request(line, fixed))
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                raise SpecError(f"prompts: {path} line {number}: {shorten(str(error), 200)}") from None
    except UnicodeDecodeError as error:
        number = content[: error.start].count(b"\n") + 1
        raise SpecError(f"prompts: {path} line {number}: no UTF-8 text") from None
    except (csv.Error, ValueError) as error:
        raise SpecError(f"prompts: {path} is no CSV: {error}") from None
    if not requests:
        raise SpecError(f'prompts: {path} holds no prompt; write one a line, as text or as {{"prompt": "…"}}')
    shown = re.sub(r"[^\w.-]", "_", path.name)[-60:]
    sha256 = hashlib.sha256(content + (b"\0fixed" if fixed else b"")).hexdigest()  # other answers, another workload
    return PromptFile(f"{shown}#{sha256[:8]}", tuple(requests))


def _content(path: Path) -> bytes:
    try:
        content = read_bytes(path, LARGEST)
        if path.suffix == ".gz":
            content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(LARGEST + 1)
    except PathError as error:
        raise PathError(f"prompts: {error}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise PathError(f"prompts: cannot read {path}: {error}") from error
    if len(content) > LARGEST:
        raise SpecError(f"prompts: {path} is larger than {LARGEST >> 20} MiB unpacked; give a part of it")
    return content


def _lines(name: str, text: str) -> Iterator[tuple[int, bytes | dict[str, Any]]]:
    """Each line that holds something, with its number, as JSON or as an object already."""
    if name.endswith(".csv"):
        yield from _rows(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        return
    is_json = name.endswith((".jsonl", ".ndjson", ".json")) or text.lstrip().startswith("{")
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.encode() if is_json else {"prompt": line.strip()}


def _rows(reader: "csv.DictReader[str]") -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a CSV: its column `prompt`, or its only one, and `max_tokens` where it has that."""
    names = [name for name in reader.fieldnames or () if name != "max_tokens"]
    column = "prompt" if "prompt" in names or len(names) != 1 else names[0]
    if column not in names:
        raise csv.Error(f"of its columns {', '.join(names)} none is called prompt")
    for row in reader:
        limit = (row.get("max_tokens") or "").strip()
        yield reader.line_num, {"prompt": row[column], "max_tokens": int(limit) if limit.isdecimal() else limit or None}


def _request(line: bytes | dict[str, Any], fixed: bool) -> Request:
    """The request of a line; ValueError, which goes on after the line's number, where it cannot be sent."""
    value = msgspec.json.decode(line) if isinstance(line, bytes) else line
    if not isinstance(value, dict):
        raise ValueError('no JSON object such as {"prompt": "…"} or {"messages": […]}')
    body = next((value[name] for name in ("body", "request") if isinstance(value.get(name), dict)), value)  # of a log
    limits = (body.get(name) for name in ("max_tokens", "max_completion_tokens"))
    limit = next((limit for limit in limits if limit is not None), None)
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ValueError(f"max_tokens must be a whole number greater than 0, got {limit!r}")
    if fixed and limit is None:
        raise ValueError("no max_tokens, which output: fixed needs")
    return Request(_turns(body), limit, fixed)


def _turns(body: dict[str, Any]) -> list[list[Message]]:
    """The messages of each turn; a recorded answer ends none and is left out, the server's own comes in its place."""
    if "messages" not in body and "prompt" not in body:
        other = next((kind for name, kind in _NOT_TEXT.items() if name in body), None)
        raise ValueError(f"asks for {other}; only text is measured" if other else "neither prompt nor messages")
    messages = body.get("messages", [{"role": "user", "content": body.get("prompt")}])
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError('messages must be a list of {"role": …, "content": …}')
    turns: list[list[Message]] = [[]]
    for message in messages:
        role, calls = message.get("role"), message.get("tool_calls")
        if role not in _ROLES or calls:
            what = "calls a tool" if calls else f"has the role {shorten(repr(role), 40)}"
            raise ValueError(f"a message {what}; {', '.join(_ROLES)} with text can be sent")
        if role != "assistant":
            turns[-1].append({"role": role, "content": _text(message.get("content"))})
        if role == "user":
            turns.append([])
    *whole, rest = turns
    if not whole:
        raise ValueError("no message of a user")
    whole[-1].extend(rest)
    return whole


def _text(content: Any) -> str:
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            raise ValueError(f"a message holds {shorten(str(kind), 40)}; only text is measured, no images or audio")
    text = "\n".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    if not text.strip():
        raise ValueError("a prompt or message without text")
    return text
