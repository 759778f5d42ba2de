"""What a server answered to prompts that were sent greedily (`answers.json`), by which configurations are compared."""

from pathlib import Path
from typing import Self

import msgspec

from tuner.core import files

ANSWERS_FILE = "answers.json"
#: below this one log probability is as good as another
LEAST = -20.0


class Answer(msgspec.Struct, frozen=True):
    """The answer to one prompt; without a text where there was none, with the reason."""

    prompt: str  # the beginning of the SHA-256 of its messages
    text: str = ""
    tokens: list[str] = []  # of the text, where the server gives log probabilities; else empty
    logprobs: list[float] = []  # natural logarithm of each token's probability
    others: list[dict[str, float]] = []  # the same of the likeliest tokens at each place
    error: str = ""


class Answers(msgspec.Struct, frozen=True):
    """All answers of one trial."""

    first: list[Answer]  # one prompt after the other
    again: list[Answer] = []  # of the baseline: the same prompts once more, several at once

    @classmethod
    def read(cls, trial: Path) -> Self | None:
        """Those of the trial in this folder; None where there are none, or the file is damaged."""
        return files.read_struct(trial / ANSWERS_FILE, cls)

    def write(self, trial: Path, secret: str | None = None) -> None:
        """Put them into the trial's folder, without the `secret` that a server may have repeated."""
        text = msgspec.json.encode(self).decode()
        files.write_atomically(trial / ANSWERS_FILE, text.replace(secret, "[redacted]") if secret else text)
