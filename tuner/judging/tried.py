"""The trials of a search as rows: which were tried, what they gained, what they are called."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from tuner.batches.batch import records
from tuner.core.timestamps import to_utc
from tuner.core.trial_record import WAITING
from tuner.judging.trials import COLUMNS

BASELINE, CONFIRMATION = "baseline", "confirmation"
_LONGEST = 24  # characters of a parameter's name or value
_MISSING = object()


def asked_for(trials: pd.DataFrame) -> pd.DataFrame:
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


def told(parameters: Mapping[str, Any], names: Iterable[str] | None = None) -> str:
    """Parameters in one line, such as `n_parallel=8 n_batch=512`; `the defaults` where there is none."""
    shown = [name for name in (parameters if names is None else names) if name in parameters]
    return " ".join(f"{value_text(name)}={value_text(parameters[name])}" for name in shown) or "the defaults"


def percent(share: float) -> str:
    """A relative change with its sign."""
    return f"{100 * share:+.1f} %".replace("-", "−")


def plural(count: int, word: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{count} {word}{'' if count == 1 else 's'}"


def value_text(value: Any) -> str:
    """A parameter's value in a table or a line."""
    return f"{value:g}" if isinstance(value, float) else short(str(value), _LONGEST)


def short(text: str, width: int) -> str:
    """A text in one line of at most so many characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def to_records(trials: pd.DataFrame) -> list[dict[str, Any]]:
    """Trials as JSON has them; `from_records` reads them back."""
    return records(trials[[name for name in COLUMNS if name in trials]])


def from_records(found: list[dict[str, Any]]) -> pd.DataFrame:
    """Trials as from `load_trials`, out of what a report carries."""
    trials = pd.DataFrame(found, columns=list(COLUMNS))
    for name in ("started_at", "finished_at"):
        trials[name] = to_utc(trials[name])
    numbers = dict.fromkeys(("value", "penalty", "max_throughput", "duration"), "float64")
    values = [[float("nan") if one is None else float(one) for one in row] for row in trials["values"]]
    return trials.assign(values=pd.Series(values, trials.index, dtype="object")).astype(
        numbers | {"best_level": "Int64", "is_best": "bool", "is_pareto": "bool"}
    )


def first(rows: pd.DataFrame) -> "pd.Series[Any] | None":
    """The first row, if there is one."""
    return None if rows.empty else rows.iloc[0]
