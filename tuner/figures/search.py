"""Figures of a search: the best so far, which parameters mattered, and the Pareto front."""

from collections.abc import Mapping
from dataclasses import replace
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from tuner.core.level import level_of, level_title
from tuner.core.records import COMPLETE
from tuner.core.text import change, plural
from tuner.figures import style as look
from tuner.judging.scores import THROUGHPUT, Goal
from tuner.judging.trials import BEST, attempts, gains, name_of

_STRIP = {"domain": [0, 0.09], "range": [0, 1], "visible": False, "fixedrange": True}
_BEST = look.Look("no other is as good in both and better in one", "circle", look.LINES[0], 12)
_DOMINATED = look.Look("another is as good in both and better in one", "circle-open", "#8a949e", 8)
_BASELINE = look.Look("baseline", "square-open", "#000000", 18)
_SHOWN = 12  # parameters of a hover label


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
    pairs = pd.DataFrame([[*(each or [])][:2] for each in trials["values"]], trials.index, columns=None).astype(
        "float64"
    )
    pairs = pairs.reindex(columns=[0, 1]).set_axis(["y", "x"], axis=1)
    rows = _in_order(trials.assign(**pairs)).dropna(subset=["x", "y"])
    figure = look.figure("What can be had together", look.measured_when(rows), goals[1].title, goals[0].title)
    front = rows[rows["is_pareto"].eq(True)].sort_values("x")
    others, before = rows.drop(front.index), rows[rows["role"] == "baseline"]
    look.add_markers(figure, others, _DOMINATED, _hovers(others))
    look.add_markers(
        figure,
        front,
        _BEST,
        _hovers(front),
        text=[f"<b>{escape(name_of(row).removeprefix('trial '))}</b>" for row in front.to_dict("records")],
        mode="lines+markers+text" if len(front) <= look.LABELLED else "lines+markers",
        textposition="top center",
        cliponaxis=False,
        line=look.line(0),
    )
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
