"""A search as an Optuna study, for Optuna's own tools."""

import json
import math
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.core.run_directory import COMPLETE, FAILED, INFEASIBLE, PRUNED, TrialRecord
from tuner.judging.scores import LATENCIES, Score, Scoring, maximised, statistic_of
from tuner.search.space import Dimension, SearchSpace

if TYPE_CHECKING:
    import optuna


JOURNAL_FILE = "optuna.journal"


class Journal:
    """The study of one search, in `optuna.journal` of its run directory.

    Args:
        folder: the run directory; the study is named after it.
        space: what may be tried.
        scoring: what trials are scored by.
    """

    def __init__(self, folder: Path, space: SearchSpace, scoring: Scoring) -> None:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space, self._scoring = space, scoring
        path = folder / JOURNAL_FILE
        for old in (path, path.with_name(f"{path.name}.lock")):  # a lock that a killed search left
            old.unlink(missing_ok=True)
        self._study = optuna.create_study(
            study_name=folder.name,
            storage=JournalStorage(JournalFileBackend(str(path))),
            directions=["maximize" if maximised(one) else "minimize" for one in scoring.objectives],
        )

    def add(self, number: int, record: TrialRecord, score: Score) -> None:
        """Add a trial that has ended."""
        from optuna.trial import TrialState, create_trial

        state = score.state if record.state == "ended" else record.state
        values = self._values(state, score)
        states = {COMPLETE: TrialState.COMPLETE, INFEASIBLE: TrialState.COMPLETE, PRUNED: TrialState.PRUNED}
        ended = states.get(state, TrialState.FAIL) if values or state != INFEASIBLE else TrialState.FAIL
        point = self._space.point_of(record.parameters)
        trial = create_trial(
            state=ended,
            values=values if ended is TrialState.COMPLETE else None,
            params=point,
            distributions={d.name: distribution(d) for d in self._space.dimensions if d.name in point},
            user_attrs=self._told(number, record, score, state),
            constraints=None if state in (FAILED, PRUNED) else {"slo": _violation(score)},
        )
        trial.number = number
        trial.datetime_start = _local(record.started_at) or trial.datetime_start
        trial.datetime_complete = _local(record.finished_at) or trial.datetime_complete
        self._study.add_trial(trial)

    def _values(self, state: str, score: Score) -> list[float] | None:
        """The objectives' values; of an infeasible trial those of its least penalised batch, whatever they are."""
        if state == COMPLETE:
            return list(score.values)
        if state != INFEASIBLE or score.summary.fallback.empty:
            return None
        nearest = score.summary.fallback.iloc[0]
        columns = [
            f"{LATENCIES[one]}_{statistic_of(one, self._scoring.slo)}" if one in LATENCIES else "output_throughput"
            for one in self._scoring.objectives
        ]
        values = [float(nearest[column]) for column in columns]
        return None if any(math.isnan(value) for value in values) else values

    def _told(self, number: int, record: TrialRecord, score: Score, state: str) -> dict[str, Any]:
        known = {
            "trial": number,
            "role": record.role,
            "state": state,
            "cause": record.cause or score.cause,
            "kind": record.kind,
            "parameters": json.dumps(record.parameters),
            "best_level": score.summary.best_level,
            "max_throughput": score.summary.max_throughput,
            "seconds": record.seconds,
        }
        return {name: value for name, value in known.items() if value not in (None, "")}


def distribution(dimension: Dimension) -> "optuna.distributions.BaseDistribution":
    """A dimension with its values as they are."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if dimension.choices:
        return CategoricalDistribution(dimension.choices)
    if dimension.integer:
        low, high, step = int(dimension.low), int(dimension.high), int(dimension.step or 1)
        return IntDistribution(low, high, log=dimension.log, step=step)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def _violation(score: Score) -> float:
    if score.state == COMPLETE:
        return 0.0
    return 1.0 if math.isnan(score.penalty) else max(score.penalty, 1e-9)


def _local(instant: str) -> datetime | None:
    """An instant as Optuna keeps it: in the local zone, without saying so."""
    return datetime.fromisoformat(instant).astimezone().replace(tzinfo=None) if instant else None
