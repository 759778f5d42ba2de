"""Tables and lines in a terminal."""

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tuner.batches.batch import records
from tuner.core.text import level_name
from tuner.errors import RequestError
from tuner.judging import comparison_text
from tuner.judging.summary import table
from tuner.report.compared import SAME_CONFIGURATION, Compared

if TYPE_CHECKING:
    from tuner.cli.doctor import Finding


_WIDE_ENOUGH = 2000  # characters: in a file or a pipe, a row is one line


def print_batches(judged: pd.DataFrame, form: str) -> None:
    """Print judged batches on stdout.

    Args:
        judged: one row a batch.
        form: `table` for a person, `json`, `csv` or `parquet` for a script.

    Raises:
        RequestError: there is no such form, or it is binary and stdout is a terminal.
    """
    if form not in _FORMS:
        raise RequestError(f"--format {form}: unknown; use one of {', '.join(_FORMS)}")
    if form == "parquet" and sys.stdout.isatty():
        raise RequestError("--format parquet is binary: redirect it into a file, as in … > batches.parquet")
    _write(_FORMS[form](judged))


def print_comparison(compared: Compared, form: str) -> None:
    """Print a comparison on stdout: first in what the sides differ besides numbers, then the answer and the tables.

    Args:
        compared: what is compared.
        form: `table` for a person, `json` for a script.
    """
    _write(_json(compared.to_dict()) if form == "json" else _comparison(compared))


def must_be_form_of_comparison(form: str) -> None:
    """Refuse an unknown form, before the work for it is done.

    Raises:
        RequestError: `print_comparison` knows no such form.
    """
    if form not in ("table", "json"):
        raise RequestError(f"--format {form}: unknown; use one of table, json")


def _write(content: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def _as_table(judged: pd.DataFrame) -> bytes:
    """A table for a person, the verdict in the row's colour; on a screen the reasons stand below it."""
    on_screen = Console(highlight=False)
    if not on_screen.is_terminal:
        return _printed(Console(highlight=False, width=_WIDE_ENOUGH), _drawn(table(judged), judged["verdict"]))
    rows = table(judged)
    notes = (f"{name}: {why}" for name, why in zip(map(level_name, rows["level"]), rows["why"], strict=True) if why)
    drawn = _drawn(rows.drop(columns="why"), judged["verdict"])
    return _printed(on_screen, drawn, *(f"[dim]concurrency {escape(note)}[/]" for note in notes))


def _drawn(rows: pd.DataFrame, verdicts: Iterable[str]) -> Table:
    """The rows, each in its verdict's colour, or each cell in that of the verdict which it begins with."""
    drawn = Table(box=None, header_style="bold", pad_edge=False)
    cells = rows.astype("object").where(rows.notna(), "–").astype(str)
    for name in rows.columns:
        drawn.add_column(escape(name), min_width=max(cells[name].str.len(), default=1))
    for row, verdict in zip(cells.itertuples(index=False), verdicts, strict=True):
        drawn.add_row(*map(_coloured, row), style=_COLOURS.get(verdict, "dim"))
    return drawn


def _coloured(cell: str) -> str:
    colour = _COLOURS.get(comparison_text.verdict_of(cell), "")
    return f"[{colour}]{escape(cell)}[/]" if colour else escape(cell)


def _comparison(compared: Compared) -> bytes:
    on_screen = Console(highlight=False)
    console = on_screen if on_screen.is_terminal else Console(highlight=False, width=_WIDE_ENOUGH)
    answer = map(escape, compared.answer)
    configuration = compared.configuration
    differs = SAME_CONFIGURATION if configuration.empty else _drawn(configuration, ["plain"] * len(configuration))
    parts: list[Any] = [f"[bold]{escape(compared.title)}[/]", "", differs]
    parts += ["", f"[bold]{next(answer)}[/]", *answer]
    for title, rows in compared.tables.items():
        parts += ["", f"[bold]{title}[/]", _drawn(rows, rows.get("verdict", ["plain"] * len(rows)))]
    parts += [f"[dim]{comparison_text.LEGEND}[/]"] if len(compared.comparison.differences) else []
    return _printed(console, *parts)


def _printed(console: Console, *parts: Any) -> bytes:
    with console.capture() as printed:
        for part in parts:
            console.print(part)
    return printed.get().encode()


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False).encode() + b"\n"


_COLOURS = {"pass": "green", "soft": "yellow", "fail": "red", "better": "green", "worse": "red", "plain": ""}
_FORMS: dict[str, Callable[[pd.DataFrame], bytes]] = {
    "table": _as_table,
    "json": lambda judged: _json(records(judged)),
    "csv": lambda judged: pd.DataFrame(records(judged), columns=judged.columns).to_csv(index=False).encode(),
    "parquet": lambda judged: judged.to_parquet(index=False) or b"",
}


def print_lines(*lines: str | Path, on_stderr: bool = False) -> None:
    """Print results as they are, on stdout unless a script reads that."""
    console = Console(highlight=False, soft_wrap=True, stderr=on_stderr)
    for line in lines:
        console.print(escape(str(line)))


def print_findings(findings: "Iterable[Finding]") -> None:
    """Print what `tuner doctor` found, with the command that would mend it."""
    console = Console(highlight=False, soft_wrap=True)
    for finding in findings:
        mark = "[green]✓[/]" if finding.ok else "[red]✗[/]" if finding.needed else "[yellow]–[/]"
        console.print(f"{mark} [bold]{escape(finding.name)}[/]: {escape(finding.detail)}")
        if finding.remedy:
            console.print(f"    → {escape(finding.remedy)}")


def print_calibration(levels: list[int]) -> None:
    """Calibrate the load generator at `levels`, a line each on stderr, and print its own shares."""
    from tuner.traffic.calibration import calibrate, table

    errors = Console(stderr=True, highlight=False)
    print_lines(table(calibrate(levels, lambda done: errors.print(f"✓ concurrency {done.level}"))))
