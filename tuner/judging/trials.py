"""The trials of a search as a DataFrame, and which of their parameters mattered."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tuner.batches.report_data import ReportTrial
from tuner.core.records import COMPLETE, ENDED, RUNNING, WAITING, Answers
from tuner.core.run_directory import Experiment, Trial
from tuner.core.text import shorten
from tuner.core.timestamps import to_utc
from tuner.judging.answers import TOLERANCE, Sameness, compare_answers
from tuner.judging.scores import Scoring, best_level_of, goals_of, maximised
from tuner.judging.slo import SLO

#: The level at which a trial has most throughput: requests in flight, or requests per second.
BEST = ("best_level", "best_rate")
#: The columns of `load_trials`.
COLUMNS = ReportTrial.__struct_fields__


def load_trials(folder: Path, slo: SLO | None = None) -> pd.DataFrame:
    """Read every trial of a search, in the order they were asked for.

    Args:
        folder: the run directory of a search.
        slo: judges the batches; by default the search's own.

    Returns:
        One row a trial: `trial` (1 is the baseline), `role` (baseline, candidate, confirmation), `of` (of a
        confirmation: baseline or winner), `state` (complete, infeasible, failed, pruned, running, waiting),
        `parameters` (dict), `promise` (why a sweep proposed it), `value` (the first objective in `unit`; NaN unless
        complete), `values` (of all objectives), `penalty`, `cause`, `kind` (of a failure), `gpus`, `max_throughput`
        (output tokens/s of the server, also of an unfinished trial), `best_level` or `best_rate`, `bracket`,
        `started_at`, `finished_at` (UTC), `duration` (seconds), `answers` (of a complete candidate beside the
        baseline's: unchanged, changed or not compared; empty where nobody asked), `answers_evidence` (in words),
        `is_best` (one at most; the first objective's) and `is_pareto` (no other is better in all objectives).
        Confirmations are neither.

    Raises:
        PathError: it is no run directory.

    Example:
        >>> trials = tuner.load_trials(Path("runs/search"))
        >>> trials.loc[trials["is_best"], ["trial", "state"]].values.tolist()
        [[6, 'complete']]
    """
    spec = Experiment.open(folder).facts.get("spec", {})
    scoring = Scoring.of(spec, slo)
    paths = Experiment(folder).trial_folders
    trials = _frame([_row(path, scoring) for path in paths])
    trials = trials.assign(**_answers(trials, paths, spec.get("quality")))
    trials["unit"] = goals_of(spec, scoring.slo, per_gpu=bool(trials["gpus"].gt(1).any()))[0].unit
    return _with_best(trials, scoring.objectives)


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    trials = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"best_level": "Int64", "best_rate": "float64"})
    return trials.assign(**{name: to_utc(trials[name]) for name in ("started_at", "finished_at")})


def _answers(trials: pd.DataFrame, paths: list[Path], quality: Any) -> dict[str, list[str]]:
    """Whether answers changed, of each candidate that counts, where a search was asked that."""
    found = [Sameness("", "")] * len(paths)
    baseline = trials.index[trials["role"].eq(BASELINE)]
    if len(baseline) and isinstance(quality, dict):
        before, tolerance = Answers.read(paths[baseline[0]]), quality.get("tolerance")
        limit = float(tolerance) if isinstance(tolerance, int | float) else TOLERANCE
        for place in trials.index[trials["state"].eq(COMPLETE) & trials["role"].eq("candidate")]:
            found[place] = compare_answers(before, Answers.read(paths[place]), limit)
    return {"answers": [one.verdict for one in found], "answers_evidence": [one.evidence for one in found]}


def _row(trial: Path, scoring: Scoring) -> dict[str, Any]:
    record = Trial(trial).record
    gpus = Trial(trial).gpus or record.gpus
    score = scoring.score(scoring.judged(trial), gpus)
    summary, state = score.summary, score.state if record.state == ENDED else record.state
    counts = state == COMPLETE
    why = record.cause or ("" if state in (RUNNING, WAITING) else score.cause)
    known = f"known from {record.known_from}" if record.known_from else ""
    return {
        **{name: getattr(record, name) for name in ("role", "of", "parameters", "promise", "kind")},
        "trial": int(trial.name),
        "state": state,
        "value": score.values[0] if counts else math.nan,
        "values": list(score.values) if counts else [math.nan] * len(scoring.objectives),
        "penalty": score.penalty,
        "cause": "; ".join(filter(None, [why, known])),
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
    counts = trials["state"].eq(COMPLETE) & trials["role"].ne("confirmation")
    gains = {row: gains_of(values, objectives) for row, values in trials.loc[counts, "values"].items()}
    best = max(gains, key=lambda row: gains[row], default=None)
    every = np.array(list(gains.values())).reshape(len(gains), len(objectives))
    front = [row for row, own in gains.items() if not ((every >= own).all(axis=1) & (every > own).any(axis=1)).any()]
    return trials.assign(is_best=trials.index == best, is_pareto=trials.index.isin(front))


def gains_of(values: Any, objectives: tuple[str, ...]) -> tuple[float, ...]:
    """The values with the sign that makes more better."""
    return tuple(value if maximised(one) else -value for value, one in zip(values, objectives, strict=True))


BASELINE, CONFIRMATION = "baseline", "confirmation"
_LONGEST = 24  # characters of a parameter's name or value
_MISSING = object()


def attempts(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials that were asked for: neither confirmations nor those that wait."""
    return trials[(trials["role"] != CONFIRMATION) & (trials["state"] != WAITING)]


def gains(trials: pd.DataFrame) -> "pd.Series[float]":
    """What each trial's value is more than the baseline's, relative to it; NaN where one of them has none.

    A run that confirms is compared with the baseline's run of the same turn, since time has passed.
    """
    values, confirming = trials["value"].astype("float64"), trials["role"] == CONFIRMATION
    turns = trials[confirming].groupby("of").cumcount()
    baseline = values[confirming & (trials["of"] == BASELINE)]
    by_turn = dict(zip(turns[baseline.index], baseline, strict=True))
    before = first(trials[trials["role"] == BASELINE])
    of = pd.Series(math.nan if before is None else float(before["value"]), trials.index)
    return values / of.where(~confirming, turns.map(by_turn)).replace(0, math.nan) - 1


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


def trials_from_records(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Trials as from `load_trials`, out of what a report carries: the `records` of them."""
    trials = _frame(rows)
    values = [[math.nan if one is None else float(one) for one in row] for row in trials["values"]]
    kinds = dict.fromkeys(("value", "penalty", "max_throughput", "duration"), "float64")
    kinds |= dict.fromkeys(("is_best", "is_pareto"), "bool")
    return trials.assign(values=pd.Series(values, trials.index, dtype="object")).astype(kinds)


def first(rows: pd.DataFrame) -> "pd.Series[Any] | None":
    """The first row, if there is one."""
    return None if rows.empty else rows.iloc[0]


#: PED-ANOVA tells a strong parameter from noise in about nine of ten searches from here on, where a quarter of the
#: trials counts as good (simulated: one strong, one weak and two idle parameters)
LEAST_TRIALS, _GOOD = 12, 0.25


def importances(trials: pd.DataFrame, *, maximize: bool = True) -> dict[str, float]:
    """The importance of each parameter, largest first; empty where too little was measured to tell.

    PED-ANOVA (Watanabe, Bansal and Hutter, 2023), as Optuna computes it, over the completed trials' first value; of a
    parameter of numbers their order counts.

    Returns:
        Shares that add up to 1, by parameter. Parameters that not all candidates have cannot be compared and are left
        out; the baseline, which was not sampled, is too.
    """
    done = trials[(trials["state"] == "complete") & trials["value"].notna() & (trials["role"] == "candidate")]
    if len(done) < LEAST_TRIALS or done["value"].nunique() < 2:
        return {}
    given = list(done["parameters"])
    everywhere = [name for name in varied(given) if all(name in one for one in given)]
    values = {name: _comparable([one[name] for one in given]) for name in everywhere}
    tried = {name: each for name, each in values.items() if len(set(each)) > 1}
    return _shares(tried, list(done["value"]), maximize) if len(tried) > 1 else {}


def _shares(parameters: dict[str, list[Any]], values: list[float], maximize: bool) -> dict[str, float]:
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # of each study it says that it was created
    study = optuna.create_study(direction="maximize" if maximize else "minimize", study_name="importances")
    distributions: dict[str, BaseDistribution] = {
        name: IntDistribution(0, max(each)) if isinstance(each[0], int) else CategoricalDistribution(sorted(set(each)))
        for name, each in parameters.items()
    }
    for number, value in enumerate(values):
        chosen = {name: each[number] for name, each in parameters.items()}
        study.add_trial(optuna.trial.create_trial(params=chosen, distributions=distributions, value=float(value)))
    return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=_GOOD))


def _comparable(values: list[Any]) -> list[Any]:
    """Numbers as their places in their order; where one is no number, all of them as names."""
    # what is subtracted from itself is 0, but for inf and NaN
    if not all(isinstance(one, int | float) and not isinstance(one, bool) and one - one == 0 for one in values):
        return [str(one) for one in values]
    ordered = sorted(set(values))
    return [ordered.index(one) for one in values]
