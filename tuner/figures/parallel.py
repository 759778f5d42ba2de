"""Parallel coordinates: one line a trial over an axis for each parameter, to its value at the right."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from tuner.core.trial_record import COMPLETE
from tuner.figures import style as look
from tuner.figures.search import hover, in_order
from tuner.judging.goals import THROUGHPUT, Goal
from tuner.judging.tried import varied

_MISSING = -0.12  # where a line passes whose trial has no such parameter
_MOST_AXES = 10
_MOST_LABELS = 6
_LABEL = 14  # characters
_HUGE = 1e100  # more is no number that an axis has room for
_LOG_FROM = 16  # times that the largest value is the smallest one
_DASHES = {"complete": "solid", "infeasible": "dash", "pruned": "dashdot", "failed": "dot", "running": "dot"}
#: lightness falls steadily, so that a print in black and white keeps the order
_SCALE = "Cividis"


class _Axis:
    """One axis: where a value stands on it, and what is written beside it."""

    def __init__(self, name: str, values: Sequence[Any]) -> None:
        self.name = name
        given = [value for value in values if value is not None]
        self._numeric = bool(given) and all(_is_number(value) for value in given)
        self._names = [] if self._numeric else sorted({str(value) for value in given}, key=_natural)
        low_high: tuple[float, float] = (min(given), max(given)) if self._numeric else (0, 1)
        self._low, self._high = low_high
        self._log = self._numeric and self._low > 0 and self._high >= _LOG_FROM * self._low
        self.has_missing = len(given) < len(values)
        self._given = sorted(set(given)) if self._numeric else []

    def place(self, value: Any) -> float:
        """From 0, the lowest, to 1."""
        if value is None:
            return _MISSING
        if not self._numeric:
            return 0.5 if len(self._names) == 1 else self._names.index(str(value)) / (len(self._names) - 1)
        if self._low == self._high:
            return 0.5
        low, high, at = map(math.log if self._log else float, (self._low, self._high, value))
        return (at - low) / (high - low)

    def labels(self) -> list[tuple[float, str]]:
        """(place, text) of what is written beside the axis."""
        values: Sequence[Any] = self._given if self._numeric else self._names
        missing = [(_MISSING, "–")] if self.has_missing else []
        chosen = list(values) if len(values) <= _MOST_LABELS else [values[0], values[len(values) // 2], values[-1]]
        return [*missing, *((self.place(value), _label(value)) for value in _apart(chosen, self.place))]


def parallel_coordinates(trials: pd.DataFrame, goal: Goal = THROUGHPUT) -> go.Figure:
    """The parameters that vary, one axis each, and the value that came of them; better trials are darker and thicker.

    Args:
        trials: one row a trial, as from `load_trials`.
        goal: what the trials' first value is.
    """
    rows = in_order(trials)
    names = varied(rows["parameters"])[:_MOST_AXES]
    about = "solid: completed · dashed: no level meets the SLO · dotted: failed · –: none"
    figure = look.figure("What the parameters did", about, "", "")
    axes = [_Axis(name, [_plain(one.get(name)) for one in rows["parameters"]]) for name in names]
    values = [None if pd.isna(value) else float(value) for value in rows["value"]]
    axes.append(_Axis(goal.label, values))
    for row, value in sorted(zip(rows.to_dict("records"), values, strict=True), key=lambda pair: _rank(pair, goal)):
        places = [axis.place(_plain(row["parameters"].get(axis.name))) for axis in axes[:-1]]
        _add_line(figure, row, [*places, axes[-1].place(value)], _quality(row, values, goal))
    _add_axes(figure, axes)
    _add_scale(figure, [value for value in values if value is not None], goal)
    return figure


def _add_line(figure: go.Figure, row: dict[Any, Any], places: list[float], quality: float) -> None:
    figure.add_scatter(
        x=list(range(len(places))),
        y=places,
        mode="lines+markers",
        line={
            "color": _colour(quality),
            "width": 1.2 + 2 * (0 if math.isnan(quality) else quality),
            "dash": _DASHES.get(row["state"], "dot"),
        },
        marker={"size": 6, "symbol": look.STATES[row["state"]].symbol if row["state"] in look.STATES else "circle"},
        text=hover(row, row["gain"]),
        hovertemplate="%{text}<extra></extra>",
        showlegend=False,
    )


def _add_axes(figure: go.Figure, axes: list[_Axis]) -> None:
    last = len(axes) - 1
    for place, axis in enumerate(axes):
        figure.add_shape(type="line", x0=place, x1=place, y0=0, y1=1, line={"color": "#8a949e", "width": 1})
        for height, label in axis.labels():
            figure.add_annotation(
                x=place,
                y=height,
                text=label,
                showarrow=False,
                xanchor="left" if place == last else "right",  # where no line goes on
                xshift=7 if place == last else -7,
                bgcolor="rgba(255,255,255,0.85)",
                font={"size": 11},
            )
    titles = [f"<b>{escape(_short(axis.name, 20))}</b>" for axis in axes]
    figure.update_xaxes(
        tickvals=list(range(len(axes))), ticktext=titles, range=[-0.35, len(axes) - 0.6], side="top", showgrid=False
    )
    figure.update_yaxes(visible=False, range=[-0.2, 1.06], rangemode="normal")


def _add_scale(figure: go.Figure, values: list[float], goal: Goal) -> None:
    """The colour bar, which only a marker can have."""
    if len(set(values)) < 2:
        return
    bar = {"title": {"text": escape(goal.unit), "side": "right"}, "thickness": 12, "len": 0.85}
    scale = _SCALE + ("_r" if goal.maximize else "")
    shown = {"color": [min(values)], "cmin": min(values), "cmax": max(values), "colorscale": scale, "colorbar": bar}
    figure.add_scatter(
        x=[None], y=[None], mode="markers", marker={**shown, "showscale": True}, showlegend=False, hoverinfo="skip"
    )


def _quality(row: dict[Any, Any], values: list[float | None], goal: Goal) -> float:
    """From 0, the worst, to 1; NaN where the trial does not count."""
    known = [value for value in values if value is not None]
    if row["state"] != COMPLETE or pd.isna(row["value"]):
        return math.nan
    share = (row["value"] - min(known)) / ((max(known) - min(known)) or 1)
    return float(share if goal.maximize else 1 - share)


def _colour(quality: float) -> str:
    if math.isnan(quality):
        return "#b8a99a"
    from plotly.colors import sample_colorscale

    return str(sample_colorscale(_SCALE, [1 - quality])[0])


def _rank(pair: tuple[dict[Any, Any], float | None], goal: Goal) -> tuple[bool, float]:
    """Worse ones are drawn first, so that the best lies on top."""
    row, value = pair
    counts = row["state"] == COMPLETE and value is not None
    return counts, (value or 0.0) * (1 if goal.maximize else -1)


def _apart(values: list[Any], place: Any) -> list[Any]:
    """Those of the values whose labels do not cover each other."""
    kept: list[Any] = []
    for value in values:
        if not kept or abs(place(value) - place(kept[-1])) >= 0.06:
            kept.append(value)
    return kept


def _plain(value: Any) -> Any:
    """A parameter's value as an axis takes it: what is no place on it, such as NaN, becomes a name."""
    if value is None or isinstance(value, str) or (_is_number(value) and abs(value) < _HUGE):
        return value
    return str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _natural(text: str) -> tuple[int, float, str]:
    try:
        return 0, float(text), ""
    except ValueError:
        return 1, 0.0, text


def _label(value: Any) -> str:
    return escape(_short(f"{value:.4g}" if isinstance(value, float) else str(value), _LABEL))


def _short(text: str, width: int) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"
