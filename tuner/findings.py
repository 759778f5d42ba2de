"""What was measured, judged, with all that stands beside it: what notebooks, the terminal and the report show."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from tuner import carried, figures
from tuner.answer import answer
from tuner.asked import command_line, sweep_of
from tuner.background import Background, background
from tuner.batches import load_batches
from tuner.errors import NothingSurvived
from tuner.experiment import COMPLETED
from tuner.figures.look import TRIAL_NAMES
from tuner.goals import goals_of
from tuner.importances import importances
from tuner.searched import Searched
from tuner.slo import SLO, judge
from tuner.summary import Summary, summarize
from tuner.tried import name_of, to_records


@dataclass(frozen=True)
class Results:
    """What a run directory or a report says: its judged batches, their summary, and what stands beside them."""

    title: str
    slo: SLO | None
    judged: pd.DataFrame
    summary: Summary
    beside: Background

    @property
    def facts(self) -> dict[str, Any]:
        """What `experiment.json` says."""
        return self.beside.facts

    @cached_property
    def searched(self) -> Searched | None:
        """The search that the run was; None where it was none."""
        trials = self.beside.trials
        if trials.empty:
            return None
        goals = goals_of(self.facts.get("spec", {}), self.slo or SLO(), per_gpu=bool(trials["gpus"].gt(1).any()))
        return Searched(trials, goals, self.facts)

    @cached_property
    def winner(self) -> dict[str, Any]:
        """The sweep that measures a search's best configuration, as plain parameters; empty where there is none."""
        best = self.searched.best if self.searched else None
        return {} if best is None else sweep_of(self.facts.get("spec", {}), best["parameters"])

    @property
    def command(self) -> str:
        """The command that measures a search's best configuration again; empty where there is none."""
        return command_line("sweep", self.winner) if self.winner else ""

    @cached_property
    def figures(self) -> list[Any]:
        """The figures that the report and the notebook show, the most telling first."""
        return self._of_sweep() if self.searched is None else self._of_search(self.searched)

    def _of_search(self, searched: Searched) -> list[Any]:
        """How the search went, and then the curves of the baseline and of the winner alone: twenty are unreadable."""
        shares, why_not = importances(searched.trials, maximize=searched.goal.maximize)
        made = [
            figures.best_so_far(searched.trials, searched.goal),
            figures.parallel_coordinates(searched.trials, searched.goal),
            figures.importance(shares, why_not),
        ]
        if len(searched.goals) > 1:
            made.insert(1, figures.pareto_front(searched.trials, (searched.goals[0], searched.goals[1])))
        shown = (("winner: {}", searched.best), ("{}", searched.baseline))  # the later name counts, if they are one
        names = {int(one["trial"]): how.format(name_of(one)) for how, one in shown if one is not None}
        judged = self.judged[self.judged["trial"].isin(names)]
        judged.attrs = judged.attrs | {TRIAL_NAMES: names}
        return [*made, figures.throughput_vs_latency(judged, self.slo, **self._axis())]

    def _of_sweep(self) -> list[Any]:
        known = [metric for metric in figures.METRICS if self.judged[f"{metric}_p90"].notna().any()]
        spread = [metric for metric in ("ttft", "tpot") if any(self.beside.spreads.get(metric, []))]
        made = [figures.throughput_vs_latency(self.judged, self.slo, **self._axis())]
        if self.judged["tpot_p50"].notna().any():
            made.append(figures.trade_off(self.judged, self._gpus()))
        made += [figures.latency_vs_concurrency(self.judged, self.slo, metric=metric) for metric in known]
        made += [
            figures.distribution(self.judged, self.beside.spreads[metric], self.slo, metric=metric) for metric in spread
        ]
        if self.judged["started_at"].notna().any():
            made.append(figures.timeline(self.judged, self.beside.telemetry))
        return made

    def _axis(self) -> dict[str, str]:
        """The latency that the SLO limits, so that its threshold is in the figure."""
        latencies = [constraint for constraint in self.slo.constraints if constraint.is_latency] if self.slo else []
        return {"metric": latencies[0].metric, "statistic": latencies[0].statistic} if latencies else {}

    def _gpus(self) -> dict[int, int]:
        """How many GPUs each trial's server had, where one run is shown."""
        if self.judged["run_folder"].nunique() > 1:
            return {}
        return {number: len(server.get("gpus") or []) for number, server in enumerate(self.beside.servers, start=1)}

    @property
    def answer(self) -> list[str]:
        """The result in words: what, how sure, and under which SLO."""
        return self.searched.answer if self.searched else self.batches_answer

    @property
    def batches_answer(self) -> list[str]:
        """What the batches alone say, of whichever trial they are."""
        return answer(self.judged, self.summary, self.slo)

    def must_have_survivors(self) -> None:
        """Accept everything but an experiment in which no batch at all survived.

        Raises:
            NothingSurvived: there is no completed batch; the message says how the levels ended.
        """
        if not (self.judged["outcome"] == COMPLETED).any():
            ends = self.judged["outcome"].value_counts()
            told = ", ".join(f"{count} {outcome}" for outcome, count in ends.items())
            first = next(filter(None, self.judged["reason"]), "")
            raise NothingSurvived(f"no batch has a usable result ({told}); the first: {first}")

    def carried(self) -> carried.Carried:
        """What the report takes along of all this."""
        columns, rows = carried.columns_and_rows(self.judged)
        samples = self.beside.telemetry
        exact = samples.assign(at=samples["at"].dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ")) if len(samples) else samples
        return carried.Carried(
            slo=self.slo.to_dict() if self.slo else None,
            columns=columns,
            rows=rows,
            attainment=[None if pd.isna(share) else float(share) for share in self.judged["attainment"]],
            spreads=self.beside.spreads,
            facts=self.facts,
            servers=self.beside.servers,
            telemetry={str(name): exact[name].tolist() for name in exact},
            code=self.beside.code,
            trials=msgspec.convert(to_records(self.beside.trials), list[carried.CarriedTrial]),
        )


def read_results(*paths: Path, slo: SLO | None = None) -> Results:
    """Load and judge what is in `paths`.

    Args:
        paths: run directories, genai-bench folders, files or reports; the first one's facts are the results'.
        slo: judges the batches; by default the SLO that a single run was asked to meet.

    Raises:
        PathError: there is nothing to be read.
    """
    batches = load_batches(*paths)
    beside = background(paths, batches, slo)
    asked = SLO.parse(beside.slo, str(paths[0])) if beside.slo and len(paths) == 1 else None
    judged = judge(batches, slo or asked or SLO())
    if beside.known_attainment and (slo is None or slo == asked):
        judged["attainment"] = judged["attainment"].fillna(pd.Series(beside.known_attainment, judged.index, "float64"))
    title = str(beside.facts.get("name", "") or paths[0].resolve().name)
    return Results(title, slo or asked, judged, summarize(judged), beside)
