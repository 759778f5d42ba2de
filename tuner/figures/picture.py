"""A figure as a picture, for readers without scripts: GitHub, nbviewer, a converted notebook."""

import html
import io
import re
from typing import Any

import plotly.graph_objects as go

_MARKERS = {"circle": "o", "x": "x", "diamond": "d", "square": "s", "triangle": "^", "cross": "P", "star": "*"}
_DASHES = {"dash": "--", "dot": ":", "dashdot": "-.", "longdash": (0, (8, 3)), "longdashdot": (0, (8, 3, 1, 3))}
_DPI, _SIZE = 110, (8.2, 4.4)


def picture(figure: go.Figure) -> bytes:
    """A PNG of a figure's lines and marks.

    Args:
        figure: of ours.

    Returns:
        The picture; empty where the figure has neither on its first axes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    traces = [trace for trace in figure.data if trace.type == "scatter" and trace.xaxis in (None, "x")]
    if not traces:
        return b""
    drawn = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    canvas, axes = FigureCanvasAgg(drawn), drawn.add_subplot()
    for trace in traces:
        _add(axes, trace)
    for line in figure.layout.shapes:
        draw, at = (axes.axvline, line.x0) if line.x0 == line.x1 else (axes.axhline, line.y0)
        draw(at, linestyle=":", color="#333333")
    texts = {"title": figure.layout.title, "xlabel": figure.layout.xaxis.title, "ylabel": figure.layout.yaxis.title}
    axes.set(**{name: _plain(title.text) for name, title in texts.items()})
    for name, axis in {"x": figure.layout.xaxis, "y": figure.layout.yaxis}.items():
        if axis.type == "log":
            axes.set(**{f"{name}scale": "log"})
        elif axis.rangemode == "tozero":
            axes.set(**{f"{name}lim": (0, None)})
    axes.grid(alpha=0.3)
    if any(not name.startswith("_") for name in axes.get_legend_handles_labels()[1]):
        axes.legend(fontsize="small")
    target = io.BytesIO()
    canvas.print_png(target)
    return target.getvalue()


def _add(axes: Any, trace: Any) -> None:
    mode, symbol = trace.mode or "lines", str(trace.marker.symbol or "circle")
    colour = trace.line.color if "lines" in mode else trace.marker.color
    colour = colour if isinstance(colour, str) else None
    style = {
        "linestyle": _DASHES.get(trace.line.dash, "-") if "lines" in mode else "",
        "marker": _MARKERS.get(symbol.split("-", maxsplit=1)[0], "o") if "markers" in mode else "",
        "markerfacecolor": "none" if "open" in symbol else colour,
        "label": "_" if trace.showlegend is False or not trace.name else _plain(trace.name),
    }
    x, y = list(trace.x), list(trace.y)
    axes.plot(x, y, color=colour, **style)
    texts = trace.text if isinstance(trace.text, (list, tuple)) or hasattr(trace.text, "tolist") else ()
    for at, height, text in zip(x, y, texts if "text" in mode else (), strict=False):
        axes.annotate(_plain(text), (at, height), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8)


def _plain(text: Any) -> str:
    """Without marks of HTML, and without what matplotlib would read as a formula."""
    return html.unescape(re.sub(r"<[^>]*>", "", str(text or ""))).replace("$", r"\$")
