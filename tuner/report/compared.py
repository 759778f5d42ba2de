"""Two sides, and what is shown of their comparison."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from tuner import figures
from tuner.batches.batch import records
from tuner.batches.load import load_together
from tuner.core.level import COLUMNS
from tuner.errors import NothingSurvived, Regressed, SpecError
from tuner.judging import comparison_text
from tuner.judging.comparison import Comparison, compare
from tuner.judging.slo import SLO
from tuner.judging.verdicts import judge
from tuner.report.configuration import configuration_differences
from tuner.report.results import axis
from tuner.report.run_facts import Run, runs_at

#: the kind of an HTML file that carries both sides
COMPARISON = "comparison"
#: what tells one batch from another, also after a report has carried it
_KEY = ["run_folder", "trial", "scenario", "iteration_type", *COLUMNS, "repeat", "source"]


@dataclass(frozen=True)
class Side:
    """One side: its judged batches, and what is known of each run, with its own batches."""

    paths: list[str]
    judged: pd.DataFrame
    runs: list[Run]

    @property
    def title(self) -> str:
        """The names of its runs."""
        return ", ".join(dict.fromkeys(self.judged["experiment"]))

    @property
    def start(self) -> str:
        """When its measurement began, UTC with a `Z`; empty where nobody recorded it."""
        began = self.judged.loc[self.judged["time_source"].eq("recorded"), "started_at"].min()
        return "" if pd.isna(began) else f"{began:%Y-%m-%dT%H:%M:%SZ}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON: where it lies and when it was measured (UTC)."""
        times = {"started_at": self.judged["started_at"].min(), "finished_at": self.judged["finished_at"].max()}
        return {"paths": self.paths, "experiments": self.title.split(", "), **records(pd.DataFrame([times]))[0]}


def _judge_side(paths: Sequence[Path], batches: pd.DataFrame, runs: list[Run], slo: SLO | None) -> Side:
    """Of reports attainment is what they know under this very SLO, since they lack the single requests."""
    document = slo.to_dict() if slo else None
    same = [run for run in runs if (own := SLO.recorded(run[0].slo, "a report")) and own.to_dict() == document]
    if carried := dict(pair for known, own in same for pair in zip(_keys(own), known.carried_attainment, strict=False)):
        shares = pd.Series([carried.get(key) for key in _keys(batches)], batches.index, "float64")
        batches = batches.assign(attainment=shares)
        batches.attrs = batches.attrs | {"slo": document}
    return Side([str(path) for path in paths], judge(batches, slo or SLO()), runs)


def _agreed_slo(runs: Sequence[Run]) -> tuple[SLO | None, str]:
    """The SLO that all runs were asked to meet; else none, and why."""
    slos = [slo for known, _ in runs if (slo := SLO.recorded(known.slo, known.facts.get("name")))]
    if not slos:
        return None, "No SLO was given, and the runs were asked to meet none."
    if len(slos) < len(runs) or any(other.to_dict() != slos[0].to_dict() for other in slos):
        return None, "The runs were not all asked to meet the same SLO, so none judges here; give one to judge both."
    return slos[0], ""


def _load_side(paths: Sequence[Path]) -> tuple[pd.DataFrame, list[Run]]:
    batches, each = load_together(paths)
    runs: list[Run] = []
    for path, own in zip(paths, each, strict=True):
        of_path = runs_at(path, own)
        if of_path[0][0].facts.get("kind") == COMPARISON:
            raise SpecError(f"{path} is a comparison itself; name the runs or reports that it compares")
        runs += of_path
    return batches, runs


def _keys(batches: pd.DataFrame) -> list[tuple[Any, ...]]:
    return list(batches[_KEY].astype(str).itertuples(index=False, name=None))


#: raised when a reader of today could not read the JSON any more
FORMAT = 1
NO_LEVEL = "no batch says at which concurrency it ran, or at which request rate, and levels are what is compared"
SAME_CONFIGURATION = "Everything that was recorded of server, machine, load and versions is the same on both sides."


@dataclass(frozen=True)
class Compared:
    """A comparison with all that is shown beside it."""

    baseline: Side  # what the candidate is held against
    candidate: Side  # what is asked about
    slo: SLO | None  # judged both sides; None for none
    slo_note: str  # why it was this one
    configuration: pd.DataFrame  # in what the sides differ besides numbers: `what`, `baseline`, `candidate`
    comparison: Comparison  # the numbers

    @property
    def sides(self) -> dict[str, Side]:
        """Both by name, the baseline first."""
        return {"baseline": self.baseline, "candidate": self.candidate}

    @property
    def names(self) -> tuple[str, str]:
        """What baseline and candidate are called: the names of their runs, or their paths where those are the same."""
        first, second = self.baseline, self.candidate
        differ = first.title != second.title
        return (first.title, second.title) if differ else (", ".join(first.paths), ", ".join(second.paths))

    @property
    def title(self) -> str:
        """What is compared with what."""
        return f"{self.names[1]} against {self.names[0]}"

    @property
    def answer(self) -> list[str]:
        """The result in words, most important line first."""
        return list(dict.fromkeys([*self.comparison.text, self.slo_note]))  # repeats fail in the same words

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """What terminal and notebook show, by title: one row a level, then what the answer has no room to list."""
        levels, unmatched = comparison_text.overview(self.comparison), comparison_text.unmatched(self.comparison)
        tables = {"Levels": levels} if len(levels) else {}
        return tables | ({"Levels without a result": unmatched} if len(unmatched) > comparison_text.LISTED else {})

    @property
    def legend(self) -> str:
        """What the marks in the tables mean; empty where there is no difference to mark."""
        return "" if self.comparison.differences.empty else comparison_text.LEGEND

    @cached_property
    def both(self) -> pd.DataFrame:
        """The judged batches of both sides; called by the side, and by the run where it has several."""
        named = []
        for name, side in self.sides.items():
            runs = side.judged["experiment"]
            named.append(side.judged.assign(experiment=name + (": " + runs if runs.nunique() > 1 else "")))
        return pd.concat(named, ignore_index=True)

    @cached_property
    def figures(self) -> list[Any]:
        """The changes with their intervals, then one curve a side, of the mean of its runs."""
        changes = figures.changes(self.comparison.differences, self.comparison.tolerance)
        # one curve a side: the runs of a side are its repeats
        curves = [side.judged.assign(experiment=name, trial=1) for name, side in self.sides.items()]
        sides = pd.concat(curves, ignore_index=True)
        sides.attrs = self.baseline.judged.attrs
        return [changes, figures.throughput_vs_latency(sides, self.slo or SLO(), **axis(self.slo))]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON: `format`, both sides, the SLO, `configuration`, and what the comparison says."""
        return {
            "format": FORMAT,
            **{name: side.to_dict() for name, side in self.sides.items()},
            "regressed": self.regressed,
            "slo": self.slo.to_dict() if self.slo else None,
            "slo_note": self.slo_note,
            "configuration": records(self.configuration),
            **self.comparison.to_dict(),
        }

    @property
    def regressed(self) -> bool:
        """Whether anything got worse beyond the tolerance, or a level no longer works."""
        return len(self.comparison.regressions) > 0

    def must_pass(self, *, fail_on_regression: bool) -> None:
        """Accept everything but two sides without one level in common, and, where that is asked, a regression.

        Raises:
            NothingSurvived: no level has a result on both sides.
            Regressed: something got worse beyond the tolerance, or a level no longer works.
        """
        if self.comparison.differences.empty:
            first = next(iter(records(self.comparison.unmatched)), None)
            why = f"the {comparison_text.without_result(first)}" if first else NO_LEVEL
            raise NothingSurvived(f"no level has a result on both sides, so nothing could be compared: {why}")
        if fail_on_regression and self.regressed:
            raise Regressed(f"{self.names[1]} is worse than {self.names[0]}: {self.answer[0]}")


def read_comparison(
    baseline: Sequence[Path], candidate: Sequence[Path], *, slo: SLO | None = None, tolerance: float
) -> Compared:
    """Load, judge and compare two sides, as `report.write.ComparisonRequest` names them; `tolerance` is a share.

    Raises:
        PathError: there is nothing to be read.
        SpecError: a side is missing.
    """
    for name, paths in {"baseline": baseline, "candidate": candidate}.items():
        if not paths:
            raise SpecError(f"{name}: missing; name two sides, as in: tuner compare runs/BASELINE runs/CANDIDATE")
    loaded = _load_side(baseline), _load_side(candidate)
    judge_by, note = (slo, "") if slo else _agreed_slo([run for _, runs in loaded for run in runs])
    sides = _judge_side(baseline, *loaded[0], judge_by), _judge_side(candidate, *loaded[1], judge_by)
    limits = ", ".join(map(str, judge_by.constraints)) if judge_by else ""
    return Compared(
        *sides,
        slo=judge_by,
        slo_note=note or f"Both sides are judged by: {limits}.",
        configuration=configuration_differences(sides[0].runs, sides[1].runs),
        comparison=compare(sides[0].judged, sides[1].judged, tolerance=tolerance),
    )


def tolerance_of(value: Any) -> float:
    """A tolerance as a share: `"5%"`, `"0.05"` and `0.05` are the same.

    Raises:
        SpecError: it is none; a number of 1 or more without `%` is more likely meant as percent.
    """
    text = str(value).strip()
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = math.nan
    if isinstance(value, bool) or not 0 <= share < (math.inf if text.endswith("%") else 1):
        raise SpecError(f"tolerance: {value!r} is none; write a share of the baseline such as 5% or 0.05")
    return share
