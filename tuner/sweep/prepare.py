"""Resolve what can be before a server starts: the demo's weights, the engine's own check, the key, the tokenizer."""

from pathlib import Path
from typing import TypeVar

from tuner.engines import registry, tokenizer, weights
from tuner.errors import SpecError
from tuner.sweep.spec import Spec, SweepSpec

AnySweep = TypeVar("AnySweep", bound=SweepSpec)


def with_model(spec: Spec, progress: weights.Progress = lambda share: None) -> Spec:
    """`spec` with the demo's weights where llamacpp is asked to serve nothing in particular, checked by its engine.

    Args:
        spec: what is asked for.
        progress: told how much of the weights has arrived, 0 to 1.

    Raises:
        RequestError: the engine cannot do what is asked, or something that is needed is missing.
        ModelUnavailable: the demo's weights cannot be fetched.
    """
    engine = registry.find(spec.engine)
    if spec.engine == "llamacpp" and not spec.model:
        spec = spec.model_copy(update={"model": str(weights.demo_model(progress))})
    spec.api_key()
    engine.check(spec)
    return spec


def prepare(spec: AnySweep, progress: weights.Progress = lambda share: None) -> AnySweep:
    """`spec` with everything resolved that can be before a server starts: `with_model`, and the tokenizer."""
    spec = with_model(spec, progress)
    return spec if spec.tokenizer else spec.model_copy(update={"tokenizer": _tokenizer_of(spec)})


def _tokenizer_of(spec: SweepSpec) -> str:
    """The tokenizer that sizes the prompts: made from a GGUF, or the one that the model's folder or hub id has."""
    if spec.engine == "llamacpp":
        return str(tokenizer.tokenizer_folder(Path(spec.model)))
    if not spec.model:
        raise SpecError("tokenizer: missing; give a tokenizer folder or a hub id, so that prompts can be sized")
    return spec.model
