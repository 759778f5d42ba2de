"""The one bridge to Optuna: a space's distributions, a study of trials, and what its sampler proposes.

Choices that are numbers stand for their place in the list, so that near ones are near.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tuner.judging.scores import maximised
from tuner.search.space import Dimension, Point, Scalar, SearchSpace

if TYPE_CHECKING:
    import optuna


def new_study(objectives: Sequence[str], sampler: "optuna.samplers.BaseSampler") -> "optuna.Study":
    """A study without trials."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ways = optuna.study.StudyDirection
    directions = [ways.MAXIMIZE if maximised(one) else ways.MINIMIZE for one in objectives]
    return optuna.create_study(directions=directions, sampler=sampler)


def ask(study: "optuna.Study", space: SearchSpace) -> Point:
    """The configuration that the study's sampler proposes; the study learns nothing by being asked."""
    import optuna

    trial = study.ask({one.name: _distribution(one) for one in space.dimensions})
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return {one.name: _value(one, trial.params[one.name]) for one in space.dimensions}


def as_trial(space: SearchSpace, point: Point, state: str, **facts: Any) -> "optuna.trial.FrozenTrial":
    """A trial at a point of the space, in a `state` of Optuna's; `facts` are for `optuna.trial.create_trial`."""
    from optuna.trial import TrialState, create_trial

    inside = [one for one in space.dimensions if one.name in point and one.contains(point[one.name])]
    return create_trial(
        state=TrialState[state],
        params={one.name: _place(one, point[one.name]) for one in inside},
        distributions={one.name: _distribution(one) for one in inside},
        **facts,
    )


def _distribution(dimension: Dimension) -> "optuna.distributions.BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if dimension.choices and dimension.is_ordered:
        return IntDistribution(0, len(dimension.choices) - 1)
    if dimension.choices:
        return CategoricalDistribution(dimension.choices)
    if dimension.integer:
        low, high, step = int(dimension.low), int(dimension.high), int(dimension.step or 1)
        return IntDistribution(low, high, log=dimension.log, step=step)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def _place(dimension: Dimension, value: Scalar) -> Scalar:
    """A value as its distribution has it."""
    return dimension.choices.index(value) if dimension.choices and dimension.is_ordered else value


def _value(dimension: Dimension, place: Scalar) -> Scalar:
    """The value that `_place` made this of."""
    if not dimension.choices:
        return dimension.nearest(float(place))
    return dimension.choices[int(place)] if dimension.is_ordered else place
