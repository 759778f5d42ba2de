"""What a terminal shows while something goes on, on stderr: a bar, and a line for each part that ended."""

import logging
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, ClassVar

import pandas as pd
from rich import progress as bars
from rich.markup import escape

from tuner.cli.tables import Terminal
from tuner.core.level import level_title
from tuner.core.metrics import column_name
from tuner.core.records import COMPLETE, COMPLETED, FAILED, RUNNING, WAITING
from tuner.core.run_directory import Experiment
from tuner.core.text import shorten, visible
from tuner.judging.levels import TOO_MUCH
from tuner.judging.search_answer import Searched
from tuner.judging.slo import SLO
from tuner.judging.trials import load_trials
from tuner.report.results import Results
from tuner.search.search import SEARCH_KIND, SWEEP_KIND, Kind
from tuner.sweep.level import judged_level
from tuner.sweep.progress import Progress
from tuner.sweep.spec import SweepSpec
from tuner.sweep.sweep import StopRequest

_POLL_SECONDS = 0.25
_YES, _NO, _UNKNOWN = "[green]✓[/]", "[red]✗[/]", "[yellow]–[/]"
_TRIAL_MARKS = {COMPLETE: _YES, FAILED: _NO}
_VERDICT_MARKS = {"pass": _YES, "soft": _YES, "fail": _NO}
#: what stands before the reason for a verdict
_PREFIXES = {"pass": "", "soft": "softly violates: ", "fail": "violates: ", "unknown": "cannot be judged: "}
_LATENCIES = ("ttft_p90", "tpot_p90")
#: characters of a line that a server's words may take
_LONGEST = 160


class RunDisplay(ExitStack):
    """A bar that follows a run directory, and a line for each part that ended; without a terminal, the lines alone."""

    #: what it shows
    kind: ClassVar[Kind]

    def __init__(self, experiment: Experiment, spec: SweepSpec) -> None:
        super().__init__()
        self._experiment, self._spec = experiment, spec
        self._console = Terminal(stderr=True)
        self._printed, self._phase = 0, ""
        self._shown: set[object] = set()  # the parts that have a line
        texts = (bars.SpinnerColumn(), bars.TextColumn("{task.description}"))
        self._bar = _bar(self._console, *texts, bars.BarColumn(), bars.TimeElapsedColumn())
        self._task = self._bar.add_task("starting", total=None)
        self.enter_context(self._bar)

    def run(self, stop: StopRequest) -> None:
        """Run in a thread and show what changes; whatever ends us early ends the run at once, and it is waited for."""
        with ThreadPoolExecutor(1, "run") as pool:
            running = pool.submit(self.kind.run, self._spec, self._experiment, stop)
            try:
                while not wait([running], _POLL_SECONDS).done:
                    self.update()
                self.update()
            except BaseException:
                stop.at_once.set()
                raise
        running.result()

    def update(self) -> None:
        """Show what has changed."""
        progress = self.kind.read_progress(self._experiment)
        if len(progress.ended) > self._printed:
            self._print(list(self._lines(progress)))
        if not self._console.is_terminal and progress.phase not in ("", self._phase):
            self._phase = progress.phase
            self._console.print(escape(visible(f"{self._phase} …")), highlight=False, soft_wrap=True)
        left = round(progress.seconds_left or 0)
        text = f"{progress.describe()}{f', ≈ {left // 60}:{left % 60:02} left' if left else ''}"
        total = progress.planned or None
        self._bar.update(self._task, description=escape(visible(text)), total=total, completed=self._printed)

    def conclude(self, results: Results) -> None:
        """Of a sweep, count the batches that meet the SLO, and say the maximum and from how many of them it is."""
        if self._spec.slo and results.searched is None:
            said, mark = results.summary, _YES if results.summary.compliant else _NO
            self._print([f"{mark} {said.compliant}/{said.total} batches meet the SLO", escape(said.text)])

    def _print(self, lines: list[str]) -> None:
        for line in lines:
            self._console.print(line, highlight=False, soft_wrap=True)
        self._printed += len(lines)

    def _lines(self, progress: Any) -> Iterator[str]:
        """A line for each part that has ended since."""
        raise NotImplementedError


class SweepDisplay(RunDisplay):
    """A sweep, whose parts are levels."""

    kind = SWEEP_KIND

    def _lines(self, progress: Progress) -> Iterator[str]:
        for level in progress.ended:
            if level.folder in self._shown:
                continue
            self._shown.add(level.folder)
            mark, text = _NO if level.state in TOO_MUCH else _UNKNOWN, f"{level.state}: {level.reason}"
            if level.state == COMPLETED:
                row = judged_level([level.folder], self._spec.slo or {})
                mark, text = _VERDICT_MARKS.get(row["verdict"], _UNKNOWN), "; ".join(_numbers(row))
            yield f"{mark} {escape(level.scenario)} {level_title(level.level)} {escape(text)}"


class SearchDisplay(RunDisplay):
    """A search, whose parts are trials; several may run at once, so that they end in any order."""

    kind = SEARCH_KIND

    def _lines(self, progress: Any) -> Iterator[str]:
        trials = load_trials(self._experiment.folder)
        searched = Searched.of(trials, self._experiment.facts, SLO.parse(self._spec.slo or {}))
        ended = trials[~trials["state"].isin((RUNNING, WAITING)) & ~trials["trial"].isin(self._shown)]
        for _, row in ended.iterrows():
            self._shown.add(row["trial"])
            yield f"{_TRIAL_MARKS.get(row['state'], _UNKNOWN)} {escape(searched.line(row))}"


def _numbers(row: dict[str, Any]) -> Iterator[str]:
    numbers = [f"{row['output_throughput']:.1f} tokens/s"]
    numbers += [f"{column_name(column)} {row[column]:.3g} s" for column in _LATENCIES if pd.notna(row[column])]
    failed = [warning.partition("; latencies")[0] for warning in row["warnings"] if " requests failed, " in warning]
    numbers += [shorten(words, _LONGEST) for words in failed]
    yield ", ".join(numbers)
    if row["verdict_reason"]:
        yield f"{_PREFIXES[row['verdict']]}{row['verdict_reason']}"


@contextmanager
def ctrl_c_stops(ending: Callable[[], str]) -> Iterator[StopRequest]:
    """Within this the first Ctrl-C asks a run to end, and says when it will; the second raises KeyboardInterrupt."""
    stop = StopRequest()

    def ask(*_: object) -> None:
        if stop.after_level.is_set():
            raise KeyboardInterrupt
        stop.after_level.set()
        sys.stderr.write(f"{ending()}; Ctrl-C again ends now\n")

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def download_bar(what: str) -> tuple[AbstractContextManager[Any], Callable[[float], None]]:
    """A bar that is there at once, for something that may arrive, and the function that moves it (0 to 1)."""
    bar = _bar(Terminal(stderr=True))
    task = bar.add_task("preparing", total=None)
    return bar, lambda share: bar.update(task, description=what, total=1.0, completed=share)


def _bar(console: Terminal, *columns: bars.ProgressColumn) -> bars.Progress:
    return bars.Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


class LogHandler(logging.StreamHandler[Any]):
    """Writes to what stderr is at the time: while a bar is drawn that is the bar's own, which puts lines above it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        self.stream = sys.stderr
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        """The line; a message can name files and quote servers."""
        return visible(super().format(record))
