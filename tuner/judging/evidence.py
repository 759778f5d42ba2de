"""How sure a verdict is: whether there are enough requests, and on which sides of its threshold a value may lie."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from tuner.batches.audit import requests_needed
from tuner.batches.measure import PERCENTILES, Floats
from tuner.judging.slo import SLO, Constraint

#: Why evidence is weak: there are too few requests, or the verdict may be the load generator's own doing.
TOO_FEW = "too few for the percentiles that the SLO limits; measure longer"
TOO_NEAR = "the verdict turns on less than the load generator's own share of the latency"


def requests_needed_for(constraint: Constraint, confidence: float) -> int:
    """How many requests a constraint needs to be judged; the mean as many as the median, what is no latency none."""
    if not constraint.is_latency:
        return 0
    return requests_needed(PERCENTILES.get(constraint.statistic, 50.0) / 100, confidence)


def latency_limits(slo: SLO) -> dict[str, float]:
    """What a single request must meet: the strictest threshold of each latency."""
    latencies = sorted((one for one in slo.constraints if one.is_latency), key=lambda one: -one.threshold)
    return {constraint.metric: constraint.threshold for constraint in latencies}


def turns_of(constraint: Constraint) -> tuple[float, ...]:
    """The values at which the verdict turns: to soft, and to hard where that is elsewhere."""
    hard = constraint.threshold * (1 + constraint.sign * constraint.fail_ratio)
    return (constraint.threshold, hard) if constraint.hard_fail and constraint.fail_ratio else (constraint.threshold,)


def is_bounded(constraint: Constraint) -> bool:
    """Whether its metric's interval may make a verdict doubtful: not errors, which few requests never exclude."""
    return constraint.metric != "error_rate"


def distance(constraint: Constraint, actual: Floats) -> Floats:
    """How far the actual values lie from where the verdict turns."""
    return np.asarray(np.min([np.abs(actual - turn) for turn in turns_of(constraint)], axis=0))


def straddling(actuals: Mapping[Constraint, Floats], bounds: pd.DataFrame, confidence: float) -> list[str]:
    """For each batch that an interval leaves its verdict open, in words; empty where none does.

    Args:
        actuals: the metric of each constraint, one value a batch.
        bounds: their `<column>_low` and `<column>_high`.
        confidence: of the intervals.
    """
    told = [""] * len(bounds)
    for constraint in reversed([one for one in actuals if is_bounded(one)]):
        low, high = (bounds[f"{constraint.column}_{side}"].to_numpy("float64") for side in ("low", "high"))
        actual = actuals[constraint]
        for turn in reversed(turns_of(constraint)):
            # over several runs a batch's own value may lie outside: then they disagree, which is doubt as well
            across = (np.fmin(low, actual) <= turn) & (turn < np.fmax(high, actual)) & ~np.isnan(low)
            for row in np.flatnonzero(across):
                told[row] = " ".join(_words(constraint, actual[row], (low[row], high[row]), turn, confidence))
    return told


def _words(
    constraint: Constraint, actual: float, bounds: tuple[float, float], turn: float, confidence: float
) -> Iterator[str]:
    unit, (low, high) = constraint.unit, bounds
    lies = "lies" if low <= actual <= high else "is one of runs whose mean lies"
    yield f"{constraint.label} {actual:.3g}{unit} {lies} between {low:.3g} and {high:.3g}{unit}"
    yield f"at {confidence * 100:.4g} %, on both sides of"
    yield f"the {'threshold' if turn == constraint.threshold else 'hard limit'} {turn:.4g}{unit}"
