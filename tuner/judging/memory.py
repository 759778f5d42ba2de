"""How far the mean of a level's requests may lie from the truth, though each resembles those before it.

Requests in flight together share the engine's steps, and machines have slow minutes: how much of that a level shows,
and for how long it lasts, nobody knows beforehand. So the level is cut into parts, whose means are explained as noise
and an Ornstein-Uhlenbeck process. Each share and each memory of a grid counts as much as it explains the parts (Bayes,
flat in the mean and in the logarithm of the variance; Zellner, An Introduction to Bayesian Inference in Econometrics,
1971), and that nothing is remembered has half of the weight beforehand. What each says of the mean is Student's t.
"""

import math
from functools import cache

import numpy as np

from tuner.batches.result_file import Floats

PARTS = 32
#: How long the process remembers (1/e), as a share of the level, and how much of the values' variance it is.
_MEMORIES, _SHARES = 0.5 ** np.arange(6, -1, -1), np.array([0.1, 0.2, 0.35, 0.5, 0.7, 0.9])
#: The explanations: place in `_MEMORIES`, and share; the last one is that nothing is remembered.
_MEMORY = np.append(np.repeat(np.arange(len(_MEMORIES)), len(_SHARES)), 0)
_SHARE = np.append(np.tile(_SHARES, len(_MEMORIES)), 0.0)
_BEFORE = np.append(np.full(len(_SHARE) - 1, 0.5 / (len(_SHARE) - 1)), 0.5)
#: A level does not tell its mean where half of it or more is remembered, and that is more probable than not.
_TOO_LONG = (_MEMORIES[_MEMORY] >= 0.5) & (_SHARE > 0)
#: Explanations that are less probable than this are left out.
_LEAST = 1e-5


def reach_and_worth(values: Floats, confidence: float) -> tuple[float, float]:
    """How far the mean of two or more values, in the order of their requests, may lie from the truth on either side,
    and how many independent values tell as much of it.

    Never less far than that of independent values; NaN where the level is too short for what it remembers.
    """
    independent = student(confidence, len(values) - 1) * float(np.sqrt(values.var(ddof=1) / len(values)))
    found = _explained(values)
    if found is None:
        return independent, float(len(values))
    probable, shift, error, alike = found
    order = np.argsort(alike)
    middle = int(np.searchsorted(np.cumsum(probable[order]), 0.5))  # of all explanations
    worth = len(values) / max(float(alike[order][min(middle, len(order) - 1)]), 1.0)
    if probable[_TOO_LONG].sum() > 0.5:
        return math.nan, worth
    kept, freedom = probable > _LEAST, min(PARTS, len(values)) - 1
    return max(_mixed(probable[kept], shift[kept], error[kept], freedom, confidence), independent), worth


def _mixed(probable: Floats, shift: Floats, error: Floats, freedom: int, confidence: float) -> float:
    """How far around 0 the mixture of Student's t lies with this confidence."""
    from scipy import special

    low, high = 0.0, float(np.abs(shift).max()) + student(confidence, freedom) * float(error.max())
    while high - low > 1e-4 * high:  # by halves: `scipy.optimize` takes a second to be imported
        middle = (low + high) / 2
        inside = special.stdtr(freedom, (middle - shift) / error) - special.stdtr(freedom, (-middle - shift) / error)
        low, high = (middle, high) if probable @ inside < confidence * probable.sum() else (low, middle)
    return high


def student(confidence: float, freedom: float) -> float:
    """The two-sided quantile of Student's t."""
    from scipy import special

    return float(special.stdtrit(min(max(freedom, 1e-3), 1e9), (1 + confidence) / 2))


def _explained(values: Floats) -> tuple[Floats, Floats, Floats, Floats] | None:
    """By explanation: its probability, how far from the mean of the values it puts the truth, that one's
    standard error, and how many of the values tell as much as an independent one; None where the parts do not vary.
    """
    parts = min(PARTS, len(values))
    sizes = np.full(parts, len(values) // parts) + (np.arange(parts) < len(values) % parts)
    means = np.add.reduceat(values, np.cumsum(sizes) - sizes) / sizes - values.mean()
    own, vectors = _processes(parts)
    variances = _SHARE[:, None] * own[_MEMORY] + (1 - _SHARE[:, None]) * parts / len(values)
    ones, seen = vectors.sum(axis=1)[_MEMORY], (means @ vectors)[_MEMORY]
    information = (ones**2 / variances).sum(axis=1)
    shift = (ones * seen / variances).sum(axis=1) / information
    left = (seen**2 / variances).sum(axis=1) - shift**2 * information
    if not left.min() > 1e-18 * values.mean() ** 2:
        return None
    likely = -(np.log(variances).sum(axis=1) + np.log(information) + (parts - 1) * np.log(left)) / 2
    probable = _BEFORE * np.exp(likely - likely.max())
    size = left / (parts - 1)  # of what `variances` are shares of
    alike = size * (ones**2 * variances).sum(axis=1) / parts**2 / (values.var(ddof=1) / len(values))
    return probable / probable.sum(), shift, np.sqrt(size / information), alike


@cache
def _processes(parts: int) -> tuple[Floats, Floats]:
    """Eigenvalues and eigenvectors of the covariance of the means of so many parts, for each memory."""
    ages = 1 / (parts * _MEMORIES)[:, None]  # of a part, in memories
    lost = -np.expm1(-ages)
    rows = (lost / ages) ** 2 * np.exp(-ages * (np.arange(parts) - 1))
    rows[:, :1] = 2 * (ages - lost) / ages**2
    values, vectors = np.linalg.eigh(rows[:, np.abs(np.subtract.outer(np.arange(parts), np.arange(parts)))])
    return np.asarray(values, np.float64), np.asarray(vectors, np.float64)
