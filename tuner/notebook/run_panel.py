"""The panels of a sweep and of a search."""

import asyncio
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import ipywidgets as widgets
from IPython.display import display

from tuner import figures
from tuner.core.run_directory import SEARCH, SWEEP, Experiment, Trial
from tuner.core.text import plural
from tuner.errors import TunerError
from tuner.notebook.form import Form, Panel, copyable, draw, log_tail, text
from tuner.notebook.server_panel import HANDOVER, ServerPanel
from tuner.notebook.views import ResultsView
from tuner.report.page import table_html
from tuner.report.results import Results, read_results
from tuner.report.write import REPORT_FILE, write_report
from tuner.search.search import SEARCH_KIND, SWEEP_KIND, Kind
from tuner.sweep.progress import read_progress, read_search
from tuner.sweep.spec import SweepSpec, command_line, read_spec, unlike_default
from tuner.sweep.sweep import StopRequest

_POLL_SECONDS = 0.5
#: what a stop file says that is to end the level that runs, too
_AT_ONCE = "at once"


class Advance(NamedTuple):
    """How far a run is.

    Args:
        ended: parts that have ended.
        planned: parts that were asked for.
        total: what has ended, in words.
        doing: what is going on, in a few words.
        log: the log of the server that runs.
    """

    ended: int
    planned: int
    total: str
    doing: str
    log: Path


class RunPanel(Panel[SweepSpec]):
    """A form, Run and Stop, progress, and results that grow.

    The run directory is all that it knows of a run. So a panel that is shown anew finds the run that another one, or
    the command line, has started, follows it, and can stop it.

    Args:
        parameters: initial values, as in the notebook's parameters cell.
        view: shows results: `show(results)`, and its `widget`.
    """

    #: what it runs
    kind: ClassVar[Kind]
    #: what the form asks for; everything else of the spec can be set in the parameters cell
    fields: ClassVar[Sequence[str]]

    def __init__(self, parameters: dict[str, Any], view: Any) -> None:
        self.experiment: Experiment | None = None
        self._stop = StopRequest()
        self._bar = widgets.IntProgress(max=1)
        self._view = view
        super().__init__(Form(self.kind.asks, self.fields, parameters), f"Run {self.kind.noun}")

    @property
    def folder(self) -> Path | None:
        """The run directory of the run that is shown; None until one has begun."""
        run = self.experiment
        return run.folder if run and run.trial(1).facts_file.exists() else None

    @property
    def slo(self) -> dict[str, Any] | None:
        """The SLO document of the run that is shown; None where it has none."""
        return self.experiment.facts.get("spec", {}).get("slo") if self.experiment else None

    def advance(self, experiment: Experiment) -> Advance:
        """How far the run is, read from its directory."""
        raise NotImplementedError

    def show(self) -> None:
        """Display the panel, and the run that is going on or was the last."""
        logs = widgets.Accordion([self._log], titles=["server log"])
        buttons = widgets.HBox([self._go, self._halt, self._bar])
        display(widgets.VBox([self._form.widget, self._command, buttons, self._status, logs, self._view.widget]))
        self._spawn(self._find())

    def stop(self) -> None:
        """End after the level that runs; pressed again, at once."""
        if self.experiment is None:
            return
        file = self.experiment.stop_file
        again = file.exists()
        file.write_text(_AT_ONCE if again else "after this level")
        self._say("stopping now" if again else "stopping after this level; press Stop again to stop at once")

    async def _shown(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await super()._shown(work)
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
        experiment = Experiment.create(spec.runs, self.kind.name, spec.name)
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
        ended = 0
        while experiment.is_running if work is None else not work.done():
            await (asyncio.sleep(_POLL_SECONDS) if work is None else asyncio.wait({work}, timeout=_POLL_SECONDS))
            self._heed_stop_file(experiment)
            now = self.advance(experiment)
            self._bar.max, self._bar.value = max(1, now.planned), now.ended
            self._log.value = log_tail(now.log)
            if not experiment.stop_file.exists():
                self._say(now.doing)
            if now.ended > ended:
                ended = now.ended
                self._view.show(await self._results(experiment))

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
        now = self.advance(experiment)
        if now.ended:
            self._view.show(await self._results(experiment))
        report = experiment.folder / REPORT_FILE
        self._say(f"{state}: {now.total}; report: {report if report.exists() else 'none'}")

    @staticmethod
    async def _results(experiment: Experiment) -> Results:
        return await asyncio.to_thread(read_results, experiment.folder)


class SweepPanel(RunPanel):
    """A form, Run and Stop, progress, and the figure and table that grow with each level.

    Args:
        parameters: initial values, as in the notebook's parameters cell.
    """

    kind = SWEEP_KIND
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
        values = read_spec(Path(HANDOVER))
        with probe.client(values["base_url"], timeout=1) as http:
            return values if probe.models(http) else {}
    except (OSError, ValueError, KeyError, TypeError, probe.Refused):
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
        *("levels", "scenarios", "max_seconds", "slo", "name"),
    )

    def __init__(self, parameters: dict[str, Any]) -> None:
        super().__init__(parameters, SearchView())

    def advance(self, experiment: Experiment) -> Advance:
        """How many trials have ended."""
        progress = read_search(experiment)
        last = Trial(next(reversed(experiment.trial_folders), experiment.folder))
        total = plural(sum(one in progress.ended for one in progress.tried), "trial")
        return Advance(len(progress.ended), progress.planned, total, progress.describe(), last.server_log)


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


#: the panel of each kind of run
PANELS: dict[str, type[SweepPanel] | type[TunePanel]] = {SWEEP: SweepPanel, SEARCH: TunePanel}

__all__ = ["PANELS", "ServerPanel", "SweepPanel", "TunePanel"]
