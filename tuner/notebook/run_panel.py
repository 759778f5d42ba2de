"""The panels of a sweep and of a search."""

import asyncio
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, ClassVar

import ipywidgets as widgets

from tuner.core.run_directory import Experiment, Trial
from tuner.errors import TunerError
from tuner.notebook.form import Form, Panel, copyable, log_tail
from tuner.notebook.server_panel import HANDOVER
from tuner.notebook.views import ResultsView, SearchView
from tuner.report.results import read_results
from tuner.report.write import REPORT_FILE, write_report
from tuner.search.search import SEARCH_KIND, SWEEP_KIND, Kind
from tuner.servers import http as probe
from tuner.sweep.spec import SweepSpec, command_line, read_spec, unlike_default
from tuner.sweep.sweep import StopRequest

_POLL_SECONDS = 0.5
#: what a stop file says that is to end the level that runs, too
_AT_ONCE = "at once"


class RunPanel(Panel[SweepSpec]):
    """A form, Run and Stop, progress, and results that grow.

    The run directory is all that it knows of a run. So a panel that is shown anew finds the run that another one, or
    the command line, has started, follows it, and can stop it.

    Args:
        parameters: initial values, as in the notebook's parameters cell.
    """

    #: what it runs
    kind: ClassVar[Kind]
    #: what the form asks for; everything else of the spec can be set in the parameters cell
    fields: ClassVar[Sequence[str]]
    #: what shows its results
    view: ClassVar[type[ResultsView | SearchView]]

    def __init__(self, parameters: dict[str, Any]) -> None:
        self.experiment: Experiment | None = None
        self._stop = StopRequest()
        self._bar, self._view = widgets.IntProgress(max=1), self.view()
        form = Form(self.kind.spec, self.fields, parameters)
        super().__init__(form, f"Run {self.kind.noun}", self._bar, self._view.widget)

    @property
    def folder(self) -> Path | None:
        """The run directory of the run that is shown; None until one has begun."""
        run = self.experiment
        return run.folder if run and run.has_begun else None

    @property
    def slo(self) -> dict[str, Any] | None:
        """The SLO document of the run that is shown; None where it has none."""
        return self.experiment.facts.get("spec", {}).get("slo") if self.experiment else None

    def stop(self) -> None:
        """End after the level that runs; pressed again, at once."""
        if self.experiment is None:
            return
        file = self.experiment.stop_file
        again = file.exists()
        file.write_text(_AT_ONCE if again else "after this level")
        self._say("stopping now" if again else "stopping after this level; press Stop again to stop at once")

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await super()._guard(work)
        except asyncio.CancelledError:
            self._stop.at_once.set()
            raise

    def _preview(self) -> None:
        """The command that does the same; and what is wrong, beside its field."""
        try:
            spec = self._form.spec()
        except TunerError:
            return
        words = command_line(self.kind.name, unlike_default(spec))
        self._command.value = "<b>the same from a shell:</b>" + copyable(words)

    async def _find(self) -> None:
        """Show the run that is going on, or else the last one of this name."""
        spec, kind = self._form.spec(), self.kind.name
        going_on = next((run for run in Experiment.find(spec.runs, kind) if run.is_running), None)
        if going_on:
            self._say(f"following {going_on.folder}")
            await self._follow(going_on)
        last = going_on or next(Experiment.find(spec.runs, kind, spec.name), None)
        if last:
            await self._conclude(last)

    async def _begin(self) -> None:
        self._stop = StopRequest()
        spec = self._form.spec()
        if running := next((run for run in Experiment.find(spec.runs) if run.is_running), None):
            if running.record.kind == self.kind.name:  # two runs at once would measure each other
                await self._follow(running)
            else:
                self._say(f"{running.folder} is running: wait for its end, or stop it", error=True)
            return
        with Experiment.create(spec.runs, self.kind.name, spec.name).only_writer() as experiment:
            work = asyncio.create_task(asyncio.to_thread(self.kind.run, spec, experiment, self._stop))
            await self._follow(experiment, work)
            await work
            self._say("writing the report")
            await asyncio.to_thread(write_report, experiment.folder)
        await self._conclude(experiment)

    async def _follow(self, experiment: Experiment, work: "asyncio.Task[None] | None" = None) -> None:
        """Show what the run directory says until the run has ended."""
        self.experiment = experiment
        self._set_busy(True)
        ended_before = 0
        while experiment.is_running if work is None else not work.done():
            await (asyncio.sleep(_POLL_SECONDS) if work is None else asyncio.wait({work}, timeout=_POLL_SECONDS))
            self._heed_stop_file(experiment)
            progress = self.kind.read_progress(experiment)
            ended = len(progress.ended)
            self._bar.max, self._bar.value = max(1, progress.planned), ended
            self._log.value = log_tail(Trial(next(reversed(experiment.trial_folders), experiment.folder)).server_log)
            if not experiment.stop_file.exists():
                self._say(progress.describe())
            if ended > ended_before:
                ended_before = ended
                await self._show_results(experiment)

    def _heed_stop_file(self, experiment: Experiment) -> None:
        """A stop that another panel, perhaps in another tab, has asked for."""
        if experiment.stop_file.exists():
            self._stop.after_level.set()
            if experiment.stop_file.read_text() == _AT_ONCE:
                self._stop.at_once.set()

    async def _conclude(self, experiment: Experiment) -> None:
        """Say how a run ended, and show its results."""
        self.experiment = experiment
        state = experiment.facts.get("state", "")
        progress = self.kind.read_progress(experiment)
        if progress.ended:
            await self._show_results(experiment)
        report = experiment.folder / REPORT_FILE
        self._say(f"{state}: {progress.total}; report: {report if report.exists() else 'none'}")

    async def _show_results(self, experiment: Experiment) -> None:
        self._view.show(await asyncio.to_thread(read_results, experiment.folder))


class SweepPanel(RunPanel):
    """A form, Run and Stop, progress, and the figure and table that grow with each level.

    Args:
        parameters: initial values, as in the notebook's parameters cell.
    """

    kind = SWEEP_KIND
    fields = (
        *("engine", "model", "parameters", "gpus", "base_url", "tokenizer"),
        *("levels", "scenarios", "prompts", "prefix", "max_seconds", "max_requests", "slo", "name"),
    )

    view = ResultsView

    def __init__(self, parameters: dict[str, Any]) -> None:
        server = _read_handover()
        super().__init__(parameters | server)
        if server:
            self._say(f"the form is filled in for the server that was handed over, {server['base_url']}")


def _read_handover() -> dict[str, Any]:
    """The server that the launch notebook has handed on, as long as it answers."""
    try:
        values = read_spec(Path(HANDOVER))
        with probe.client(values["base_url"], timeout=1) as http:
            return values if probe.is_there(http) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


class TunePanel(RunPanel):
    """A form, Run and Stop, progress, and the best so far and the table that grow with each trial.

    Args:
        parameters: initial values, as in the notebook's parameters cell.
    """

    kind = SEARCH_KIND
    fields = (
        *("engine", "model", "parameters", "gpus", "tokenizer", "space", "constraints", "objective", "objective_level"),
        *("sampler", "trials", "patience", "max_minutes", "confirm"),
        *("levels", "scenarios", "prompts", "prefix", "max_seconds", "slo", "name"),
    )
    view = SearchView
