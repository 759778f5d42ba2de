"""What a terminal shows: a run's progress on stderr, tables on stdout."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd
from rich import progress as bars
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tuner.experiment import COMPLETED, Experiment
from tuner.progress import LevelState, read_progress

_WIDE_ENOUGH = 200  # columns of a table that goes into a file or a pipe


class RunProgress(AbstractContextManager["RunProgress"]):
    """A bar that follows a run directory, and one line for each level that ended; without a terminal, the lines alone.

    Args:
        experiment: the run to follow.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
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
        progress = read_progress(self._experiment)
        for level in progress.ended[self._said :]:
            self._console.print(_line(level), highlight=False)
        self._said = len(progress.ended)
        total = len(progress.levels) or None
        self._bar.update(self._task, description=progress.describe(), total=total, completed=self._said)


def _line(level: LevelState) -> str:
    mark = "[green]✓[/]" if level.state == COMPLETED else "[red]✗[/]"
    reason = f": {escape(level.reason)}" if level.reason else ""
    return f"{mark} {escape(level.scenario)} concurrency {level.concurrency} {level.state}{reason}"


def download_bar(what: str) -> tuple[AbstractContextManager[Any], Callable[[float], None]]:
    """A bar for something that arrives, and the function that moves it (0 to 1)."""
    console = Console(stderr=True)
    bar = bars.Progress(console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task(what, total=1.0, visible=False)
    return bar, lambda share: bar.update(task, completed=share, visible=True)


def print_table(rows: pd.DataFrame, verdicts: pd.Series) -> None:
    """Print rows for a person; the verdict colours a row."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDE_ENOUGH)
    colours = {"pass": "green", "soft": "yellow", "fail": "red"}
    table = Table(*map(str, rows.columns), box=None, header_style="bold", pad_edge=False)
    for row, verdict in zip(rows.itertuples(index=False), verdicts, strict=True):
        table.add_row(*("–" if pd.isna(cell) else escape(str(cell)) for cell in row), style=colours.get(verdict, "dim"))
    console.print(table)


def print_lines(*lines: str | Path) -> None:
    """Print results on stdout, as they are."""
    console = Console(highlight=False, soft_wrap=True)
    for line in lines:
        console.print(escape(str(line)))
