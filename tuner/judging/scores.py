"""What a trial of a search is worth, and how that is shown."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd

from tuner.batches.load import load_batches
from tuner.batches.run_folder import is_trial
from tuner.core.level import level_of, level_title, levels_in
from tuner.core.metrics import PERCENTILES, column_name
from tuner.core.records import COMPLETE, COMPLETED, FAILED, INFEASIBLE
from tuner.judging.levels import NONE, best_of
from tuner.judging.slo import SLO
from tuner.judging.summary import Summary, summarize
from tuner.judging.verdicts import COMPLIANT, NOT_RUN, ending, judge

GOODPUT = "max_goodput"

Objective = Literal["max_throughput", "max_goodput", "min_ttft", "min_tpot", "min_latency"]
#: objective → column of the batches, without its statistic
LATENCIES = {"min_ttft": "ttft", "min_tpot": "tpot", "min_latency": "e2e_latency"}


@dataclass(frozen=True)
class Score:
    """What one trial is worth."""

    state: str  # `complete` where it counts, `infeasible` where no batch complies, `failed` where none has a result
    values: tuple[float, ...]  # one for each objective, in its own unit; NaN where there is none
    # of the least penalised batch, of the scenario that is farthest from complying; NaN where none can be judged
    penalty: float = math.nan
    cause: str = ""  # why it is worth nothing; empty where it counts
    summary: Summary = field(default_factory=lambda: Summary(None, None, NONE, 0, 0))  # of its judged batches


def maximised(objective: str) -> bool:
    """Whether more is better."""
    return objective.startswith("max_")


@dataclass(frozen=True)
class Scoring:
    """What trials are scored by."""

    objectives: tuple[str, ...]  # what is wanted
    level: float | None  # where latencies are read; None where no objective is one
    slo: SLO  # judges the batches, and says which statistic of a latency counts: the strictest it limits, else p50

    @classmethod
    def of(cls, spec: Mapping[str, Any], slo: SLO | None = None) -> "Scoring":
        """From the plain spec of a search; `slo` instead of its own where given."""
        objectives = tuple(_objectives(spec))
        levels = spec.get("rates") or spec.get("levels")
        level = spec.get("objective_level") or (levels[0] if isinstance(levels, list) and levels else None)
        needed = any(one in LATENCIES for one in objectives)
        return cls(objectives, level if needed else None, slo or SLO.recorded(spec.get("slo"), "the search") or SLO())

    def judged(self, trial: Path) -> pd.DataFrame:
        """The judged batches of the trial in this folder; none where nothing was asked of it yet."""
        return judge(load_batches(trial), self.slo) if is_trial(trial) else pd.DataFrame()

    def score(self, judged: pd.DataFrame, gpus: int = 1) -> Score:
        """What the judged batches of one trial are worth; throughput is that of one GPU where there are more."""
        nothing = (math.nan,) * len(self.objectives)
        if judged.empty:
            return Score(FAILED, nothing, cause="nothing was measured")
        summary = summarize(judged)
        if not judged["outcome"].eq(COMPLETED).any():
            first = judged.iloc[judged["outcome"].isin(NOT_RUN).argmin()]
            return Score(FAILED, nothing, cause=ending(first["outcome"], first["reason"]), summary=summary)
        values = tuple(self._value(summary, one, gpus) for one in self.objectives)
        if any(math.isnan(value) for value in values):
            fallbacks = [part.fallback["penalty"] for part in summary.scenarios.values() if part.best is None]
            least = max((float(penalties.iloc[0]) for penalties in fallbacks if len(penalties)), default=math.nan)
            return Score(INFEASIBLE, nothing, least, self._why_not(summary.levels), summary)
        return Score(COMPLETE, values, 0.0, summary=summary)

    def _value(self, summary: Summary, objective: str, gpus: int) -> float:
        """One objective's value, over several scenarios their geometric mean; NaN where a scenario has none."""
        rows, is_latency = summary.levels[summary.levels["verdict"].isin(COMPLIANT)], objective in LATENCIES
        rows = rows[levels_in(rows) == self.level] if is_latency else rows
        each = rows.groupby("scenario")[column_of(objective, self.slo)]
        values = (each.median() if is_latency else each.max() / max(gpus, 1)).reindex(list(summary.scenarios))
        positive = [float(value) if 0 < value < math.inf else math.nan for value in values]
        return math.exp(sum(map(math.log, positive)) / len(positive)) if positive else math.nan

    def _why_not(self, levels: pd.DataFrame) -> str:
        rows = levels if self.level is None else levels[levels_in(levels) == self.level]
        away = rows[rows["outcome"].eq(COMPLETED) & ~rows["verdict"].isin(COMPLIANT)]
        if away.empty:
            return f"level {self.level:g} has no result" if self.level else "its throughput is not known"
        first = away.sort_values("penalty", kind="stable").iloc[0]
        return f"at {level_title(level_of(first))}: {first['verdict_reason']}"


def best_level_of(objective: str, summary: Summary) -> float | None:
    """The level at which the most of an objective is had; that of the throughput where a latency is minimised."""
    best = best_of(summary.levels, "goodput") if objective == GOODPUT and summary.best is not None else None
    return summary.best_level if best is None else level_of(best)


def column_of(objective: str, slo: SLO) -> str:
    """The column of the batches that an objective reads; of a latency its strictest limited statistic, or p50."""
    if objective not in LATENCIES:
        return "goodput" if objective == GOODPUT else "output_throughput"
    limited = [one.statistic for one in slo.constraints if one.metric == LATENCIES[objective]]
    return f"{LATENCIES[objective]}_{max(limited, key=lambda one: PERCENTILES.get(one, 50), default='p50')}"


class Goal(NamedTuple):
    """One objective of a search as it is shown."""

    label: str = "max throughput"  # what it is called
    unit: str = "tokens/s"  # of its values
    maximize: bool = True  # whether more is better

    @property
    def title(self) -> str:
        """For an axis or a header."""
        return f"{self.label} ({self.unit})"

    @property
    def decimals(self) -> int:
        """So many are worth being read."""
        return 4 if not self.maximize else 1 if self.unit.startswith("tokens") else 2

    def of(self, value: float) -> str:
        """A value with its unit, and its name where the unit does not tell."""
        named = self.maximize and self.unit.startswith("tokens")
        return f"{value:.1f} output {self.unit}" if named else f"{self.label} {value:.3g} {self.unit}"


#: what a search looks for where nothing else is asked
THROUGHPUT = Goal()


def goals_of(spec: Mapping[str, Any], slo: SLO, per_gpu: bool = False) -> tuple[Goal, ...]:
    """The objectives of a search's plain spec as they are shown."""
    goals = {"max_throughput": THROUGHPUT, GOODPUT: Goal("max goodput", "requests/s")}
    if per_gpu:
        goals = {one: Goal(f"{goal.label} per GPU", f"{goal.unit} per GPU") for one, goal in goals.items()}
    latencies = {one: Goal(column_name(column_of(one, slo)), "s", maximize=False) for one in LATENCIES}
    return tuple((goals | latencies).get(one, goals["max_throughput"]) for one in _objectives(spec))


def _objectives(spec: Mapping[str, Any]) -> list[str]:
    wanted = spec.get("objective") or "max_throughput"
    return [wanted] if isinstance(wanted, str) else list(wanted)
