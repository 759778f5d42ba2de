"""Figures of a search: the best so far, what the parameters did, which of them mattered, and the Pareto front."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from tuner.core.run_directory import COMPLETE
from tuner.core.text import change
from tuner.figures import style as look
from tuner.judging.scores import THROUGHPUT, Goal
from tuner.judging.trials import asked_for, gains, name_of, varied

_STRIP = {"domain": [0, 0.09], "range": [0, 1], "visible": False, "fixedrange": True}
_DOMINATED = look.Look("another is better in both", "circle-open", "#8a949e")
_BASELINE = look.Look("baseline", "square-open", "#000000")
_SHOWN = 12  # parameters of a hover label


def best_so_far(trials: pd.DataFrame, goal: Goal = THROUGHPUT) -> go.Figure:
    """The value of each trial in the order of running, the best so far, and the baseline's.

    Args:
        trials: one row a trial, as from `load_trials`.
        goal: what the trials' first value is.
    """
    rows = in_order(trials)
    about = " · ".join(filter(None, [f"{len(rows)} trial{'' if len(rows) == 1 else 's'}", look.measured_when(rows)]))
    figure = look.figure("The best configuration so far", about, "trial", goal.title)
    _add_best(figure, rows, goal)
    _add_states(figure, rows, rows["trial"], rows["value"])
    _add_without_value(figure, rows[rows["value"].isna()])
    _add_baseline(figure, rows)
    span = (rows["trial"].min() - 0.5, rows["trial"].max() + 0.5) if len(rows) else (0, 1)
    figure.update_xaxes(range=span, rangemode="normal", tickformat="d", nticks=min(12, len(rows) + 1))
    return figure


def pareto_front(trials: pd.DataFrame, goals: tuple[Goal, Goal]) -> go.Figure:
    """Two objectives of each trial; those that no other beats in both are joined, the others pale.

    Args:
        trials: one row a trial, as from `load_trials`.
        goals: what the first two of the trials' values are.
    """
    values = [_pair(values) for values in trials["values"]]
    rows = in_order(trials.assign(x=[pair[1] for pair in values], y=[pair[0] for pair in values])).dropna(subset="x")
    rows = rows[rows["y"].notna()]
    when = look.measured_when(rows)
    figure = look.figure("What can be had together", when, goals[1].title, goals[0].title)
    front = rows[rows["is_pareto"].eq(True)].sort_values("x")
    _add_points(figure, rows.drop(front.index), _DOMINATED, 8)
    figure.add_scatter(
        x=front["x"],
        y=front["y"],
        name="nothing is better in both",
        mode="lines+markers+text" if len(front) <= look.LABELLED else "lines+markers",
        text=[f"<b>{escape(name_of(row).removeprefix('trial '))}</b>" for row in front.to_dict("records")],
        textposition="top center",
        cliponaxis=False,
        line=look.line(0),
        marker={"symbol": "circle", "size": 12, "color": look.LINES[0], "line": {"width": 1.5}},
        hovertext=_hovers(front, gains(trials)),
        hoverinfo="text",
        showlegend=len(front) > 0,
    )
    _add_points(figure, rows[rows["role"] == "baseline"], _BASELINE, 18)
    return figure


def importance(shares: Mapping[str, float], why_not: str = "") -> go.Figure:
    """How much each parameter had to do with a trial being good.

    Args:
        shares: by parameter, as `tuner.judging.trials` computes them; empty where they cannot be told.
        why_not: said in place of the bars where there are none.
    """
    about = "share of what tells the best quarter of the trials from the rest (PED-ANOVA)" if shares else ""
    figure = look.figure("Which parameters mattered", about, "importance (%)", "")
    ranked = sorted(shares.items(), key=lambda item: item[1])
    figure.add_bar(
        x=[100 * share for _, share in ranked],
        y=[escape(name) for name, _ in ranked],
        orientation="h",
        text=[f"{100 * share:.0f} %" for _, share in ranked],
        textposition="outside",
        cliponaxis=False,
        marker={"color": look.LINES[0]},
        hoverinfo="skip",
    )
    figure.update_xaxes(range=[0, 110], tickvals=[0, 25, 50, 75, 100])
    figure.update_yaxes(type="category", ticksuffix=" ")
    figure.update_layout(height=min(460, 190 + 34 * len(ranked)) if ranked else 160)
    if not ranked:
        figure.update_xaxes(visible=False)
        figure.update_yaxes(visible=False)
        figure.add_annotation(text=look.wrapped(why_not), showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    return figure


def in_order(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials in the order of running, without confirmations and those that wait."""
    finite = trials["value"].astype("float64").replace([np.inf, -np.inf], np.nan)
    return asked_for(trials.assign(value=finite, gain=gains(trials))).sort_values("trial")


def _pair(values: Any) -> tuple[float, float]:
    numbers = [float("nan") if value is None else float(value) for value in values or []]
    return (numbers[0], numbers[1]) if len(numbers) > 1 else (float("nan"), float("nan"))


def _add_best(figure: go.Figure, rows: pd.DataFrame, goal: Goal) -> None:
    feasible = rows["value"].where(rows["state"] == COMPLETE)
    best = (feasible.cummax() if goal.maximize else feasible.cummin()).ffill()
    figure.add_scatter(
        x=rows["trial"],
        y=best,
        name="best so far",
        mode="lines",
        line={**look.line(0), "shape": "hv", "width": 2.5},
        hoverinfo="skip",
        showlegend=bool(best.notna().any()),
    )


def _add_states(figure: go.Figure, rows: pd.DataFrame, x: "pd.Series[Any]", y: "pd.Series[Any]") -> None:
    """One trace a state; those of failed trials are in the legend though they stand in the strip below."""
    placed = rows.assign(x=x, y=y)
    for state, style in look.STATES.items():
        chosen = placed[(placed["state"] == state) & placed["y"].notna()]
        _add_points(figure, chosen, style)


def _add_points(figure: go.Figure, rows: pd.DataFrame, style: look.Look, size: int = 11) -> None:
    figure.add_scatter(
        x=rows["x"],
        y=rows["y"],
        name=style.says,
        mode="markers",
        marker={"symbol": style.symbol, "color": style.colour, "size": size, "line": {"width": 1.5}},
        hovertext=_hovers(rows, rows["gain"]),
        hoverinfo="text",
        showlegend=not rows.empty,
    )


def _add_without_value(figure: go.Figure, rows: pd.DataFrame) -> None:
    """Trials without a value, in a strip below: they have no height, and must be seen."""
    if rows.empty:
        return
    figure.update_layout(yaxis={"domain": [0.13, 1]}, yaxis2=_STRIP, xaxis={"anchor": "y2"})
    for state, style in look.STATES.items():
        chosen = rows[rows["state"] == state]
        figure.add_scatter(
            x=chosen["trial"],
            y=[0.5] * len(chosen),
            yaxis="y2",
            name=f"{style.says} (no value)",
            mode="markers",
            marker={"symbol": style.symbol, "color": style.colour, "size": 11, "line": {"width": 1.5}},
            hovertext=_hovers(chosen, chosen["gain"]),
            hoverinfo="text",
            showlegend=not chosen.empty,
        )


def _add_baseline(figure: go.Figure, rows: pd.DataFrame) -> None:
    before = rows[(rows["role"] == "baseline") & rows["value"].notna()]
    if len(before):
        value = float(before["value"].iloc[0])
        note = {"text": f"baseline {value:.4g}", "bgcolor": "rgba(255,255,255,0.8)", "xanchor": "right", "x": 1}
        figure.add_hline(y=value, line_dash="dash", line_color="#333", annotation=note)


def _hovers(rows: pd.DataFrame, gained: "pd.Series[float]") -> list[str]:
    return [hover(row, gained.get(place, float("nan"))) for place, row in rows.to_dict("index").items()]


def hover(row: dict[Any, Any], gain: float) -> str:
    """What is said of a trial under the pointer, escaped."""
    parameters = [f"{escape(str(name))} = {look.wrapped(value)}" for name, value in row["parameters"].items()]
    more = [f"… and {len(parameters) - _SHOWN} more parameters"] if len(parameters) > _SHOWN else []
    looks = look.STATES.get(row["state"])
    lines = [
        f"<b>{escape(name_of(row))}</b> {looks.says if looks else escape(str(row['state']))}",
        *parameters[:_SHOWN],
        *more,
        _numbers(row, gain),
        look.wrapped(row["cause"] or ""),
        "" if pd.isna(row["started_at"]) else f"started {row['started_at']:%Y-%m-%d %H:%M:%S} UTC",
    ]
    return "<br>".join(filter(None, lines))


def _numbers(row: dict[Any, Any], gain: float) -> str:
    if pd.isna(row["value"]):
        return ""
    level = "" if pd.isna(row["best_level"]) else f" at concurrency {row['best_level']:.0f}"
    against = "" if pd.isna(gain) or row["role"] == "baseline" else f" ({change(gain)} against the baseline)"
    return f"{row['value']:.4g}{level}{against}"


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
