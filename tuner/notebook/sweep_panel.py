"""The sweep panel: one server's levels, with sliders that judge them again."""

from pathlib import Path
from typing import Any

import yaml

from tuner.core.run_directory import Experiment
from tuner.notebook.run_panel import Advance, RunPanel
from tuner.notebook.server_panel import HANDOVER
from tuner.notebook.views import ResultsView
from tuner.search.kinds import SWEEP
from tuner.sweep.progress import read_progress


class SweepPanel(RunPanel):
    """A form, Run and Stop, progress, and the figure and table that grow with each level.

    Args:
        parameters: initial values, as in the notebook's parameters cell.
    """

    kind = SWEEP
    fields = (
        *("engine", "model", "parameters", "gpus", "base_url", "tokenizer"),
        *("levels", "scenarios", "max_seconds", "max_requests", "slo", "name"),
    )

    def __init__(self, parameters: dict[str, Any]) -> None:
        self._taken_over = _handed_over()
        super().__init__(parameters | self._taken_over, ResultsView())

    def show(self) -> None:
        """Display the panel, and the run that is going on or was the last."""
        super().show()
        if self._taken_over:
            self._say(f"the form is filled in for the server that was handed over, {self._taken_over['base_url']}")

    def advance(self, experiment: Experiment) -> Advance:
        """How many levels have ended."""
        trial = experiment.trial(1)
        progress = read_progress(trial)
        ended = len(progress.ended)
        return Advance(ended, len(progress.levels), f"{ended} levels", progress.describe(), trial.server_log)


def _handed_over() -> dict[str, Any]:
    """The server that the launch notebook has handed on, as long as it answers."""
    from tuner.servers import http as probe

    try:
        values = dict(yaml.safe_load(Path(HANDOVER).read_text()))
        with probe.client(values["base_url"], timeout=1) as http:
            return values if probe.models(http) else {}
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError, probe.Refused):
        return {}
