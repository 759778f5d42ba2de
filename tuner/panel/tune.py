"""The search panel: a space and an objective, and the trials as they come in."""

from typing import Any

import ipywidgets as widgets

from tuner import figures
from tuner.experiment import Experiment, Trial
from tuner.findings import Results
from tuner.kinds import SEARCH
from tuner.page import table_html
from tuner.panel.parts import copyable, draw, text
from tuner.panel.run import Advance, RunPanel
from tuner.progress import read_search
from tuner.trials import subfolders
from tuner.tried import plural


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
