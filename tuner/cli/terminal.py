"""Lines of results on stdout: answers, findings, calibrations."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from tuner.cli.doctor import Finding


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
