"""What a search found: its trials beside the baseline, as a table and in words."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec
import pandas as pd

from tuner.core.level import level_of, level_title
from tuner.core.records import COMPLETE, FAILED, INFEASIBLE, PRUNED, RUNNING, WAITING
from tuner.core.text import change, plural, shorten
from tuner.judging.answers import CHANGED, UNCHANGED
from tuner.judging.intervals import CONFIDENCE
from tuner.judging.scores import THROUGHPUT, Goal, goals_of
from tuner.judging.slo import SLO
from tuner.judging.trials import BASELINE, BEST, attempts, first, gains, name_of, parameters_text, value_text, varied
from tuner.judging.verdicts import ending

#: how a state is called wherever a person reads it, in the order in which trials are counted
STATES = {
    COMPLETE: "completed",
    INFEASIBLE: "missed the SLO",
    PRUNED: "ended early",
    FAILED: "failed",
    RUNNING: "running",
}
#: verdicts of a confirmation that bear the gain out, and what is said of the others
CONFIRMED = ("gain", "only_winner")
DOUBTS = {
    "noise": "within the noise of the baseline",
    "loss": "but the baseline was better when both were measured again",
    "neither": "but it did not meet the SLO when it was measured again",
}
_CAUSE = 120  # characters in a table
_ONCE = "each configuration was measured once, and a machine does not do the same twice"


class Confirmation(msgspec.Struct, frozen=True):
    """What measuring baseline and winner again showed."""

    # `gain` or `loss` (the interval leaves 0 out), `noise`, `only_winner` (the baseline complies so seldom that it is
    # no chance), `neither` (the winner does not comply each time), `unknown` (too few runs), `same` (nothing beat it)
    verdict: str = ""
    text: str = ""  # the same in words
    levels: list[float] = []  # at which both were measured
    baseline: list[float] = []  # the objective's value of each of its runs; only those that comply
    winner: list[float] = []  # the same of the winner
    gain: float | None = None  # relative, positive where the winner is better; None where it cannot be computed
    low: float | None = None  # the ends of its interval
    high: float | None = None
    confidence: float = CONFIDENCE  # of the interval
    trials: list[int] = []  # which trials these are


class Winner(msgspec.Struct, frozen=True):
    """The best trial, and the command that its server was started with."""

    trial: int = 0
    command: str = ""


class SearchNotes(msgspec.Struct, frozen=True):
    """What a search notes of itself in `experiment.json`: why it ended, what is best, and whether it is better."""

    reason: str = ""
    winner: Winner = Winner()
    confirmation: Confirmation | None = None


@dataclass(frozen=True)
class Searched:
    """The trials of one search."""

    trials: pd.DataFrame  # one row a trial, as from `load_trials`; perhaps empty
    goals: tuple[Goal, ...] = (THROUGHPUT,)  # what was looked for, in the order of `values`
    facts: Mapping[str, Any] = field(default_factory=dict)  # what `experiment.json` says

    @classmethod
    def of(cls, trials: pd.DataFrame, facts: Mapping[str, Any], slo: SLO) -> "Searched":
        """The search of which `experiment.json` says these `facts`, judged by `slo`."""
        per_gpu = bool(trials["gpus"].gt(1).any())
        return cls(trials, goals_of(facts.get("spec", {}), slo, per_gpu), facts)

    @property
    def goal(self) -> Goal:
        """What the trials are ranked by."""
        return self.goals[0]

    @cached_property
    def attempts(self) -> pd.DataFrame:
        """The trials that were asked for, as `trials.attempts` has them."""
        return attempts(self.trials)

    @cached_property
    def varied(self) -> list[str]:
        """The parameters in which the trials differ."""
        return varied(self.attempts["parameters"])

    @cached_property
    def baseline(self) -> "pd.Series[Any] | None":
        """The trial of the configuration that was there before."""
        return first(self.trials[self.trials["role"] == BASELINE])

    @cached_property
    def best(self) -> "pd.Series[Any] | None":
        """The best trial; None where none met the SLO."""
        return first(self.attempts[self.attempts["is_best"].eq(True)])

    def gain(self, row: "pd.Series[Any]") -> float:
        """What a trial's value is more than the baseline's, relative to it; NaN where one of them has none."""
        return float(gains(self.trials)[self.trials["trial"] == row["trial"]].iloc[0])

    def line(self, row: "pd.Series[Any]") -> str:
        """One trial that has ended, in one line: what it was, and what came of it."""
        what = f"{name_of(row)} {parameters_text(row['parameters'], self.varied or None)}"
        if row["state"] != COMPLETE:
            why = ending(row["kind"], shorten(row["cause"], _CAUSE))
            return f"{what}: {STATES.get(row['state'], row['state'])}{f': {why}' if why else ''}"
        gain = self.gain(row)
        more = "" if pd.isna(gain) or row["role"] == BASELINE else f" ({change(gain)} against the baseline)"
        known = f" ({shorten(row['cause'], _CAUSE)})" if row["cause"] else ""
        return f"{what}: {self.goal.of(row['value'])}{more}{known}{_changed(row)}"

    @property
    def answer(self) -> list[str]:
        """The result in words: the best configuration, whether it is better, and why the search ended."""
        ended = f"The search ended: {self.notes.reason}." if self.notes.reason else ""
        proposed = [row for row in self.attempts.to_dict("records") if row.get("promise") and row["state"] != RUNNING]
        promises = [f"Proposed since {row['promise']} – {self.line(pd.Series(row))}." for row in proposed]
        return list(filter(None, [self._best(), self._confirmed(), self._same(), *promises, ended, self.counts]))

    @cached_property
    def notes(self) -> SearchNotes:
        """What the search noted of itself; without its winner where another trial is the best under another SLO."""
        try:
            noted = msgspec.convert(self.facts.get("search") or {}, SearchNotes)
        except msgspec.ValidationError:
            return SearchNotes()
        is_best = self.best is not None and noted.winner.trial in (0, self.best["trial"])
        return noted if is_best else SearchNotes(reason=noted.reason)

    def _best(self) -> str:
        if self.best is None:
            failed = (self.attempts["state"] == FAILED).all()
            return "No trial has a usable result" if failed else "No trial meets the SLO, so there is no best one"
        level = level_of(self.best, BEST)
        value = f"{self.goal.of(self.best['value'])}{f' at {level_title(level)}' if level else ''}"
        parameters = parameters_text(self.best["parameters"], self.varied)
        if self.best["role"] == BASELINE:
            return f"Nothing that was tried is better than the baseline, {parameters}: {value}"
        what = f"{parameters}: {value}{self._gained(self.best)}"
        return f"{what}{_changed(self.best)}{f' ({why})' if (why := self.best['answers_evidence']) else ''}"

    def _same(self) -> str:
        """The best trial that answers as the baseline does, where the best of all does not."""
        same = self.attempts[self.attempts["answers"].eq(UNCHANGED)]
        if self.best is None or self.best["answers"] != CHANGED or same.empty:
            return ""
        first_of_them = same.sort_values("value", ascending=not self.goal.maximize, kind="stable").iloc[0]
        return f"The best with unchanged answers is {self.line(first_of_them)}."

    def _gained(self, best: "pd.Series[Any]") -> str:
        """What the best is more than the baseline, never more surely than it was confirmed."""
        notes = self.notes.confirmation or Confirmation()
        if notes.verdict in DOUBTS:
            return f", {DOUBTS[notes.verdict]}"
        is_sure, gain = notes.verdict in CONFIRMED, notes.gain
        if gain is None and not is_sure:  # the trials' own is no confirmed one
            gain = self.gain(best)
        sure = "confirmed" if is_sure else "not confirmed yet"
        return f", {sure}" if pd.isna(gain) else f", {change(gain)} against the baseline ({sure})"

    def _confirmed(self) -> str:
        """What confirms the gain, or says that nothing does yet."""
        said = self.notes.confirmation.text if self.notes.confirmation else ""
        if self.best is None or self.best["role"] == BASELINE:
            return ""
        if not said:
            why = "the best of many noisy trials looks better than it is" if len(self.attempts) > 2 else _ONCE
            return f"The gain is not confirmed: {why}."
        return f"{said[0].upper()}{said[1:]}."

    @property
    def counts(self) -> str:
        """How many trials ended in which state, with what the failed ones failed of."""
        states = self.attempts["state"].value_counts()
        kinds = self.attempts.loc[self.attempts["state"].eq(FAILED) & self.attempts["kind"].ne(""), "kind"]
        parts = [f"{states[state]} {says}" for state, says in STATES.items() if state in states]
        failures = ", ".join(f"{count} {kind}" for kind, count in kinds.str.replace("_", " ").value_counts().items())
        return f"{plural(len(self.attempts), 'trial')}: {', '.join(parts)}{f' ({failures})' if failures else ''}."

    @property
    def table(self) -> pd.DataFrame:
        """One row a trial: its parameters, how it ended, its value, the gain, the level, and why where it failed."""
        rows = self.trials[self.trials["state"] != WAITING]
        said = zip(rows["answers"], rows["answers_evidence"], strict=True)
        # the verdict, and how many part: `changed (14 of 20)`
        answers = [f"{one} ({why.partition(' part')[0]})" if " part" in why else one for one, why in said]
        columns = {
            "trial": [name_of(row) for row in rows.to_dict("records")],
            **{
                goal.title: [round(float((*each[place:], math.nan)[0]), goal.decimals) for each in rows["values"]]
                for place, goal in enumerate(self.goals)
            },
            "gain (%)": list((100 * gains(self.trials).loc[rows.index]).round(1)),
            "level": [level_of(row, BEST) or pd.NA for row in rows.to_dict("records")],
            "state": [STATES.get(state, state) for state in rows["state"]],
            **({"answers": answers} if any(answers) else {}),
        }
        as_before = rows["role"].eq(BASELINE) | rows["of"].eq(BASELINE)
        several = any("engine" in one for one in rows["parameters"])  # which have parameters of their own
        unset = ["default" if before and not several else "–" for before in as_before]
        pairs = list(zip(rows["parameters"], unset, strict=True))
        parameters = {  # told apart where it is called as one of our own columns
            f"{name} (parameter)" if name in {*columns, "answers", "cause"} else name: [
                value_text(one[name]) if name in one else otherwise for one, otherwise in pairs
            ]
            for name in self.varied
        }
        causes = [shorten(str(cause or ""), _CAUSE) for cause in rows["cause"]]
        return pd.DataFrame(columns | parameters | {"cause": causes}, index=rows.index)


def _changed(row: "pd.Series[Any]") -> str:
    """What became of a trial's answers; nothing where that was not asked."""
    return f", answers {row['answers']}" if row["answers"] else ""
