"""One side of a comparison: its runs, judged by what both sides are judged by."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tuner.batches.batch import records
from tuner.batches.load import load_batches
from tuner.errors import SpecError
from tuner.judging.verdicts import SLO, judge
from tuner.report.background import Run, runs_at

#: the kind of an HTML file that carries both sides
COMPARISON = "comparison"
#: what tells one batch from another, also after a report has carried it
_KEY = ["run_folder", "trial", "scenario", "iteration_type", "concurrency", "repeat", "source"]


@dataclass(frozen=True)
class Side:
    """One side: its judged batches, and each run's background with its own batches."""

    paths: list[str]
    judged: pd.DataFrame
    runs: list[Run]

    @property
    def title(self) -> str:
        """The names of its runs."""
        return ", ".join(dict.fromkeys(self.judged["experiment"]))

    @property
    def measured(self) -> str:
        """When its measurement began, UTC with a `Z`; empty where nobody knows."""
        began = self.judged["started_at"].min()
        return "" if pd.isna(began) else f"{began:%Y-%m-%dT%H:%M:%SZ}"

    def named(self, name: str) -> pd.DataFrame:
        """Its batches, whose experiments are called `name`, and also by the run where it has several."""
        several = self.judged["experiment"].nunique() > 1
        return self.judged.assign(experiment=name + (": " + self.judged["experiment"] if several else ""))

    def to_dict(self) -> dict[str, Any]:
        """For JSON: where it lies and when it was measured (UTC)."""
        times = {"started_at": self.judged["started_at"].min(), "finished_at": self.judged["finished_at"].max()}
        return {"paths": self.paths, "experiments": self.title.split(", "), **records(pd.DataFrame([times]))[0]}


def read_side(paths: Sequence[Path], runs: list[Run], slo: SLO | None) -> Side:
    """Load and judge the batches at `paths`, which are those of `runs`.

    Args:
        paths: as for `load_batches`.
        runs: theirs, as from `runs_of`.
        slo: judges them; None for no limit.
    """
    judged = judge(load_batches(*paths), slo or SLO())
    carried = _carried_attainment(runs, slo)
    known = [carried.get(key) for key in _keys(judged)]
    judged["attainment"] = judged["attainment"].fillna(pd.Series(known, judged.index, "float64"))
    return Side([str(path) for path in paths], judged, runs)


def agreed_slo(runs: Sequence[Run]) -> tuple[SLO | None, str]:
    """The SLO that all runs were asked to meet; else none, and why."""
    known = [SLO.parse(beside.slo) for beside, _ in runs if beside.slo]
    if not known:
        return None, "No SLO was given, and the runs were asked to meet none."
    if len(known) < len(runs) or any(other.to_dict() != known[0].to_dict() for other in known):
        return None, "The runs were not all asked to meet the same SLO, so none judges here; give one to judge both."
    return known[0], ""


def runs_of(paths: Sequence[Path]) -> list[Run]:
    """Each run at `paths`, with its batches.

    Raises:
        PathError: there is nothing to be read.
        SpecError: a path is a comparison.
    """
    return [run for path in paths for run in _runs_at(path)]


def _runs_at(path: Path) -> list[Run]:
    runs = runs_at(path)
    if runs[0][0].facts.get("kind") == COMPARISON:
        raise SpecError(f"{path} is a comparison itself; name the runs or reports that it compares")
    return runs


def _carried_attainment(runs: list[Run], slo: SLO | None) -> dict[tuple[Any, ...], float | None]:
    """What reports know of their batches under this very SLO; it needs the single requests, which they lack."""
    same = [run for run in runs if slo and run[0].slo and SLO.parse(run[0].slo).to_dict() == slo.to_dict()]
    return {
        key: share
        for beside, batches in same
        for key, share in zip(_keys(batches), beside.known_attainment, strict=False)
    }


def _keys(batches: pd.DataFrame) -> list[tuple[Any, ...]]:
    return list(batches[_KEY].astype(str).itertuples(index=False, name=None))
