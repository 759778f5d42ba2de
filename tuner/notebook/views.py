"""Results in a notebook: of a sweep with SLO sliders that judge again at once, of a search its trials."""

import math
from dataclasses import replace
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd

from tuner import figures
from tuner.judging.slo import Constraint
from tuner.notebook.form import LABEL, WIDE, copyable, draw, text
from tuner.report.page import table_html
from tuner.report.results import Results

_AS_MEASURED = "as measured"
_STEPS = 120
_NO_LIMIT = math.inf


class ResultsView:
    """The answer, a figure and the table of a run, under the SLO that the sliders say."""

    def __init__(self) -> None:
        self._results: Results | None = None
        self._limits: list[tuple[Constraint, widgets.SelectionSlider]] = []
        self._rows = pd.DataFrame()
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
        before = self._results
        self._results = results
        if before is None or before.run_facts.folders != results.run_facts.folders:
            self._make_sliders(results)
        self.widget.layout.display = ""
        self._judge()

    def _make_sliders(self, results: Results) -> None:
        self._limits = [(limit, _slider(limit, threshold, results.judged)) for limit, threshold in results.sliders]
        self._sliders.children = [slider for _, slider in self._limits]
        for slider in self._sliders.children:
            slider.observe(lambda _: self._judge(), "value")

    def _judge(self) -> None:
        if self._results is None:
            return
        limits = [replace(limit, threshold=slider.value) for limit, slider in self._limits if slider.value != _NO_LIMIT]
        results = self._results.limited_by(limits)
        self._rows = results.table
        self._answer.value = text("\n".join(results.answer))
        draw(self._figure, results.curves)
        self._tabulate()

    def _tabulate(self) -> None:
        rows: Any = self._rows
        self._sort.options = [_AS_MEASURED, *rows.columns]
        if self._sort.value != _AS_MEASURED:
            rows = rows.sort_values(self._sort.value, ascending=not self._down.value, kind="stable")
        words = self._filter.value.strip().lower()
        if words:
            rows = rows[[words in " ".join(map(str, row)).lower() for row in rows.to_numpy().tolist()]]
        self._table.value = table_html(rows)


class SearchView:
    """The answer, the best so far, what the parameters did, and a row a trial."""

    def __init__(self) -> None:
        self._answer, self._command, self._table = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self._best, self._parameters = widgets.Output(), widgets.Output()
        parts = [self._answer, self._command, self._best, self._table, self._parameters]
        self.widget = widgets.VBox(parts)
        self.widget.layout.display = "none"

    def show(self, results: Results) -> None:
        """Show the trials that there are."""
        searched = results.searched
        if searched is None:
            return
        self.widget.layout.display = ""
        self._answer.value = text("\n".join(searched.answer))
        again = f"<b>the best configuration again:</b>{copyable(results.command)}"
        self._command.value = again if results.command else ""
        draw(self._best, figures.best_so_far(searched.trials, searched.goal))
        draw(self._parameters, figures.parallel_coordinates(searched.trials, searched.goal))
        self._table.value = table_html(searched.table)


def _slider(constraint: Constraint, threshold: float | None, judged: pd.DataFrame) -> widgets.SelectionSlider:
    """A slider over what could be asked: from half the smallest to twice the largest value measured, and no limit."""
    batches = [float(value) for value in judged[constraint.column].dropna() if value > 0]
    thresholds = [] if threshold is None else [threshold]
    values = batches + thresholds or [1.0]
    steps = np.geomspace(min(values) / 2, max(values) * 2, _STEPS)
    offered = sorted({float(f"{step:.3g}") for step in steps} | {*thresholds})
    options = [(f"{value:g}{constraint.unit}", value) for value in offered]
    none = [("no limit", _NO_LIMIT)]
    return widgets.SelectionSlider(
        options=none + options if constraint.sign < 0 else options + none,
        value=_NO_LIMIT if threshold is None else threshold,
        description=f"{constraint.label} {'≥' if constraint.sign < 0 else '≤'}",
        style={"description_width": "12em"},
        layout=widgets.Layout(width=WIDE.width),  # its flex is a width in a row, and a height in this column
    )
