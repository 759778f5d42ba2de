"""What a server answered to prompts that were sent greedily (`answers.json`), by which configurations are compared."""

from pathlib import Path
from typing import Self

import msgspec

from tuner.core import files

ANSWERS_FILE = "answers.json"


class Alternative(msgspec.Struct):
    """A token, and the natural logarithm of its probability."""

    token: str
    logprob: float | None = None


class Token(Alternative):
    """A token that was chosen, as OpenAI's API has it, and the likeliest ones at its place."""

    top_logprobs: list[Alternative] = []


class Answer(msgspec.Struct):
    """The answer to one prompt; without a text where there was none, with the reason."""

    prompt: str  # the beginning of the SHA-256 of its messages
    text: str = ""
    tokens: list[Token] = []  # where the server gives log probabilities
    error: str = ""


class Answers(msgspec.Struct):
    """All answers of one trial."""

    first: list[Answer]  # one prompt after the other
    again: list[Answer] = []  # of the baseline: the same prompts once more, several at once

    @classmethod
    def read(cls, trial: Path) -> Self | None:
        """Those of the trial in this folder; None where there are none, or the file is damaged."""
        return files.read_struct(trial / ANSWERS_FILE, cls)
