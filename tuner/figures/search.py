"""Figures of a search: the best so far, what the parameters did, which of them mattered, and the Pareto front."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from tuner.core.level import level_of, level_title
from tuner.core.records import COMPLETE
from tuner.core.text import change, plural, shorten
from tuner.figures import style as look
from tuner.judging.scores import THROUGHPUT, Goal
from tuner.judging.trials import BEST, attempts, gains, name_of, value_text, varied

_STRIP = {"domain": [0, 0.09], "range": [0, 1], "visible": False, "fixedrange": True}
_BEST = look.Look("no other is as good in both and better in one", "circle", look.LINES[0], 12)
_DOMINATED = look.Look("another is as good in both and better in one", "circle-open", "#8a949e", 8)
_BASELINE = look.Look("baseline", "square-open", "#000000", 18)
_SHOWN = 12  # parameters of a hover label
#: lightness falls steadily, so that a print in black and white keeps the order
_SCALE = ["#D9D3C7", look.LINES[4], "#003A5D"]
_APART = 0.06  # of an axis, between two labels that do not cover each other


def best_so_far(trials: pd.DataFrame, goal: Goal = THROUGHPUT) -> go.Figure:
    """The value of each trial in the order of running, the best so far, and the baseline's.

    Args:
        trials: one row a trial, as from `load_trials`.
        goal: what the trials' first value is.

    Example:
        >>> figure = tuner.figures.best_so_far(tuner.load_trials(Path("runs/search")))
    """
    rows = _in_order(trials)
    about = " · ".join(filter(None, [plural(len(rows), "trial"), look.measured_when(rows)]))
    figure = look.figure("The best configuration so far", about, "trial", goal.title)
    feasible = rows["value"].where(rows["state"] == COMPLETE)
    best = (feasible.cummax() if goal.maximize else feasible.cummin()).ffill()
    line = {**look.line(0), "shape": "hv", "width": 2.5}
    named = {"name": "best so far", "showlegend": bool(best.notna().any())}
    figure.add_scatter(x=rows["trial"], y=best, mode="lines", line=line, hoverinfo="skip", **named)
    _add_states(figure, rows.assign(x=rows["trial"], y=rows["value"]))
    for value in rows.loc[rows["role"] == "baseline", "value"].dropna().head(1):
        note = {"text": f"baseline {value:.4g}", "bgcolor": "rgba(255,255,255,0.8)", "xanchor": "right", "x": 1}
        figure.add_hline(y=value, line_dash="dash", line_color="#333", annotation=note)
    span = (rows["trial"].min() - 0.5, rows["trial"].max() + 0.5) if len(rows) else (0, 1)
    figure.update_xaxes(range=span, rangemode="normal", tickformat="d", nticks=min(12, len(rows) + 1))
    return figure


def pareto_front(trials: pd.DataFrame, goals: tuple[Goal, Goal]) -> go.Figure:
    """Two objectives of each trial; those are joined of which no other is as good in both and better in one.

    Args:
        trials: one row a trial, as from `load_trials`.
        goals: what the first two of the trials' values are.

    Example:
        >>> goals = tuner.read_results(Path("runs/search")).searched.goals
        >>> figure = tuner.figures.pareto_front(tuner.load_trials(Path("runs/search")), (goals[0], goals[0]))
    """
    pairs = pd.DataFrame([[*(each or [])][:2] for each in trials["values"]], trials.index).reindex(columns=[0, 1])
    rows = _in_order(trials.assign(y=pairs[0], x=pairs[1])).astype({"x": "float64", "y": "float64"})
    rows = rows.dropna(subset=["x", "y"])
    figure = look.figure("What can be had together", look.measured_when(rows), goals[1].title, goals[0].title)
    front = rows[rows["is_pareto"].eq(True)].sort_values("x")
    others, before = rows.drop(front.index), rows[rows["role"] == "baseline"]
    numbers = [f"<b>{escape(name_of(row).removeprefix('trial '))}</b>" for row in front.to_dict("records")]
    line = {"text": numbers, "textposition": "top center", "cliponaxis": False, "line": look.line(0)}
    line["mode"] = "lines+markers+text" if len(front) <= look.LABELLED else "lines+markers"
    look.add_markers(figure, others, _DOMINATED, _hovers(others))
    look.add_markers(figure, front, _BEST, _hovers(front), **line)
    look.add_markers(figure, before, _BASELINE, _hovers(before))
    return figure


def importance(shares: Mapping[str, float]) -> go.Figure:
    """How much each parameter had to do with a trial being good.

    Args:
        shares: by parameter, as `tuner.judging.trials` computes them.

    Example:
        >>> figure = tuner.figures.importance({"max_num_seqs": 0.7, "kv_cache_dtype": 0.3})
    """
    about = "share of what tells the best quarter of the trials from the rest (PED-ANOVA)"
    figure = look.figure("Which parameters mattered", about, "importance (%)", "")
    ranked = sorted(shares.items(), key=lambda item: item[1])
    bars = {"x": [100 * share for _, share in ranked], "y": [escape(name) for name, _ in ranked], "orientation": "h"}
    texts = {"text": [f"{100 * share:.0f} %" for _, share in ranked], "textposition": "outside", "cliponaxis": False}
    figure.add_bar(**bars, **texts, marker={"color": look.LINES[0]}, hoverinfo="skip")
    figure.update_xaxes(range=[0, 110], tickvals=[0, 25, 50, 75, 100])
    figure.update_yaxes(type="category", ticksuffix=" ")
    figure.update_layout(height=min(460, 190 + 34 * len(ranked)))
    return figure


def _in_order(trials: pd.DataFrame) -> pd.DataFrame:
    finite = trials["value"].astype("float64").replace([np.inf, -np.inf], np.nan)
    return attempts(trials.assign(value=finite, gain=gains(trials))).sort_values("trial")


def _add_states(figure: go.Figure, rows: pd.DataFrame) -> None:
    """One trace a state; trials without a value stand in a strip below: they have no height, and must be seen."""
    valued = rows["y"].notna()
    _add_each_state(figure, rows[valued])
    if not valued.all():
        figure.update_layout(yaxis={"domain": [0.13, 1]}, yaxis2=_STRIP, xaxis={"anchor": "y2"})
        _add_each_state(figure, rows[~valued].assign(y=0.5), " (no value)", yaxis="y2")


def _add_each_state(figure: go.Figure, rows: pd.DataFrame, note: str = "", **more: Any) -> None:
    for state, style in look.STATES.items():
        chosen = rows[rows["state"] == state]
        look.add_markers(figure, chosen, replace(style, says=style.says + note), _hovers(chosen), **more)


def _hovers(rows: pd.DataFrame) -> list[str]:
    return [_hover(row) for row in rows.to_dict("records")]


def _hover(row: dict[Any, Any]) -> str:
    parameters = [f"{escape(str(name))} = {look.wrapped(value)}" for name, value in row["parameters"].items()]
    style = look.STATES.get(row["state"])
    level = f" at {level_title(best)}" if (best := level_of(row, BEST)) else ""
    is_compared = pd.notna(row["gain"]) and row["role"] != "baseline"
    against = f" ({change(row['gain'])} against the baseline)" if is_compared else ""
    return look.hover(
        f"<b>{escape(name_of(row))}</b> {style.says if style else escape(str(row['state']))}",
        *parameters[:_SHOWN],
        f"… and {len(parameters) - _SHOWN} more parameters" if len(parameters) > _SHOWN else "",
        "" if pd.isna(row["value"]) else f"{row['value']:.4g}{level}{against}",
        look.wrapped(row["cause"] or ""),
        look.start_line(row),
    )


_MOST_AXES, _WIDTH = 10, 24  # axes, and characters of a label
#: below the values: where trials without one stand
_NO_VALUE = -0.15


def parallel_coordinates(trials: pd.DataFrame, goal: Goal = THROUGHPUT) -> go.Figure:
    """The parameters that vary, one axis each, and the value that came of them: a line is a trial, better ones darker.

    Drawn as plain lines, since plotly's own kind compiles code in the reader's browser.

    Args:
        trials: one row a trial, as from `load_trials`.
        goal: what the trials' first value is.

    Example:
        >>> figure = tuner.figures.parallel_coordinates(tuner.load_trials(Path("runs/search")))
    """
    rows = _in_order(trials).sort_values("value", ascending=goal.maximize, na_position="first")  # the best on top
    axes = {name: [one.get(name) for one in rows["parameters"]] for name in varied(rows["parameters"])[:_MOST_AXES]}
    places = [_ranks(values) for values in axes.values()]
    worth, low = rows["value"], rows["value"].min()
    spread = worth.max() - low
    shares = (worth - low) / spread if spread else worth.where(worth.isna(), 1.0)
    heights = shares.fillna(_NO_VALUE)
    figure = look.figure("What the parameters did", "a line is a trial, darker is better · – means not set", "", "")
    colours = sample_colorscale(_SCALE, (shares if goal.maximize or not spread else 1 - shares).fillna(0.0))
    columns = [[place[repr(value)] for value in values] for place, values in zip(places, axes.values(), strict=True)]
    for number, path in enumerate(zip(*columns, heights, strict=True)):
        line = {"color": colours[number], "width": 2.5}
        hover = {"hovertext": _hover(rows.iloc[number].to_dict()), "hoverinfo": "text"}
        figure.add_scatter(x=[*range(len(path))], y=path, mode="lines+markers", line=line, showlegend=False, **hover)
    for number, (values, place) in enumerate(zip(axes.values(), places, strict=True)):
        labels = {place[repr(value)]: "–" if value is None else value_text(value) for value in values}
        _add_ticks(figure, number, labels)
    texts = ["no value" if pd.isna(value) else f"{value:.4g}" for value in rows["value"]]
    _add_ticks(figure, len(axes), dict(zip(heights, texts, strict=True)), "right")
    names = [f"<b>{escape(shorten(str(name), _WIDTH))}</b>" for name in (*axes, goal.label)]
    ticks = {"tickvals": [*range(len(names))], "ticktext": names, "side": "top"}
    figure.update_xaxes(**ticks, range=[-0.4, len(axes) + 0.4], showgrid=False)
    figure.update_yaxes(visible=False, range=[1.5 * _NO_VALUE, 1.08])
    return figure


def _ranks(values: Sequence[Any]) -> dict[str, float]:
    """Where different values stand on their axis from 0 to 1, at even distances: what is missing, numbers, names."""
    different = sorted({repr(value): value for value in values}.items(), key=lambda item: _order(item[1]))
    return {key: rank / (len(different) - 1 or 1) for rank, (key, _) in enumerate(different)}


def _order(value: Any) -> tuple[bool, bool, float, str]:
    is_number = isinstance(value, int | float)
    return value is not None, not is_number, value if is_number else 0, str(value)


def _add_ticks(figure: go.Figure, axis: int, labels: Mapping[float, str], side: str = "left") -> None:
    """The labels of an axis's values, as many as have room."""
    last, where = -math.inf, {"xanchor": "right", "xshift": -6} if side == "left" else {"xanchor": "left", "xshift": 6}
    style = {"showarrow": False, "bgcolor": "rgba(255,255,255,0.75)"} | where
    figure.add_vline(x=axis, line={"color": "#8a949e", "width": 1}, layer="below")
    for place, label in sorted(labels.items()):
        if place - last >= _APART:
            figure.add_annotation(x=axis, y=place, text=escape(shorten(label, _WIDTH)), **style)
            last = place
