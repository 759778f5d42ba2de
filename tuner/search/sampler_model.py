"""Samplers that Optuna has: its tree-structured Parzen estimator and its Gaussian process.

Each question makes a study in memory from all trials. In it a failed trial is one that breaks a constraint by far:
Optuna leaves out what has failed, so that it would come to the same region again and again.
"""

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tuner.judging.score import maximised
from tuner.search.dimensions import Dimension, Scalar
from tuner.search.sampler_base import Sampler, Seen
from tuner.search.search_space import Point

if TYPE_CHECKING:
    import optuna

#: By how much a failed trial breaks the constraint; the worst penalty of an SLO comes to 20.
FAILED_BY = 25.0
#: The same for a trial that nobody could judge.
UNKNOWN_BY = 10.0
#: Trials before the model has something to learn from.
STARTUP = 6
_ASKED = 30


class _Model(Sampler):
    """A sampler of Optuna's, asked for one configuration."""

    def _made(self, seed: int) -> "optuna.samplers.BaseSampler":
        raise NotImplementedError

    def _proposals(self, seen: Sequence[Seen]) -> Iterable[Point]:
        if len(seen) < STARTUP or not any(one.values for one in seen):
            yield from self._spread(seen)
        study = self._study(seen)
        for _ in range(_ASKED):
            asked = study.ask()
            chosen = {d.name: decoded(d, _suggested(asked, d)) for d in self.space.dimensions}
            study.tell(asked, state=_states().FAIL)  # only asked: it tells the study nothing
            yield self.space.active(chosen)

    def _study(self, seen: Sequence[Seen]) -> "optuna.Study":
        """All that is known, as a study."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            directions=["maximize" if maximised(one) else "minimize" for one in self.objectives],
            sampler=self._made(self._dice(seen, "model").getrandbits(31)),
        )
        worst = self._worst(seen)
        for one in seen:
            study.add_trial(self._trial(one, worst))
        return study

    def _worst(self, seen: Sequence[Seen]) -> list[float]:
        """The worst value of each objective: what a trial without one is told to have."""
        known = [one.values for one in seen if one.values] or [(1.0,) * len(self.objectives)]
        worst = (min if maximised(one) else max for one in self.objectives)
        return [choose(values) for choose, values in zip(worst, zip(*known, strict=True), strict=True)]

    def _trial(self, one: Seen, worst: list[float]) -> "optuna.trial.FrozenTrial":
        from optuna.trial import create_trial

        running = one.state == "running"
        inside = [d for d in self.space.dimensions if d.name in one.point and d.contains(one.point[d.name])]
        return create_trial(
            state=_states().RUNNING if running else _states().COMPLETE,
            params={d.name: encoded(d, one.point[d.name]) for d in inside},
            distributions={d.name: distribution(d) for d in inside},
            values=None if running else list(one.values or worst),
            constraints=None if running else {"slo": violation(one)},
        )


class TPE(_Model):
    """The tree-structured Parzen estimator, over all parameters together, by groups where some are conditional."""

    def _made(self, seed: int) -> "optuna.samplers.BaseSampler":
        import optuna

        with warnings.catch_warnings():  # `group` calls itself experimental
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            conditional = any(dimension.when for dimension in self.space.dimensions)
            return optuna.samplers.TPESampler(seed=seed, n_startup_trials=0, group=conditional)


class GP(_Model):
    """A Gaussian process with constraints; needs torch."""

    def _made(self, seed: int) -> "optuna.samplers.BaseSampler":
        import optuna

        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=0, warn_independent_sampling=False)


def violation(one: Seen) -> float:
    """By how much a trial breaks the constraint that it must be feasible; at most 0 where it is."""
    if one.values:
        return 0.0
    if one.state == "failed":
        return FAILED_BY
    return UNKNOWN_BY if math.isnan(one.penalty) else max(math.log1p(one.penalty), 1e-3)


def distribution(dimension: Dimension) -> "optuna.distributions.BaseDistribution":
    """A dimension as Optuna has it; choices that are numbers as their place, so that near ones are near."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if dimension.choices and dimension.is_ordered:
        return IntDistribution(0, len(dimension.choices) - 1)
    if dimension.choices:
        return CategoricalDistribution(dimension.choices)
    if dimension.integer:
        step = int(dimension.step or 1)
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log, step=step)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def encoded(dimension: Dimension, value: Scalar) -> Scalar:
    """A value as `distribution` has it."""
    return dimension.choices.index(value) if dimension.choices and dimension.is_ordered else value


def decoded(dimension: Dimension, value: Scalar) -> Scalar:
    """The value that `encoded` made this of."""
    if not dimension.choices:
        return dimension.nearest(float(value))
    return dimension.choices[int(value)] if dimension.is_ordered else value


def _suggested(asked: "optuna.Trial", dimension: Dimension) -> Scalar:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    match distribution(dimension):
        case CategoricalDistribution(choices=choices):
            return asked.suggest_categorical(dimension.name, choices)  # type: ignore[return-value]
        case IntDistribution(low=low, high=high, step=step, log=log):
            return asked.suggest_int(dimension.name, low, high, step=step, log=log)
        case FloatDistribution(low=low, high=high, step=step, log=log):
            return asked.suggest_float(dimension.name, low, high, step=step, log=log)
    raise TypeError(f"{dimension.name} has no distribution")


def _states() -> "type[optuna.trial.TrialState]":
    from optuna.trial import TrialState

    return TrialState
