"""What a terminal shows in the end, on stdout: results, tables, findings."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tuner.errors import RequestError
from tuner.rows import plain
from tuner.summary import table

if TYPE_CHECKING:
    from tuner.doctor import Finding

_WIDE_ENOUGH = 2000  # characters: in a file or a pipe, a batch is one line


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
    sys.stdout.flush()
    sys.stdout.buffer.write(_FORMS[form](judged))
    sys.stdout.buffer.flush()


def _as_table(judged: pd.DataFrame) -> bytes:
    """A table for a person, the verdict in the row's colour; on a screen the reasons stand below it."""
    on_screen = Console(highlight=False)
    if not on_screen.is_terminal:
        return _printed(Console(highlight=False, width=_WIDE_ENOUGH), _drawn(table(judged), judged["verdict"]))
    rows = table(judged)
    notes = (f"{name}: {why}" for name, why in zip(rows["level"].astype(str), rows["why"], strict=True) if why)
    drawn = _drawn(rows.drop(columns="why"), judged["verdict"])
    return _printed(on_screen, drawn, *(f"[dim]concurrency {escape(note)}[/]" for note in notes))


def _drawn(rows: pd.DataFrame, verdicts: "pd.Series[str]") -> Table:
    drawn = Table(box=None, header_style="bold", pad_edge=False)
    cells = rows.astype("object").where(rows.notna(), "–").astype(str)
    for name in rows.columns:
        drawn.add_column(name, min_width=max(cells[name].str.len(), default=1))
    for row, verdict in zip(cells.itertuples(index=False), verdicts, strict=True):
        drawn.add_row(*map(escape, row), style=_COLOURS.get(verdict, "dim"))
    return drawn


def _printed(console: Console, *parts: Any) -> bytes:
    with console.capture() as printed:
        for part in parts:
            console.print(part)
    return printed.get().encode()


def _plain_rows(judged: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): plain(value) for name, value in row.items()} for row in judged.to_dict("records")]


def _as_json(judged: pd.DataFrame) -> bytes:
    return json.dumps(_plain_rows(judged), indent=2, allow_nan=False, ensure_ascii=False).encode() + b"\n"


def _as_csv(judged: pd.DataFrame) -> bytes:
    return pd.DataFrame(_plain_rows(judged), columns=judged.columns).to_csv(index=False).encode()


def _as_parquet(judged: pd.DataFrame) -> bytes:
    return judged.to_parquet(index=False) or b""


_COLOURS = {"pass": "green", "soft": "yellow", "fail": "red"}
_FORMS = {"table": _as_table, "json": _as_json, "csv": _as_csv, "parquet": _as_parquet}


def print_lines(*lines: str | Path) -> None:
    """Print results on stdout, as they are."""
    console = Console(highlight=False, soft_wrap=True)
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
    from tuner.calibration import calibrate, table

    errors = Console(stderr=True, highlight=False)
    print_lines(table(calibrate(levels, lambda done: errors.print(f"✓ concurrency {done.level}"))))
