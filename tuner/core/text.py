"""Numbers and names in words: one minus sign, one spelling of percent, `pp` for percentage points."""

import difflib
import html
import json
import re
from collections.abc import Iterable
from typing import Any

from tuner.core.metrics import SHARE
from tuner.core.secrets import hide_secrets, redactor

UNKNOWN = "–"
#: where the message of an error stands in its JSON
_MESSAGES = ("error", "message", "msg", "detail", "error_message", "errors")
_LONGEST = 20_000  # characters of a message that are looked at
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
#: all but tab and line feed; of what turns the direction, the marks that reach beyond themselves
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_TAG = re.compile(r"<(script|style).*?</\1>|<[^<>]*>", re.DOTALL | re.IGNORECASE)
_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.DOTALL | re.IGNORECASE)
#: Percent from which a change says more as a factor, and the factor beyond which it says that nobody knows.
_FAR, _FARTHEST = 1000, 10_000


def percent(share: float) -> str:
    """A share without a sign, four digits at most: `5 %`, `99.95 %`, `390 times`."""
    return f"{share * 100:.4g} %" if share * 100 < _FAR else _times(share)


def change(share: float, unit: str = "") -> str:
    """A relative change, `−42.3 %` or `391 times`; of a metric whose unit is a share, `+87.4 pp`."""
    if _is_missing(share):
        return UNKNOWN
    return f"{_signed(share, 100)} {_points(unit)}" if share * 100 <= _FAR else _times(1 + share)


def interval(low: float, high: float, unit: str = "") -> str:
    """The interval of a change, `−3.0 to +14 %`; empty where there is none."""
    if _is_missing(low) or _is_missing(high):
        return ""
    return f"{_signed(low, 10)} to {_signed(high, 10)} {_points(unit)}"


def value(number: float, unit: str) -> str:
    """A number of a metric with its unit: `0.51 s`; a share in percent."""
    if _is_missing(number):
        return UNKNOWN
    return percent(number) if unit == SHARE else f"{number:.4g} {unit}".strip()


def plural(count: int, word: str) -> str:
    """`1 trial`, `2 trials`, `3 batches`, `4 latencies`."""
    if count == 1:
        return f"1 {word}"
    if word.endswith("y") and word[-2] not in "aeiou":
        return f"{count} {word[:-1]}ies"
    return f"{count} {word}{'es' if word.endswith(('s', 'ch', 'x')) else 's'}"


def shorten(text: str, width: int) -> str:
    """A text in one line of at most so many characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def one_line(text: str) -> str:
    """A message of others as one line of at most 300 characters, without controls or what looks like a key."""
    if not text:  # as of most batches
        return ""
    plain = _ESCAPE.sub("", text[:_LONGEST])
    printing = "".join(character if character.isprintable() else " " for character in plain)
    return hide_secrets(" ".join(printing.split()))[:300]


def server_words(body: str) -> str:
    """What a server says in an error's body, in one line: the message in its JSON, or the title of its page."""
    body = body[:_LONGEST]
    try:
        return one_line(_message(json.loads(body)) or body)
    except (ValueError, RecursionError):
        if not body.lstrip().startswith("<"):
            return one_line(body)
        title = _TITLE.search(body)
        return one_line(html.unescape(_TAG.sub(" ", title[1] if title else body)))


def _message(said: Any) -> str:
    """The first text under the names that servers use, however deep (OpenAI, FastAPI, TGI, Google, Azure)."""
    if isinstance(said, list):
        return next(filter(None, map(_message, said)), "")
    if not isinstance(said, dict):
        return str(said) if isinstance(said, str) else ""
    found = next((text for name in _MESSAGES if (text := _message(said.get(name)))), "")
    place = said.get("loc")
    return f"{'.'.join(map(str, place))}: {found}" if found and isinstance(place, list) else found


def printable(text: object) -> str:
    """A name of others as valid Unicode: file names on Linux need not be."""
    return str(text).encode("utf-8", "backslashreplace").decode()


def visible(text: str, form: str = "\\x{:02x}") -> str:
    """`text` for a terminal: controls, and what turns the direction of writing, are escapes, and keys are redacted."""
    return _CONTROL.sub(lambda found: form.format(ord(found[0])), str(redactor()(text)))


def _is_missing(number: Any) -> bool:
    import pandas as pd

    return bool(pd.isna(number))


def _points(unit: str) -> str:
    return "pp" if unit == SHARE else "%"


def _times(factor: float) -> str:
    if factor < _FAR:
        return f"{factor:.3g} times"
    return f"{factor:.0f} times" if factor < _FARTHEST else f"over {_FARTHEST} times"


def _signed(share: float, whole_from: float) -> str:
    """A share in percent with its sign and one decimal, from `whole_from` percent on without."""
    number = max(share, -1.0) * 100  # nothing measured here falls below zero
    if number > _FAR:
        return f"over +{_FAR}"
    return f"{number:+.{0 if abs(number) >= whole_from else 1}f}".replace("-", "−")


def suggest(name: str, names: Iterable[str]) -> str:
    """`did you mean …?` for a misspelt `name`, or the list of `names`."""
    choices = sorted(names)
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else f"it has {', '.join(choices)}"
