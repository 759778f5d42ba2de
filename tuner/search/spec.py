"""What a search is asked to do: a sweep's spec, and what may be tried, for what, how long and where."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from tuner import engines
from tuner.core.documents import parse_yaml
from tuner.core.text import plural
from tuner.errors import SpecError
from tuner.judging.scores import LATENCIES, Objective
from tuner.judging.slo import SLO
from tuner.search.space import DEFAULT, SearchSpace
from tuner.servers import gpus
from tuner.sweep.fields import split
from tuner.sweep.proposals import Proposal
from tuner.sweep.quality import Quality, TrialSpec
from tuner.sweep.spec import SERVER_FIELDS, server_of

SamplerName = Literal["auto", "grid", "random", "tpe", "climb"]
_ON = re.compile(r"local|ray(://\S+:\d+)?|[^\s:/]+:\d+")


def _yaml(value: Any) -> Any:
    """A mapping or list as text (`"{n_parallel: [1, 2]}"`, or YAML lines) as what it is; else as it is."""
    return parse_yaml(value) if isinstance(value, str) and (":" in value or "[" in value) else value


def _lines(value: Any) -> Any:
    """`"a <= b; c < d"`, a line each, or a YAML list, as a list of constraints."""
    read = _yaml(value)
    return [part.strip() for part in re.split(r"[;\n]", read) if part.strip()] if isinstance(read, str) else read


def _paths(value: Any) -> Any:
    each = split(str(value) if isinstance(value, Path) else value)
    return [Path(one).expanduser().absolute() for one in each] if isinstance(each, list) else each


class TuneSpec(TrialSpec):
    """A search for the best server configuration under a load; `parameters` is its baseline."""

    space: dict[str, Any] | str = Field(DEFAULT, description="parameters with their values, or a preset's name")
    first: list[Proposal] = Field(
        [], description="what to begin with: a list of {parameters: {n_parallel: 8}, because: why}"
    )
    constraints: list[str] = Field([], description="between parameters, such as n_ubatch <= n_batch; several with ;")
    objective: list[Objective] = Field(
        ["max_throughput"], description=f"{', '.join(get_args(Objective))}, or two of them", min_length=1, max_length=2
    )
    objective_level: PositiveFloat | None = Field(
        None, description="where min_… objectives are read; by default the only level or rate"
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
    _documents = field_validator("space", "first", mode="before")(_yaml)
    _constraint_lines = field_validator("constraints", mode="before")(_lines)
    _objective_names = field_validator("objective", mode="before")(split)

    @model_validator(mode="before")
    @classmethod
    def _as_fields(cls, values: Any) -> Any:
        words = {True: "on", "from": "from_runs"}
        return {words.get(name, name): value for name, value in values.items()} if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _can_be_searched(self) -> Self:
        needs_level = any(one in LATENCIES for one in self.objective)
        level, levels = self.objective_level, self.fixed_levels
        named = ", ".join(map(str, levels))
        is_unclear, is_absent = level is None and len(levels) != 1, level is not None and level not in levels
        of_latency = [one for one in SLO.parse(self.slo or {}).constraints if one.is_latency]
        lacks_latency = "max_goodput" in self.objective and not of_latency
        problems = (
            (not _ON.fullmatch(self.on), f"on: must be local, ray or ray://ADDRESS, got {self.on!r}"),
            (lacks_latency, "objective: max_goodput counts requests that meet latency thresholds; give some with slo"),
            (self.max_cost is not None and self.price_per_gpu_hour is None, "max_cost needs price_per_gpu_hour"),
            (len({*self.objective}) < len(self.objective), f"objective: {self.objective[0]} stands twice"),
            (bool({*SERVER_FIELDS} & {*self.parameters}), f"parameters: {', '.join(SERVER_FIELDS)} stand beside them"),
            (bool(self.from_runs) and self.on != "local", "from: is of one machine, and trials run on a cluster"),
            (needs_level and is_unclear, f"objective_level: {self.objective[0]} is read at one level; say which"),
            (needs_level and not levels, f"objective_level: {self.varied}: auto may never measure it; give some"),
            (needs_level and is_absent, f"objective_level: {level or 0:g} is none of the {self.varied} {named}"),
        )
        if problem := next((text for is_wrong, text in problems if is_wrong), None):
            raise ValueError(problem)
        dimensions = {one.name: one for one in self.search_space.dimensions}  # a wrong space is refused here
        for number, proposal in enumerate(self.first, start=1):
            for name, value in proposal.parameters.items():
                if name not in dimensions or not dimensions[name].contains(value):
                    raise ValueError(f"first: {name} {value!r} of number {number} is not in the space")
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
        """What one trial is asked to do, with as many GPUs as it takes; a SpecError for what the search lacks."""
        if strange := self.search_space.strange(configuration):
            raise SpecError(f"a trial has {strange} {configuration[strange]!r}, which the search does not name")
        spec = self.model_copy(update=server_of(self.engine, configuration) | changes)
        engine = engines.find(spec.engine)
        if spec.gpus is None or not {*getattr(engine, "sizes", ())} & {*spec.parameters}:
            return spec
        needed = engine.gpus(spec)
        taken = spec.gpus[:needed] if isinstance(spec.gpus, list) else min(spec.gpus, needed)
        return spec.model_copy(update={"gpus": taken})

    @property
    def about_time(self) -> str:
        """How long its trials take at most, in words."""
        trials = self.trials + 2 * self.confirm
        limit = f"; ends after {self.max_minutes:g} min" if self.max_minutes else ""
        return f"{super().about_time} for each of {plural(trials, 'run')}, plus server starts{limit}"
