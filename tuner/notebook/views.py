"""Results in a notebook: SLO sliders that judge again at once, the figure, and a table that sorts and filters."""

import math
from dataclasses import replace
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd

from tuner import figures
from tuner.judging.slo import SLO, Constraint
from tuner.judging.summary import answer, summarize, table
from tuner.judging.verdicts import judge
from tuner.notebook.form import LABEL, WIDE, draw, text
from tuner.report.page import SUGGESTED, table_html
from tuner.report.results import Results

_AS_MEASURED = "as measured"
_STEPS = 120
_NO_LIMIT = math.inf


class ResultsView:
    """The answer, a figure and the table of a run, under the SLO that the sliders say."""

    def __init__(self) -> None:
        self._results: Results | None = None
        self._constraints: list[tuple[Constraint, widgets.SelectionSlider]] = []
        self._answer, self._table, self._figure = widgets.HTML(), widgets.HTML(), widgets.Output()
        self._sliders = widgets.VBox()
        self._sort = widgets.Dropdown(options=[_AS_MEASURED], description="sort by", style=LABEL)
        self._down = widgets.ToggleButton(description="descending", value=False)
        self._filter = widgets.Text(description="filter", placeholder="such as fail, or D(100,32)", style=LABEL)
        for control in (self._sort, self._down, self._filter):
            control.observe(lambda _: self._tabulate(), "value")
        order = widgets.HBox([self._sort, self._down, self._filter])
        self.widget = widgets.VBox([self._answer, self._sliders, self._figure, order, self._table])
        self.widget.layout.display = "none"

    def show(self, results: Results) -> None:
        """Show `results`; sliders start anew only where another run is shown, and stay as they are else."""
        known = self._results
        self._results = results
        if known is None or known.beside.folders != results.beside.folders:
            self._make_sliders(results)
        self.widget.layout.display = ""
        self._judge()

    def _make_sliders(self, results: Results) -> None:
        asked = list(results.slo.constraints) if results.slo else []
        limited = {constraint.column for constraint in asked}
        offered = [Constraint(metric, statistic, 1.0) for metric, statistic in SUGGESTED]
        free = [constraint for constraint in offered if constraint.column not in limited]
        limits = [*((one, one.threshold) for one in asked), *((one, _NO_LIMIT) for one in free)]
        self._constraints = [(one, _slider(one, threshold, results.judged)) for one, threshold in limits]
        self._sliders.children = [slider for _, slider in self._constraints]
        for slider in self._sliders.children:
            slider.observe(lambda _: self._judge(), "value")

    @property
    def _slo(self) -> SLO:
        asked = self._results.slo if self._results and self._results.slo else SLO()
        limits = [(constraint, slider.value) for constraint, slider in self._constraints]
        set_now = [replace(constraint, threshold=value) for constraint, value in limits if value != _NO_LIMIT]
        return asked if tuple(set_now) == asked.constraints else replace(asked, constraints=tuple(set_now), tiers=())

    def _judge(self) -> None:
        if self._results is None:
            return
        slo, judged = self._slo, self._results.judged
        changed = slo != (self._results.slo or SLO())
        if changed:
            # without their files: the share of single requests is too slow to be had at each step of a slider
            judged = judge(judged.assign(source=None), slo).assign(source=judged["source"])
        self._judged = judged
        asked_for = slo if slo.constraints else None
        words = answer(judged, summarize(judged), asked_for) if changed else self._results.answer
        self._answer.value = text("\n".join(words))
        limits = [one for one in slo.constraints if one.is_latency]
        axis = {"metric": limits[0].metric, "statistic": limits[0].statistic} if limits else {}
        draw(self._figure, figures.throughput_vs_latency(judged, slo, **axis))
        self._tabulate()

    def _tabulate(self) -> None:
        if self._results is None:
            return
        shown: Any = table(self._judged)
        self._sort.options = [_AS_MEASURED, *shown.columns]
        if self._sort.value != _AS_MEASURED:
            shown = shown.sort_values(self._sort.value, ascending=not self._down.value, kind="stable")
        wanted = self._filter.value.strip().lower()
        if wanted:
            shown = shown[[wanted in " ".join(map(str, row)).lower() for row in shown.to_numpy().tolist()]]
        self._table.value = table_html(shown)


def _slider(constraint: Constraint, threshold: float, judged: pd.DataFrame) -> widgets.SelectionSlider:
    """A slider over what could be asked: from half the smallest to twice the largest value measured, and no limit."""
    measured = [float(value) for value in judged[constraint.column].dropna() if value > 0]
    values = measured + ([threshold] if threshold != _NO_LIMIT else []) or [1.0]
    steps = np.geomspace(min(values) / 2, max(values) * 2, _STEPS)
    offered = sorted({float(f"{step:.3g}") for step in steps} | ({threshold} - {_NO_LIMIT}))
    options = [(f"{value:g}{constraint.unit}", value) for value in offered]
    none = [("no limit", _NO_LIMIT)]
    return widgets.SelectionSlider(
        options=none + options if constraint.sign < 0 else options + none,
        value=threshold,
        description=f"{constraint.label} {'≥' if constraint.sign < 0 else '≤'}",
        style={"description_width": "12em"},
        layout=WIDE,
    )
