"""The bytes of one result file, or a dict of its form → what of it has the right type."""

import json
import math
from collections.abc import Callable
from typing import Any, get_args

import msgspec

from tuner.batches.result_file import Aggregates, Damage, Request, ResultFile
from tuner.core.text import one_line

_decode = msgspec.json.Decoder(ResultFile).decode


def parse(data: bytes, name: str) -> ResultFile | Damage:
    """The wanted keys of the genai-bench file that holds `data` (`name` is for messages), or what is wrong with it.

    Values of a wrong type are None and counted in `mended`.
    """
    value = read_json(data, name, _decode, json.loads)  # slowly: NaN, wrong types and what is no batch at all
    if isinstance(value, dict) and isinstance(value.get("aggregated_metrics"), dict):
        return mend(value)
    if isinstance(value, ResultFile | Damage):
        return value
    return Damage("unreadable", f"{name} is JSON but no genai-bench batch (it has no aggregated_metrics)")


def read_json(data: bytes, name: str, *readers: Callable[[bytes], Any]) -> Any:
    """What the first of `readers` that can makes of `data`; a Damage where none can."""
    for read in readers:
        try:
            return read(data)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            if "truncated" in str(error):
                return Damage("truncated", f"{name} ends in the middle ({len(data)} bytes)")
    return Damage("unreadable", f"{name} is not valid JSON")


def mend(value: dict[str, Any]) -> ResultFile:
    """Take from `value`, the JSON of a result file, what has the right type."""
    losses: list[str] = []
    aggregates = _mend_struct(Aggregates, value["aggregated_metrics"], losses)
    entries, requests = value.get("individual_request_metrics"), None
    if isinstance(entries, list):  # what is no request is left out, so that it counts as no completed one
        losses += ["request" for entry in entries if not isinstance(entry, dict)]
        requests = [_mend_struct(Request, entry, losses) for entry in entries if isinstance(entry, dict)]
    unit = value.get("_time_unit")
    return ResultFile(aggregates, requests, None if unit is None else str(unit), len(losses))


def _mend_struct(kind: Any, value: dict[str, Any], losses: list[str]) -> Any:
    fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
    return kind(**{name: _mend(value[name], fields[name], name, losses) for name in fields.keys() & value.keys()})


def _mend(value: Any, kind: Any, name: str, losses: list[str]) -> Any:
    if name == "stats" and isinstance(value, dict):
        tables = {key: entry for key, entry in value.items() if isinstance(entry, dict)}
        return {key: {str(k): _mend(one, float | None, k, losses) for k, one in tables[key].items()} for key in tables}
    if name == "error_code" and value and not isinstance(value, (int, str)):
        return one_line(str(value))  # whatever it is, it says that the request failed
    value = value.item() if hasattr(value, "item") else value  # numpy's numbers, from callers
    if isinstance(value, str) and str in get_args(kind):
        return value.encode("utf-8", "replace").decode()  # half a surrogate pair is valid JSON, but no text
    if isinstance(value, str) or (isinstance(value, float) and not math.isfinite(value)):
        losses.append(name)
        return None
    try:
        return msgspec.convert(value, kind)
    except (msgspec.MsgspecError, OverflowError):
        losses.append(name)
        return None
