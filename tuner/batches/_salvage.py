"""What is whole in JSON that is damaged at one place or at a few."""

import contextlib
import json
import re
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from tuner.core.files import must_be_plain

_decode = json.JSONDecoder().raw_decode
_OPENING = re.compile(r"[\[{]")
#: so deep nothing is nested that is meant
_NESTED = re.compile(r'(?:[\[{]\s*(?:"[^"]*"\s*:\s*)?){60,}')
#: so often it is tried to read on behind a damage, and so many times the text is read again at most
_MOST_TRIES, _MOST_AGAIN = 200, 4


def elements(text: str, name: str, fits: Callable[[Any], bool]) -> list[Any]:
    """The whole elements of the list called `name`: those objects or lists, from there on, that are as one must be."""
    begin = re.search(rf'"{name}"\s*:\s*\[', text)
    at, tries, again, found = begin.end() if begin else len(text), 0, 0, []
    while (opening := _OPENING.search(text, at)) and tries < _MOST_TRIES and again < _MOST_AGAIN * len(text):
        start = opening.start()
        try:
            value, end = _decode(text, start)
            found += [value] if (is_whole := fits(value)) else []
            at, again = (end, again) if is_whole else (start + 1, again + end - start)  # it may hold what follows it
        except json.JSONDecodeError as error:
            at, tries, again = start + 1, tries + 1, again + error.pos - start
        except (ValueError, RecursionError):  # a number of thousands of digits, or nested without end
            nested = _NESTED.match(text, start)
            at, tries = nested.end() if nested else start + 1, tries + 1
    return found


def before(text: str, name: str) -> dict[str, Any]:
    """What an object says before the list called `name`; nothing where that is damaged, too."""
    for place in islice(re.finditer(rf',\s*"{name}"\s*:\s*\[', text), 5):  # within a part, or behind the damage
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            return dict(json.loads(text[: place.start()] + "}"))
    return {}


def members(text: str, names: Sequence[str]) -> dict[str, Any]:
    """The whole ones of an object's members, which stand there in the order of `names`."""
    at, found = 0, {}
    for name in names:
        if key := re.compile(rf'[{{,]\s*"{name}"\s*:\s*').search(text, at):
            with contextlib.suppress(ValueError, RecursionError):
                value, at = _decode(text, key.end())
                found[name] = must_be_plain(value)
    return found
