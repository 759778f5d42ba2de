"""The search panel: a space and an objective, and the trials as they come in."""

from typing import Any

import ipywidgets as widgets

from tuner import figures
from tuner.batches.run_folder import subfolders
from tuner.core.run_directory import Experiment, Trial
from tuner.judging.tried import plural
from tuner.notebook.parts import copyable, draw, text
from tuner.notebook.run_panel import Advance, RunPanel
from tuner.report.page import table_html
from tuner.report.results import Results
from tuner.search.kinds import SEARCH
from tuner.sweep.progress import read_search


class TunePanel(RunPanel):
    """A form, Run and Stop, progress, and the best so far and the table that grow with each trial.

    Args:
        parameters: initial values, as in the notebook's parameters cell.
    """

    kind = SEARCH
    fields = (
        *("engine", "model", "parameters", "gpus", "tokenizer", "space", "constraints", "objective", "objective_level"),
        *("sampler", "trials", "patience", "max_minutes", "confirm"),
        *("levels", "scenarios", "max_seconds", "slo", "name"),
    )

    def __init__(self, parameters: dict[str, Any]) -> None:
        super().__init__(parameters, SearchView())

    def advance(self, experiment: Experiment) -> Advance:
        """How many trials have ended."""
        progress = read_search(experiment)
        last = Trial(next(reversed(subfolders(experiment.folder / "trials")), experiment.folder))
        total = plural(sum(one in progress.ended for one in progress.tried), "trial")
        return Advance(len(progress.ended), progress.asked, total, progress.describe(), last.server_log)


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
