"""Nothing that leaves this machine holds a secret: texts are searched before they are written, and refused."""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tuner.errors import SecretFound

#: what names of environment variables tell secrets by; `TOKENIZERS_…` is none, and `…_TOKENS` is how many
_SECRET_NAME = re.compile(r"keys?$|keys?_|token(?!iz|s$|s_)|secret|passw|credential", re.IGNORECASE)
#: values that are none, whatever the name: a short number, a switch, a path
_PLAIN_VALUE = re.compile(r"[+-]?[\d.]{1,7}|true|false|yes|no|on|off|none|auto|(/|~|\./).*|", re.IGNORECASE | re.DOTALL)
_SHORTEST = 8  # characters; shorter values stand in texts by chance
#: asked for where words could have the shape of a key, too
_DIGIT = r"(?=[\w.~+/=-]*\d)"
#: shapes of keys
PATTERNS = {
    "an OpenAI-style key (sk-…)": rf"\bsk-{_DIGIT}[\w-]{{8,}}",
    "a Hugging Face token (hf_…)": r"\bhf_[A-Za-z0-9]{16,}",
    "a GitHub token (ghp_…)": r"\b(?:gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{16,})",
    "an AWS key (AKIA…)": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "a bearer token": rf"\bBearer\s+{_DIGIT}[\w.~+/=-]{{8,}}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a Slack token": r"\bxox[abprs]-[\w-]{10,}",
    "a Google key (AIza…)": r"\bAIza[\w-]{30,}",
}
_SHAPES = re.compile("|".join(f"({pattern})" for pattern in PATTERNS.values()), re.ASCII)
#: messages of servers quote keys cut short or masked: whatever begins as one does
_PERHAPS = re.compile(
    rf"{_SHAPES.pattern.replace(_DIGIT, '')}|\b(?:sk-|hf_|ghp_|github_pat_)[\w-]{{8,}}|Bearer \S+", re.ASCII
)


def is_secret(name: str, value: str) -> bool:
    """Whether an environment variable of this name and value holds a secret."""
    return bool(_SECRET_NAME.search(name)) and not _PLAIN_VALUE.fullmatch(value)


def hide_secrets(text: str) -> str:
    """`text` with `***` for everything that could be a key."""
    return _PERHAPS.sub(lambda key: "Bearer ***" if key[0].startswith("Bearer") else "***", text)


class Guard:
    """Refuses texts that hold a secret; variables called by `key_names` hold one whatever these are."""

    def __init__(self, key_names: Iterable[str] = ()) -> None:
        named = {name: os.environ.get(name, "") for name in key_names}
        looks = {name: text for name, text in os.environ.items() if len(text) >= _SHORTEST and is_secret(name, text)}
        by_value = {value: name for name, value in (looks | named).items() if value}
        self._names = list(by_value.values())
        self._values = re.compile("|".join(f"({re.escape(value)})" for value in by_value)) if by_value else None

    def check(self, text: str, place: str) -> None:
        """Refuse `text` where it holds a secret.

        Raises:
            SecretFound: the message names the place and the kind, never the value.
        """
        if what := self._secret_in(text):
            raise SecretFound(f"{place} holds {what}: remove it there, then make the report again; nothing was written")

    def check_values(self, value: Any, place: str) -> None:
        """Refuse, as `check` does, any text in `value`, which is made of dicts and lists."""
        for where, text in _texts(value, place):
            self.check(text, where)

    def check_file(self, path: Path, place: str) -> None:
        """Refuse, as `check` does, a text file by its lines; one that cannot be read holds nothing to pass on."""
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, start=1):
                self.check(line, f"{place}, line {number},")

    def _secret_in(self, text: str) -> str:
        if self._values and (match := self._values.search(text)):
            return f"the value of the environment variable {self._names[(match.lastindex or 1) - 1]}"
        if match := _SHAPES.search(text):
            return f"what looks like {list(PATTERNS)[(match.lastindex or 1) - 1]}"
        return ""


def _texts(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Every text in `value`, keys too, with where it stands."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield place, str(key)
            yield from _texts(part, f"{place}: {key}" if ": " not in place else f"{place}.{key}")
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _texts(part, place)
