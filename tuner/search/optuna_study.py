"""The one bridge to Optuna: a space's distributions, a study of trials, and the journal for Optuna's own tools."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.core import timestamps
from tuner.core.records import COMPLETE, FAILED, INFEASIBLE, PRUNED
from tuner.judging.scores import Score, Scoring, column_of, maximised
from tuner.search.dimension import Dimension, Scalar
from tuner.search.space import Point, SearchSpace
from tuner.search.state import SearchTrial

if TYPE_CHECKING:
    import optuna

JOURNAL_FILE = "optuna.journal"


def new_study(objectives: Sequence[str], **options: Any) -> "optuna.Study":
    """A study without trials; `options` are for `optuna.create_study`, such as `sampler` or `storage`."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ways = optuna.study.StudyDirection
    directions = [ways.MAXIMIZE if maximised(one) else ways.MINIMIZE for one in objectives]
    return optuna.create_study(directions=directions, **options)


def ask(study: "optuna.Study", space: SearchSpace) -> Point:
    """The configuration that the study's sampler proposes; the study learns nothing by being asked."""
    import optuna

    trial = study.ask({one.name: optuna_distribution(one, by_place=True) for one in space.dimensions})
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return {one.name: _value(one, trial.params[one.name]) for one in space.dimensions}


def as_trial(
    space: SearchSpace, point: Point, state: str, *, by_place: bool = False, **facts: Any
) -> "optuna.trial.FrozenTrial":
    """A trial at a point of the space, for `Study.add_trial`; its state and `facts` are as `create_trial` has them."""
    from optuna.trial import TrialState, create_trial

    inside = [one for one in space.dimensions if one.name in point and one.contains(point[one.name])]
    distributions = {one.name: optuna_distribution(one, by_place=by_place) for one in inside}
    params = {one.name: _place(one, point[one.name]) if by_place else point[one.name] for one in inside}
    return create_trial(state=TrialState[state], params=params, distributions=distributions, **facts)


def optuna_distribution(dimension: Dimension, *, by_place: bool = False) -> "optuna.distributions.BaseDistribution":
    """A dimension as Optuna has it; `by_place` with numbers by their place in the list, so that near ones are near."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if dimension.choices and dimension.is_ordered and by_place:
        return IntDistribution(0, len(dimension.choices) - 1)
    if dimension.choices:
        return CategoricalDistribution(dimension.choices)
    if dimension.integer:
        low, high, step = int(dimension.low), int(dimension.high), int(dimension.step or 1)
        return IntDistribution(low, high, log=dimension.log, step=step)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def _place(dimension: Dimension, value: Scalar) -> Scalar:
    return dimension.choices.index(value) if dimension.choices and dimension.is_ordered else value


def _value(dimension: Dimension, place: Scalar) -> Scalar:
    if not dimension.choices:
        return dimension.nearest(float(place))
    return dimension.choices[int(place)] if dimension.is_ordered else place


class Journal:
    """The study of one search, in `optuna.journal` of its run directory, after which it is named."""

    def __init__(self, folder: Path, space: SearchSpace, scoring: Scoring) -> None:
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        self._space, self._scoring, path = space, scoring, folder / JOURNAL_FILE
        for old in (path, folder / f"{JOURNAL_FILE}.lock"):  # a lock that a killed search left
            old.unlink(missing_ok=True)
        storage = JournalStorage(JournalFileBackend(str(path)))
        self._study = new_study(scoring.objectives, study_name=folder.name, storage=storage)

    def add(self, searched: SearchTrial) -> None:
        """Add a trial that has ended; one that is to be run again, or confirms, is left out."""
        record, score, state = searched.record, searched.score, searched.state
        if score is None or record.role == "confirmation" or not searched.is_settled:
            return
        values = self._values(state, score)
        violation = 0.0 if score.state == COMPLETE else 1.0 if math.isnan(score.penalty) else max(score.penalty, 1e-9)
        trial = as_trial(
            self._space,
            self._space.point_of(record.parameters),
            "PRUNED" if state == PRUNED else "COMPLETE" if values else "FAIL",
            values=values,
            user_attrs=_attributes(searched, score),
            constraints=None if state in (FAILED, PRUNED) else {"slo": violation},
        )
        for name, instant in (("datetime_start", record.started_at), ("datetime_complete", record.finished_at)):
            if known := timestamps.known(instant):  # in the local zone, without saying so, as Optuna keeps it
                setattr(trial, name, known.astimezone().replace(tzinfo=None))
        self._study.add_trial(trial)

    def _values(self, state: str, score: Score) -> list[float] | None:
        """The objectives' values; of an infeasible trial those of its least penalised batch, whatever they are."""
        if state == COMPLETE:
            return list(score.values)
        if state != INFEASIBLE or score.summary.fallback.empty:
            return None
        nearest = score.summary.fallback.iloc[0]
        values = [float(nearest[column_of(one, self._scoring.slo)]) for one in self._scoring.objectives]
        return None if any(map(math.isnan, values)) else values


def _attributes(trial: SearchTrial, score: Score) -> Mapping[str, Any]:
    record, summary = trial.record, score.summary
    attributes = {name: getattr(record, name) for name in ("role", "kind", "seconds")}
    attributes |= {name: getattr(summary, name) for name in ("best_level", "max_throughput")}
    attributes |= {"trial": trial.files.number, "state": trial.state, "cause": record.cause or score.cause}
    attributes |= {"parameters": json.dumps(record.parameters)}
    return {name: value for name, value in attributes.items() if value not in (None, "")}
