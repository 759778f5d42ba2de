"""The schema of every record in a run directory, and the words that stand in them."""

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import msgspec

from tuner.core import files
from tuner.core.bottleneck import Usage
from tuner.core.level import CONCURRENCY, Level, columns_of, kind_of, level_from
from tuner.core.server_log import Failure

EXPERIMENT_FILE = "experiment.json"
TRIAL_FILE = "trial.json"
SERVER_FILE = "server.json"
SEARCH_FILE = "search.json"
SIDECAR_FILE = "batch.json"

MOST_REPEATS = 1000  # more repeats than this nobody asks for; a file that says so is damaged
SWEEP, SEARCH = "sweep", "tune"  # the kinds of experiment
COMPLETED = "completed"
RUNNING = "running"
OUTCOMES = (  # how a batch can end. Only a completed one has numbers that may be judged.
    *(COMPLETED, "out_of_memory", "server_died", "timeout", "all_errors", "truncated", "unreadable", "incomplete"),
    *("missing", "skipped", "interrupted", "client_failed"),
)
UNSETTLED = (RUNNING, "interrupted", "client_failed")  # what says nothing about the level: a resume measures it again


class _Record(msgspec.Struct):
    """A JSON file of a folder; instants in it are UTC with a `Z`."""

    FILE: ClassVar[str]

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The file of `folder`; None where there is none, or it is damaged."""
        return files.read_struct(folder / cls.FILE, cls)

    def write(self, folder: Path) -> None:
        """Replace the file in `folder`."""
        files.write_json(folder / self.FILE, msgspec.to_builtins(self))


class TrialFacts(_Record, kw_only=True):
    """What was asked of one server configuration (`trial.json`)."""

    FILE = TRIAL_FILE
    trial: int
    engine: str
    model: str
    parameters: dict[str, Any] = {}
    scenarios: list[str]
    levels: list[int | float]
    iteration_type: str = CONCURRENCY
    repeats: int = 1

    @property
    def every_repeat(self) -> range:
        """The repeats, from 1; no more than anybody asks for."""
        return range(1, min(self.repeats, MOST_REPEATS) + 1)

    @property
    def every_level(self) -> list[Level]:
        """The levels, as what they are."""
        return [level_from(number, self.iteration_type) for number in self.levels]


class Sidecar(_Record, kw_only=True):
    """What genai-bench does not record of one batch (`batch.json`)."""

    FILE = SIDECAR_FILE
    scenario: str
    concurrency: int | None = None
    request_rate: float | None = None
    iteration_type: str = CONCURRENCY
    repeat: int = 1
    outcome: str = RUNNING
    reason: str = ""
    started_at: str = ""
    finished_at: str = ""
    duration: float | None = None  # seconds on the monotonic clock
    exit_code: int | None = None
    client: dict[str, Any] = {}  # health of the load generator, such as cpu_share
    usage: Usage | None = None  # what the server used meanwhile

    @classmethod
    def of(cls, scenario: str, level: Level, repeat: int, **more: Any) -> "Sidecar":
        """That of one measurement of a level."""
        return cls(scenario=scenario, **columns_of(level), iteration_type=kind_of(level), repeat=repeat, **more)


class ExperimentRecord(_Record, kw_only=True):
    """What was asked of a run, and how it stands (`experiment.json`, in which there is more)."""

    FILE = EXPERIMENT_FILE
    kind: str = ""
    name: str = ""
    state: str = ""
    started_at: str = ""
    spec: dict[str, Any] = {}
    search: dict[str, Any] = {}


class _SpecTypes(msgspec.Struct):  # what its `spec` has to be to be shown
    slo: dict[str, Any] | None
    objective: list[str] | str | None
    objective_level: float | None
    levels: list[int] | str | None
    rates: list[float] | str | None
    trials: int
    confirm: int
    max_minutes: float | None
    max_seconds: float
    api_key_env: str | None
    parameters: dict[str, Any]


def sound(facts: dict[str, Any], where: object) -> dict[str, Any]:
    """What `experiment.json` says, without values of a type that they cannot have, of which a warning tells."""
    known = files.fitting(facts, ExperimentRecord, where)
    return known | ({"spec": files.fitting(known["spec"], _SpecTypes, where)} if "spec" in known else {})


STARTING, READY, STOPPED, SERVER_FAILED = "starting", "ready", "stopped", "failed"


class ServerRecord(_Record, kw_only=True):
    """One start of a server (`server.json`); durations are seconds. No secret is in it."""

    FILE = SERVER_FILE
    state: str = STARTING
    engine: str = ""
    model: str = ""
    served_name: str = ""
    version: str = ""  # as the server itself says
    parameters: dict[str, Any] = {}
    command: list[str] = []
    base_url: str = ""
    host: str = ""
    gpus: list[str] = []  # UUIDs
    gpu_memory: dict[str, dict[str, int]] = {}  # bytes in use before it was started, by UUID
    pid: int | None = None
    started_at: str = ""
    ready_at: str = ""
    finished_at: str = ""
    ready_seconds: float | None = None
    exit_code: int | None = None
    failure: Failure | None = None
    warnings: list[str] = []
    previous: list[dict[str, Any]] = []  # earlier starts in the same trial, the oldest first

    def starts(self) -> list[dict[str, Any]]:
        """All starts in the trial, the oldest first, this one last."""
        own = msgspec.to_builtins(self)
        return [*own.pop("previous"), own]


Role = Literal["baseline", "candidate", "confirmation"]
#: How a trial stands; `ended` becomes `complete`, `infeasible` or `failed` by what is on disk, whenever it is read.
COMPLETE, INFEASIBLE, FAILED, PRUNED, WAITING = "complete", "infeasible", "failed", "pruned", "waiting"
ENDED = "ended"
CANNOT_START = "cannot_start"  # the kind of a failure that was foreseen, so that nothing was started


class TrialRecord(_Record, kw_only=True):
    """A search's own note of one trial (`search.json`)."""

    FILE = SEARCH_FILE
    role: Role
    parameters: dict[str, Any]
    promise: str = ""  # why it is thought to be better, where a sweep proposed it
    state: str = RUNNING  # running, waiting (to be run again), ended, pruned, failed
    of: str = ""  # of a confirmation: baseline or winner
    cause: str = ""
    kind: str = ""  # of a failure, such as out_of_memory
    started_at: str = ""
    finished_at: str = ""
    seconds: float = 0.0  # that its runs took, also those that were cut off
    gpus: int = 0
    known_from: str = ""  # the run and trial that it was measured in, where that was not this search

    @property
    def was_run(self) -> bool:
        """Whether this search has begun it: it is neither known from elsewhere nor sure not to start."""
        return not self.known_from and self.kind != CANNOT_START


class Alternative(msgspec.Struct):
    """A token, and the natural logarithm of its probability."""

    token: str
    logprob: float | None = None


class Token(Alternative):
    """A token that was chosen, as OpenAI's API has it, and the likeliest ones at its place."""

    top_logprobs: list[Alternative] = []


class Answer(msgspec.Struct):
    """The answer to one prompt that was sent greedily; without a text where there was none, with the reason."""

    prompt: str  # the beginning of the SHA-256 of its messages
    text: str = ""
    tokens: list[Token] = []  # where the server gives log probabilities
    error: str = ""


class Answers(_Record):
    """All answers of one trial (`answers.json`), by which configurations are compared."""

    FILE = "answers.json"
    first: list[Answer]  # one prompt after the other
    again: list[Answer] = []  # of the baseline: the same prompts once more, several at once
