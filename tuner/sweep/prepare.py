"""A spec with everything resolved that can be before a server starts: model, tokenizer, workload."""

import secrets
from pathlib import Path
from typing import Any, TypeVar

from tuner import engines
from tuner.engines import gguf
from tuner.errors import SpecError
from tuner.sweep.fields import RANDOM, base_of
from tuner.sweep.spec import Spec, SweepSpec
from tuner.traffic.prompt_file import read_prompt_file
from tuner.traffic.tokenizer import check_tokenizer
from tuner.traffic.workload import Workload, most_tokens

AnySweep = TypeVar("AnySweep", bound=SweepSpec)


def with_model(spec: Spec, progress: gguf.Progress = lambda share: None) -> Spec:
    """`spec`, with the demo's weights where llamacpp is to serve nothing in particular, checked by its engine."""
    engine = engines.find(spec.engine)
    if spec.engine == "llamacpp" and not spec.model:
        spec = spec.model_copy(update={"model": str(gguf.demo_model(progress))})
    spec.api_key()
    engine.check(spec)
    return spec


def prepare(spec: AnySweep, progress: gguf.Progress = lambda share: None) -> AnySweep:
    """`spec` with everything resolved that can be before a server starts: model, workload and tokenizer."""
    spec = with_workload(with_model(spec, progress))
    tokenizer = check_tokenizer(spec.tokenizer or tokenizer_of(spec.engine, spec.model))
    return spec.model_copy(update={"tokenizer": tokenizer})


def with_workload(spec: AnySweep) -> AnySweep:
    """`spec` with a seed, and scenarios called by all that is sent; a SpecError where it cannot be sent so."""
    seed = secrets.randbelow(2**31) if spec.seed == RANDOM else spec.seed
    names = [base_of(scenario) for scenario in spec.scenarios]
    if spec.prompts:
        name = read_prompt_file(spec.prompts, fixed=spec.output == "fixed").name
        if other := [before for before in names if "#" in before and before != name]:
            raise SpecError(f"prompts: {spec.prompts} is {name} and not {other[0]} any more; start a new run")
        names = [name]
    must_fit(spec, names, engines.find(spec.engine).context(spec), spec.engine)
    return spec.model_copy(update={"seed": seed, "scenarios": [f"{name}{spec.prefix or ''}" for name in names]})


def must_fit(spec: SweepSpec, scenarios: list[str], context: int | None, server: str) -> None:
    """Refuse requests longer than what a server takes, where that is known."""
    prefix = spec.prefix.tokens if spec.prefix else 0
    for scenario in scenarios:
        if context and prefix + most_tokens(scenario) > context:
            what = f"prefix: {prefix} tokens before those of {scenario}" if prefix else f"scenarios: {scenario}"
            raise SpecError(f"{what} are more than the {context} that {server} takes for a request")


def workload_of(spec: SweepSpec) -> Workload:
    """What decides the requests of a prepared spec."""
    fixed = spec.output == "fixed" if spec.output or spec.prompts else True
    requests = read_prompt_file(spec.prompts, fixed=fixed).requests if spec.prompts else ()
    return Workload(int(spec.seed), spec.tokenizer or "", requests, spec.prefix, fixed)


def fingerprint(spec: SweepSpec) -> dict[str, Any]:
    """Seed and hash of the prompts of a prepared spec, in their order, for `experiment.json`."""
    return workload_of(spec).fingerprint(spec.scenarios)


def tokenizer_of(engine: str, model: str) -> str:
    """The tokenizer that sizes prompts: made from a GGUF, or that of the model, which must be named then."""
    if engine == "llamacpp":
        return str(gguf.tokenizer_folder(Path(model)))
    if not model:
        raise SpecError("tokenizer: missing; give a tokenizer folder or a hub id, so that prompts can be sized")
    return model
