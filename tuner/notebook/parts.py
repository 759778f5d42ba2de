"""Small parts that all panels are made of: texts that are never markup, figures that redraw, the end of a log."""

import html
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from tuner import figures
from tuner.batches.results import SECRET

WIDE = widgets.Layout(flex="0 0 32em", width="32em")
LABEL = {"description_width": "9em"}
_LOG_READ = 20_000  # bytes


def text(words: str, *, error: bool = False) -> str:
    """Words of anybody as HTML."""
    colour = "#b03a00" if error else "inherit"
    return f'<pre style="color:{colour};white-space:pre-wrap;margin:0">{html.escape(words)}</pre>'


def copyable(words: str) -> str:
    """A command as HTML; one click selects all of it."""
    style = "user-select:all;white-space:pre-wrap;background:#f6f8fa;color:#1c2733;padding:.4em .7em;margin:.3em 0"
    return f'<pre title="a click selects it all" style="{style}">{html.escape(words)}</pre>'


def log_tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log as HTML, without what looks like a key; empty where there is none."""
    if not path.is_file():
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, 2) - _LOG_READ))
        last = file.read().decode(errors="replace").splitlines()[-lines:]
    return text(SECRET.sub("***", "\n".join(last)))


def draw(output: widgets.Output, figure: Any) -> None:
    """Show a figure in place of the last one; a display handle's update would not redraw it in JupyterLab."""
    data = figures.notebook_bundle(figure)
    output.outputs = ({"output_type": "display_data", "data": data, "metadata": {}},)
