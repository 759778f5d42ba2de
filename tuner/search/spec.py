"""What a search is asked to do: a sweep's spec, and what may be tried, for what, how long and where."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from tuner import engines
from tuner.core.documents import parse_yaml
from tuner.core.text import plural
from tuner.errors import SpecError
from tuner.judging.scores import LATENCIES, Objective
from tuner.judging.slo import SLO
from tuner.search.dimension import Dimension
from tuner.search.space import DEFAULT, SearchSpace
from tuner.servers import gpus
from tuner.sweep.fields import split
from tuner.sweep.quality import Quality, TrialSpec
from tuner.sweep.spec import SERVER_FIELDS, server_of

SamplerName = Literal["auto", "grid", "random", "tpe", "climb"]
_ON = re.compile(r"local|ray(://\S+:\d+)?|[^\s:/]+:\d+")


def _space(value: Any) -> Any:
    """A mapping as text (`"{n_parallel: [1, 2]}"`, or YAML lines) as what it is; a preset's name stays a name."""
    return parse_yaml(value) if isinstance(value, str) and ":" in value else value


def _lines(value: Any) -> Any:
    """`"a <= b; c < d"`, a line each, or a YAML list, as a list of constraints."""
    if not isinstance(value, str):
        return value
    if value.strip().startswith("["):
        return parse_yaml(value)
    return [part.strip() for part in re.split(r"[;\n]", value) if part.strip()]


def _proposals(value: Any) -> Any:
    """`"[{parameters: {n_parallel: 8}}]"` as a list."""
    return parse_yaml(value) if isinstance(value, str) and value.strip() else value or []


def _paths(value: Any) -> Any:
    """One path or several, as they can be found again from another folder."""
    each = split(str(value) if isinstance(value, Path) else value)
    return [Path(one).expanduser().absolute() for one in each] if isinstance(each, list) else each


def _where(value: str) -> str:
    """Where trials can run."""
    if not _ON.fullmatch(value):
        raise ValueError(f"must be local, ray or ray://ADDRESS, got {value!r}")
    return value


class Proposal(BaseModel):
    """A configuration that a search begins with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    parameters: dict[str, JsonValue]  # over those of the baseline
    because: str = ""


def _check_proposal(number: int, proposal: Proposal, dimensions: Mapping[str, Dimension]) -> None:
    for name, value in proposal.parameters.items():
        if name not in dimensions or not dimensions[name].contains(value):
            raise ValueError(f"first: {name} {value!r} of number {number} is not in the space")


class TuneSpec(TrialSpec):
    """A search for the best server configuration under a load; `parameters` is its baseline."""

    space: dict[str, Any] | str = Field(DEFAULT, description="parameters with their values, or a preset's name")
    first: list[Proposal] = Field(
        [], description="configurations to begin with: a list of {parameters: {n_parallel: 8}, because: why}"
    )
    constraints: list[str] = Field([], description="between parameters, such as n_ubatch <= n_batch; several with ;")
    objective: list[Objective] = Field(
        ["max_throughput"], description=f"{', '.join(get_args(Objective))}, or two of them", min_length=1, max_length=2
    )
    objective_level: PositiveFloat | None = Field(
        None, description="the level or rate at which min_… objectives are read; by default the only one"
    )
    from_runs: list[Path] = Field([], description="earlier runs of the same load and machine; their trials are known")
    sampler: SamplerName = Field(
        "auto", description=f"what chooses the next configuration: {', '.join(get_args(SamplerName))}"
    )
    trials: PositiveInt = Field(20, description="configurations tried at most, the baseline included")
    patience: NonNegativeInt = Field(0, description="end after so many trials without gain; 0: never")
    max_minutes: PositiveFloat | None = Field(None, description="end after this many minutes")
    max_cost: PositiveFloat | None = Field(None, description="end before this much money is spent on GPUs")
    price_per_gpu_hour: PositiveFloat | None = Field(None, description="what one GPU costs an hour, for max_cost")
    early_stop: bool = Field(True, description="end a trial whose first levels show that it cannot win")
    margin: float = Field(
        0.2, description="by how much it must lag behind the best, or miss the SLO, for that", ge=0, lt=1
    )
    parallel: NonNegativeInt = Field(1, description="trials at once; 0: as many as there are GPUs for")
    on: str = Field("local", description="where trials run: local, ray or ray://ADDRESS")
    confirm: NonNegativeInt = Field(
        3, description="times that baseline and winner are measured again in turn; 0: not at all"
    )
    quality: Quality | Literal[False] = Field(
        Quality(),
        description="prompts that the baseline and what could win are asked, to see if answers changed; or false",
    )
    name: str = Field("tune", description="a word in the run directory's name", min_length=1)

    _run_paths = field_validator("from_runs", mode="before")(_paths)
    _space_text = field_validator("space", mode="before")(_space)
    _constraint_lines = field_validator("constraints", mode="before")(_lines)
    _first_proposals = field_validator("first", mode="before")(_proposals)
    _objective_names = field_validator("objective", mode="before")(split)
    _on_address = field_validator("on")(_where)

    @model_validator(mode="before")
    @classmethod
    def _as_fields(cls, values: Any) -> Any:
        """YAML reads the key `on` as true, and Python has no field called `from`."""
        words = {True: "on", "from": "from_runs"}
        return {words.get(name, name): value for name, value in values.items()} if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _can_be_searched(self) -> Self:
        needs_level = any(one in LATENCIES for one in self.objective)
        level, levels = self.objective_level, self.fixed_levels
        named = ", ".join(map(str, levels))
        is_unclear, is_absent = level is None and len(levels) != 1, level is not None and level not in levels
        problems = (
            (
                "max_goodput" in self.objective
                and not any(one.is_latency for one in SLO.parse(self.slo or {}).constraints),
                "objective: max_goodput counts requests that meet latency thresholds; give some with slo",
            ),
            (len({*self.objective}) < len(self.objective), f"objective: {self.objective[0]} stands twice"),
            (bool({*SERVER_FIELDS} & {*self.parameters}), f"parameters: {', '.join(SERVER_FIELDS)} stand beside them"),
            (bool(self.from_runs) and self.on != "local", "from: is of one machine, and trials run on a cluster"),
            (self.max_cost is not None and self.price_per_gpu_hour is None, "max_cost needs price_per_gpu_hour"),
            (needs_level and is_unclear, f"objective_level: {self.objective[0]} is read at one level; say which"),
            (needs_level and not levels, f"objective_level: {self.varied}: auto may never measure it; give some"),
            (needs_level and is_absent, f"objective_level: {level or 0:g} is none of the {self.varied} {named}"),
        )
        if problem := next((text for is_wrong, text in problems if is_wrong), None):
            raise ValueError(problem)
        dimensions = {one.name: one for one in self.search_space.dimensions}  # a wrong space is refused here
        for number, proposal in enumerate(self.first, start=1):
            _check_proposal(number, proposal, dimensions)
        several = {one.parameter for one in dimensions.values()} & {"engine", "model"}
        if several and self.on != "local" and not self.tokenizer:
            raise ValueError(f"tokenizer: nodes need one for all, where {several.pop()} is searched; name it")
        return self

    @property
    def search_space(self) -> SearchSpace:
        """What may be tried, checked against what the engine knows, with as many GPUs as were said or are here."""
        engine, count = engines.find(self.engine), self.gpu_count
        if count is None and self.on == "local":
            count = len(gpus.visible(gpus.gpus()))
        server = {name: getattr(self, name) for name in SERVER_FIELDS if getattr(self, name)}
        fixed = server | ({"command": shlex.join(self.command)} if self.command else {}) | self.parameters
        return SearchSpace.parse(self.space, engine, fixed, self.constraints, count)

    def of_trial(self, configuration: Mapping[str, Any], **changes: Any) -> "TuneSpec":
        """What one trial is asked to do; it takes as many GPUs as its parallel sizes come to.

        Raises:
            SpecError: it has a program, engine or model that this search does not name, as a file that was changed may.
        """
        if strange := self.search_space.strange(configuration):
            raise SpecError(f"a trial has {strange} {configuration[strange]!r}, which the search does not name")
        spec = self.model_copy(update=server_of(self.engine, configuration) | changes)
        engine = engines.find(spec.engine)
        if spec.gpus is None or not {*getattr(engine, "sizes", ())} & {*spec.parameters}:
            return spec
        needed = engine.gpus(spec)
        gpus = spec.gpus[:needed] if isinstance(spec.gpus, list) else min(spec.gpus, needed)
        return spec.model_copy(update={"gpus": gpus})

    @property
    def about_time(self) -> str:
        """How long its trials take at most, in words."""
        trials = self.trials + 2 * self.confirm
        limit = f"; ends after {self.max_minutes:g} min" if self.max_minutes else ""
        return f"{super().about_time} for each of {plural(trials, 'run')}, plus server starts{limit}"

    @property
    def gpu_count(self) -> int | None:
        """How many GPUs are asked for; None where nobody said."""
        return len(self.gpus) if isinstance(self.gpus, list) else self.gpus
