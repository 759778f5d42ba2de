"""The panels of a sweep and of a search."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import ipywidgets as widgets
import yaml

from tuner.core import files, timestamps
from tuner.core.records import RUNNING
from tuner.core.run_directory import Experiment
from tuner.errors import SpecError
from tuner.notebook.fields import button, labelled, words
from tuner.notebook.form import Form
from tuner.notebook.panel import Panel
from tuner.notebook.views import ResultsView
from tuner.report.results import Results, read_results
from tuner.report.static import copyable, results_html
from tuner.report.write import REPORT_FILE, write_report
from tuner.search.search import SEARCH_KIND, SWEEP_KIND, Kind
from tuner.sweep import handover
from tuner.sweep.fields import command_line
from tuner.sweep.proposals import SEARCH_FILE
from tuner.sweep.spec import SweepSpec, make_spec, unlike_default
from tuner.sweep.sweep import StopRequest, recorded_spec
from tuner.sweep.trust import check_trust

_POLL_SECONDS = 0.5
#: what a stop file says that is to end the level that runs, too
_AT_ONCE = "at once"


class RunPanel(Panel[SweepSpec]):
    """A form, Run and Stop, progress, and results that grow; and every earlier run in the same view.

    All that it knows of a run is in its directory, so that it follows and stops one that others have started, too.
    """

    #: what it runs, what another panel or notebook has handed on to it, and what is said of that
    kind: ClassVar[Kind]
    handed_on: ClassVar[Callable[[], dict[str, Any]]]
    received: ClassVar[str]

    def __init__(self, parameters: dict[str, Any]) -> None:
        self.experiment: Experiment | None = None
        self._stop = StopRequest()
        self._trusted: Path | None = None  # a run of others of which was said what it does
        self._bar = widgets.IntProgress(max=1, layout=widgets.Layout(width="12em", flex="0 1 auto"))
        self._view = ResultsView()
        self._runs, self._others = (widgets.Dropdown(**labelled(name, style={})) for name in ("run", "compare with"))
        self._resume = button("Resume", "play", self._go_on, disabled=True)
        self._search = button("Search from here", "search", self._search_on)
        compare = button("Compare", "columns", self._compare_with)
        self._runs.observe(lambda _: self._open(), "value")
        lines = list(map(widgets.HBox, ([self._runs, self._resume, self._search], [self._others, compare])))
        self._pickers = widgets.Box(lines, layout=widgets.Layout(display="none")).add_class("tuner-pickers")
        self._estimate, handed = widgets.HTML(), type(self).handed_on()
        below = widgets.VBox([self._pickers, self._view.widget])
        form = Form(self.kind.spec, parameters | handed)
        super().__init__(form, f"Run {self.kind.noun}", [self._bar, self._estimate], below)
        if handed:
            self._say(self.received.format(**handed))

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
        if self.experiment:
            again = self.experiment.stop_file.exists()
            self.experiment.stop_file.write_text(_AT_ONCE if again else "after this level")
            self._say("ending now" if again else f"{self._measure(self.experiment).ending}; press again to end now")

    def _described(self) -> str:
        self._estimate.value = ""
        spec = self._form.spec()
        self._estimate.value = words(f"takes {spec.about_time}")
        values = unlike_default(spec)
        document = copyable(yaml.safe_dump(values, sort_keys=False)) if values else ""
        return copyable(command_line(self.kind.name, values)) + document

    def _set_busy(self, busy: bool) -> None:
        super()._set_busy(busy)
        self._pickers.layout.display = "none" if busy or not self._runs.options else ""

    async def _find(self) -> None:
        """Show the run that is going on, or else the last one of this name."""
        runs, kind = Path(self._form.value_of("runs")), self.kind.name
        going_on = next((run for run in Experiment.find(runs, kind) if run.is_running), None)
        if going_on:
            await self._follow(going_on)
        last = going_on or next(Experiment.find(runs, kind, self._form.value_of("name")), None)
        self._list_runs(last)
        if last:
            await self._conclude(last)

    async def _begin(self) -> None:
        spec = self._form.spec()
        running = next((run for run in Experiment.find(spec.runs) if run.is_running), None)
        if running is None:
            await self._carry_out(spec, Experiment.create(spec.runs, self.kind.name, spec.name))
        elif running.record.kind == self.kind.name:  # two runs at once would measure each other
            await self._follow(running)
        else:
            self._say(f"{running.folder} is running: wait for its end, or stop it", error=True)

    async def _carry_out(self, spec: SweepSpec, run: Experiment) -> None:
        self._stop = StopRequest()
        self._view.widget.layout.display = "none"
        with run.only_writer() as experiment:
            work = asyncio.create_task(asyncio.to_thread(self.kind.run, spec, experiment, self._stop))
            try:
                await self._follow(experiment, work)
            except asyncio.CancelledError:
                self._stop.at_once.set()
                raise
            await work
            self._say("writing the report")
            await asyncio.to_thread(write_report, experiment.folder)
        self._list_runs(experiment)
        await self._conclude(experiment)

    async def _follow(self, experiment: Experiment, work: "asyncio.Task[None] | None" = None) -> None:
        self.experiment = experiment
        self._set_busy(True)
        ended_before = 0
        showing: asyncio.Task[Any] | None = None
        while experiment.is_running if work is None else not work.done():
            await (asyncio.sleep(_POLL_SECONDS) if work is None else asyncio.wait({work}, timeout=_POLL_SECONDS))
            if files.read_end(experiment.stop_file, len(_AT_ONCE) + 1) == _AT_ONCE:
                self._stop.at_once.set()
            if self._is_replaced:
                continue
            progress = self._measure(experiment)
            if not experiment.stop_file.exists():
                self._say(_status(experiment, progress))
            if self._bar.value > ended_before and (showing is None or showing.done()):  # drawing keeps no Stop waiting
                ended_before = self._bar.value
                so_far = f"{progress.total} of {progress.planned} so far"
                showing = asyncio.create_task(self._show_results(experiment, so_far))
        if showing:
            await showing

    def _measure(self, experiment: Experiment) -> Any:
        progress = self.kind.read_progress(experiment)
        self._bar.max, self._bar.value = max(1, progress.planned), len(progress.ended)
        return progress

    async def _conclude(self, experiment: Experiment) -> None:
        self.experiment, report = experiment, experiment.folder / REPORT_FILE
        progress, state = self._measure(experiment), _state(experiment)
        self._view.widget.layout.display = "" if progress.ended else "none"
        self._others.options = [one for one in self._runs.options if one[1] != str(experiment.folder)]
        self._say(f"reading {experiment.folder}")
        if progress.ended:
            self._keep(await asyncio.to_thread(results_html, await self._show_results(experiment)))
        self._resume.disabled = state == "done" or experiment.is_running
        self._search.layout.display = "" if (experiment.folder / SEARCH_FILE).exists() else "none"
        self._say(f"{state}: {progress.total}; report: {report if report.exists() else 'none'}")

    async def _show_results(self, experiment: Experiment, so_far: str = "") -> Results:
        results = await asyncio.to_thread(read_results, experiment.folder)
        await self._view.show(results.ended_levels() if so_far else results, so_far)
        return results

    def _list_runs(self, shown: Experiment | None) -> None:
        runs = Experiment.find(Path(self._form.value_of("runs")), self.kind.name)
        self.experiment = shown
        self._runs.options = [(f"{run.folder.name} ({_state(run)})", str(run.folder)) for run in runs]
        self._runs.value = str(shown.folder) if shown and self._runs.options else None

    def _open(self) -> None:
        folder = self._runs.value
        if folder and self._is_idle and (self.experiment is None or folder != str(self.experiment.folder)):
            self._spawn(self._conclude(Experiment(Path(folder))))

    def _go_on(self) -> None:
        """Resume the run that is shown; one that was not made here only when pressed again."""
        run = self.experiment
        if run is None or not self._is_idle:
            return
        try:
            spec = make_spec(recorded_spec(run), self.kind.spec)
            check_trust(spec, run, trusts=self._trusted == run.folder)
        except SpecError as error:
            self._trusted = run.folder
            self._say(f"{error} (here: press Resume again)", error=True)
            return
        self._resume.disabled = True
        self._spawn(self._carry_out(spec, run))

    def _search_on(self) -> None:
        if self.experiment:
            files.write_atomically(Path(handover.SEARCH), files.read_bytes(self.experiment.folder / SEARCH_FILE))
            self._say("open tune.ipynb and run its cells: its form is filled in with what is proposed here")

    def _compare_with(self) -> None:
        if self._is_idle and self.experiment and self._others.value:
            self._spawn(self._view.show_comparison(Path(self._others.value), self.experiment.folder))


def _status(experiment: Experiment, progress: Any) -> str:
    started = timestamps.known(experiment.facts.get("started_at", ""))
    took = (timestamps.now() - started).total_seconds() if started else 0.0
    times = (("", took, "elapsed"), ("about ", progress.seconds_left, "left"))
    shown = ["{}{}:{:02} {}".format(about, *divmod(round(s), 60), what) for about, s, what in times if s]
    return "  ·  ".join([progress.describe(), *shown])


def _state(experiment: Experiment) -> str:
    """How a run stands; what says that it runs and does not was cut off."""
    state = experiment.record.state
    return "interrupted" if state == RUNNING and not experiment.is_running else state or "not begun"


class SweepPanel(RunPanel):
    """The panel of a sweep."""

    kind, handed_on = SWEEP_KIND, staticmethod(handover.read)
    received = "the form is filled in for the server that was handed over, {base_url}"


class TunePanel(RunPanel):
    """The panel of a search."""

    kind, handed_on = SEARCH_KIND, staticmethod(handover.take_search)
    received = "the form is filled in with what the sweep proposed"
