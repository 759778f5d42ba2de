"""What a terminal shows while something goes on, on stderr: a bar, and a line for each part that ended."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd
from rich import progress as bars
from rich.console import Console
from rich.markup import escape

from tuner.batches.load import load_batches
from tuner.core.metrics import column_name
from tuner.core.run_directory import COMPLETE, COMPLETED, FAILED, RUNNING, SEARCH, SWEEP, WAITING, Experiment
from tuner.judging.scores import goals_of
from tuner.judging.search_answer import Searched
from tuner.judging.trials import load_trials
from tuner.judging.verdicts import SLO
from tuner.sweep.progress import LevelState, read_progress, read_search
from tuner.sweep.spec import SweepSpec

_MARKS = {COMPLETE: "[green]✓[/]", FAILED: "[red]✗[/]"}
_SHOWN = ("ttft_p90", "tpot_p90")


class RunProgress(AbstractContextManager["RunProgress"]):
    """A bar that follows a run directory, and one line for each part that ended; without a terminal, the lines alone.

    Args:
        experiment: the run to follow.
        spec: what was asked for.
    """

    def __init__(self, experiment: Experiment, spec: SweepSpec) -> None:
        self._experiment = experiment
        self._spec = spec
        self._console = Console(stderr=True)
        self._said = 0
        columns = (
            bars.SpinnerColumn(),
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.TimeElapsedColumn(),
        )
        self._bar = bars.Progress(
            *columns, console=self._console, transient=True, disable=not self._console.is_terminal
        )
        self._task = self._bar.add_task("starting", total=None)

    def __enter__(self) -> "RunProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def tick(self) -> None:
        """Show what has changed."""
        progress = read_progress(self._experiment.trial(1))
        self._say([_line(level) for level in progress.ended[self._said :]])
        left = progress.seconds_left(self._spec.max_seconds)
        self._move(progress.describe(), len(progress.levels), left)

    def _say(self, lines: list[str]) -> None:
        for line in lines:
            self._console.print(line, highlight=False, soft_wrap=True)
        self._said += len(lines)

    def _move(self, doing: str, total: int, left: float) -> None:
        told = f"{doing}{f', about {left // 60:.0f}:{left % 60:02.0f} left' if left else ''}"
        self._bar.update(self._task, description=escape(told), total=total or None, completed=self._said)


class SearchProgress(RunProgress):
    """The same for a search, whose parts are trials; several may run at once, so that they end in any order."""

    def __init__(self, experiment: Experiment, spec: SweepSpec) -> None:
        super().__init__(experiment, spec)
        self._told: set[int] = set()

    def tick(self) -> None:
        """Show what has changed."""
        progress = read_search(self._experiment)
        if len(progress.ended) > self._said:
            self._say(self._lines())
        self._move(progress.describe(), progress.asked, progress.seconds_left)

    def _lines(self) -> list[str]:
        """A line for each trial that has ended since."""
        trials = load_trials(self._experiment.folder)
        spec = self._spec.model_dump(mode="json")
        searched = Searched(trials, goals_of(spec, SLO.parse(self._spec.slo or {}), bool(trials["gpus"].gt(1).any())))
        ended = trials[~trials["state"].isin((RUNNING, WAITING)) & ~trials["trial"].isin(self._told)]
        self._told |= {*ended["trial"]}
        return [_trial_line(searched, row) for _, row in ended.iterrows()]


#: what shows the progress of a run, by the notebook that makes it
FOLLOWERS = {SWEEP: RunProgress, SEARCH: SearchProgress}


def _trial_line(searched: Searched, row: "pd.Series[Any]") -> str:
    return f"{_MARKS.get(row['state'], '[yellow]–[/]')} {escape(searched.line(row))}"


def _line(level: LevelState) -> str:
    mark = "[green]✓[/]" if level.state == COMPLETED else "[red]✗[/]"
    told = f"{level.state}: {level.reason}" if level.reason else _numbers(level)
    return f"{mark} {escape(level.scenario)} concurrency {level.concurrency} {escape(told)}"


def _numbers(level: LevelState) -> str:
    """What a level that completed came to."""
    row = load_batches(level.folder).iloc[0]
    told = [f"{row['output_throughput']:.1f} tokens/s"]
    told += [f"{column_name(column)} {row[column]:.3g} s" for column in _SHOWN if pd.notna(row[column])]
    told += [f"{row['errors']} of {row['requests']} requests failed"] if row["errors"] else []
    return ", ".join(told)


@contextmanager
def ended_softly(stop_file: Path) -> Iterator[Callable[[], bool]]:
    """Within this, the first Ctrl-C asks the run to end after its level; the second ends it at once.

    Yields:
        A function that tells whether somebody has asked.
    """
    asked = threading.Event()

    def ask(*_: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        stop_file.touch()
        Console(stderr=True).print("ending after this level; Ctrl-C again ends at once")

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def download_bar(what: str) -> tuple[AbstractContextManager[Any], Callable[[float], None]]:
    """A bar for something that arrives, and the function that moves it (0 to 1)."""
    console = Console(stderr=True)
    bar = bars.Progress(console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task(what, total=1.0, visible=False)
    return bar, lambda share: bar.update(task, completed=share, visible=True)
