"""What changed from baseline to candidate: each change with its interval, against what is tolerated."""

from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from tuner import changes as texts
from tuner.comparison import BETTER, SAME, UNKNOWN, WORSE, words
from tuner.figures import look

#: what differs for sure is filled and thick; shapes tell the verdicts apart without colour
_LOOKS = {
    WORSE: (look.Look("worse", "x", "#D55E00"), 3.5),
    BETTER: (look.Look("better", "diamond", "#0072B2"), 3.5),
    SAME: (look.Look("no difference shown", "circle-open", "#666666"), 1.25),
    UNKNOWN: (look.Look("unknown", "square-x-open", "#666666"), 1.25),
}
_ROW = 22  # pixels a level
_FRAME = 190  # pixels around them


def changes(differences: pd.DataFrame, tolerance: float = 0.0) -> go.Figure:
    """Each level's change of the most telling metrics with its interval; the tolerance is a band.

    Args:
        differences: those of a `tuner.comparison.Comparison`.
        tolerance: as a share; a change within the band is no regression.
    """
    rows = _rows(differences)
    figure = look.figure(
        "Change from baseline to candidate", _about(tolerance), "change (%; of shares: percentage points)", ""
    )
    for verdict, (style, width) in _LOOKS.items():
        _add(figure, rows[rows["verdict"] == verdict], style, width)
    figure.add_vline(x=0, line_color="#333", line_width=1)
    if tolerance:
        figure.add_vrect(x0=-tolerance * 100, x1=tolerance * 100, fillcolor="#000", opacity=0.08, line_width=0)
    height = _FRAME + _ROW * len(rows)
    figure.update_layout(height=height, legend={"y": -70 / height})
    figure.update_xaxes(rangemode="normal", ticksuffix=" %", zeroline=False)
    figure.update_yaxes(autorange="reversed", type="multicategory", rangemode="normal", automargin=True)
    return figure


def _about(tolerance: float) -> str:
    band = f" · grey band: the tolerance, ±{tolerance * 100:g} %" if tolerance else ""
    return f"bar: where the change may lie{band}"


def _rows(differences: pd.DataFrame) -> pd.DataFrame:
    """The rows that are drawn, grouped by metric in the order of the tables."""
    known = texts.told(differences)
    known = known[known["change"].notna()]
    order = known["metric"].map(texts.metrics(known).index)
    return known.assign(order=order).sort_values(["order", "scenario", "concurrency"], kind="stable")


def _add(figure: go.Figure, rows: pd.DataFrame, style: look.Look, width: float) -> None:
    several = rows["scenario"].nunique() > 1
    records = rows.to_dict("records")
    figure.add_scatter(
        x=rows["change"] * 100,
        y=[[words.name(row["metric"]) for row in records], [_level(row, several=several) for row in records]],
        error_x={
            "type": "data",
            "symmetric": False,
            "array": (rows["high"] - rows["change"]) * 100,
            "arrayminus": (rows["change"] - rows["low"]) * 100,
            "thickness": width,
            "width": 4,
            "color": style.colour,
        },
        mode="markers",
        name=style.says,
        marker={"symbol": style.symbol, "color": style.colour, "size": 11, "line": {"width": 1.5}},
        hovertext=[_hover(row) for row in records],
        hoverinfo="text",
        showlegend=not rows.empty,
    )


def _level(row: dict[Any, Any], *, several: bool) -> str:
    return f"{escape(row['scenario'])} {texts.level(row)}" if several else texts.level(row)


def _hover(row: dict[Any, Any]) -> str:
    lines = [
        f"<b>{escape(words.name(row['metric']))}</b>, concurrency {texts.level(row)}, {escape(row['scenario'])}",
        f"<b>{escape(texts.cell(row))}</b>",
        f"{row['baseline']:.4g} → {row['candidate']:.4g} {escape(row['unit'])}",
        f"between {texts.between(row)}" if texts.between(row) else "",
        look.wrapped(row["note"]) if isinstance(row["note"], str) else "",
    ]
    return "<br>".join(filter(None, lines))
