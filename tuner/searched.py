"""What a search found: its trials beside the baseline, as a table and in words."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import pandas as pd

from tuner.constraints import NAMES
from tuner.rows import records
from tuner.scores.record import COMPLETE, FAILED, INFEASIBLE, PRUNED, RUNNING, WAITING
from tuner.scores.score import LATENCIES, maximised, statistic_of
from tuner.scores.table import COLUMNS, THROUGHPUT_UNIT
from tuner.slo import SLO
from tuner.timestamps import to_utc

BASELINE, CANDIDATE, CONFIRMATION = "baseline", "candidate", "confirmation"
#: how a state is said of several trials, in the order in which they are counted
STATES = {
    COMPLETE: "completed",
    INFEASIBLE: "without a level that meets the SLO",
    PRUNED: "ended early",
    FAILED: "failed",
    RUNNING: "running",
}
_CAUSE, _VALUE = 120, 24  # characters of a cause in a table, of a parameter's value
_MISSING = object()


class Goal(NamedTuple):
    """One objective of a search as it is shown.

    Args:
        label: what it is called.
        unit: of its values.
        maximize: whether more is better.
    """

    label: str = "max throughput"
    unit: str = THROUGHPUT_UNIT
    maximize: bool = True

    @property
    def title(self) -> str:
        """For an axis or a header."""
        return f"{self.label} ({self.unit})"

    @property
    def decimals(self) -> int:
        """So many are worth being read."""
        return 1 if self.maximize else 4

    def of(self, value: float) -> str:
        """A value with its unit, and its name where the unit does not tell."""
        return f"{value:.1f} output {self.unit}" if self.maximize else f"{self.label} {value:.3g} {self.unit}"


#: what a search looks for where nothing else is asked
THROUGHPUT = Goal()


def goals_of(spec: Mapping[str, Any], slo: SLO, per_gpu: bool = False) -> tuple[Goal, ...]:
    """The objectives of a search's plain spec as they are shown."""
    wanted = spec.get("objective") or ["max_throughput"]
    return tuple(_goal(str(one), slo, per_gpu) for one in ([wanted] if isinstance(wanted, str) else wanted))


def _goal(objective: str, slo: SLO, per_gpu: bool) -> Goal:
    if objective in LATENCIES:
        metric = LATENCIES[objective]
        return Goal(f"{NAMES[metric]} {statistic_of(objective, slo)}", "s", maximised(objective))
    return Goal(unit=f"{THROUGHPUT_UNIT} per GPU") if per_gpu else THROUGHPUT


@dataclass(frozen=True)
class Searched:
    """The trials of one search.

    Args:
        trials: one row a trial, as from `load_trials`; perhaps empty.
        goals: what was looked for, in the order of `values`.
        facts: what `experiment.json` says.
    """

    trials: pd.DataFrame
    goals: tuple[Goal, ...] = (THROUGHPUT,)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def goal(self) -> Goal:
        """The first one: what the trials are ranked by."""
        return self.goals[0]

    @cached_property
    def tried(self) -> pd.DataFrame:
        """The trials that were asked for: neither confirmations nor those that wait."""
        return tried(self.trials)

    @cached_property
    def varied(self) -> list[str]:
        """The parameters that not all trials have the same of, in the order in which they first appear."""
        return varied(self.tried["parameters"])

    @cached_property
    def baseline(self) -> "pd.Series[Any] | None":
        """The trial of the configuration that was there before."""
        return _first(self.trials[self.trials["role"] == BASELINE])

    @cached_property
    def best(self) -> "pd.Series[Any] | None":
        """The best trial; None where none met the SLO."""
        return _first(self.tried[self.tried["is_best"].eq(True)])

    def gain(self, row: "pd.Series[Any]") -> float:
        """What a trial's value is more than the baseline's, relative to it; NaN where one of them has none."""
        return float(gains(self.trials)[self.trials["trial"] == row["trial"]].iloc[0])

    def line(self, row: "pd.Series[Any]") -> str:
        """One trial that has ended, in one line: what it was, and what came of it."""
        what = f"{name_of(row)} {told(row['parameters'], self.varied or None)}"
        if row["state"] != COMPLETE:
            why = ": ".join(filter(None, [row["kind"], _short(row["cause"], _CAUSE)]))
            return f"{what}: {STATES.get(row['state'], row['state'])}{f': {why}' if why else ''}"
        gain = self.gain(row)
        more = "" if pd.isna(gain) or row["role"] == BASELINE else f" ({percent(gain)} against the baseline)"
        return f"{what}: {self.goal.of(row['value'])}{more}"

    @property
    def answer(self) -> list[str]:
        """The result in words: the best configuration, whether it is better, and why the search ended."""
        ended = self.facts.get("search", {}).get("why", "")
        return list(
            filter(None, [self._best(), *self._confirmed(), ended and f"The search ended: {ended}.", self.counted])
        )

    def _best(self) -> str:
        if self.best is None:
            failed = (self.tried["state"] == FAILED).all()
            return "No trial has a usable result" if failed else "No trial meets the SLO, so there is no best one"
        level = "" if pd.isna(self.best["best_level"]) else f" at concurrency {self.best['best_level']}"
        value = f"{self.goal.of(self.best['value'])}{level}"
        if self.best["role"] == BASELINE:
            return f"Nothing that was tried is better than the baseline: {value}"
        gain = self.gain(self.best)
        more = "" if pd.isna(gain) else f", {percent(gain)} against the baseline"
        return f"{told(self.best['parameters'], self.varied)}: {value}{more}"

    def _confirmed(self) -> list[str]:
        return []

    @property
    def counted(self) -> str:
        """How many trials ended in which state, with what the failed ones failed of."""
        states, kinds = self.tried["state"].value_counts(), self.tried.loc[self.tried["state"] == FAILED, "kind"]
        parts = [f"{states[state]} {says}" for state, says in STATES.items() if state in states]
        told = ", ".join(f"{count} {kind}" for kind, count in kinds[kinds.ne("")].value_counts().items())
        return f"{plural(len(self.tried), 'trial')}: {', '.join(parts)}{f' ({told})' if told else ''}."

    @property
    def table(self) -> pd.DataFrame:
        """One row a trial: its parameters, how it ended, its value, the gain, the level, and why where it failed."""
        rows = self.trials[self.trials["state"] != WAITING]
        columns = {
            "trial": [name_of(row) for row in rows.to_dict("records")],
            **{goal.title: _nth(rows, place, goal.decimals) for place, goal in enumerate(self.goals)},
            "gain (%)": list((100 * gains(self.trials).loc[rows.index]).round(1)),
            "level": list(rows["best_level"]),
            "state": list(rows["state"]),
            **{self._header(name): self._cells(rows, name) for name in self.varied},
            "cause": [_short(str(cause or ""), _CAUSE) for cause in rows["cause"]],
        }
        return pd.DataFrame(columns, index=rows.index)

    def _header(self, name: str) -> str:
        """A parameter's name, told apart where it is one of our own columns'."""
        own = ("trial", "state", "gain (%)", "level", "cause", *(goal.title for goal in self.goals))
        return f"{name} (parameter)" if name in own else name

    @staticmethod
    def _cells(rows: pd.DataFrame, name: str) -> list[str]:
        unset = ["default" if role == BASELINE else "–" for role in rows["role"]]
        given = zip(rows["parameters"], unset, strict=True)
        return [_value(one[name]) if name in one else otherwise for one, otherwise in given]


def tried(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials that were asked for: neither confirmations nor those that wait."""
    return trials[(trials["role"] != CONFIRMATION) & (trials["state"] != WAITING)]


def gains(trials: pd.DataFrame) -> "pd.Series[float]":
    """What each trial's value is more than the baseline's, relative to it; NaN where one of them has none."""
    before = _first(trials[trials["role"] == BASELINE])
    of = float("nan") if before is None or not before["value"] else float(before["value"])
    return trials["value"].astype("float64") / of - 1


def name_of(row: "Mapping[Any, Any] | pd.Series[Any]") -> str:
    """What a trial is called; its number is that of its folder, and of the batches' column `trial`."""
    again = f"trial {row['trial']} (again: {row['of'] or '?'})"
    return {BASELINE: "baseline", CONFIRMATION: again}.get(row["role"], f"trial {row['trial']}")


def varied(parameters: Iterable[Mapping[str, Any]]) -> list[str]:
    """The names that not all of `parameters` have the same value of."""
    given = list(parameters)
    names = dict.fromkeys(name for one in given for name in one)
    return [name for name in names if len({repr(one.get(name, _MISSING)) for one in given}) > 1]


def told(parameters: Mapping[str, Any], names: Iterable[str] | None = None) -> str:
    """Parameters in one line, such as `n_parallel=8 n_batch=512`; `the defaults` where there is none."""
    shown = [name for name in (parameters if names is None else names) if name in parameters]
    return " ".join(f"{_value(name)}={_value(parameters[name])}" for name in shown) or "the defaults"


def percent(share: float) -> str:
    """A relative change with its sign."""
    return f"{100 * share:+.1f} %".replace("-", "−")


def plural(count: int, word: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{count} {word}{'' if count == 1 else 's'}"


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else _short(str(value), _VALUE)


def _short(text: str, width: int) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def _first(rows: pd.DataFrame) -> "pd.Series[Any] | None":
    return None if rows.empty else rows.iloc[0]


def _nth(rows: pd.DataFrame, place: int, decimals: int) -> list[float]:
    """The trials' values of one objective."""
    found = [values[place] if place < len(values) else float("nan") for values in rows["values"]]
    return [round(float(value), decimals) for value in found]


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
