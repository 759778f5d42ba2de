"""Every trial of a search in one DataFrame, with its score and which of them is best."""

import math
from pathlib import Path
from typing import Any

import pandas as pd

from tuner.batches.run_folder import subfolders
from tuner.core import files
from tuner.core.run_directory import EXPERIMENT_FILE
from tuner.core.timestamps import to_utc
from tuner.core.trial_record import COMPLETE, ENDED, RUNNING, WAITING, gpus_of, read_record
from tuner.judging.score import Scoring, maximised
from tuner.judging.verdicts import SLO

THROUGHPUT_UNIT, PER_GPU_UNIT = "tokens/s", "tokens/s per GPU"

#: The columns of `load_trials`.
COLUMNS = (
    *("trial", "role", "of", "state", "parameters", "value", "values", "unit", "penalty", "cause", "kind", "gpus"),
    *("max_throughput", "best_level", "bracket", "started_at", "finished_at", "duration", "is_best", "is_pareto"),
)


def load_trials(folder: Path, slo: SLO | None = None) -> pd.DataFrame:
    """Read every trial of a search, in the order they were asked for.

    Args:
        folder: the run directory of a search.
        slo: judges the batches; by default the search's own.

    Returns:
        One row a trial: `trial` (1 is the baseline), `role` (baseline, candidate, confirmation), `of` (of a
        confirmation: baseline or winner), `state` (complete, infeasible, failed, pruned, running, waiting),
        `parameters` (dict), `value` (the first objective in `unit`; NaN unless complete), `values` (of all objectives),
        `penalty`, `cause`, `kind` (of a failure), `gpus`, `max_throughput` (output tokens/s of the server, also of an
        unfinished trial), `best_level`, `bracket`, `started_at`, `finished_at` (UTC), `duration` (seconds), `is_best`
        (one at most; the first objective's) and `is_pareto` (no other is better in all objectives). Confirmations are
        neither.

    Raises:
        PathError: it is no run directory.
    """
    spec = files.read_json(folder / EXPERIMENT_FILE).get("spec", {})
    scoring = Scoring.of(spec, slo)
    trials = pd.DataFrame([_row(path, scoring) for path in subfolders(folder / "trials")], columns=list(COLUMNS))
    for name in ("started_at", "finished_at"):
        trials[name] = to_utc(trials[name])
    if trials["gpus"].gt(1).any():
        trials.loc[trials["unit"] == THROUGHPUT_UNIT, "unit"] = PER_GPU_UNIT
    trials["best_level"] = trials["best_level"].astype("Int64")
    return _with_best(trials, scoring.objectives)


def _row(trial: Path, scoring: Scoring) -> dict[str, Any]:
    record = read_record(trial)
    gpus = gpus_of(trial) or record.gpus
    found = scoring.score(scoring.judged(trial), gpus)
    state = found.state if record.state == ENDED else record.state
    counts = state == COMPLETE
    return {
        "trial": int(trial.name),
        "role": record.role,
        "of": record.of,
        "state": state,
        "parameters": record.parameters,
        "value": found.values[0] if counts else math.nan,
        "values": list(found.values) if counts else [math.nan] * len(scoring.objectives),
        "unit": THROUGHPUT_UNIT if maximised(scoring.objectives[0]) else "s",
        "penalty": found.penalty,
        "cause": record.cause or ("" if state in (RUNNING, WAITING) else found.cause),
        "kind": record.kind,
        "gpus": gpus,
        "max_throughput": math.nan if found.summary.max_throughput is None else found.summary.max_throughput,
        "best_level": found.summary.best_level,
        "bracket": found.summary.bracket,
        "started_at": record.started_at or None,
        "finished_at": record.finished_at or None,
        "duration": record.seconds if record.seconds else math.nan,
    }


def _with_best(trials: pd.DataFrame, objectives: tuple[str, ...]) -> pd.DataFrame:
    """`trials` with the flags that compare them."""
    counts = trials["state"].eq(COMPLETE) & trials["role"].ne("confirmation")
    gains = {row: gains_of(values, objectives) for row, values in trials.loc[counts, "values"].items()}
    best = max(gains, key=lambda row: gains[row], default=None)
    front = [row for row in gains if not any(_dominates(other, gains[row]) for other in gains.values())]
    return trials.assign(is_best=trials.index == best, is_pareto=trials.index.isin(front))


def gains_of(values: Any, objectives: tuple[str, ...]) -> tuple[float, ...]:
    """The values with the sign that makes more better."""
    return tuple(value if maximised(one) else -value for value, one in zip(values, objectives, strict=True))


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether `one` is nowhere worse and somewhere better."""
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))
