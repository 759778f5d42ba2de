"""One genai-bench file as it stands on disk: the wanted keys, whatever else is in it or wrong with it."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec

#: What one second is in the unit that a file names in `_time_unit`.
UNITS = {"s": 1.0, "ms": 1000.0}

#: Keys as OpenAI, Hugging Face and GitHub shape them, and whatever follows `Bearer`; servers quote them in errors.
SECRET = re.compile(r"\b(?:sk-|hf_|ghp_|github_pat_)[\w-]{8,}|(?<=Bearer )\S+", re.ASCII)


class Request(msgspec.Struct, gc=False):
    """The wanted keys of one entry of `individual_request_metrics`; latencies in the file's unit."""

    ttft: float | None = None
    tpot: float | None = None
    e2e_latency: float | None = None
    num_input_tokens: float | None = None
    num_output_tokens: float | None = None
    error_code: int | str | None = None
    error_message: str | None = None


class Aggregates(msgspec.Struct, gc=False):
    """The wanted keys of `aggregated_metrics`, as the file claims them."""

    scenario: str | None = None
    iteration_type: str | None = None
    num_concurrency: int | None = None
    batch_size: int | None = None
    run_duration: float | None = None
    mean_output_throughput_tokens_per_s: float | None = None
    mean_input_throughput_tokens_per_s: float | None = None
    mean_total_tokens_throughput_tokens_per_s: float | None = None
    requests_per_second: float | None = None
    error_rate: float | None = None
    error_codes_frequency: dict[str, int] | None = None
    num_error_requests: int | None = None
    num_completed_requests: int | None = None
    stats: dict[str, dict[str, float | None]] | None = None


class Origin(msgspec.Struct):
    """What a file of another benchmark tool says beyond the numbers; texts are empty where it does not say."""

    tool: str
    engine: str = ""
    model: str = ""
    started_at: str = ""  # ISO 8601
    finished_at: str = ""
    notes: list[str] = []  # what a reader must know, first of all where its definitions differ
    parts: int = 1  # how many batches the file holds


class ResultFile(msgspec.Struct):
    """One batch as genai-bench wrote it, or as it was converted from what another tool wrote (then with an origin)."""

    aggregated_metrics: Aggregates
    individual_request_metrics: list[Request] | None = None
    _time_unit: str | None = msgspec.field(default=None, name="_time_unit")
    mended: int = 0  # values of the wrong type that were left out
    origin: Origin | None = msgspec.field(default=None, name="_origin")

    @property
    def time_unit(self) -> str | None:
        """The unit the file names for its latencies."""
        return self._time_unit


@dataclass(frozen=True)
class Damage:
    """Why a file, or a part of one, is no usable batch: an outcome of `core.run_directory.OUTCOMES` and the reason."""

    outcome: str
    reason: str
    tool: str = ""  # which other tool wrote it, where one is known


class _AggregatesOnly(msgspec.Struct):
    aggregated_metrics: Aggregates
    _time_unit: str | None = msgspec.field(default=None, name="_time_unit")


_decode_aggregates = msgspec.json.Decoder(_AggregatesOnly).decode
_decode = msgspec.json.Decoder(ResultFile).decode


Struct = TypeVar("Struct", bound=msgspec.Struct)


def read(path: Path) -> ResultFile | Damage:
    """Read the genai-bench file at `path`, whatever is in it.

    Returns:
        The file's wanted keys; values of a wrong type are None and counted in `mended`. Or what is wrong with it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        return unread(path, error)
    return parse(data, path.name)


def unread(path: Path, error: OSError) -> Damage:
    """What is wrong with a file that cannot be read at all."""
    return Damage("unreadable", f"cannot read {path.name}: {error.strerror}")


def read_aggregates(path: Path) -> ResultFile | Damage:
    """As `read`, but the requests are skipped over: some ten times faster, and nothing can be recomputed."""
    try:
        file = _decode_aggregates(path.read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return read(path)
    return ResultFile(file.aggregated_metrics, None, file._time_unit)


def parse(data: bytes, name: str) -> ResultFile | Damage:
    """The result file in `data`; `name` is only for messages."""
    try:
        return _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        if "truncated" in str(error):
            return Damage("truncated", f"{name} ends in the middle ({len(data)} bytes)")
        return _parse_leniently(data, name)


def one_line(text: str) -> str:
    """A message of others as one line of at most 300 characters, without what looks like a key."""
    return SECRET.sub("***", " ".join(text.split()))[:300]


def _parse_leniently(data: bytes, name: str) -> ResultFile | Damage:
    """The slow way, for NaN, Infinity, wrong types and what is no batch at all."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return Damage("unreadable", f"{name} is not valid JSON")
    if not isinstance(value, dict) or not isinstance(value.get("aggregated_metrics"), dict):
        return Damage("unreadable", f"{name} is JSON but no genai-bench batch (it has no aggregated_metrics)")
    return mend(value)


def mend(value: dict[str, Any]) -> ResultFile:
    """Take from `value`, the JSON of a result file, what has the right type."""
    losses: list[str] = []
    aggregates = _mend_struct(Aggregates, value["aggregated_metrics"], losses)
    entries = value.get("individual_request_metrics")
    requests = _mend_requests(entries, losses) if isinstance(entries, list) else None
    unit = value.get("_time_unit")
    return ResultFile(aggregates, requests, None if unit is None else str(unit), len(losses))


def mended(kind: type[Struct], value: Any) -> tuple[Struct, list[str]]:
    """Take from the JSON object `value` what fits the fields of `kind`; and the names of what did not."""
    losses: list[str] = []
    return _mend_struct(kind, value if isinstance(value, dict) else {}, losses), losses


def _mend_requests(entries: list[Any], losses: list[str]) -> list[Request]:
    """The requests among `entries`; what is no request is left out, so that it counts as no completed one."""
    found = [entry for entry in entries if isinstance(entry, dict)]
    losses += ["request"] * (len(entries) - len(found))
    return [_mend_struct(Request, entry, losses) for entry in found]


def _mend_struct(kind: Any, value: dict[str, Any], losses: list[str]) -> Any:
    fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
    return kind(**{name: _mend(value[name], fields[name], name, losses) for name in fields.keys() & value.keys()})


def _mend(value: Any, kind: Any, name: str, losses: list[str]) -> Any:
    if name == "stats" and isinstance(value, dict):
        return {key: _mend_numbers(entry, losses) for key, entry in value.items()}
    if name == "error_code" and value and not isinstance(value, (int, str)):
        return one_line(str(value))  # whatever it is, it says that the request failed
    value = value.item() if hasattr(value, "item") else value  # numpy's numbers, from callers
    if isinstance(value, str):
        return _mend_text(value, kind, name, losses)
    if isinstance(value, float) and not math.isfinite(value):
        losses.append(name)
        return None
    try:
        return msgspec.convert(value, kind)
    except (msgspec.MsgspecError, OverflowError):
        losses.append(name)
        return None


def _mend_text(value: str, kind: Any, name: str, losses: list[str]) -> str | None:
    if str in get_args(kind):
        return value.encode("utf-8", "replace").decode()  # half a surrogate pair is valid JSON, but no text
    losses.append(name)
    return None


def _mend_numbers(value: Any, losses: list[str]) -> dict[str, float | None]:
    entries = value.items() if isinstance(value, dict) else ()
    return {str(key): _mend(number, float | None, str(key), losses) for key, number in entries}
