"""The sweep panel: a form made from the spec, start and stop, progress and results, without blocking the kernel."""

import asyncio
import html
from typing import Any

import ipywidgets as widgets
from IPython.display import display

from tuner import figures
from tuner.errors import TunerError
from tuner.experiment import Experiment
from tuner.progress import read_progress
from tuner.report import read_results, write_report
from tuner.spec import SweepSpec, make_spec
from tuner.summary import table
from tuner.sweep import Stop, run_sweep

#: what the form asks for; everything else of the spec can be set in the parameters cell
FORM = ("engine", "model", "parameters", "levels", "scenarios", "max_seconds", "max_requests", "slo", "name")
_POLL_SECONDS = 0.5
_WIDE = widgets.Layout(width="42em")
_LABEL = {"description_width": "9em"}


class SweepPanel:
    """A form, Run and Stop, progress, and the figure and table that grow with each level.

    Args:
        parameters: initial values, as in the notebook's parameters cell.
    """

    def __init__(self, parameters: dict[str, Any]) -> None:
        self.task: asyncio.Task[None] | None = None
        self.experiment: Experiment | None = None
        self._given = parameters
        self._stop = Stop()
        self._fields = {name: self._field(name) for name in FORM}
        self._run = widgets.Button(description="Run sweep", button_style="primary", icon="play")
        self._halt = widgets.Button(description="Stop", icon="stop", disabled=True)
        self._bar = widgets.IntProgress(max=1)
        self._status = widgets.HTML()
        self._figure = widgets.Output()
        self._table = widgets.HTML()
        self._run.on_click(lambda _: self.start())
        self._halt.on_click(lambda _: self.stop())

    def show(self) -> None:
        """Display the panel."""
        buttons = widgets.HBox([self._run, self._halt, self._bar])
        display(widgets.VBox([*self._fields.values(), buttons, self._status]))
        display(self._figure, self._table)

    def start(self) -> None:
        """Start the sweep; a second click while it runs does nothing."""
        if self.task is None or self.task.done():
            self.task = asyncio.get_running_loop().create_task(self._sweep())

    def stop(self) -> None:
        """End after the level that runs; pressed again, at once."""
        (self._stop.at_once if self._stop.after_level.is_set() else self._stop.after_level).set()
        self._say("stopping after this level; press Stop again to stop at once")

    def _field(self, name: str) -> widgets.Text:
        field = SweepSpec.model_fields[name]
        value = self._given.get(name, field.get_default(call_default_factory=True))
        tip = field.description or ""
        return widgets.Text(
            _as_text(value),
            description=name.replace("_", " "),
            placeholder=tip,
            tooltip=tip,
            layout=_WIDE,
            style=_LABEL,
        )

    def _spec(self) -> SweepSpec:
        filled = {name: field.value for name, field in self._fields.items() if field.value.strip()}
        return make_spec({**{name: value for name, value in self._given.items() if name not in FORM}, **filled})

    async def _sweep(self) -> None:
        self._run.disabled, self._halt.disabled = True, False
        self._stop = Stop()
        try:
            spec = self._spec()
            self.experiment = Experiment.create(spec.runs, "sweep", spec.name)
            work = asyncio.create_task(asyncio.to_thread(run_sweep, spec, self.experiment, self._stop))
            await self._watch(work, self.experiment)
            report = await asyncio.to_thread(write_report, self.experiment.folder)
            self._say(f"done: {len(read_progress(self.experiment).ended)} levels; report: {report}")
        except asyncio.CancelledError:
            self._stop.at_once.set()
            raise
        except TunerError as error:
            self._say(str(error), error=True)
        except Exception as error:  # a callback's traceback would only reach Lab's log console
            self._say(f"{type(error).__name__}: {error}", error=True)
        finally:
            self._run.disabled, self._halt.disabled = False, True

    async def _watch(self, work: "asyncio.Task[None]", experiment: Experiment) -> None:
        """Show what the run directory says until the sweep has ended; raises what it raised."""
        ended = -1
        while not work.done():
            await asyncio.wait({work}, timeout=_POLL_SECONDS)
            progress = read_progress(experiment)
            self._bar.max, self._bar.value = max(1, len(progress.levels)), len(progress.ended)
            if not self._stop and not work.done():
                self._say(progress.describe())
            if len(progress.ended) > max(ended, 0):
                ended = len(progress.ended)
                await self._draw(experiment)
        await work

    async def _draw(self, experiment: Experiment) -> None:
        results = await asyncio.to_thread(read_results, experiment.folder)
        data = figures.notebook_bundle(results.figures[0])
        # Setting `outputs` redraws in Lab; a display handle's update does not redraw a plotly figure.
        self._figure.outputs = ({"output_type": "display_data", "data": data, "metadata": {}},)
        self._table.value = table(results.judged).to_html(index=False, escape=True, border=0, na_rep="–")

    def _say(self, text: str, *, error: bool = False) -> None:
        colour = "#b03a00" if error else "inherit"
        self._status.value = f'<pre style="color:{colour};white-space:pre-wrap">{html.escape(text)}</pre>'


def _as_text(value: Any) -> str:
    """A value as the form's text, which the spec reads back."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "" if value is None or value == {} else str(value)
