"""The sweep panel: a form made from the spec, start and stop, progress and results, without blocking the kernel."""

import asyncio
import shlex
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import yaml
from IPython.display import display

from tuner.books import is_running
from tuner.errors import TunerError
from tuner.experiment import Experiment
from tuner.findings import read_results
from tuner.panel.form import Form
from tuner.panel.parts import as_text, copyable, log_tail, text
from tuner.panel.server import HANDOVER
from tuner.panel.view import ResultsView
from tuner.progress import read_progress
from tuner.report import REPORT_FILE, write_report
from tuner.spec import SweepSpec
from tuner.sweep import Stop, run_sweep

#: what the form asks for; everything else of the spec can be set in the parameters cell
FORM = (
    *("engine", "model", "parameters", "gpus", "base_url", "tokenizer"),
    *("levels", "scenarios", "max_seconds", "max_requests", "slo", "name"),
)
_POLL_SECONDS = 0.5
#: what a stop file says that is to end the level that runs, too
_AT_ONCE = "at once"


class SweepPanel:
    """A form, Run and Stop, progress, and the figure and table that grow with each level.

    The run directory is all that it knows of a run. So a panel that is shown anew finds the run that another one, or
    the command line, has started, follows it, and can stop it.

    Args:
        parameters: initial values, as in the notebook's parameters cell.
    """

    def __init__(self, parameters: dict[str, Any]) -> None:
        self.task: asyncio.Task[None] | None = None
        self.experiment: Experiment | None = None
        self._stop = Stop()
        self._taken_over = _handed_over()
        self._form = Form(SweepSpec, FORM, parameters | self._taken_over)
        self._run = widgets.Button(description="Run sweep", button_style="primary", icon="play")
        self._halt = widgets.Button(description="Stop", icon="stop", disabled=True)
        self._bar = widgets.IntProgress(max=1)
        self._status, self._command, self._log = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self._view = ResultsView()
        self._run.on_click(lambda _: self.start())
        self._halt.on_click(lambda _: self.stop())
        self._form.on_change(self._preview)

    def show(self) -> None:
        """Display the panel, and the run that is going on or was the last."""
        logs = widgets.Accordion([self._log], titles=["server log"])
        buttons = widgets.HBox([self._run, self._halt, self._bar])
        parts = [self._form.widget, self._command, buttons, self._status, logs, self._view.widget]
        display(widgets.VBox(parts))
        if self._taken_over:
            self._say(f"the form is filled in for the server that was handed over, {self._taken_over['base_url']}")
        self._spawn(self._find())

    def start(self) -> None:
        """Start the sweep; while one runs this does nothing."""
        if self.task is None or self.task.done():
            self._spawn(self._sweep())

    def stop(self) -> None:
        """End after the level that runs; pressed again, at once."""
        if self.experiment is None:
            return
        file = self.experiment.stop_file
        again = file.exists()
        file.write_text(_AT_ONCE if again else "after this level")
        self._say("stopping now" if again else "stopping after this level; press Stop again to stop at once")

    def _spawn(self, work: Any) -> None:
        self.task = asyncio.get_running_loop().create_task(self._shown(work))

    async def _shown(self, work: Any) -> None:
        """Do `work`; whatever goes wrong is shown here, since a task's traceback would only reach Lab's log console."""
        try:
            await work
        except asyncio.CancelledError:
            self._stop.at_once.set()
            raise
        except TunerError as error:
            told = self._form.blame(error)
            self._say("mend the field that is marked" if told else str(error), error=True)
        except Exception as error:
            self._say(f"{type(error).__name__}: {error}", error=True)
        finally:
            self._run.disabled, self._halt.disabled = False, True

    def _preview(self) -> None:
        """The command that does the same; and what is wrong, beside its field."""
        try:
            spec = self._form.spec()
        except TunerError:
            return
        self._command.value = "<b>the same from a shell:</b>" + copyable(command_line(spec))

    async def _find(self) -> None:
        """Show the run that is going on, or else the last one of this name."""
        spec = self._form.spec()
        runs = sorted(spec.runs.glob("*-sweep-*/experiment.json"), reverse=True)
        found = [Experiment(path.parent) for path in runs]
        going_on = next(filter(is_running, found), None)
        if going_on:
            self._say(f"following {going_on.folder}")
            await self._follow(going_on)
        last = going_on or next((one for one in found if one.folder.name.endswith(f"-sweep-{spec.name}")), None)
        if last:
            await self._conclude(last)

    async def _sweep(self) -> None:
        self._stop = Stop()
        spec = self._form.spec()
        running = [path for path in spec.runs.glob("*/experiment.json") if is_running(Experiment(path.parent))]
        if running:
            await self._follow(Experiment(running[0].parent))
            return
        experiment = Experiment.create(spec.runs, "sweep", spec.name)
        work = asyncio.create_task(asyncio.to_thread(run_sweep, spec, experiment, self._stop))
        await self._follow(experiment, work)
        await work
        self._say("writing the report")
        await asyncio.to_thread(write_report, experiment.folder)
        await self._conclude(experiment)

    async def _follow(self, experiment: Experiment, work: "asyncio.Task[None] | None" = None) -> None:
        """Show what the run directory says until the sweep has ended."""
        self.experiment = experiment
        self._run.disabled, self._halt.disabled = True, False
        ended = 0
        while is_running(experiment) if work is None else not work.done():
            if work is None:
                await asyncio.sleep(_POLL_SECONDS)
            else:
                await asyncio.wait({work}, timeout=_POLL_SECONDS)
            self._heed_stop_file(experiment)
            progress = read_progress(experiment)
            self._bar.max, self._bar.value = max(1, len(progress.levels)), len(progress.ended)
            self._log.value = log_tail(experiment.trial(1).server_log)
            if not experiment.stop_file.exists():
                self._say(progress.describe())
            if len(progress.ended) > ended:
                ended = len(progress.ended)
                self._view.show(await asyncio.to_thread(read_results, experiment.folder))

    def _heed_stop_file(self, experiment: Experiment) -> None:
        """A stop that another panel, perhaps in another tab, has asked for."""
        if experiment.stop_file.exists():
            self._stop.after_level.set()
            if experiment.stop_file.read_text() == _AT_ONCE:
                self._stop.at_once.set()

    async def _conclude(self, experiment: Experiment) -> None:
        """Say how a run ended, and show its results."""
        state = experiment.facts.get("state", "")
        ended = len(read_progress(experiment).ended)
        if ended:
            self._view.show(await asyncio.to_thread(read_results, experiment.folder))
        report = experiment.folder / REPORT_FILE
        self._say(f"{state}: {ended} levels; report: {report if report.exists() else 'none'}")

    def _say(self, words: str, *, error: bool = False) -> None:
        self._status.value = text(words, error=error)


def command_line(spec: SweepSpec) -> str:
    """The command that asks for `spec`, as it can be pasted into a shell."""
    asked = spec.model_dump(mode="json", exclude_defaults=True)
    words = ["tuner", "sweep"]
    for name, value in asked.items():
        words += [f"--{name.replace('_', '-')}", as_text(value)]
    return shlex.join(words)


def _handed_over() -> dict[str, Any]:
    """The server that the launch notebook has handed on, as long as it answers."""
    from tuner import probe

    try:
        values = dict(yaml.safe_load(Path(HANDOVER).read_text()))
        with probe.client(values["base_url"], timeout=1) as http:
            return values if probe.models(http) else {}
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError, probe.Refused):
        return {}
