"""Which level to measure next: the list that was asked for, or the search for the limit. Decided by what is on disk."""

from collections.abc import Iterator
from typing import Any

from tuner.batches.load import load_batches
from tuner.core.run_directory import Trial
from tuner.judging.slo import SLO
from tuner.judging.verdicts import judge
from tuner.sweep import level as levels
from tuner.sweep.limit import LimitSearch, excess, saturated
from tuner.sweep.spec import AUTO, SweepSpec

#: (scenario, concurrency level, repeat)
Measurement = tuple[str, int, int]


def planned(spec: SweepSpec, trial: Trial) -> Iterator[Measurement]:
    """What is to be measured, one after the other; each is on disk before the next is asked for.

    Args:
        spec: what is asked for.
        trial: where results lie; those that are there already are taken into account, not planned again.
    """
    if spec.levels == AUTO:
        for scenario in spec.scenarios:
            yield from _searched(spec, trial, scenario)
    else:
        yield from (load for load in spec.loads() if not levels.settled(trial.batch_folder(*load)))


def _searched(spec: SweepSpec, trial: Trial, scenario: str) -> Iterator[Measurement]:
    search, slo, times = LimitSearch(highest=spec.highest), SLO.parse(spec.slo or {}), dict[int, int]()
    while (level := search.next_level()) is not None:
        times[level] = times.get(level, 0) + 1
        load = (scenario, level, times[level])
        if not levels.settled(trial.batch_folder(*load)):
            yield load
        search.tell(level, excess(_judged(trial, load, slo), slo))


def _judged(trial: Trial, load: Measurement, slo: SLO) -> dict[str, Any]:
    """The row of one batch."""
    (row,) = judge(load_batches(trial.batch_folder(*load)), slo).to_dict("records")
    return {str(name): value for name, value in row.items()}


def is_saturated(spec: SweepSpec, trial: Trial, scenario: str) -> bool:
    """Whether the rest of a fixed sweep's levels can be spared: throughput does not grow, and the SLO failed twice."""
    if not (spec.stop_when_saturated and spec.slo and spec.levels != AUTO):
        return False
    known = [load for load in spec.loads() if load[0] == scenario and levels.settled(trial.batch_folder(*load))]
    return bool(known) and saturated(judge(load_batches(*(trial.batch_folder(*load) for load in known)), spec.slo))
