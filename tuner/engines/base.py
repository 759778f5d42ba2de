"""What a server is asked to be (ServerSpec), and what an engine must be able to say (Engine)."""

import importlib.util
import logging
import math
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator

from tuner.core.locks import LOOPBACK as LOOPBACK  # noqa: PLC0414 - engines of others take it from here
from tuner.core.secrets import find_secret, hide_written, is_secret, keep_out
from tuner.core.server_log import COMMON, OUT_OF_MEMORY, Pattern
from tuner.core.text import suggest
from tuner.engines import parameters
from tuner.engines.memory import Config
from tuner.engines.parameters import Parameter
from tuner.errors import EngineError, SpecError

_log = logging.getLogger(__name__)
GIB = 1 << 30
_LONGEST_ADVICE = 300  # characters
_NO_KEYS = (  # what to do instead of writing a key down
    "keys are not written down: set it in the environment of tuner, which is handed on; "
    "the API key's variable is named in api_key_env"
)


class ServerSpec(BaseModel):
    """One server configuration. No secret is in it: a key is named by its environment variable."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    engine: str = Field(description="name of a registered engine: llamacpp, vllm, sglang, command, attach")
    model: str = Field("", description="what the engine serves: a file, a folder, a name on a hub")
    parameters: dict[str, JsonValue] = Field({}, description="the engine's own, such as {max_num_seqs: 64}")
    served_name: str | None = Field(None, description="the name under which the model is asked for")
    base_url: str | None = Field(None, description="http://host:port of a server that already runs (engine attach)")
    command: list[str] | None = Field(None, description="program and arguments (engine command), with {port}, {model}")
    stop_command: list[str] | None = Field(
        None, description="what ends that for good where the processes are not ours (docker, ssh): run after each end"
    )
    executable: str | None = Field(
        None, description="the engine's program where it is not on PATH: ~/vllm/bin/vllm, or sglang's python"
    )
    environment: dict[str, str] = Field(
        {}, description="variables to set for the server, none of them secret: {VLLM_USE_V1: '1'}"
    )
    verify: str | None = Field(None, description="a CA's certificate (PEM file), where https is signed by one's own")
    api_key_env: str | None = Field(
        None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="the environment variable that holds the API key"
    )
    gpus: Annotated[int, Field(ge=0)] | list[int | str] | None = Field(
        None, description="how many GPUs, or which (indices or UUIDs)"
    )
    port: int | None = Field(None, ge=1, le=65535, description="the port to serve on; by default a free one")
    expose: bool = Field(False, description="let other machines reach the server, not only this one")
    ready_timeout: float | None = Field(None, gt=0, description="seconds until the server must be ready")

    @field_validator("environment", mode="before")
    @classmethod
    def _holds_texts_and_no_secret(cls, value: Any) -> Any:
        for name, text in value.items() if isinstance(value, dict) else ():
            if is_secret(str(name), str(text)):
                raise ValueError(f"{name} is a key by its name; {_NO_KEYS}")
            if not isinstance(text, str):
                raise ValueError(f"{name} must be a text: write it in quotes, as in {name}: '1'; got {text!r}")
        return value

    @field_validator("parameters")
    @classmethod
    def _spelt_one_way(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        return {spelt(name): each for name, each in value.items() if each is not None}  # null is for the engine

    @model_validator(mode="after")
    def _holds_no_key(self) -> Self:
        """What is asked is written down, and a command stands in every process listing."""
        if found := find_secret(self.model_dump(exclude_defaults=True), self.api_key_env):
            raise ValueError(f"{found}; {_NO_KEYS}")
        return self

    @property
    def gpu_count(self) -> int | None:
        """How many GPUs are asked for; None where nobody said."""
        return len(self.gpus) if isinstance(self.gpus, list) else self.gpus

    def api_key(self) -> str | None:
        """The API key, read from its environment variable, which must be set, and from now on written nowhere."""
        if self.api_key_env is None:
            return None
        if key := os.environ.get(self.api_key_env):
            return keep_out(key)
        raise SpecError(f"api_key_env: the environment variable {self.api_key_env} is not set")


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first thing that is wrong, in one line that names the parameter and what would be right."""
    first = error.errors()[0]
    place = str(first["loc"][0]) if first["loc"] else "parameters"
    if first["type"] == "extra_forbidden":
        return f"unknown parameter {place!r}; {suggest(place, model.model_fields)}"
    message = hide_written(first["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    if first["type"] == "value_error":  # one about the whole says itself what it is about
        return message if not first["loc"] or message.startswith(place) else f"{place}: {message}"
    return f"{place}: {message}, got {hide_written(repr(first['input']))}"


@dataclass(frozen=True)
class Placement:
    """Where on this host one server is to run."""

    port: int  # of loopback, reserved for it
    gpus: tuple[str, ...] = ()  # UUIDs of those that are claimed for it
    name: str = ""  # that no other server has, for engines that name what they start (containers)


class Engine:
    """The inference software: how to start it with a specification. An instance holds nothing.

    A third party adds one as a subclass under the entry point group `tuner.engines`; what is below is all it may say.
    """

    name: ClassVar[str]  # the name by which it is asked for
    tunables: ClassVar[Mapping[str, Parameter]] = {}  # parameters that are worth tuning, as they are asked for
    complete: ClassVar[bool] = False  # `tunables` holds every parameter there is, so that another name is a mistake
    flag_files: ClassVar[Sequence[str]] = ()  # of its package, that declare its flags, where `tunables` holds only some
    #: between parameters, and `gpus`: without which it does not start, as a search's constraints are written
    conditions: ClassVar[Sequence[str]] = ()
    #: by cause, as `core.bottleneck` has them: the parameters that move it, the first one the most
    levers: ClassVar[Mapping[str, Sequence[str]]] = {}
    #: where a search can start, by name: as a search's `space` says it; `default` is the usual one
    spaces: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    failures: ClassVar[Sequence[Pattern]] = ()  # log lines that tell why it failed, tried before those of any engine
    ready_timeout: ClassVar[float] = 600.0  # seconds until it must be ready; large models take minutes to load
    grace: ClassVar[float] = 5.0  # seconds between SIGTERM and SIGKILL
    owned: ClassVar[bool] = True  # a server of ours; False where it already runs and is never started or stopped
    forget_path: ClassVar[str] = ""  # where a POST empties its prefix cache; empty where there is no such place
    #: put into every measured request's body, so that answers cost the same each time
    request_parameters: ClassVar[Mapping[str, Any]] = {}
    program: ClassVar[str] = ""  # that runs it, beside this Python or on PATH, unless the specification names another
    module: ClassVar[str] = ""  # or the module that this Python must have to run it
    install: ClassVar[str] = ""  # the command that installs it
    context_parameter: ClassVar[str] = ""  # the parameter that bounds prompt and output together
    variables: ClassVar[Mapping[str, str]] = {}  # of its environment
    key_variable: ClassVar[str] = ""  # the one in which it takes its API key

    def check(self, spec: ServerSpec) -> None:
        """Refuse what is sure to fail, before anything is started: SpecError; EngineError: it is not installed here."""
        self.find(spec)
        self.check_names(spec, spec.parameters)
        for name, value in spec.parameters.items():
            if name in self.tunables and (problem := self.tunables[name].problem(value)):
                raise SpecError(f"{self.name} parameter {name} = {value!r}: {problem}")

    def check_names(self, spec: ServerSpec, names: Iterable[str]) -> None:
        """SpecError for a parameter that the installed version does not have; where nobody knows, a warning."""
        unknown = sorted({*names} - {*self.tunables})
        known = {*self.tunables} if self.complete or not unknown else self.flag_names(spec)
        for name in unknown:
            advice = suggest(name, {*known, *self.tunables})
            if known and not parameters.is_among(name, known):
                helps = advice if len(advice) < _LONGEST_ADVICE else "its --help lists all"
                raise SpecError(f"{self.name} has no parameter {name!r}; {helps}")
            if not known and advice.startswith("did"):
                _log.warning("%s parameter %s is none that is known here; %s", self.name, name, advice)

    def flag_names(self, spec: ServerSpec) -> set[str]:
        """The parameters of the installed version, by its source (its help takes a minute) where that is found."""
        package = self.package(spec)
        files = [file for pattern in self.flag_files for file in package.glob(pattern)] if package else []
        return {name for file in files for name in parameters.names_in(file.read_text("utf-8"))}

    def package(self, spec: ServerSpec) -> Path | None:
        """Where its Python package lies beside the program in an environment; None where it lies elsewhere."""
        return next(Path(self.find(spec)).parent.parent.glob(f"lib/python3*/*-packages/{self.name}"), None)

    def find(self, spec: ServerSpec) -> str:
        """The path of what runs it: the one named, `program`, or this Python with `module` in it; else EngineError."""
        if spec.executable:
            return _program(spec.executable)
        beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        if self.program and (program := shutil.which(self.program, path=beside)):
            return program
        if self.module and importlib.util.find_spec(self.module):
            return sys.executable
        raise EngineError(
            f"engine {self.name} is not installed here; install it: {self.install}; "
            "or name its program where it is installed, with executable"
        )

    def command(self, spec: ServerSpec, place: Placement) -> list[str]:
        """Program and arguments that serve `spec` at `place`, on the address of `host_of`."""
        raise NotImplementedError

    def cannot_start(self, spec: ServerSpec, memory: float) -> str:
        """Why it is sure not to start on GPUs with so many bytes each, by arithmetic; empty where it may."""
        return ""

    def stop_command(self, spec: ServerSpec, place: Placement) -> list[str]:
        """What is run after the server ended, to end what is no process of ours; empty for nothing."""
        return []

    def gpus(self, spec: ServerSpec) -> int:
        """How many GPUs it takes where the specification does not say."""
        return 0

    def environment(self, spec: ServerSpec) -> dict[str, str]:
        """Variables to set for it, over ours; the key of `spec.api_key()` belongs here, never in the command."""
        key = spec.api_key() if self.key_variable else None
        return {**self.variables} | ({self.key_variable: key} if key else {})

    def served_name(self, spec: ServerSpec) -> str:
        """The name under which it is to serve the model."""
        return spec.served_name or spec.model.rstrip("/").rpartition("/")[2]

    def context(self, spec: ServerSpec) -> int | None:
        """Most tokens, prompt and output together, of one request; None where it is not known before it runs."""
        value = spec.parameters.get(self.context_parameter)
        return value if isinstance(value, int) else None

    def value_of(self, spec: ServerSpec, name: str) -> Any:
        """The value in force of a parameter; None where nobody knows it."""
        return spec.parameters.get(name, self.tunables[name].default if name in self.tunables else None)

    def patterns(self) -> tuple[Pattern, ...]:
        """Log patterns in the order they are tried."""
        return (OUT_OF_MEMORY, *self.failures, *COMMON)


def spelt(name: str) -> str:
    """A parameter's name as we write it: `--max-num-seqs` is `max_num_seqs`."""
    return name.lstrip("-").replace("-", "_")


def host_of(spec: ServerSpec) -> str:
    """The address that a server of ours listens on."""
    return "0.0.0.0" if spec.expose else LOOPBACK  # noqa: S104 - where that was asked for


def without_tilde(path: str) -> str:
    """`~/x` as a path of the user's, since no shell reads it; all else as it is written."""
    return os.path.expanduser(path)  # noqa: PTH111 - as a Path, `./x` would lose its `./`


def _program(name: str) -> str:
    path = without_tilde(name)
    if program := shutil.which(path):
        return program
    if Path(path).is_dir():
        raise EngineError(f"executable: {name} is a folder; name the program in it, such as {name.rstrip('/')}/bin/…")
    what = "is a file that may not be executed" if Path(path).is_file() else "is not there, nor on PATH"
    raise EngineError(f"executable: the program {name} {what}; give its path, as in ~/vllm/bin/vllm")


_NOT_PARAMETERS = {  # parameters that a server of ours gets from elsewhere, and where what they ask for is said instead
    "host": "servers of ours serve on 127.0.0.1 alone, or to all with expose: true beside parameters",
    "uds": "servers of ours serve on 127.0.0.1 alone",
    "ssl_keyfile": "servers of ours serve on 127.0.0.1, without TLS",
    "ssl_certfile": "servers of ours serve on 127.0.0.1, without TLS",
    "headless": "servers of ours serve by themselves",
    "grpc": "servers of ours speak HTTP",
    "grpc_mode": "servers of ours speak HTTP",
    "port": "set port beside parameters",
    "model": "set model beside parameters",
    "model_path": "set model beside parameters",
    "served_model_name": "set served_name beside parameters",
}


class GPUEngine(Engine):
    """An engine that spreads one model over GPUs."""

    #: parameters whose product is the number of GPUs, the first one set where only the number is given
    sizes: ClassVar[tuple[str, ...]]
    shares: ClassVar[tuple[str, str]]  # of GPUs that share each layer, and of groups that share the layers out
    memory_parameter: ClassVar[str]  # the share of a GPU's memory that it may take
    holds_context: ClassVar[bool] = False  # it does not start unless one sequence of all its context has room

    def check(self, spec: ServerSpec) -> None:
        """Refuse what would fail only after a minute of imports."""
        super().check(spec)
        for name in spec.parameters.keys() & _NOT_PARAMETERS.keys():
            raise SpecError(f"parameters: {name} is none of {self.name}'s here: {_NOT_PARAMETERS[name]}")
        if not spec.model:
            raise SpecError(f"engine {self.name} needs model, a folder or a name on Hugging Face")
        if spec.model.startswith(("/", ".", "~")) and not Path(spec.model).expanduser().exists():
            raise SpecError(f"the model {spec.model} does not exist")
        number = spec.gpu_count
        if number and self.gpus(spec) not in (1, number):
            raise SpecError(f"{self.name} is given {number} GPUs, and its parallel sizes come to {self.gpus(spec)}")

    def gpus(self, spec: ServerSpec) -> int:
        """One for each part of each copy of the model that is on this machine."""
        given, copies = spec.parameters, "data_parallel_size"
        here = given | {copies: given.get(f"{copies}_local") or given.get(copies)}
        number = math.prod(int(str(here.get(name) or 1)) for name in self.sizes)
        return max(number // int(str(given.get("nnodes") or 1)), 1)

    def cannot_start(self, spec: ServerSpec, memory: float) -> str:
        """Weights and one sequence's KV cache against what it may take; nothing where a parameter may change that."""
        given = spec.parameters
        if "quantization" in given or {*given} - {*self.tunables} or not memory:
            return ""
        model = Config.of(spec.model)
        values = {name: one.default for name, one in self.tunables.items()} | given
        count = spec.gpu_count or 1
        split, groups = (int(values[name]) for name in self.shares) if {*given} & {*self.sizes} else (count, 1)
        if model.num_attention_heads % split:
            return f"its {model.num_attention_heads} attention heads cannot be shared by {split} GPUs a layer"
        tokens = (self.context(spec) or model.max_position_embeddings) if self.holds_context else 0
        parts = model.weights(spec.model), model.cache(tokens, str(values["kv_cache_dtype"]))
        each, share = [part / split / groups / GIB for part in parts], values[self.memory_parameter] or 1.0
        if sum(each) <= share * memory / GIB:
            return ""
        needed = f"weights of {each[0]:.1f} GiB and the KV cache of {tokens} tokens, {each[1]:.1f} GiB, on each GPU"
        return f"{needed} are more than {self.memory_parameter} {share:g} of {memory / GIB:.1f} GiB"

    def flags(self, spec: ServerSpec, place: Placement, *, no_prefix: bool) -> list[str]:
        """Where to serve and the parameters; where nothing says how several GPUs share, each layer is split."""
        where = ["--host", host_of(spec), "--port", str(place.port), "--served-model-name", self.served_name(spec)]
        is_split = len(place.gpus) < 2 or any(name in spec.parameters for name in self.sizes)
        size = {} if is_split else {self.sizes[0]: len(place.gpus)}
        return [*where, *parameters.flags(spec.parameters | size, no_prefix=no_prefix)]
