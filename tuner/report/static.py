"""Results as plain HTML that needs no script, no widget and no other file: what a saved notebook holds."""

import base64
import html
from collections.abc import Iterable
from typing import Any

import pandas as pd

from tuner.core.text import visible
from tuner.figures.picture import picture
from tuner.report.compared import SAME_CONFIGURATION, Compared
from tuner.report.page import cell_texts
from tuner.report.results import Results

_ROWS_STYLE = """<style>
.tuner-rows { overflow: auto; max-height: 32em }
.tuner-rows table { border-collapse: collapse; font-variant-numeric: tabular-nums }
.tuner-rows th { position: sticky; top: 0; background: var(--jp-layout-color2, #f0f2f5) }
.tuner-rows th, .tuner-rows td { white-space: nowrap !important; padding: 3px 9px; text-align: left !important }
.tuner-rows td.number { text-align: right !important }
.tuner-rows td { max-width: 30em; overflow: hidden; text-overflow: ellipsis }
</style>"""


def escaped(text: str) -> str:
    """Words of anybody as HTML, in which controls and what turns the direction of writing can be seen."""
    return html.escape(text if text.isprintable() else visible(text))


def table_html(shown: pd.DataFrame) -> str:
    """A table for a notebook, escaped: a line a row, – for what is missing, long texts whole in their tooltip."""
    kinds = ["number" if pd.api.types.is_numeric_dtype(shown[name]) else "text" for name in shown]
    head = "".join(f"<th>{escaped(str(name))}</th>" for name in shown)
    cells = [zip(kinds, map(escaped, row), strict=True) for row in cell_texts(shown)]
    lines = ("".join(f'<td class="{kind}" title="{cell}">{cell}</td>' for kind, cell in row) for row in cells)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'{_ROWS_STYLE}<div class="tuner-rows">{table}</div>'


def answer_html(results: Results) -> str:
    """The answer in words, its first line as a headline; of a search, how to measure the best again."""
    command = f"The best configuration again:{copyable(results.command)}" if results.command else ""
    return f'<div class="tuner-answer">{_lines(results.answer)}</div>{command}'


def _lines(lines: Iterable[str]) -> str:
    first, *rest = map(escaped, lines)
    return "<br>".join([f"<b>{first}</b>", *rest])


def copyable(text: str) -> str:
    """A command or a document; in a panel, one click selects all of it."""
    return f'<pre class="tuner-copy" title="a click selects it all">{escaped(text)}</pre>'


def picture_html(figure: Any) -> str:
    """A picture of a figure; empty where it has nothing that could be drawn."""
    title, drawn = escaped(str(figure.layout.title.text)), base64.b64encode(picture(figure)).decode()
    return f'<img class="tuner-still" alt="{title}" src="data:image/png;base64,{drawn}">' if drawn else ""


def results_html(results: Results) -> str:
    """Answer, first figure and table."""
    return f"{answer_html(results)}{picture_html(results.first_figure)}{table_html(results.shown_table)}"


def comparison_html(compared: Compared) -> tuple[str, str]:
    """What two sides differ in: what stands above the figures, and what below."""
    configuration = compared.configuration
    differs = SAME_CONFIGURATION if configuration.empty else table_html(configuration)
    tables = "".join(f"<h4>{title}</h4>{table_html(rows)}" for title, rows in compared.tables.items())
    above = f"<h3>{escaped(compared.title)}</h3>{differs}<p>{_lines(compared.answer)}</p>"
    return above, f"{tables}<small>{compared.legend}</small>"
