"""What was measured, judged, with all that stands beside it: what notebooks, the terminal and the report show."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from tuner import figures
from tuner.batches import report_data
from tuner.batches.batch import json_value, records
from tuner.batches.load import load_batches
from tuner.core.records import COMPLETED
from tuner.core.text import plural
from tuner.core.timestamps import to_utc
from tuner.errors import NothingSurvived, RequestError
from tuner.figures.style import METRICS, MOST_CURVES, TRIAL_NAMES
from tuner.judging.costs import Price, Target, cost_text, fleet_text
from tuner.judging.levels import CURVE
from tuner.judging.search_answer import Searched
from tuner.judging.slo import SLO, Constraint
from tuner.judging.summary import Summary, answer, summarize
from tuner.judging.table import TIER, table
from tuner.judging.tiers import Tiers, tiers
from tuner.judging.trials import importances, name_of, parameters_text
from tuner.judging.verdicts import judge
from tuner.report.run_facts import RunFacts, read_run_facts
from tuner.sweep.proposals import SEARCH_FILE

#: from so many times on there is a trend
_HISTORY = 3
#: outcomes that a level of a run which goes on has until it ends
_NOT_ENDED = ("missing", "interrupted")
#: trials that their curves alone show
_FEW = 2
#: what a reader can limit with a slider where the SLO does not
_SUGGESTED = tuple(Constraint(metric, "p90", 1.0) for metric in ("ttft", "tpot", "e2e_latency"))


@dataclass(frozen=True)
class Results:
    """What a run directory or a report says: its judged batches, their summary, and what stands beside them.

    Where the SLO has tiers, the batches are judged by the first; of each other one they have `verdict_of_NAME`.
    """

    title: str
    slo: SLO | None
    judged: pd.DataFrame
    summary: Summary
    run_facts: RunFacts
    tiers: Tiers | None = None
    price: Price | None = None
    target: Target | None = None

    @property
    def folder(self) -> Path | None:
        """The run directory, of several the first; None where all this comes from a report."""
        return next(iter(self.run_facts.folders), None)

    @property
    def facts(self) -> dict[str, Any]:
        """What `experiment.json` says."""
        return self.run_facts.facts

    @cached_property
    def searched(self) -> Searched | None:
        """The search that the run was; None where it was none."""
        trials = self.run_facts.trials
        return None if trials.empty else Searched.of(trials, self.facts, self.slo or SLO())

    @cached_property
    def winner(self) -> dict[str, Any]:
        """The sweep that measures a search's best configuration, as plain parameters; empty where there is none."""
        best = self.searched.best if self.searched else None
        from tuner.sweep.spec import sweep_of

        return {} if best is None else sweep_of(self.facts.get("spec", {}), best["parameters"])

    @property
    def command(self) -> str:
        """The command that measures a search's best configuration again; empty where there is none."""
        from tuner.sweep.fields import command_line

        return command_line("sweep", self.winner) if self.winner else ""

    @cached_property
    def figures(self) -> list[Any]:
        """The figures that the report and the notebook show, the most telling first."""
        return self._sweep_figures() if self.searched is None else self._search_figures(self.searched)

    def _search_figures(self, searched: Searched) -> list[Any]:
        """How the search went, and then the curves of the baseline and of the winner alone: twenty are unreadable."""
        shares = importances(searched.trials, maximize=searched.goal.maximize)
        shown = [figures.best_so_far(searched.trials, searched.goal)]
        if len(searched.goals) > 1:
            shown.append(figures.pareto_front(searched.trials, (searched.goals[0], searched.goals[1])))
        shown.append(figures.parallel_coordinates(searched.trials, searched.goal))
        shown += [figures.importance(shares)] if shares else []
        named = (("winner: {}", searched.best), ("{}", searched.baseline))  # the later name counts, if they are one
        names = {int(one["trial"]): how.format(name_of(one)) for how, one in named if one is not None}
        judged = self.judged[self.judged["trial"].isin(names)]
        judged.attrs = judged.attrs | {TRIAL_NAMES: names}
        curves = figures.throughput_vs_latency(judged, self.slo, **axis(self.slo))
        return [*shown, curves] if len(searched.attempts) > _FEW else [curves, shown[0]]

    @property
    def curves(self) -> Any:
        """The figure of throughput versus latency."""
        return figures.throughput_vs_latency(self.summary.levels, self.slo, **axis(self.slo))

    @property
    def first_figure(self) -> Any:
        """The figure that says most: of a search how its best grew, else throughput versus latency."""
        return figures.best_so_far(self.searched.trials, self.searched.goal) if self.searched else self.curves

    @property
    def table(self) -> pd.DataFrame:
        """One row a batch, for people."""
        return table(self.judged)

    @property
    def shown_table(self) -> pd.DataFrame:
        """Of a search one row a trial, else one row a batch; for people."""
        return self.searched.table if self.searched else self.table

    @property
    def sliders(self) -> list[tuple[Constraint, float | None]]:
        """What a reader can limit, each with its threshold; None where the SLO has no such limit."""
        limits = self.slo.constraints if self.slo else ()
        limited = {limit.column for limit in limits}
        further = [limit for limit in _SUGGESTED if limit.column not in limited]
        return [*((limit, limit.threshold) for limit in limits), *((limit, None) for limit in further)]

    def limited_by(self, limits: Sequence[Constraint]) -> "Results":
        """The same batches under other limits, at once: nothing is read again.

        Args:
            limits: where they are the SLO's own, these results themselves are given back.
        """
        if tuple(limits) == (self.slo or SLO()).constraints:
            return self
        slo = replace(self.slo or SLO(), constraints=tuple(limits), tiers=())
        batches = self.judged.drop(columns=[name for name in self.judged if str(name).startswith(TIER)])
        judged = judge(batches, slo)
        return replace(self, slo=slo if limits else None, judged=judged, summary=summarize(judged), tiers=None)

    def ended_levels(self) -> "Results":
        """Without the levels that a run which goes on has still to measure; of tiers, the first."""
        return replace(self._only(~self.judged["outcome"].isin(_NOT_ENDED)), tiers=None)

    def _only(self, chosen: "pd.Series[bool]") -> "Results":
        return replace(self, judged=self.judged[chosen], summary=summarize(self.judged[chosen]))

    def _sweep_figures(self) -> list[Any]:
        """The figures of closed loops, and those of open loops."""
        rates = self.judged["request_rate"].notna()
        if rates.any() and not rates.all():
            return [figure for kind in (~rates, rates) for figure in self._only(kind)._sweep_figures()]
        is_timed, has_results = (self.judged[name].notna().any() for name in ("started_at", "output_throughput"))
        shown = [self.curves] if has_results or not is_timed else []
        if self.has_trend:
            shown.append(figures.trend(self.judged, self.runs, **axis(self.slo)))
        if self.judged["tpot_p50"].notna().any():
            one_run = self.judged["run_folder"].nunique() < 2
            gpus = {int(one.get("trial") or 0): len(one.get("gpus") or []) for one in self.run_facts.servers if one_run}
            shown.append(figures.trade_off(self.summary.levels, gpus))
        if self.is_many:
            return shown
        limited = [one.metric for one in self.slo.constraints if one.is_latency] if self.slo else []
        known = [name for name in dict.fromkeys([*METRICS, *limited]) if self.judged[f"{name}_p90"].notna().any()]
        shown += [figures.latency_vs_concurrency(self.judged, self.slo, metric=name) for name in known]
        for name, spreads in self._spreads.items():
            if name != "e2e_latency" and any(spreads):
                shown.append(figures.distribution(self.judged, spreads, self.slo, metric=name))
        return [*shown, *([figures.timeline(self.judged, self.run_facts.telemetry)] if is_timed else [])]

    @property
    def is_many(self) -> bool:
        """Whether there are more curves than can be told apart, so that only figures of the whole are shown."""
        return len(self.judged[list(CURVE)].drop_duplicates()) > MOST_CURVES

    @property
    def has_trend(self) -> bool:
        """Whether runs were made at so many different times that they have a trend."""
        return bool(self.runs["started_at"].nunique() >= _HISTORY)

    @property
    def runs(self) -> pd.DataFrame:
        """One row a run, as `figures.trend` takes it; `started_at` is that of its first batch, or else its own."""
        began = self.judged.groupby("run_folder")["started_at"].min()
        runs = pd.DataFrame(self.run_facts.runs, columns=None if self.run_facts.runs else ["run_folder", "started_at"])
        recorded = to_utc(runs.set_index("run_folder")["started_at"])
        return runs.drop(columns="started_at").merge(
            began.combine_first(recorded).rename("started_at"), how="outer", left_on="run_folder", right_index=True
        )

    @property
    def answer(self) -> list[str]:
        """The result in words: what, how sure, under which SLO, and what it costs."""
        if self.searched:
            return [*self.searched.answer, self.evidence, *self._cost(self.summary)]
        proposals = self.facts.get("proposals") or []
        tries = [parameters_text(one["parameters"]) for one in proposals if isinstance(one.get("parameters"), dict)]
        where = shlex.quote(str(self.folder / SEARCH_FILE if self.folder else SEARCH_FILE))
        next_step = f"To try next: {', or '.join(tries)}; tuner tune {where} does, and begins with that."
        return [*self.batches_answer, *([next_step] if tries else [])]

    @property
    def evidence(self) -> str:
        """On how many levels the verdicts of a search rest on enough requests, in words."""
        measured = self.judged[self.judged["outcome"] == COMPLETED]
        strong = int(measured["evidence"].eq("strong").sum())
        return f"The evidence is strong on {strong} of {plural(len(measured), 'level')} with a result."

    @property
    def batches_answer(self) -> list[str]:
        """What the batches alone say, of whichever trial they are; of tiers first each one's best.

        Raises:
            RequestError: a price was given, and nobody knows for how many GPUs.
        """
        if self.tiers is None:
            return [*answer(self.judged, self.summary, self.slo), *self._cost(self.summary)]
        said = {name: [*tier.answer, *self._cost(tier.summary)] for name, tier in self.tiers.tiers.items()}
        firsts = [f"{name}: {lines[0]}" for name, lines in said.items()]
        others = [f"{name}: {' '.join(lines[1:])}" for name, lines in said.items()]
        return [*firsts, *others, f"Verdicts and figures are those of {next(iter(said))}, the first tier."]

    def _cost(self, summary: Summary) -> list[str]:
        """What the best batch costs, and how many such servers are needed, where somebody asked.

        Raises:
            RequestError: a price was given, and nobody knows for how many GPUs.
        """
        best, price, load = summary.best, self.price, self.target or Target()
        if best is None:
            return fleet_text(summary, load, 0, price)
        servers = {(server.get("run_folder"), server.get("trial")): server for server in self.run_facts.servers}
        server = servers.get((best["run_folder"], best["trial"]), {})
        gpus = (price and price.gpus) or len(server.get("gpus") or [])
        if price and not gpus:
            raise RequestError(f"{best['experiment']} records no GPUs, so a price needs their number: give --gpus")
        cost, fleet = cost_text(best.to_dict(), price, gpus) if price else "", fleet_text(summary, load, gpus, price)
        start = shlex.join(map(str, server.get("command") or []))
        return [*filter(None, [cost]), *fleet, *([f"Each is started by: {start}"] if fleet and start else [])]

    def must_have_survivors(self) -> None:
        """Accept everything but an experiment in which no batch at all survived.

        Raises:
            NothingSurvived: there is no completed batch; the message says how the levels ended.
        """
        if not (self.judged["outcome"] == COMPLETED).any():
            counts = self.judged["outcome"].value_counts()
            ends = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
            first = next(filter(None, self.judged["reason"]), "")
            raise NothingSurvived(f"no batch has a usable result ({ends}); the first: {first}")

    @property
    def _spreads(self) -> dict[str, list[list[float] | None]]:
        """Of the batches that are shown; of a run that goes on those are not all."""
        every = self.run_facts.spreads
        return {name: [spreads[place] for place in self.judged.index] for name, spreads in every.items()}

    def carried(self) -> report_data.ReportData:
        """What the report takes along of all this; of very many runs no spreads and no telemetry."""
        columns, rows = report_data.columns_and_rows(self.judged)
        samples = pd.DataFrame() if self.is_many else self.run_facts.telemetry
        bounds = self.run_facts.intervals.reindex(self.judged.index)  # of a run that goes on not all are shown
        exact = samples.assign(at=samples["at"].dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ")) if len(samples) else samples
        return report_data.ReportData(
            slo=self.slo.to_dict() if self.slo else None,
            columns=columns,
            rows=rows,
            attainment=[None if pd.isna(share) else float(share) for share in self.judged["attainment"]],
            spreads={} if self.is_many else self._spreads,
            intervals={str(name): list(map(json_value, values)) for name, values in bounds.items()},
            facts=self.facts,
            servers=self.run_facts.servers,
            runs=self.run_facts.runs,
            telemetry={str(name): exact[name].tolist() for name in exact},
            trials=msgspec.convert(records(self.run_facts.trials), list[report_data.ReportTrial]),
        )


def axis(slo: SLO | None) -> dict[str, str]:
    """The latency that the SLO limits, so that its threshold is in the figure of throughput versus latency."""
    latencies = [constraint for constraint in slo.constraints if constraint.is_latency] if slo else []
    return {"metric": latencies[0].metric, "statistic": latencies[0].statistic} if latencies else {}


def read_results(
    *paths: Path, slo: SLO | None = None, price: Price | None = None, target: Target | None = None
) -> Results:
    """Load and judge what is in `paths`.

    Args:
        paths: run directories, genai-bench folders, files or reports; the first one's facts are the results'.
        slo: judges the batches; by default the SLO that all of the runs were asked to meet.
        price: of a GPU-hour, so that the answer says what the best level costs.
        target: the load of which the answer says how many servers it takes; by default what the run was asked for.

    Raises:
        PathError: there is nothing to be read.

    Example:
        >>> results = tuner.read_results(Path("runs/monday"), slo=tuner.SLO.load("slo.yaml"))
        >>> results.summary.best_level
        4
    """
    batches = load_batches(*paths)
    run_facts = read_run_facts(paths, batches, slo)
    own = SLO.recorded(run_facts.slo, paths[0])
    by = slo or own
    bounds = {str(column): values for column, values in run_facts.intervals.items()}
    if run_facts.carried_attainment and by == own:
        batches = batches.assign(attainment=pd.Series(run_facts.carried_attainment, batches.index, "float64"))
        batches.attrs = batches.attrs | {"slo": (own or SLO()).to_dict()}
    judged_tiers = tiers(batches.assign(**bounds), by or SLO())  # keeps the samples, as a join would not
    first, *others = judged_tiers.tiers
    best = judged_tiers.tiers[first]
    further = {f"{TIER}{other}": judged_tiers.tiers[other].judged["verdict"] for other in others}
    title = str(run_facts.facts.get("name", "") or paths[0].resolve().name)
    shown = judged_tiers if by and by.tiers else None
    asked = run_facts.facts.get("spec", {})
    target = target or Target(asked.get("target_rate"), asked.get("target_users"))
    return Results(title, by, best.judged.assign(**further), best.summary, run_facts, shown, price, target)
