"""What is sent at a level: requests of a scenario or of a user's file, the same ones for the same seed."""

import hashlib
import math
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count, cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic import BaseModel, ConfigDict, PositiveInt

from tuner.core.level import Level
from tuner.core.request_log import WORKLOAD_FILE
from tuner.traffic.prompt_file import Request
from tuner.traffic.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: genai-bench's notation
SCENARIO = re.compile(r"(D\(\d+,\d+\)|N\(\d+,\d+\)/\(\d+,\d+\)|U\(\d+,\d+\)(/\(\d+,\d+\))?)")
#: What a level's file holds at most, in lines and bytes; a level that sends more begins again from its first line.
_MOST_REQUESTS, _MOST_BYTES = 4096, 32 * 2**20


class Prefix(BaseModel):
    """Beginnings that prompts have in common: `groups` different ones of `tokens` tokens each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: PositiveInt
    groups: PositiveInt = 1

    def __str__(self) -> str:
        return f"+prefix({self.tokens},{self.groups})"


@dataclass(frozen=True)
class Workload:
    """All that decides which requests are sent."""

    seed: int = 0  # decides prompts and their order
    tokenizer: str = ""  # a folder or hub id, which sizes what is drawn here
    requests: tuple[Request, ...] = ()  # of a user's file; empty where they are drawn
    prefix: Prefix | None = None  # what goes before each prompt
    fixed: bool = True  # whether each answer has exactly its `max_tokens`

    @property
    def keeps_cache(self) -> bool:
        """Whether the requests have beginnings in common on purpose, for a prefix cache to find."""
        return bool(self.prefix) or any(len(request.turns) > 1 for request in self.requests)

    def write(self, folder: Path, scenario: str, level: Level, repeat: int, number: int) -> str:
        """Write at most `number` requests of one level into `folder`; returns the file's SHA-256.

        Each level has prompts of its own, since the server may know those of the last; `repeat` is which measurement of
        it, 0 for the warm-up. SpecError where the tokenizer cannot be read.
        """
        sha256, size = hashlib.sha256(), 0
        with open(folder / WORKLOAD_FILE, "wb") as file:
            for request in islice(self.draw(scenario, level, repeat), max(min(number, _MOST_REQUESTS), 1)):
                line = msgspec.json.encode(request) + b"\n"
                file.write(line)
                sha256.update(line)
                if (size := size + len(line)) > _MOST_BYTES:
                    break
        return sha256.hexdigest()

    def fingerprint(self, scenarios: list[str]) -> dict[str, Any]:
        """The seed, and the SHA-256 of the first 100 requests of each scenario at level 1, as written to a run."""
        first = [list(islice(self.draw(scenario, 1, 1), 100)) for scenario in scenarios]
        return {"seed": self.seed, "sha256": hashlib.sha256(msgspec.json.encode(first)).hexdigest()}

    def draw(self, scenario: str, level: Level, repeat: int) -> Iterator[Request]:
        """The requests of one level, without end."""
        dice = random.Random(f"{self.seed} {scenario} {level} {repeat}")  # noqa: S311 - no secret
        for request in self._own(dice) if self.requests else self._synthetic(scenario, dice):
            yield _with_beginning(request, dice.choice(self._prefixes)) if self.prefix else request

    def _own(self, dice: random.Random) -> Iterator[Request]:
        """The file's prompts in an order of the seed; again, each is told from the time before by a counter."""
        order = dice.sample(self.requests, len(self.requests))
        for time in count(1):
            yield from order if time == 1 else (_with_beginning(request, f"({time})") for request in order)

    def _synthetic(self, scenario: str, dice: random.Random) -> Iterator[Request]:
        for first in self._words.in_another_order(dice):
            inputs, outputs = _lengths(scenario, dice)
            text = self._words.text(inputs, dice, first)
            yield Request([[{"role": "user", "content": text}]], outputs, self.fixed)

    @cached_property
    def _prefixes(self) -> list[str]:
        if self.prefix is None:
            return []
        dice = random.Random(f"{self.seed} prefix")  # noqa: S311 - no secret
        firsts = islice(self._words.in_another_order(dice), self.prefix.groups)
        return [self._words.text(self.prefix.tokens, dice, first) for first in firsts]

    @cached_property
    def _words(self) -> "_Words":
        return _Words(load_tokenizer(self.tokenizer))


def _with_beginning(request: Request, beginning: str) -> Request:
    (first, *others), *turns = request.turns
    begun = first | {"content": f"{beginning} {first['content']}"}
    return msgspec.structs.replace(request, turns=[[begun, *others], *turns])


def most_tokens(scenario: str) -> int:
    """Tokens of a request of `scenario`, in and out, at most; of a normal distribution on average."""
    numbers = _numbers(scenario)
    places = {"D": (0, 1), "N": (0, 2), "U": (1, 3) if len(numbers) == 4 else (0, 1)}
    return sum(numbers[place] for place in places.get(scenario[0], ())) if SCENARIO.match(scenario) else 0


def prompt_tokens(scenario: str) -> float:
    """Tokens of a prompt of `scenario`, without a prefix: the mean, or about that; NaN where the scenario is a file."""
    return float(_numbers(scenario)[0]) if SCENARIO.match(scenario) else math.nan


def _numbers(scenario: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", scenario.partition("+")[0])]


def _lengths(scenario: str, dice: random.Random) -> tuple[int, int]:
    numbers = _numbers(scenario)
    if scenario.startswith("D"):
        return numbers[0], numbers[1]
    draw = dice.gauss if scenario.startswith("N") else dice.uniform
    pairs = (numbers[:2], numbers[2:]) if len(numbers) == 4 else ((1, numbers[0]), (1, numbers[1]))
    inputs, outputs = (int(draw(*pair)) for pair in pairs)
    return max(1, inputs), max(2, outputs)


def read_workload(folder: Path) -> list[Request]:
    """The requests that were written into a level's `folder`."""
    return msgspec.json.Decoder(Request).decode_lines((folder / WORKLOAD_FILE).read_bytes())


class _Words:
    """Words of one token each wherever they stand; where a vocabulary has too few, texts are cut and counted again."""

    _ENOUGH, _LOOKED_AT, _TRIES = 64, 8192, 20

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab(with_added_tokens=False)
        found = sorted((number, token[1:]) for token, number in vocabulary.items() if _WORD.fullmatch(token))
        candidates = [word for _, word in found[: self._LOOKED_AT]]  # the frequent ones come first
        twice = tokenizer.encode_batch([f"{word} {word}" for word in candidates], add_special_tokens=False)
        self._words = [word for word, tokens in zip(candidates, twice, strict=True) if len(tokens.ids) == 2]
        self._are_exact = len(self._words) >= self._ENOUGH and self._count(" ".join(self._words)) == len(self._words)
        if not self._are_exact:
            self._words = [first + second for first in _LETTERS for second in ("", *_LETTERS)]

    def in_another_order(self, dice: random.Random) -> Iterator[str]:
        return cycle(dice.sample(self._words, len(self._words)))

    def text(self, tokens: int, dice: random.Random, first: str) -> str:
        """A text of exactly so many tokens that begins with `first`, the rest drawn."""
        text = " ".join([first, *dice.choices(self._words, k=tokens - 1)])
        return text if self._are_exact else self._cut(text, tokens, dice, first)

    def _count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _cut(self, text: str, tokens: int, dice: random.Random, first: str) -> str:
        """`text` with so many tokens; one whose end is then read as other tokens is drawn anew."""
        tries = []
        for _ in range(self._TRIES):
            ids = self._tokenizer.encode(text, add_special_tokens=False).ids[:tokens]
            tries.append(self._tokenizer.decode(ids).strip())
            if self._count(tries[-1]) == tokens:
                break
            text = " ".join([first, *dice.choices(self._words, k=tokens)])
        return min(tries, key=lambda each: abs(self._count(each) - tokens))


#: a word as vocabularies of BPE and of SentencePiece mark it
_WORD = re.compile("[Ġ▁][a-z]{2,}")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
