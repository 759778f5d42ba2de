"""What changed from baseline to candidate: each change with its interval, against what is tolerated."""

from html import escape
from textwrap import shorten
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from tuner.core import text
from tuner.core.level import COLUMNS, level_title
from tuner.core.metrics import column_name
from tuner.figures import style as look
from tuner.judging import comparison_text
from tuner.judging.estimates import BETTER, SAME, UNKNOWN, WORSE

#: what differs for sure is filled and thick; shapes tell the verdicts apart without colour
_LOOKS = {
    WORSE: (look.Look("worse", "x", "#D55E00"), 3.5),
    BETTER: (look.Look("better", "diamond", "#0072B2"), 3.5),
    SAME: (look.Look("no difference found", "circle-open", "#666666"), 1.25),
    UNKNOWN: (look.Look("unknown", "square-x-open", "#666666"), 1.25),
}
_ROW = 20  # pixels a line
_BEYOND = 3  # times the largest change: so far a bar is followed
_FRAME = 170  # pixels around them


def changes(differences: pd.DataFrame, tolerance: float = 0.0) -> go.Figure:
    """Each level's change of the most telling metrics with its interval; the tolerance is a band.

    Args:
        differences: those of a `tuner.judging.comparison.Comparison`.
        tolerance: as a share; a change within the band is no regression.

    Example:
        >>> before, after = tuner.load_batches("runs/monday"), tuner.load_batches("runs/tuesday")
        >>> figure = tuner.figures.changes(tuner.compare(before, after).differences, tolerance=0.05)
    """
    lines = _lines(differences)
    levels = [row | {"y": y} for y, row in enumerate(lines) if "verdict" in row]
    rows = pd.DataFrame(levels, columns=["y", *differences])
    band = f" · grey band: the tolerance, ±{text.percent(tolerance)}" if tolerance else ""
    about = f"bar: where the change may lie; shares in percentage points{band}"
    figure = look.figure("Change from baseline to candidate", about, "change (%)", "")
    if tolerance:
        figure.add_vrect(x0=-tolerance * 100, x1=tolerance * 100, fillcolor="#000", opacity=0.1, line_width=0)
    figure.add_vline(x=0, line_color="#333", line_width=1)
    for verdict, (style, width) in _LOOKS.items():
        chosen = rows[rows["verdict"] == verdict]
        bars = {
            **{"type": "data", "symmetric": False, "thickness": width, "width": 4, "color": style.colour},
            "array": (chosen["high"] - chosen["change"]) * 100,
            "arrayminus": (chosen["change"] - chosen["low"]) * 100,
        }
        hovers = [_hover(row) for row in chosen.to_dict("records")]
        look.add_markers(figure, chosen.assign(x=chosen["change"] * 100), style, hovers, error_x=bars)
    height = _FRAME + _ROW * max(len(lines), 3)
    figure.update_layout(height=height, legend={"y": -70 / height})
    figure.update_xaxes(range=_range(rows, tolerance), ticksuffix=" %", zeroline=False)
    ticks = {"tickvals": list(range(len(lines))), "ticktext": _ticks(lines)}
    figure.update_yaxes(range=[len(lines) - 0.5, -0.5], **ticks, showgrid=False, zeroline=False)
    return figure


def _range(rows: pd.DataFrame, tolerance: float) -> list[float]:
    """Percent that the axis shows: each change, and what differs for sure whole; wider bars run off the edges."""
    sure = rows[rows["verdict"].isin([WORSE, BETTER])]
    must = pd.concat([rows["change"], sure["low"], sure["high"], pd.Series([-2 * tolerance, 2 * tolerance])])
    most = _BEYOND * max(must.abs().max(), 0.01)
    seen = pd.concat([must, rows["low"].clip(lower=-most), rows["high"].clip(upper=most)]) * 100
    room = 0.04 * (seen.max() - seen.min())
    return [seen.min() - room, seen.max() + room]


def _lines(differences: pd.DataFrame) -> list[dict[Any, Any]]:
    """What the figure shows from top to bottom: each metric's name, and below it its levels."""
    telling = comparison_text.telling_rows(differences).dropna(subset="change")
    lines: list[dict[Any, Any]] = []
    for metric in comparison_text.metrics(telling):
        rows = telling[telling["metric"] == metric].sort_values(["scenario", *COLUMNS], kind="stable")
        lines += [{"name": column_name(metric)}, *rows.to_dict("records")]
    return lines


def _ticks(lines: list[dict[Any, Any]]) -> list[str]:
    several = len({row["scenario"] for row in lines if "verdict" in row}) > 1
    ticks = []
    for row in lines:
        if "verdict" in row:
            where = f"{shorten(str(row['scenario']), 24, placeholder='…')} " if several else ""
            ticks.append(escape(f"{where}{comparison_text.level(row)}"))
        else:
            ticks.append(f"<b>{escape(row['name'])}</b>")
    return ticks


def _hover(row: dict[Any, Any]) -> str:
    level, between = comparison_text.level(row, level_title), comparison_text.between(row)
    return look.hover(
        f"<b>{escape(column_name(row['metric']))}</b>, {level}, {escape(row['scenario'])}",
        f"<b>{escape(comparison_text.cell(row))}</b>",
        escape(" → ".join(text.value(row[side], row["unit"]) for side in ("baseline", "candidate"))),
        comparison_text.hidden(row) or (f"between {between}" if between else ""),
        look.wrapped(row["note"]) if isinstance(row["note"], str) else "",
    )
