"""What a sweep is asked: SweepSpec, and what makes one."""

import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import pydantic
from pydantic import ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from tuner.core import documents
from tuner.core.level import Level, Rate
from tuner.core.records import MOST_REPEATS
from tuner.core.request_log import STEADY, Window
from tuner.engines.base import ServerSpec, explain
from tuner.errors import SLOError, SpecError
from tuner.judging.intervals import CONFIDENCE
from tuner.judging.slo import SLO
from tuner.judging.verdicts import requests_needed_for
from tuner.sweep import fields
from tuner.traffic.course import Arrivals
from tuner.traffic.workload import SCENARIO, Prefix

#: what a search may choose beside an engine's parameters, and then stands with them
SERVER_FIELDS = ("engine", "model", "executable", "command")
#: what belongs together, in a form's cards and in a command's help; what stands in none of them is seldom wanted
SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Server": ("engine", "model", "base_url", "command", "stop_command", "parameters", "gpus", "tokenizer"),
    "Search": (
        *("space", "constraints", "objective", "objective_level", "sampler"),
        *("trials", "max_minutes", "confirm", "quality"),
    ),
    "SLO": ("slo", "target_rate", "target_users"),
    "Traffic": ("scenarios", "prompts", "prefix", "levels", "rates", "max_seconds", "max_requests"),
}


class ServeSpec(ServerSpec):
    """A server, asked for by a person: with defaults, and every field as text too."""

    engine: str = Field("llamacpp", description="llamacpp, vllm, sglang, command or attach")
    model: str = Field("", description="a .gguf file, a model folder or a hub id; empty: a small one for llamacpp")

    _mappings = field_validator("parameters", "environment", mode="before")(fields.mapping)
    _words = field_validator("command", "stop_command", mode="before")(fields.command_words)
    _gpus = field_validator("gpus", mode="before")(fields.some_gpus)


class SweepSpec(ServeSpec):
    """A server and the load that it is measured under."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    levels: fields.ConcurrencyLevels = [1, 2, 4, 8]
    """concurrency levels, such as 1,2,4,8; auto finds the highest that meets the SLO"""
    rates: fields.Rates = None
    """instead of levels, requests that arrive per second, such as 1,2,4; auto as for levels"""
    arrivals: fields.Process = None
    """of rates: poisson (the default), constant, or such as gamma: {cv: 2}, which is bursty"""
    max_in_flight: PositiveInt | None = Field(
        None,
        description=f"of rates: requests in flight at most; more wait in the client [default: {fields.IN_FLIGHT}]",
    )
    stop_when_saturated: bool = Field(False, description="skip levels after throughput stops growing and the SLO fails")
    highest: PositiveInt = Field(256, description="the highest level or rate that auto tries")
    scenarios: fields.Scenarios = ["D(100,32)"]
    """scenarios in genai-bench's notation, such as D(100,32)"""
    prompts: Path | None = None
    """own prompts instead: a file of JSON lines, CSV, or text with one a line; .gz too"""
    output: Literal["natural", "fixed"] | None = None
    """answers end by themselves (natural; default for own prompts) or at max_tokens (fixed)"""
    prefix: Prefix | None = None
    """beginnings that prompts have in common, such as {tokens: 1500, groups: 8}"""
    seed: NonNegativeInt | Literal["random"] = 0
    """decides prompts, their order and a search's choices; random: others each time"""
    max_seconds: PositiveFloat = Field(20, description="seconds that a level's window lasts at most")
    max_requests: PositiveInt = Field(1000, description="requests after which a level ends, if that comes first")
    extend_to: PositiveFloat | None = None
    """seconds up to which a level with too few requests for the SLO's percentiles goes on"""
    window: Window = STEADY
    """what of a level is judged: steady, after every user's first request, or whole"""
    min_requests: NonNegativeInt | None = None
    """requests that are enough; by default what the SLO's percentiles need"""
    repeats: PositiveInt = Field(1, le=MOST_REPEATS, description="how often each level is measured")
    order: Literal["given", "ascending", "random"] = Field("given", description="given, ascending or random")
    sentinel: bool = Field(False, description="measure the first level again at the end, to show drift")
    warmup_requests: NonNegativeInt = Field(4, description="requests before the first level that are not counted")
    warmup_each: bool = Field(False, description="warm up before each level")
    on_oom: Literal["skip_higher", "continue"] = "skip_higher"
    """after a level that ran out of memory: skip_higher or continue"""
    client_workers: NonNegativeInt = 0
    """processes of the load generator; 0: as many as tuner doctor --calibrate found a level to need"""
    target_rate: PositiveFloat | None = None
    """requests per second of all users: the answer says how many such servers they take"""
    target_users: PositiveFloat | None = Field(None, description="the same for so many users at once")
    slo: dict[str, Any] | None = Field(None, description="the SLO: a YAML or JSON file, or its content")
    tokenizer: str | None = Field(None, description="tokenizer folder or hub id, to size prompts; default: the model's")
    api: Literal["openai", "vllm"] | None = None
    """vllm sends ignore_eos with each request, openai does not; by default what the server takes"""
    request_parameters: dict[str, Any] = {}
    """put into every request's body, such as {temperature: 0.7}; {max_tokens: null} leaves that out"""
    max_restarts: int = Field(2, ge=0, description="how often a server that died is started again")
    name: str = Field("sweep", description="a word in the run directory's name", min_length=1)
    runs: Path = Field(
        default_factory=lambda: Path(os.environ.get("TUNER_RUNS") or "runs"),
        description="the folder that run directories are made in; TUNER_RUNS names another",
    )

    _request_mapping = field_validator("request_parameters", mode="before")(fields.mapping)
    _prefix_parts = field_validator("prefix", mode="before")(fields.prefix_parts)
    _seed_or_random = field_validator("seed", mode="before")(fields.seed_value)

    @field_validator("slo", mode="before")
    @classmethod
    def _read_slo(cls, value: Any) -> Any:
        """The SLO's content, checked; a path is read, so that the run directory holds what was asked."""
        if isinstance(value, Path) or (isinstance(value, str) and "{" not in value):
            SLO.load(value)
            return documents.read_document(Path(value).expanduser(), "the SLO", SLOError)
        if (content := fields.mapping(value)) is not None:
            SLO.parse(content, "slo")
        return content

    @field_validator("prompts")
    @classmethod
    def _from_anywhere(cls, value: Path | None) -> Path | None:
        return value and value.expanduser().absolute()

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> Self:
        drawn = [scenario for scenario in self.scenarios if SCENARIO.fullmatch(fields.base_of(scenario))]
        if self.prompts and drawn and "scenarios" in self.model_fields_set:
            raise ValueError(f"scenarios: {drawn[0]} draws prompts, and prompts names a file of them; leave one out")
        if not self.prompts and len(drawn) < len(self.scenarios):
            raise ValueError("scenarios: prompts out of a file need prompts, such as prompts: chat.jsonl")
        if self.extend_to is not None and self.extend_to < self.max_seconds:
            raise ValueError(f"extend_to: must be at least max_seconds ({self.max_seconds:g}), got {self.extend_to:g}")
        if self.is_auto and not self.slo:
            raise ValueError(f"{self.varied}: auto looks for the highest that meets the SLO; give one with slo")
        if self.rates is None:
            if extra := [name for name in ("arrivals", "max_in_flight") if getattr(self, name) is not None]:
                raise ValueError(f"{extra[0]}: is of requests that arrive at a rate; give rates, or leave it out")
        elif self.levels is not None and "levels" in self.model_fields_set:
            raise ValueError("rates: stand instead of levels; leave one of them out")
        else:
            object.__setattr__(self, "levels", None)
        return self

    @property
    def varied(self) -> str:
        """What differs from level to level: `levels` or `rates`."""
        return "levels" if self.rates is None else "rates"

    @property
    def is_auto(self) -> bool:
        """Whether the highest level that meets the SLO is looked for."""
        return fields.AUTO in (self.levels, self.rates)

    @property
    def fixed_levels(self) -> list[Level]:
        """The levels that are known before anything is measured."""
        values = getattr(self, self.varied)
        return [] if self.is_auto else [value if self.rates is None else Rate(value) for value in values or []]

    def arrivals_at(self, rate: float, seed: str) -> Arrivals:
        """When requests are due at a rate."""
        cv = self.arrivals["gamma"]["cv"] if isinstance(self.arrivals, dict) else float(self.arrivals != "constant")
        return Arrivals(float(rate), cv, seed)

    def loads(self) -> list[tuple[str, Level, int]]:
        """Every (scenario, level, repeat) to be measured, in the order of running."""
        levels, loads = sorted(self.fixed_levels) if self.order == "ascending" else self.fixed_levels, []
        for scenario in self.scenarios:
            each = [(scenario, level, repeat) for repeat in range(1, self.repeats + 1) for level in levels]
            if self.order == "random":
                random.Random(scenario).shuffle(each)  # noqa: S311 - an order, no secret; the same when resumed
            loads += [*each, *((scenario, level, self.repeats + 1) for level in levels[: self.sentinel])]
        return loads

    @property
    def about_time(self) -> str:
        """How long its levels take at most, in words."""
        if self.is_auto:
            return f"{self.max_seconds:g} s at most for each level that is tried"
        return f"{len(self.loads()) * self.max_seconds / 60:.1f} min at most"

    @property
    def enough_requests(self) -> int:
        """Completed requests that a level needs: as asked, or for the strictest percentile of the SLO."""
        if self.min_requests is not None:
            return self.min_requests
        slo = SLO.parse(self.slo or {})
        return max((requests_needed_for(one, slo.confidence or CONFIDENCE) for one in slo.constraints), default=0)


Spec = TypeVar("Spec", bound=ServeSpec)


def make_spec(values: dict[str, Any], kind: type[Spec] = SweepSpec) -> Spec:  # type: ignore[assignment]
    """A checked spec from plain values, of which None is "not given"; a SpecError says in a line what is wrong."""
    try:
        return kind.model_validate({name: value for name, value in values.items() if value is not None})
    except pydantic.ValidationError as error:
        raise SpecError(explain(error, kind)) from None


def read_spec(path: Path) -> dict[str, Any]:
    """The plain values of a YAML or JSON file, for `make_spec`; a PathError or SpecError says what is wrong with it."""
    values = documents.read_document(path, "the parameters", SpecError)
    if not isinstance(values, dict):
        raise SpecError(f"{path} must hold parameters, such as `levels: [1, 2, 4]`")
    return values


def unlike_default(spec: SweepSpec) -> dict[str, Any]:
    """What `spec` asks for and would not be so by itself."""
    return spec.model_dump(mode="json", exclude_defaults=True, exclude_none=True)


def server_of(engine: str, configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a spec that one configuration of a search sets, whose baseline has this engine."""
    server = {name: configuration[name] for name in SERVER_FIELDS if name in configuration}
    if "command" in server:
        server["command"] = fields.command_words(server["command"])
    parameters = {name: value for name, value in configuration.items() if name not in SERVER_FIELDS}
    is_other = server.get("engine", engine) != engine  # whose program is another one
    return ({"executable": None} if is_other else {}) | server | {"parameters": parameters}


def sweep_of(searched: Mapping[str, Any], configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of the sweep that measures one configuration of a search, whose spec is given, as it did."""
    names = SweepSpec.model_fields.keys() - {"name", "runs"}  # which say where a run lies
    values = {name: value for name, value in searched.items() if name in names}
    values |= server_of(values.get("engine", ""), configuration)
    try:
        return unlike_default(make_spec(values))
    except SpecError:  # written by another version: as it stands there
        return values
