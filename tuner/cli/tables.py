"""Tables and lines in a terminal."""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from msgspec import to_builtins
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tuner.batches.batch import records
from tuner.cli.doctor import Finding
from tuner.cli.exports import openmetrics
from tuner.core.level import Level, level_of, level_title
from tuner.core.text import visible
from tuner.errors import RequestError
from tuner.judging.comparison_text import verdict_of
from tuner.report.compared import SAME_CONFIGURATION, Compared
from tuner.report.results import Results
from tuner.traffic import calibration

_WIDE_ENOUGH = 2000  # characters: in a file or a pipe, a row is one line


class Terminal(Console):
    """A console whose texts, cells of tables among them, hold no control characters but its own colours."""

    def render_str(self, text: str, **options: Any) -> Text:
        """`text` with its markup; escape sequences in it are shown, and do nothing."""
        return super().render_str(visible(text), **options)


def print_batches(results: Results, form: str) -> None:
    """Print judged batches on stdout, one row a batch, in one of `_FORMS`; RequestError where that cannot be."""
    if form not in _FORMS:
        raise RequestError(f"--format {form}: unknown; use one of {', '.join(_FORMS)}")
    if form == "parquet" and sys.stdout.isatty():
        raise RequestError("--format parquet is binary: redirect it into a file, as in … > batches.parquet")
    _write(_FORMS[form](results))


def print_comparison(compared: Compared, form: str) -> None:
    """Print a comparison on stdout: in what the sides differ besides numbers, then the answer and the tables."""
    if form == "document":
        parts = compared.to_dict()
        print_document("compare", parts.pop("differences"), compared.answer, **parts)
    else:
        _write(_json(compared.to_dict()) if form == "json" else _comparison(compared))


def print_document(command: str, rows: list[dict[str, Any]], answer: Sequence[str] = (), **more: Any) -> None:
    """Print what a command found as one JSON document on stdout, of the schema that `docs/json.md` describes."""
    _write(_json({"schema": 1, "command": command, "answer": list(answer), "rows": rows} | more))


def _write(content: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def _batches(results: Results) -> bytes:
    rows, verdicts, console = results.table, results.judged["verdict"], _console()
    if not console.is_terminal:
        return _text(console, _table(rows, verdicts))
    names = (level_title(level_of(row)) for row in results.judged.to_dict("records"))
    lines = (f"[dim]{name}: {escape(why)}[/]" for name, why in zip(names, rows["why"], strict=True) if why)
    return _text(console, _table(rows.drop(columns="why"), verdicts), *lines)


def _console() -> Console:
    """Of the terminal; where there is none, so wide that a row is one line."""
    terminal = Terminal(highlight=False)
    return terminal if terminal.is_terminal else Terminal(highlight=False, width=_WIDE_ENOUGH)


def _table(rows: pd.DataFrame, verdicts: Iterable[str]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    cells = rows.astype("object").where(rows.notna(), "–").astype(str)
    for name in rows.columns:
        table.add_column(escape(name), min_width=max(cells[name].str.len(), default=1))
    for row, verdict in zip(cells.itertuples(index=False), verdicts, strict=True):
        table.add_row(*map(_cell, row), style=_COLOURS.get(verdict, "dim"))
    return table


def _cell(content: str) -> str:
    colour = _COLOURS.get(verdict_of(content), "")
    return f"[{colour}]{escape(content)}[/]" if colour else escape(content)


def _comparison(compared: Compared) -> bytes:
    answer = map(escape, compared.answer)
    configuration = compared.configuration
    differs = SAME_CONFIGURATION if configuration.empty else _table(configuration, ["plain"] * len(configuration))
    parts: list[Any] = [f"[bold]{escape(compared.title)}[/]", "", differs]
    parts += ["", f"[bold]{next(answer)}[/]", *answer]
    for title, rows in compared.tables.items():
        parts += ["", f"[bold]{title}[/]", _table(rows, rows.get("verdict", ["plain"] * len(rows)))]
    parts += [f"[dim]{compared.legend}[/]"] if compared.legend else []
    return _text(_console(), *parts)


def _text(console: Console, *parts: Any) -> bytes:
    with console.capture() as text:
        for part in parts:
            console.print(part)
    return text.get().encode()


def _json(value: Any) -> bytes:
    return visible(json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False), "\\u{:04x}").encode() + b"\n"


_COLOURS = {"pass": "green", "soft": "yellow", "fail": "red", "better": "green", "worse": "red", "plain": ""}
_FORMS: dict[str, Callable[[Results], bytes]] = {
    "table": _batches,
    "json": lambda results: _json(records(results.judged)),
    "csv": lambda results: visible(
        pd.DataFrame(records(results.judged), columns=results.judged.columns).to_csv(index=False)
    ).encode(),
    "openmetrics": openmetrics,
    "parquet": lambda results: results.judged.to_parquet(index=False) or b"",
}


def print_lines(*lines: str | Path, on_stderr: bool = False) -> None:
    """Print results as they are, on stdout unless a script reads that."""
    console = Terminal(highlight=False, soft_wrap=True, stderr=on_stderr)
    for line in lines:
        console.print(escape(str(line)))


def print_findings(findings: Iterable[Finding]) -> None:
    """Print what `tuner doctor` found, with the command that would mend it."""
    console = Terminal(highlight=False, soft_wrap=True)
    for finding in findings:
        mark = "[green]✓[/]" if finding.ok else "[red]✗[/]" if finding.needed else "[yellow]–[/]"
        console.print(f"{mark} [bold]{escape(finding.name)}[/]: {escape(finding.detail)}")
        if finding.remedy:
            console.print(f"    → {escape(finding.remedy)}")


def print_calibration(levels: list[Level], *, as_json: bool = False) -> None:
    """Calibrate the load generator at `levels`, a line each on stderr, and print its own shares."""
    errors = Terminal(stderr=True, highlight=False)
    measured = calibration.calibrate(levels, lambda done: errors.print(f"✓ {level_title(done.of)}"))
    if as_json:
        print_document("doctor", [to_builtins(each) for each in measured])
    else:
        print_lines(calibration.table(measured))
