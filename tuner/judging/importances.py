"""Which parameters of a search mattered: the share that each has in telling good trials from the rest."""

import math
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

#: PED-ANOVA tells a strong parameter from noise in about nine of ten searches from here on, where a quarter of the
#: trials counts as good (simulated: one strong, one weak and two idle parameters)
LEAST_TRIALS = 12
_GOOD = 0.25
_LOG_FROM = 16  # times that the largest value is the smallest one


def importances(trials: pd.DataFrame, *, maximize: bool = True) -> tuple[dict[str, float], str]:
    """The importance of each parameter, largest first, or why it cannot be told.

    PED-ANOVA (Watanabe, Bansal and Hutter, 2023), as Optuna computes it, over the completed trials' first value.

    Args:
        trials: one row a trial, as from `load_trials`.
        maximize: whether a higher value is the better one.

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
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    optuna.logging.set_verbosity(optuna.logging.WARNING)  # of each study it says that it was created
    study = optuna.create_study(
        storage=optuna.storages.InMemoryStorage(), direction="maximize" if maximize else "minimize", study_name="told"
    )
    for given, value in zip(parameters, values, strict=True):
        chosen = {name: _as_choice(given[name], varied[name]) for name in varied}
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


def _as_choice(value: Any, distribution: "BaseDistribution") -> Any:
    from optuna.distributions import CategoricalDistribution

    return str(value) if isinstance(distribution, CategoricalDistribution) else value
