"""Results in a notebook, in tabs: answer with SLO sliders, figures, batches, server, data; of a search its trials."""

import asyncio
import math
import shlex
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd

from tuner.core.run_directory import Experiment
from tuner.judging.slo import Constraint
from tuner.notebook.fields import button, labelled, words
from tuner.notebook.panel import draw, log_html
from tuner.report.compared import read_comparison
from tuner.report.results import Results
from tuner.report.static import answer_html, comparison_html, copyable, escaped, table_html
from tuner.report.write import REPORT_FILE, save_report

_TITLES = ("Answer", "Figures", "Batches", "Server", "Data", "Comparison")
_AS_MEASURED = "as measured"
_STEPS = 120
_NO_LIMIT = math.inf
#: what can be written into a run's folder: the button, its icon, the file, and what writes it
_FILES: tuple[tuple[str, str, str, Callable[[Results, Path], Any]], ...] = (
    ("Write the report", "file", REPORT_FILE, save_report),
    ("Write CSV", "table", "batches.csv", lambda results, path: results.judged.to_csv(path, index=False)),
)


class Rows:
    """Rows that can be sorted and filtered."""

    def __init__(self) -> None:
        self._rows = pd.DataFrame()
        self._table = widgets.HTML()
        self._sort = widgets.Dropdown(options=[_AS_MEASURED], **labelled("sort by"))
        self._down = widgets.ToggleButton(description="descending", layout=widgets.Layout(width="auto"))
        self._filter = widgets.Text(placeholder="such as fail, or D(100,32)", **labelled("filter"))
        controls = [self._sort, self._down, self._filter]
        for control in controls:
            control.observe(lambda _: self._tabulate(), "value")
        self.widget = widgets.VBox([widgets.HBox(controls), self._table])

    def show(self, rows: pd.DataFrame) -> None:
        """Show other rows, sorted and filtered as before."""
        self._rows = rows
        offered = (_AS_MEASURED, *rows.columns)
        if self._sort.options != offered:
            self._sort.options = offered
        self._tabulate()

    def _tabulate(self) -> None:
        rows = self._rows
        if self._sort.value in rows:
            rows = rows.sort_values(self._sort.value, ascending=not self._down.value, kind="stable")
        if sought := self._filter.value.strip().lower():
            rows = rows[[sought in " ".join(map(str, row)).lower() for row in rows.to_numpy().tolist()]]
        self._table.value = table_html(rows)


class ResultsView:
    """A run's results in tabs: of a sweep judged by what the sliders say, of a search with a row a trial."""

    def __init__(self) -> None:
        self._results: Results | None = None
        self._is_moved = False  # a slider, by a person
        self._limits: list[tuple[Constraint, widgets.SelectionSlider]] = []
        self._name, self._answer, self._server, self._data, self._written = (widgets.HTML() for _ in range(5))
        self._curves, self._sliders, self._sought = widgets.Output(), widgets.VBox(), widgets.Text(**labelled("search"))
        self._figures, self._rows = widgets.VBox(), Rows()
        how = words("Pick another run at “compare with” above, and press Compare.")
        self._comparison = widgets.VBox([widgets.HTML(how)])
        self._sought.observe(lambda _: self._show_server(), "value")
        beside = widgets.Box([self._curves, self._sliders]).add_class("tuner-beside")
        save = [button(name, icon, partial(self._write, file, write)) for name, icon, file, write in _FILES]
        server, data = [self._sought, self._server], [self._data, widgets.HBox(save), self._written]
        pages = [[self._answer, beside], [self._figures], [self._rows.widget], server, data, [self._comparison]]
        self._tabs = widgets.Tab(list(map(widgets.VBox, pages)), titles=_TITLES)
        self._tabs.observe(lambda _: self._later(self._draw_figures()), "selected_index")
        self.widget = widgets.VBox([self._name, self._tabs])
        self.widget.layout.display = "none"

    async def show_comparison(self, baseline: Path, candidate: Path) -> None:
        """Show what changed from one run to another, in a tab of its own."""
        compared = await asyncio.to_thread(read_comparison, [baseline], [candidate], tolerance=0.05)
        above, below = comparison_html(compared)
        changes = widgets.Output()
        self._comparison.children = [widgets.HTML(above), changes, widgets.HTML(below)]
        self._tabs.selected_index = _TITLES.index("Comparison")
        await draw(changes, lambda: compared.figures[0])

    async def show(self, results: Results, so_far: str = "") -> None:
        """Show `results`; sliders that were moved stay as they are, but where another run is shown."""
        before, self._results = self._results, results
        self._name.value = f"<h4>{escaped(str(results.folder or results.title))}{so_far and f': {so_far}'}</h4>"
        self._tabs.titles = [name if name != "Batches" or results.searched is None else "Trials" for name in _TITLES]
        if not self._is_moved or before is None or before.run_facts.folders != results.run_facts.folders:
            self._is_moved = False
            limited = [] if results.searched else results.sliders
            self._limits = [(limit, _slider(limit, threshold, results.judged)) for limit, threshold in limited]
            self._sliders.children = [slider for _, slider in self._limits]
            for slider in self._sliders.children:
                slider.observe(lambda _: self._move(), "value")
        self.widget.layout.display = ""
        self._show_server()
        code = f"import tuner\n\nbatches = tuner.load_batches({str(results.folder)!r})  # a DataFrame, a row a batch"
        self._data.value = words(f"All files of this run are in {results.folder}") + copyable(code)
        await self._judge()
        await self._draw_figures()

    def _move(self) -> None:
        self._is_moved = True
        self._later(self._judge())

    async def _judge(self) -> None:
        if self._results is None:
            return
        limits = [replace(limit, threshold=slider.value) for limit, slider in self._limits if slider.value != _NO_LIMIT]
        results = self._results if self._results.searched else self._results.limited_by(limits)
        self._answer.value = answer_html(results)
        self._rows.show(results.shown_table)
        await draw(self._curves, lambda: results.first_figure)

    async def _draw_figures(self) -> None:
        """Draw what is in the tab of figures while somebody looks at it; it takes seconds of CPU."""
        if self._tabs.selected_index == _TITLES.index("Figures") and (results := self._results):
            shown = await asyncio.to_thread(lambda: results.figures)
            self._figures.children = [widgets.Output() for _ in shown]
            for output, figure in zip(self._figures.children, shown, strict=True):
                await draw(output, lambda figure=figure: figure)

    def _show_server(self) -> None:
        results = self._results
        for server in results.run_facts.servers[-1:] if results else ():
            said = words(f"{server.get('engine') or ''} {server.get('version') or ''}")
            command = shlex.join(server.get("command") or [])
            logs = Experiment(results.folder).logs if results and results.folder else []
            log = log_html(logs[-1] if logs else Path(), self._sought.value)
            self._server.value = said + (copyable(command) if command else "") + log

    def _write(self, name: str, write: Callable[[Results, Path], Any]) -> None:
        if self._results and self._results.folder:
            path = self._results.folder / name
            write(self._results, path)
            self._written.value = words(f"written: {path}")

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        self._drawing = asyncio.get_running_loop().create_task(work)


def _slider(constraint: Constraint, threshold: float | None, judged: pd.DataFrame) -> widgets.SelectionSlider:
    """A slider over what could be asked: from half the smallest to twice the largest value measured, and no limit."""
    thresholds = [] if threshold is None else [threshold]
    values = [float(value) for value in judged[constraint.column].dropna() if value > 0] + thresholds or [1.0]
    steps = np.geomspace(min(values) / 2, max(values) * 2, _STEPS)
    offered = sorted({float(f"{step:.3g}") for step in steps} | {*thresholds})
    options = [(f"{value:g}{constraint.unit}", value) for value in offered]
    none = [("no limit", _NO_LIMIT)]
    return widgets.SelectionSlider(
        options=none + options if constraint.sign < 0 else options + none,
        value=_NO_LIMIT if threshold is None else threshold,
        **labelled(f"{constraint.label} {'≥' if constraint.sign < 0 else '≤'}", layout=widgets.Layout(width="auto")),
    )
