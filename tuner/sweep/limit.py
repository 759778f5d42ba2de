"""The search for the limit: which level to measure next, so that few batches find the highest that meets the SLO.

Pure: nothing is run here, and what comes next follows from what was told, so that a resumed search goes on.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from tuner.core.level import by_level
from tuner.core.metrics import METRICS
from tuner.core.records import COMPLETED
from tuner.judging.levels import TOO_MUCH, fails_slo, levels_of
from tuner.judging.slo import SLO, Constraint
from tuner.judging.verdicts import ROUNDING, UNKNOWN

#: By how much levels grow while none fails, at least and at most.
STEP_LEAST, STEP_MOST = 1.1, 8.0
STEP_DOWN = 4.0  # by how much they fall while none passes
#: How near an end of the bracket a level is chosen, in brackets that count as closed: less closes it with more room
#: for noise, more narrows it faster. Found by simulation (`benchmarks/limit_search.py`), as are the next three.
AIM = 0.7
#: How far the interpolated crossing is moved to the middle, so that it comes to lie between two levels measured.
NUDGE = 0.3
RESERVE = 1  # batches kept back for repeats while the bracket is open
#: A level this near to the threshold is measured twice at once; standard errors.
AT_THE_EDGE = 0.5
#: A level that decides is repeated until it lies so many standard errors from the threshold.
CERTAIN = 2.0
#: The least excess that is told apart, 0.7 % of the threshold: that of no errors at all would be −∞.
LEAST = -5.0


@dataclass
class LimitSearch:
    """Finds the highest level that meets the SLO: `next_level` asks for a batch, `tell` learns from it.

    Levels grow by up to eight times, guided by the excess, until one fails. The crossing is then interpolated between
    the highest passing and the lowest failing level, but never so far from the middle that bisection could not end
    with the batches that are left (as the ITP method projects: Oliveira & Takahashi, 2020). What lies within the
    noise is repeated before it decides, and counts as `levels_of` judges all of its runs.
    """

    highest: float = 1024  # the highest level to try
    least: float = 1  # the lowest
    first: float = 1  # where it begins
    step: float = 1  # levels are multiples of it; 0: any number of three digits, as of rates
    tolerance: float = 0.1  # how far apart the ends of the bracket may lie, relative to the lower
    most: int = 12  # batches asked for at most
    noise: float = 0.03  # relative noise of what one batch measures, one standard deviation
    repeats: int = 3  # how often the level that decides is measured at most
    batches: int = field(default=0, init=False)
    excesses: dict[float, list[float | None]] = field(default_factory=dict, init=False)

    def tell(self, level: float, excess: float | None) -> None:
        """Learn the `excess` of all runs of a level so far; what nobody can judge is tried once more, then fails."""
        self.batches += level == self.next_level()
        self.excesses.setdefault(level, []).append(excess)

    def next_level(self) -> float | None:
        """The level to measure next, perhaps once more; None where the search has ended."""
        if self.batches >= self.most:
            return None
        if (doubtful := self._doubtful()) is not None:
            return doubtful
        return self._undecided() if self._is_closed() else self._new_level()

    @property
    def passing(self) -> float | None:
        """The limit: the highest level that passes while none at or below it fails; None where there is none."""
        below = self.failing or math.inf
        return max((level for level in self.excesses if self._excess(level) <= 0 and level < below), default=None)

    @property
    def failing(self) -> float | None:
        """The lowest level that fails; None where none does."""
        return min((level for level in self.excesses if self._excess(level) > 0), default=None)

    def _excess(self, level: float) -> float:
        """What was told last of a level, of all its runs; infinite where nobody can judge it."""
        last = self.excesses[level][-1]
        return math.inf if last is None else last

    def _is_near(self, level: float, errors: float) -> bool:
        """Whether a level lies within so many standard errors of the threshold, and may be measured once more."""
        runs = len(self.excesses[level])
        return runs < self.repeats and abs(self._excess(level)) * math.sqrt(runs) / self.noise < errors

    def _doubtful(self) -> float | None:
        once = [level for level, values in self.excesses.items() if len(values) == 1 < self.repeats]
        edge = (one for one in once if one in (self.passing, self.failing) and self._is_near(one, AT_THE_EDGE))
        return next((level for level in once if self.excesses[level] == [None]), next(edge, None))

    def _undecided(self) -> float | None:
        """An end of the closed bracket that is nearer to the threshold than is certain.

        The passing one only where a single level is more than the tolerance.
        """
        ends = [self.failing, self.passing if (self.passing or 0) * self.tolerance < self.step else None]
        return next((level for level in ends if level is not None and self._is_near(level, CERTAIN)), None)

    def _is_closed(self) -> bool:
        low, high = self.passing or 0, self.failing or math.inf
        width = max(low + self.step, low * (1 + self.tolerance) * (1 + ROUNDING)) if low else self.least
        return low >= self.highest or high <= width

    def _new_level(self) -> float:
        low, high = self.passing, self.failing
        if low is None:
            return self.first if high is None else max(self._rounded(high / STEP_DOWN), self.least)
        return min(self._above(low) if high is None else self._between(low, high), self.highest)

    def _rounded(self, level: float, up: bool = False) -> float:
        return (math.ceil if up else math.floor)(level) if self.step else float(f"{level:.3g}")

    def _above(self, low: float) -> float:
        """A level just beyond where the excess should reach 0; at first as if latency grew in proportion to it."""
        below = max((level for level in self.excesses if level < low), default=None)
        slope = 1.0 if below is None else (self._excess(low) - self._excess(below)) / math.log(low / below)
        rise = -self._excess(low) / max(slope, 0.01) + math.log1p(self.tolerance) / 2
        return self._rounded(low * math.exp(np.clip(rise, math.log(STEP_LEAST), math.log(STEP_MOST))), up=True)

    def _between(self, low: float, high: float) -> float:
        """A level within the bracket: where the excess should reach 0, as far from the ends as the budget demands."""
        width, close = math.log(high / low), math.log1p(self.tolerance)
        left = max(self.most - self.batches - RESERVE, 1)
        margin = max(AIM * close, width - close * 2.0 ** (left - 1))
        at = self._crossing(low, high)
        at += math.copysign(NUDGE * close, width / 2 - at)
        at = float(np.clip(at, min(margin, width / 2), max(width - margin, width / 2)))
        level = low * math.exp(at)
        rounded = self._rounded(level, up=at >= width / 2)  # to the nearer end, so that it closes
        return float(np.clip(rounded, low + self.step, high - self.step))

    def _crossing(self, low: float, high: float) -> float:
        """Where the excess should be 0, as ln(level / low): by a parabola through three levels, else by a line."""
        width, below, above = math.log(high / low), self._excess(low), self._excess(high)
        if math.isinf(above):
            return width / 2
        others = [level for level in self.excesses if level not in (low, high) and math.isfinite(self._excess(level))]
        third = sorted(others, key=lambda level: max(low / level, level / high))[:1]
        known = [low, high, *third]
        places, excesses = [math.log(level / low) for level in known], [self._excess(level) for level in known]
        roots = np.roots(np.polyfit(places, excesses, len(third) + 1))
        inside = [root.real for root in roots if not root.imag and 0 < root.real < width]
        return float(inside[0]) if len(inside) == 1 else width * -below / (above - below)


def excess(row: Mapping[str, Any], slo: SLO) -> float | None:
    """How far a row of `levels_of` lies from the limits that more load makes worse: the largest ln(actual / limit).

    It is at most 0 where none is exceeded, infinite where the level was too much for the server, and None where it
    cannot be judged. Only what can fail hard counts, and never `min_throughput`, which more load helps to reach.
    """
    if row["outcome"] != COMPLETED:
        return math.inf if row["outcome"] in TOO_MUCH else None
    if row["verdict"] == UNKNOWN:
        return None
    limits = [limit for limit in slo.all_constraints if limit.hard_fail and not METRICS[limit.metric].grows_with_load]
    return max((_excess_over(limit, row.get(limit.column, math.nan)) for limit in limits), default=LEAST)


def _excess_over(constraint: Constraint, actual: float) -> float:
    """ln(actual / limit), by the limit that verdicts go by; what is implied and not known exceeds nothing."""
    limit = constraint.threshold * (1 + constraint.sign * (constraint.fail_ratio + ROUNDING))
    if constraint.sign < 0:  # of an attainment, the requests that missed it
        actual, limit = 1 - actual, 1 - limit
    if limit <= 2 * ROUNDING:  # no errors at all
        return -LEAST if actual > 0 else LEAST
    return max(math.log(actual / limit), LEAST) if actual > 0 else LEAST


def is_saturated(judged: pd.DataFrame) -> bool:
    """Whether higher levels of one scenario can be left out: the two highest fail, the last without a gain."""
    levels = by_level(levels_of(judged))
    fails, throughput = fails_slo(levels), levels["output_throughput"].fillna(0.0)
    has_grown = throughput.iloc[-1:].max() > throughput.iloc[:-1].max() * 1.02  # by more than noise
    return len(fails) > 1 and bool(fails.iloc[-2:].all()) and not has_grown
