"""Which configuration to try next: decided by what is known of the earlier ones, and by nothing else.

A sampler keeps nothing between two questions, so that a search that was cut off goes on as if it had not been.
"""

import importlib.util
from collections.abc import Sequence

from tuner.errors import SpecError
from tuner.search.sampler_base import Sampler, Seen
from tuner.search.sampler_climb import Climb
from tuner.search.sampler_model import GP, TPE
from tuner.search.sampler_plain import Grid, Random
from tuner.search.search_space import SearchSpace

__all__ = ["Sampler", "Seen", "choose", "make"]

SAMPLERS: dict[str, type[Sampler]] = {"grid": Grid, "random": Random, "tpe": TPE, "gp": GP, "climb": Climb}


def choose(name: str, space: SearchSpace, objectives: Sequence[str], trials: int) -> str:
    """The sampler that `auto` stands for: what `benchmarks/search_efficiency.py` shows best.

    Args:
        name: what was asked for; another than `auto` stays as it is.
        space: what may be tried.
        objectives: what is wanted; only TPE weighs two against each other.
        trials: how many there will be; a grid where they are enough for the whole space.
    """
    if name != "auto":
        return name
    if space.is_small(trials):
        return "grid"
    return "climb" if len(objectives) == 1 else "tpe"


def make(name: str, space: SearchSpace, objectives: Sequence[str], seed: int = 0) -> Sampler:
    """A sampler by name.

    Raises:
        SpecError: it cannot be used here.
    """
    if name == "gp" and not all(importlib.util.find_spec(needed) for needed in ("torch", "scipy")):
        raise SpecError("sampler gp needs torch and scipy; install them with pip install 'tuner[gp]', or use tpe")
    if name == "climb" and len(objectives) > 1:
        raise SpecError("sampler climb has one objective; use tpe for two")
    return SAMPLERS[name](space, tuple(objectives), seed)
