"""The kinds of run: what each is called, what it is asked with, and what carries it out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tuner.core import run_directory as experiment
from tuner.core.run_directory import Experiment
from tuner.search.search import run_search
from tuner.search.spec import TuneSpec
from tuner.sweep.spec import SweepSpec
from tuner.sweep.sweep import Stop, run_sweep


@dataclass(frozen=True)
class Kind:
    """A kind of run.

    Args:
        name: of its command, its notebook, and in its run directories' names.
        asks: what it is asked with.
        run: carries it out in a run directory, resuming what is there, until it is done or the stop is set.
        noun: what it is called.
    """

    name: str
    asks: type[SweepSpec]
    run: Callable[[Any, Experiment, Stop | None], None]
    noun: str


SWEEP = Kind(experiment.SWEEP, SweepSpec, run_sweep, "sweep")
SEARCH = Kind(experiment.SEARCH, TuneSpec, run_search, "search")
KINDS = {kind.name: kind for kind in (SWEEP, SEARCH)}
