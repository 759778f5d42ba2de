"""Two sides of one metric → their difference, how sure it is, and what remains of that among many of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tuner.batches.measure import Floats

#: Relative difference that rounding makes, such as by a file in milliseconds: it is no difference.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Estimate:
    """One metric of one side at one level.

    Args:
        values: one a run.
        variance: of their mean on the scale that is compared, from the requests; NaN where nobody knows.
        freedom: the degrees of freedom of `variance`.
        log: whether the scale is that of logarithms, on which a relative change is a difference.
        requests: how many completed, in all runs.
        lacking: whether a run has requests, but too few to tell its variance.
    """

    values: Floats
    variance: float = math.nan
    freedom: float = math.inf
    log: bool = True
    requests: int = 0
    lacking: bool = False

    @property
    def value(self) -> float:
        """The mean over the runs."""
        return float(np.mean(self.values)) if len(self.values) else math.nan

    @property
    def scaled(self) -> Floats:
        """The values on the scale that is compared; NaN where they have no place on it."""
        return np.log(np.where(self.values > 0, self.values, np.nan)) if self.log else self.values

    @property
    def over_runs(self) -> tuple[float, float]:
        """(variance of the mean, degrees of freedom) from how the runs vary, which includes drift between them.

        Runs cannot vary less than the requests in them: where they seem to, that is chance, or their values are coarse.
        """
        variance = float(np.var(self.scaled, ddof=1)) / len(self.values)
        return float(np.nanmax([variance, self.variance])) if not math.isnan(variance) else math.nan, len(
            self.values
        ) - 1


@dataclass(frozen=True)
class Difference:
    """Candidate minus baseline on the scale that is compared."""

    shift: float
    error: float  # its standard error
    freedom: float
    over: str
    log: bool = True
    scale: float = 1.0  # what a shift of 1 is as a change, where the scale is not that of logarithms

    def p_value(self, tolerance: float) -> float:
        """How probable so large a shift is where the true change is within the tolerance: two-sided, Student's t."""
        low, high = self._placed(-tolerance), self._placed(tolerance)
        beyond = max(self.shift - high, low - self.shift, 0.0)
        if math.isnan(beyond + self.error):
            return math.nan
        if beyond <= ROUNDING:
            return 1.0
        return 2 * _student_above(beyond / self.error, self.freedom) if self.error > 0 else 0.0

    def interval(self, confidence: float) -> tuple[float, float]:
        """The change's interval, of Student's t."""
        reach = student(confidence, self.freedom) * self.error if self.error > 0 else 0.0 * self.error
        return self.change(self.shift - reach), self.change(self.shift + reach)

    def change(self, shift: float) -> float:
        """A shift as a change: relative, or for shares as it is."""
        return float(np.expm1(min(shift, 700.0))) if self.log else shift * self.scale

    def _placed(self, change: float) -> float:
        if not self.log:
            return change / self.scale
        return math.log1p(change) if change > -1 else -math.inf


def difference(baseline: Estimate, candidate: Estimate, scale: float = 1.0) -> Difference:
    """How far the candidate lies from the baseline.

    Where both have several runs it is Welch's t over the runs' values, whose spread includes the drift between runs;
    otherwise over the requests, by their variances. Degrees of freedom by Satterthwaite.
    """
    sides = (baseline, candidate)
    runs = all(len(side.values) > 1 for side in sides)
    parts = [side.over_runs if runs else (side.variance, side.freedom) for side in sides]
    variance = sum(part for part, _ in parts)
    shift = (
        float(np.mean(candidate.scaled) - np.mean(baseline.scaled)) if all(len(s.values) for s in sides) else math.nan
    )
    over = "runs" if runs else "requests"
    return Difference(shift, math.sqrt(variance), satterthwaite(parts), over, baseline.log, scale)


def satterthwaite(parts: Sequence[tuple[float, float]]) -> float:
    """The degrees of freedom of a sum of variances, each with its own (Satterthwaite, 1946)."""
    whole = sum(variance for variance, _ in parts)
    below = sum(variance**2 / freedom for variance, freedom in parts if freedom > 0 and variance > 0)
    return whole**2 / below if below > 0 else math.inf


def student(confidence: float, freedom: float) -> float:
    """The two-sided quantile of Student's t."""
    from scipy import special

    return float(special.stdtrit(min(max(freedom, 1e-3), 1e9), (1 + confidence) / 2))


def _student_above(value: float, freedom: float) -> float:
    from scipy import special

    return float(special.stdtr(min(max(freedom, 1e-3), 1e9), -value))


@dataclass(frozen=True)
class Family:
    """Many comparisons, of which at most one in 1/(1 − confidence) families calls any true null different.

    Args:
        p_values: one a comparison; NaN where there is none.
        confidence: between 0 and 1.
    """

    p_values: Floats
    confidence: float
    adjusted: Floats = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "adjusted", holm(self.p_values))

    @property
    def level(self) -> float:
        """The confidence of each interval, so that it leaves out the tolerance exactly where p is small enough.

        That of the step at which Holm's procedure stops: 1 − α / (comparisons − those called different).
        """
        known = ~np.isnan(self.p_values)
        left = int(known.sum() - (self.adjusted[known] < 1 - self.confidence).sum())
        return 1 - (1 - self.confidence) / max(left, 1)


def holm(p_values: Floats) -> Floats:
    """P-values corrected for their number, by Holm's step-down procedure (1979); NaN stays NaN and counts nothing."""
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    steps = p_values[order] * np.arange(len(order), 0, -1)
    adjusted = np.full(len(p_values), np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    return adjusted
