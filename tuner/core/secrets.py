"""No key stands in what a user writes down, nor leaves this process in a file, in a terminal or in a page."""

import functools
import html
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

REDACTED = "[redacted]"
#: what names of environment variables tell secrets by; `TOKENIZERS_…` is none, nor what ends in a setting's word, and
#: `…_TOKENS` is how many
_SECRET_NAME = re.compile(
    r"(?!.*_(?:d?type|policy|mode|limit|budget|size|layout|patch|backend|format|name|level)$).*"
    r"(keys?$|keys?_|token(?!iz|s$|s_)|secret|passw|(^|_)pass$|credential|authorization)",
    re.IGNORECASE,
)
#: values that are none, whatever the name: a short number, a switch, a path
_PLAIN_VALUE = re.compile(r"[+-]?[\d.]{1,7}|true|false|yes|no|on|off|none|auto|(/|~|\./).*|", re.IGNORECASE | re.DOTALL)
_SHORTEST = 8  # characters; shorter values stand in texts by chance
#: what else stands in texts by chance: numbers, and, where nobody said that it is a key, words as our files have
_NUMBER, _WORD = re.compile(r"\d+"), re.compile(r"[a-z_]+")
_DIGIT = r"(?=[\w.~+/=-]*\d)"  # asked for where words could have the shape of a key, too
PATTERNS = {  # shapes of keys
    "an OpenAI-style key (sk-…)": rf"(?<![A-Za-z0-9])sk-{_DIGIT}[\w-]{{8,}}",
    "a Hugging Face token (hf_…)": r"(?<![A-Za-z0-9])hf_[A-Za-z0-9]{16,}",
    "a GitHub token (ghp_…)": r"(?<![A-Za-z0-9])(?:gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,})",
    "an AWS key (AKIA…)": r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "a bearer token": rf"\bBearer\s+{_DIGIT}[\w.~+/=-]{{8,}}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a Slack token": r"(?<![A-Za-z0-9])xox[abprs]-[\w-]{10,}",
    "a Google key (AIza…)": r"(?<![A-Za-z0-9])AIza[\w-]{30,}",
}
_SHAPES = re.compile("|".join(f"({pattern})" for pattern in PATTERNS.values()), re.ASCII)
_PERHAPS = re.compile(  # messages of servers quote keys cut short or masked: whatever begins as one does
    rf"{_SHAPES.pattern.replace(_DIGIT, '')}|\b(?:sk-|hf_|ghp_|github_pat_)[\w-]{{8,}}|Bearer \S+", re.ASCII
)
#: a name for keys with a value of any kind, as in commands, queries and headers; what a shell fills in is none
_ASSIGNED = re.compile(
    r"""(?ix) (?:^|[\s"'?&;]) (?:
    (-{0,2}[a-z_-]*(?:(?:api|access|secret)[_-]?key|token|secret|passw(?:or)?d)) = | ((?:x-)?api-key|authorization) :\s*
    | (--[a-z-]*(?:key|token|secret|password)) \s+ ) ["']? (?![{$<-]) ([^\s"'&;,}]+)"""
)
_WRITTEN = re.compile(r"""(?i)((?:key|token|secret|passw(?:or)?d)["']?\s*[:=]\s*["']?)[\w.~+/=-]+""")
_USER_IN_URL = re.compile(r"://([^/\s@]+)@")
#: names of settings that hold keys themselves, and those that do where the value looks like one (`eos_token` does not)
_KEY_SETTING = re.compile(r"(?:api|access|auth)[_-]?key$|password$|secret$|authorization$", re.IGNORECASE)
_PERHAPS_KEY_SETTING = re.compile(r"(?:(?<!cache_)key|token|credentials?)$", re.IGNORECASE)
_KEY_VALUE = re.compile(r"[\w.~+/=:-]{8,}")
#: the keys that this process was given: its state, as whoever writes a file, a page, a log, a line must know them
_kept: dict[str, str] = {}


def is_secret(name: str, value: str) -> bool:
    """Whether an environment variable of this name and value holds a secret."""
    return bool(_SECRET_NAME.match(name)) and not _PLAIN_VALUE.fullmatch(value)


def keep_out(key: str) -> str:
    """Have `key` written nowhere by this process from now on; it is given back."""
    _kept[key] = ""
    return key


def hide_secrets(text: str) -> str:
    """A message of others with `[redacted]` for everything that could be a key."""
    hidden = _PERHAPS.sub(lambda key: f"Bearer {REDACTED}" if key[0].startswith("Bearer") else REDACTED, text)
    return str(redactor()(hidden))


def hide_written(text: str) -> str:
    """A message that quotes what a user wrote, without what stands behind the name of a key."""
    return _WRITTEN.sub(rf"\1{REDACTED}", str(redactor()(text)))


def redactor() -> Callable[[Any], Any]:
    """What puts `[redacted]` for each known key, and for what has the shape of one, in texts, lists and mappings."""
    regex = _regex(frozenset(_known(_kept)))

    def redact(value: Any) -> Any:
        if isinstance(value, str):
            return regex.sub(REDACTED, value)
        if isinstance(value, dict):
            return {redact(key): redact(part) for key, part in value.items()}
        return [redact(part) for part in value] if isinstance(value, list) else value

    return redact


def variables(environment: Mapping[str, str]) -> list[str]:
    """The variables of an environment whose values are known keys."""
    known = _known(_kept)
    return [name for name, value in environment.items() if value in known]


def redact_bytes(content: bytes) -> bytes:
    """A file's content with `[redacted]` for each key that is known."""
    for form in _forms(frozenset(_known(_kept))):
        content = content.replace(form.encode(errors="surrogateescape"), REDACTED.encode())
    return content


@functools.lru_cache(maxsize=8)
def _regex(values: frozenset[str]) -> re.Pattern[str]:
    return re.compile("|".join([*map(re.escape, _forms(values)), _SHAPES.pattern]), re.ASCII)


@functools.lru_cache(maxsize=8)
def _forms(values: frozenset[str]) -> list[str]:
    """Every value as texts, JSON, HTML and URLs spell it, the longest first."""
    quoted = {json.dumps(value, ensure_ascii=only)[1:-1] for value in values for only in (True, False)}
    forms = values | quoted | {html.escape(form) for form in values | quoted}
    return sorted(forms | {quote(value, "", errors="replace") for value in values}, key=len, reverse=True)


def _known(more: Mapping[str, str]) -> dict[str, str]:
    """By value the variables that hold a key, by their names, or a proxy's password; with `more` of these."""
    known = dict(more)
    for name, text in os.environ.items():
        if is_secret(name, text) and not _WORD.fullmatch(text):
            known.setdefault(text, name)
        if ":" in text and (user := _USER_IN_URL.search(text)) and ":" in user[1]:
            known.setdefault(user[1].partition(":")[2], name)
    return {value: name for value, name in known.items() if len(value) >= _SHORTEST and not _NUMBER.fullmatch(value)}


def find_secret(values: Mapping[str, Any], variable: str | None = None) -> str:
    """Where a key stands in what a user wrote down, and by what it is one, never the key; empty where none does.

    `variable` is an environment variable that holds a key, whatever it is called.
    """
    known = _known({os.environ.get(variable or "", ""): str(variable)})
    for place, name, text in _texts(values):
        if what := _secret_in(name, text, known):
            parameter, _, within = place.partition(".")
            return f"{parameter}: {within or 'it'} {what}"
    return ""


def _secret_in(name: str, text: str, known: Mapping[str, str]) -> str:
    if variable := next((known[value] for value in known if value in text), ""):
        return f"holds the value of the environment variable {variable}"
    if match := _SHAPES.search(text):
        return f"holds what looks like {list(PATTERNS)[(match.lastindex or 1) - 1]}"
    looks_so = _KEY_VALUE.fullmatch(text) and not _PLAIN_VALUE.fullmatch(text)
    if text and (_KEY_SETTING.search(name) or (_PERHAPS_KEY_SETTING.search(name) and looks_so)):
        return "is a key by its name"
    if _USER_IN_URL.search(text):
        return "holds a user or password in a URL"
    given = next((found for found in _ASSIGNED.finditer(text) if not _PLAIN_VALUE.fullmatch(found[4])), None)
    return f"holds a value of {given[1] or given[2] or given[3]}" if given else ""


def _texts(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str, str]]:
    """(place, name, text) of every text in `values`, of lists all together; a setting's name is one of those within."""
    for name, value in values.items():
        place = f"{above}.{name}" if above else str(name)
        if isinstance(value, Mapping):
            yield from _texts(value, place)
            continue
        parts = value if isinstance(value, list) else [value]
        yield from (found for part in parts if isinstance(part, Mapping) for found in _texts(part, place))
        yield place, str(name) if above else "", " ".join(str(part) for part in parts if isinstance(part, str | int))
