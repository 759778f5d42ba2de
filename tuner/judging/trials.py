"""The trials of a search as a DataFrame, and which of their parameters mattered."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from tuner.batches.batch import records
from tuner.core.run_directory import COMPLETE, ENDED, RUNNING, WAITING, Experiment, Trial
from tuner.core.text import shorten
from tuner.core.timestamps import to_utc
from tuner.judging.scores import Scoring, best_level_of, goals_of, maximised
from tuner.judging.slo import SLO

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


#: The level at which a trial has most throughput: requests in flight, or requests per second.
BEST = ("best_level", "best_rate")
#: The columns of `load_trials`.
COLUMNS = (
    *(
        "trial",
        "role",
        "of",
        "state",
        "parameters",
        "promise",
        "value",
        "values",
        "unit",
        "penalty",
        "cause",
        "kind",
        "gpus",
    ),
    *("max_throughput", *BEST, "bracket", "started_at", "finished_at", "duration", "is_best", "is_pareto"),
)


def load_trials(folder: Path, slo: SLO | None = None) -> pd.DataFrame:
    """Read every trial of a search, in the order they were asked for.

    Args:
        folder: the run directory of a search.
        slo: judges the batches; by default the search's own.

    Returns:
        One row a trial: `trial` (1 is the baseline), `role` (baseline, candidate, confirmation), `of` (of a
        confirmation: baseline or winner), `state` (complete, infeasible, failed, pruned, running, waiting),
        `parameters` (dict), `promise` (why a sweep
        proposed it), `value` (the first objective in `unit`; NaN unless complete), `values` (of all objectives),
        `penalty`, `cause`, `kind` (of a failure), `gpus`, `max_throughput` (output tokens/s of the server, also of an
        unfinished trial), `best_level` or `best_rate`, `bracket`, `started_at`, `finished_at` (UTC), `duration`
        (seconds), `is_best` (one at most; the first objective's) and `is_pareto` (no other is better in all
        objectives). Confirmations are neither.

    Raises:
        PathError: it is no run directory.

    Example:
        >>> trials = tuner.load_trials(Path("runs/search"))
        >>> trials.loc[trials["is_best"], ["trial", "state"]].values.tolist()
        [[6, 'complete']]
    """
    spec = Experiment.open(folder).record.spec
    scoring = Scoring.of(spec, slo)
    trials = _with_times([_row(path, scoring) for path in Experiment(folder).trial_folders])
    trials["unit"] = goals_of(spec, scoring.slo, per_gpu=bool(trials["gpus"].gt(1).any()))[0].unit
    return _with_best(trials.astype(_BEST_KINDS), scoring.objectives)


def _with_times(rows: list[dict[str, Any]]) -> pd.DataFrame:
    trials = pd.DataFrame(rows, columns=list(COLUMNS))
    return trials.assign(**{name: to_utc(trials[name]) for name in ("started_at", "finished_at")})


def _row(trial: Path, scoring: Scoring) -> dict[str, Any]:
    record = Trial(trial).record
    gpus = Trial(trial).gpus or record.gpus
    score = scoring.score(scoring.judged(trial), gpus)
    summary, state = score.summary, score.state if record.state == ENDED else record.state
    counts = state == COMPLETE
    return {
        **{name: getattr(record, name) for name in ("role", "of", "parameters", "promise", "kind")},
        "trial": int(trial.name),
        "state": state,
        "value": score.values[0] if counts else math.nan,
        "values": list(score.values) if counts else [math.nan] * len(scoring.objectives),
        "penalty": score.penalty,
        "cause": record.cause or ("" if state in (RUNNING, WAITING) else score.cause),
        "gpus": gpus,
        "max_throughput": math.nan if summary.max_throughput is None else summary.max_throughput,
        **dict.fromkeys(BEST),
        **{("best_rate" if summary.is_of_rates else "best_level"): best_level_of(scoring.objectives[0], summary)},
        "bracket": summary.bracket,
        "started_at": record.started_at or None,
        "finished_at": record.finished_at or None,
        "duration": record.seconds or math.nan,
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


_BEST_KINDS = {"best_level": "Int64", "best_rate": "float64"}
BASELINE, CONFIRMATION = "baseline", "confirmation"
_LONGEST = 24  # characters of a parameter's name or value
_MISSING = object()


def attempts(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials that were asked for: neither confirmations nor those that wait."""
    return trials[(trials["role"] != CONFIRMATION) & (trials["state"] != WAITING)]


def gains(trials: pd.DataFrame) -> "pd.Series[float]":
    """What each trial's value is more than the baseline's, relative to it; NaN where one of them has none.

    Runs that confirm have none either: they are compared with each other, since time has passed.
    """
    before = first(trials[trials["role"] == BASELINE])
    of = float("nan") if before is None or not before["value"] else float(before["value"])
    return trials["value"].astype("float64").where(trials["role"] != CONFIRMATION) / of - 1


def name_of(row: "Mapping[Any, Any] | pd.Series[Any]") -> str:
    """What a trial is called; its number is that of its folder, and of the batches' column `trial`."""
    again = f"{row['of'] or 'trial'} again ({row['trial']})"
    return {BASELINE: "baseline", CONFIRMATION: again}.get(row["role"], f"trial {row['trial']}")


def varied(parameters: Iterable[Mapping[str, Any]]) -> list[str]:
    """The names that not all of `parameters` have the same value of."""
    given = list(parameters)
    names = dict.fromkeys(name for one in given for name in one)
    return [name for name in names if len({repr(one.get(name, _MISSING)) for one in given}) > 1]


def parameters_text(parameters: Mapping[str, Any], names: Iterable[str] | None = None) -> str:
    """Parameters in one line, such as `n_parallel=8 n_batch=512`; `the defaults` where there is none."""
    shown = [name for name in (parameters if names is None else names) if name in parameters]
    return " ".join(f"{value_text(name)}={value_text(parameters[name])}" for name in shown) or "the defaults"


def value_text(value: Any) -> str:
    """A parameter's value in a table or a line."""
    return f"{value:g}" if isinstance(value, float) else shorten(str(value), _LONGEST)


def trials_to_records(trials: pd.DataFrame) -> list[dict[str, Any]]:
    """Trials as JSON has them; `from_records` reads them back."""
    return records(trials[[name for name in COLUMNS if name in trials]])


def trials_from_records(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Trials as from `load_trials`, out of what a report carries."""
    trials = _with_times(rows)
    numbers = dict.fromkeys(("value", "penalty", "max_throughput", "duration"), "float64")
    values = [[float("nan") if one is None else float(one) for one in row] for row in trials["values"]]
    return trials.assign(values=pd.Series(values, trials.index, dtype="object")).astype(
        numbers | _BEST_KINDS | {"is_best": "bool", "is_pareto": "bool"}
    )


def first(rows: pd.DataFrame) -> "pd.Series[Any] | None":
    """The first row, if there is one."""
    return None if rows.empty else rows.iloc[0]


#: PED-ANOVA tells a strong parameter from noise in about nine of ten searches from here on, where a quarter of the
#: trials counts as good (simulated: one strong, one weak and two idle parameters)
LEAST_TRIALS = 12
_GOOD = 0.25
_LOG_FROM = 16  # times that the largest value is the smallest one


def importances(trials: pd.DataFrame, *, maximize: bool = True) -> tuple[dict[str, float], str]:
    """The importance of each parameter, largest first, or why it cannot be told.

    PED-ANOVA (Watanabe, Bansal and Hutter, 2023), as Optuna computes it, over the completed trials' first value.

    Returns:
        Shares that add up to 1, by parameter, and an empty text; or no shares, and the reason. Parameters that not
        all candidates have cannot be compared and are left out; the baseline, which was not sampled, is too.
    """
    done = trials[(trials["state"] == "complete") & trials["value"].notna() & (trials["role"] == "candidate")]
    if len(done) < LEAST_TRIALS:
        return {}, f"the importance of parameters needs {LEAST_TRIALS} completed trials; there are {len(done)}"
    parameters = list(done["parameters"])
    everywhere = [name for name in parameters[0] if all(name in one for one in parameters)]
    possible = {name: _distribution([one[name] for one in parameters]) for name in everywhere}
    varied = {name: one for name, one in possible.items() if not one.single()}
    if len(varied) < 2 or done["value"].nunique() < 2:
        return {}, "the importance of parameters needs two that vary in all trials, and values that differ"
    return _shares(parameters, list(done["value"]), varied, maximize), ""


def _shares(
    parameters: list[dict[str, Any]], values: list[float], varied: "dict[str, BaseDistribution]", maximize: bool
) -> dict[str, float]:
    import optuna
    from optuna.distributions import CategoricalDistribution
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # of each study it says that it was created
    study = optuna.create_study(
        storage=optuna.storages.InMemoryStorage(),
        direction="maximize" if maximize else "minimize",
        study_name="importances",
    )
    for given, value in zip(parameters, values, strict=True):
        chosen = {
            name: str(given[name]) if isinstance(one, CategoricalDistribution) else given[name]
            for name, one in varied.items()
        }
        study.add_trial(optuna.trial.create_trial(params=chosen, distributions=varied, value=float(value)))
    return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=_GOOD))


def _distribution(values: list[Any]) -> "BaseDistribution":
    """Where the values of one parameter may have come from; what is no number is a name."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    numbers = [value for value in values if _is_number(value)]
    if len(numbers) < len(values):
        return CategoricalDistribution(sorted({str(value) for value in values}))
    low, high = min(numbers), max(numbers)
    spread = low > 0 and high >= _LOG_FROM * low
    if all(isinstance(number, int) for number in numbers):
        return IntDistribution(int(low), int(high), log=spread)
    return FloatDistribution(float(low), float(high), log=spread)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
