"""The same prompts for each trial that could win, sent greedily, so that its answers can be compared.

One prompt after the other, so that they differ by the configuration alone. The baseline is asked once more, several at
once: how much that changes is what the others are measured by.
"""

import hashlib
import itertools
import json
import random
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Literal, TypeGuard

import httpx
import msgspec
from pydantic import BaseModel, ConfigDict, Field, field_validator

from tuner.batches.load import load_batches
from tuner.core import documents, files
from tuner.core.records import Answer, Answers, Token
from tuner.core.run_directory import Trial
from tuner.core.text import one_line, server_words
from tuner.errors import Stopped
from tuner.judging.answers import FEWEST, TOLERANCE
from tuner.judging.trials import BASELINE
from tuner.judging.verdicts import COMPLIANT, judge
from tuner.servers.server import Server, Wish
from tuner.sweep.spec import SweepSpec
from tuner.traffic.prompt_file import Message, Request

COMPARING = "asking for answers to compare"
_SECONDS = 60.0  # for all prompts; what has no answer then is not compared
_MOST_BYTES = 1 << 18
_LOGPROBS = {"logprobs": True, "top_logprobs": 5}
#: prompts where the user gave none: each task with each subject
_TASKS = (
    "Explain in a few sentences how {} works.",
    "Write the beginning of a short story about {}.",
    "List five facts about {}.",
    "Describe {} to a child.",
    "Write a short letter that asks for advice on {}.",
)
_SUBJECTS = ("a bicycle", "the tide", "bread", "a library", "chess", "a lighthouse", "the piano", "coffee")
Messages = list[Message]


def _quality(value: Any) -> Any:
    read = documents.parse_yaml(value) if isinstance(value, str) else value
    if isinstance(read, bool | Quality) or (isinstance(read, dict) and {*read} <= {*Quality.model_fields}):
        return {} if read is True else read
    raise ValueError(f"{value!r} is none; write such as {Quality()}, or false")


class Quality(BaseModel):
    """How the answers of a search's trials are compared with the baseline's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompts: int = Field(20, ge=FEWEST, le=200)  # that are asked
    tolerance: float = Field(TOLERANCE, ge=0)  # nats a token, as `compare_answers` has it

    def __str__(self) -> str:
        return f"{{prompts: {self.prompts}, tolerance: {self.tolerance:g}}}"


class TrialSpec(SweepSpec):
    """A sweep that is a trial of a search, with what only such a one is asked."""

    quality: Quality | Literal[False] = False

    _quality_parts = field_validator("quality", mode="before")(_quality)


def is_wanted(spec: SweepSpec, trial: Trial) -> TypeGuard[TrialSpec]:
    """Whether answers are to be compared, and this trial has none yet."""
    return isinstance(spec, TrialSpec) and bool(spec.quality) and not (trial.folder / Answers.FILE).exists()


def ask(spec: TrialSpec, trial: Trial, server: Server, requests: Sequence[Request], stop: Wish) -> None:
    """Ask the server of the baseline, or of a trial that could win, and keep what it answers in the trial's folder.

    Some of `requests`, those of the user's file, are sent; without any, prompts of ours are. Where the baseline could
    not be asked to the end, without which nothing can be compared, Stopped is raised.
    """
    is_baseline = trial.record.role == BASELINE
    if not is_baseline and not judge(load_batches(trial.folder), spec.slo or {})["verdict"].isin(COMPLIANT).any():
        return
    asking, questions = _Asking(spec, server, stop), _questions(spec, requests)
    with suppress(*([] if is_baseline else [Stopped])):
        answers = Answers(asking.answers(questions, 1), asking.answers(questions, 8) if is_baseline else [])
        text, key = msgspec.json.encode(answers).decode(), server.spec.api_key()
        files.write_atomically(trial.folder / Answers.FILE, text.replace(key, "[redacted]") if key else text)


def _questions(spec: TrialSpec, requests: Sequence[Request]) -> dict[str, Messages]:
    """The messages to send, by the beginning of their hash; the same for each trial."""
    number = spec.quality.prompts if spec.quality else 0
    ours = (task.format(subject) for task, subject in itertools.product(_TASKS, _SUBJECTS))
    firsts = [one.turns[0] for one in requests] or [[{"role": "user", "content": text}] for text in ours]
    chosen = random.Random(f"{spec.seed} quality").sample(firsts, min(number, len(firsts)))  # noqa: S311 - no secret
    return {hashlib.sha256(msgspec.json.encode(one)).hexdigest()[:16]: one for one in chosen}


class _Asking:
    def __init__(self, spec: TrialSpec, server: Server, stop: Wish) -> None:
        self._server, self._stop = server, stop
        greedy = {"temperature": 0, "seed": 0, "max_tokens": 32, "stream": False, "model": server.model_name}
        own = spec.request_parameters
        left_out = {"system_message", *(name for name, value in own.items() if value is None)}
        fields = {**server.engine.request_parameters, **own, **greedy, **_LOGPROBS}
        self._fields = {name: value for name, value in fields.items() if name not in left_out}

    def answers(self, questions: Mapping[str, Messages], at_once: int) -> list[Answer]:
        """The answer to each question, asked by so many threads at once, which nobody waits for too long."""
        if self._stop(0):
            raise Stopped
        self._server.forget_prompts()
        found: dict[str, Answer] = {}
        waiting, deadline = iter(questions.items()), time.monotonic() + _SECONDS

        def work() -> None:
            with self._server.client(timeout=_SECONDS) as http:
                for prompt, messages in waiting:
                    if time.monotonic() > deadline:
                        return
                    try:
                        found[prompt] = self._answer(http, prompt, messages, deadline)
                    except (httpx.HTTPError, ValueError, LookupError, TypeError, RecursionError) as error:
                        found[prompt] = Answer(prompt, error=one_line(str(error)) or type(error).__name__)

        threads = [threading.Thread(target=work, name="ask", daemon=True) for _ in range(at_once)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) and time.monotonic() < deadline:
            if self._stop(0.1):
                raise Stopped
        return [found.get(prompt, Answer(prompt, error=f"no answer within {_SECONDS:g} s")) for prompt in questions]

    def _answer(self, http: httpx.Client, prompt: str, messages: Messages, deadline: float) -> Answer:
        fields, body = self._fields, b""
        with http.stream("POST", "/v1/chat/completions", json=fields | {"messages": messages}) as response:
            for piece in response.iter_bytes():
                body += piece
                if len(body) > _MOST_BYTES or time.monotonic() > deadline:
                    raise ValueError(f"an answer longer than {_MOST_BYTES} bytes, or than {_SECONDS:g} s")
        if response.status_code in (400, 404, 422, 501) and {*_LOGPROBS} & {*fields}:  # it gives none
            self._fields = {name: value for name, value in fields.items() if name not in _LOGPROBS}
            return self._answer(http, prompt, messages, deadline)
        if response.status_code != HTTPStatus.OK:
            return Answer(prompt, error=f"{response.status_code}: {server_words(body.decode(errors='replace'))}")
        return _read_answer(prompt, body)


def _read_answer(prompt: str, body: bytes) -> Answer:
    """The answer in a body of OpenAI's form; log probabilities of another form count as none."""
    choice = json.loads(body)["choices"][0]
    text = "".join(str(choice["message"].get(name) or "") for name in ("reasoning_content", "content"))
    if not text:
        raise ValueError("an answer without text")
    tokens: list[Token] = []
    with suppress(LookupError, TypeError, msgspec.ValidationError):
        tokens = msgspec.convert(choice["logprobs"]["content"], list[Token])
    return Answer(prompt, text, tokens)
