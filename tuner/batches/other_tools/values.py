"""What a converter finds in a tool's JSON, and careful ways to look: nothing in a file is sure to be what it should."""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from heapq import nlargest
from pathlib import Path
from typing import Any

import msgspec

from tuner.batches.parsing import read_json
from tuner.batches.result_file import CLAIMED_THROUGHPUTS, Aggregates, Damage, Origin, Request, ResultFile, Scalar
from tuner.core import timestamps
from tuner.core.level import Level, Rate, kind_of, number_of
from tuner.core.text import one_line

#: genai-bench's word for requests that come from a file; here for every workload that the file does not tell.
DATASET = "dataset"
#: Where texts of errors name an HTTP status.
STATUS = re.compile(r"(?:error|status|code|http)\W{0,5}([45]\d\d)\b", re.IGNORECASE)
#: The last line of a traceback: the class of an exception, perhaps within modules, and what it says.
EXCEPTION = re.compile(r"(?:\w+\.)*(?P<name>\w+)(?:: (?P<says>.*))?")
#: Names of settings that hold secrets; `max_num_batched_tokens` holds none.
SECRET = re.compile(r"(?:key|token|secret|password|credentials?)$", re.IGNORECASE)
Claims = dict[str, float | int | None]
#: Mean and standard deviation.
Spread = tuple[float | None, float | None]


def batch(origin: Origin, level: Level | None, requests: list[Request], **claims: Any) -> ResultFile:
    """One batch of a tool's file in the form of genai-bench's: seconds, tokens, requests; None where it does not say.

    `level` was held, notes of `origin` may be empty. What the file says itself has the names of `Aggregates`: always
    `scenario`, the `run_duration` that throughput is divided by, and `stats` such as `{"ttft": {"mean": 0.1}}`.
    """
    held = {} if level is None else {kind_of(level): number_of(level)}
    origin.notes = [note for note in origin.notes if note]
    return ResultFile(Aggregates(iteration_type=kind_of(level), **held, **claims), requests or None, "s", origin=origin)  # type: ignore[arg-type]


def claims_of(done: int | None, errors: int | None, throughputs: Iterable[float | None]) -> Claims:
    """What a file says of its requests, and perhaps of its throughputs, in the order of `CLAIMED_THROUGHPUTS`."""
    counts: Claims = {"num_completed_requests": done, "num_error_requests": errors}
    return counts | dict(zip(CLAIMED_THROUGHPUTS.values(), throughputs, strict=False))


def at(value: Any, *keys: str) -> Any:
    """What stands at `keys` in nested objects; None where any of them is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def number(value: Any, *keys: str, unit: float = 1.0) -> float | None:
    """The finite number at `keys`, divided by `unit`; None where there is none."""
    value = at(value, *keys)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        quotient = float(value) / unit
    except OverflowError:
        return None
    return quotient if math.isfinite(quotient) else None


def first_number(candidates: Iterable[float | None]) -> float | None:
    """The first that is there."""
    return next((value for value in candidates if value is not None), None)


def count(value: Any, *keys: str) -> int | None:
    """The whole number from 0 to a billion at `keys`; None where there is none."""
    whole = number(value, *keys)
    return int(whole) if whole is not None and 0 <= whole < 10**9 and whole == int(whole) else None


def text(value: Any, *keys: str) -> str:
    """The text at `keys`; empty where there is none."""
    value = at(value, *keys)
    return one_line(value.encode("utf-8", "replace").decode()) if isinstance(value, str) else ""


def entries(value: Any, *keys: str) -> list[Any]:
    """The elements of the list at `keys`; none where there is no list."""
    value = at(value, *keys)
    return value if isinstance(value, list) else []


def settings(value: Any, is_setting: Callable[[str], object]) -> dict[str, Scalar]:
    """What stands in the object `value` itself under names that are settings, and is no secret: no list, no object."""
    known = value.items() if isinstance(value, Mapping) else ()
    plain = {key: part for key, part in known if isinstance(part, str | int | float) and part != ""}
    return {
        text(key): text(part) if isinstance(part, str) else part
        for key, part in plain.items()
        if is_setting(key) and not SECRET.search(key)
    }


def failure(message: Any, code: Any = None) -> Request:
    """A request that failed; where no code is given the HTTP status in the message, an exception's name, or `error`."""
    cause = message.strip() if isinstance(message, str) else ""
    if cause.startswith("Traceback") and (last := EXCEPTION.fullmatch(cause.splitlines()[-1])):
        return Request(error_code=text(last["name"]), error_message=text(last["says"] or ""))
    status = STATUS.search(cause)
    if not (isinstance(code, int | str) and code):
        code = int(status[1]) if status else "error"
    return Request(error_code=code, error_message=text(cause))


def instant(seconds: float | None) -> str:
    """Seconds since 1970 as ISO 8601 in UTC; empty where they are none."""
    moment = None if seconds is None else timestamps.instant(seconds)
    return moment.isoformat() if moment else ""


def scenario(inputs: Spread, outputs: Spread) -> str:
    """The scenario of lengths, each (mean, standard deviation) in tokens; `dataset` where they are not known."""
    (mean_in, spread_in), (mean_out, spread_out) = inputs, outputs
    if not mean_in or not mean_out or mean_in < 0 or mean_out < 0:
        return DATASET
    if spread_in or spread_out:
        return f"N({mean_in:g},{spread_in or 0:g})/({mean_out:g},{spread_out or 0:g})"
    return f"D({int(mean_in)},{int(mean_out)})" if mean_in % 1 == mean_out % 1 == 0 else DATASET


def level_of_rate(rate: object, limit: int | None = None) -> tuple[Rate | None, str]:
    """The level of a batch whose requests came at a rate, at most `limit` at once, and what must be said of it."""
    level = Rate(known) if (known := number(rate)) else None
    unknown = "" if level else f", of which the file says {rate}: the level is unknown"
    waited = f"; at most {limit} were in flight, and nothing tells how long others waited" if limit else ""
    return level, f"requests came at a rate{unknown}; {FROM_SENDING}{waited}"


#: What differs from an open loop of ours.
FROM_SENDING = "their latency counts from when they were sent, not from when they were due"
NO_NUMBER = re.compile(rb"([:,\[]\s*)(?:-?Infinity|NaN)(?=\s*[],}])")


def documents(path: Path, data: bytes) -> list[Any]:
    """The objects of JSON in a file `path` with the content `data`; a Damage for each part that cannot be read."""
    if not path.suffix.startswith(".json"):
        instead = "give the .json or .jsonl that the tool writes of the same run"
        return [Damage("unreadable", f"{path.name} is not read: {instead}")]
    whole = _json(data, path.name)
    if not isinstance(whole, Damage):
        return whole if isinstance(whole, list) else [whole]
    lines = [line for line in data.splitlines() if line.strip()]
    if not any(isinstance(one, dict) and one for one in map(_json, nlargest(50, lines, len))):  # none is whole
        return [whole]
    return [_json(line, f"{path.name}#{number}") for number, line in enumerate(lines, 1)]


def _json(data: bytes, name: str = "") -> Any:
    """An object, or a list of objects, in which NaN and Infinity, which tools write, are null."""
    decode = msgspec.json.decode
    value = read_json(data, name, decode, lambda data: decode(NO_NUMBER.sub(rb"\1null", data)), json.loads)
    is_list = isinstance(value, list) and value and all(isinstance(part, dict) for part in value)
    fits = is_list or isinstance(value, dict | Damage)
    return value if fits else Damage("unreadable", f"{name} is JSON but holds no batch")
