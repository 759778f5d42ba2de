"""Figures of a search: the best so far, what the parameters did, which of them mattered, and the Pareto front."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

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
    _add_best(figure, rows, goal)
    _add_states(figure, rows.assign(x=rows["trial"], y=rows["value"]))
    _add_baseline(figure, rows)
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
    values = [_pair(values) for values in trials["values"]]
    rows = _in_order(trials.assign(x=[x for _, x in values], y=[y for y, _ in values])).dropna(subset=["x", "y"])
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
    """The trials in the order of running, without confirmations and those that wait."""
    finite = trials["value"].astype("float64").replace([np.inf, -np.inf], np.nan)
    return attempts(trials.assign(value=finite, gain=gains(trials))).sort_values("trial")


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


def _add_baseline(figure: go.Figure, rows: pd.DataFrame) -> None:
    before = rows[(rows["role"] == "baseline") & rows["value"].notna()]
    if len(before):
        value = float(before["value"].iloc[0])
        note = {"text": f"baseline {value:.4g}", "bgcolor": "rgba(255,255,255,0.8)", "xanchor": "right", "x": 1}
        figure.add_hline(y=value, line_dash="dash", line_color="#333", annotation=note)


def _hovers(rows: pd.DataFrame) -> list[str]:
    return [_hover(row) for row in rows.to_dict("records")]


def _hover(row: dict[Any, Any]) -> str:
    """What is said of a trial under the pointer, escaped."""
    parameters = [f"{escape(str(name))} = {look.wrapped(value)}" for name, value in row["parameters"].items()]
    style = look.STATES.get(row["state"])
    return look.hover(
        f"<b>{escape(name_of(row))}</b> {style.says if style else escape(str(row['state']))}",
        *parameters[:_SHOWN],
        f"… and {len(parameters) - _SHOWN} more parameters" if len(parameters) > _SHOWN else "",
        _numbers(row),
        look.wrapped(row["cause"] or ""),
        look.start_line(row),
    )


def _numbers(row: dict[Any, Any]) -> str:
    if pd.isna(row["value"]):
        return ""
    best = level_of(row, BEST)
    level = f" at {level_title(best)}" if best else ""
    is_compared = pd.notna(row["gain"]) and row["role"] != "baseline"
    against = f" ({change(row['gain'])} against the baseline)" if is_compared else ""
    return f"{row['value']:.4g}{level}{against}"


_MOST_AXES = 10
_APART = 0.06  # of an axis, between two labels that do not cover each other
_WIDTH = 24  # characters of a label
_STATE_STEP = 0.12  # below the values: where trials without one stand, a place a state
#: lightness falls steadily, so that a print in black and white keeps the order
_SCALE = ((0.0, "#D9D3C7"), (0.5, look.LINES[4]), (1.0, "#003A5D"))
#: parcoords shows a tick's text as it is: neither as markup nor with its entities decoded
_NO_MARKUP = str.maketrans("<>", "‹›")
_INVISIBLE = str.maketrans("01", "\u200b\u200c")
#: (where it stands on its axis from 0 to 1, its label)
_Tick = tuple[float, str]


def parallel_coordinates(trials: pd.DataFrame, goal: Goal = THROUGHPUT) -> go.Figure:
    """The parameters that vary, one axis each, and the value that came of them; better trials are darker.

    Who drags along an axis picks the trials that pass there; of several axes those that pass all of them.

    Args:
        trials: one row a trial, as from `load_trials`.
        goal: what the trials' first value is.

    Example:
        >>> figure = tuner.figures.parallel_coordinates(tuner.load_trials(Path("runs/search")))
    """
    rows = _in_order(trials).sort_values("value", ascending=goal.maximize, na_position="first")  # the best on top
    columns = {"trial": list(rows["trial"])}
    for name in varied(rows["parameters"])[:_MOST_AXES]:
        columns[str(name)] = [one.get(name) for one in rows["parameters"]]
    figure = look.figure("What the parameters did", "drag along an axis to pick trials · – means not set", "", "")
    figure.add_parcoords(
        dimensions=[
            *(_axis(name, _ranks(values), values) for name, values in columns.items()),
            _value_axis(rows, goal),
        ],
        line=_line_colours(rows["value"], goal),
        unselected={"line": {"color": "#DDDDDD"}},
        tickfont={"size": 11},
        domain={"x": [0.01, 1], "y": [0, 0.9]},  # room for the names above, also where the page shows the title
    )
    return figure


def _axis(name: str, ticks: Mapping[str, _Tick], values: Sequence[Any]) -> dict[str, Any]:
    """One axis with a tick for each value, so that a drag snaps to them; only some have room for their label."""
    ordered = sorted(ticks.values())
    return {
        "label": f"<b>{escape(shorten(name, _WIDTH))}</b>",
        "range": [min([0.0, *(place for place, _ in ordered)]), 1.0],
        "values": [ticks[repr(value)][0] for value in values],
        "tickvals": [place for place, _ in ordered],
        "ticktext": _texts(ordered),
    }


def _texts(ticks: Sequence[_Tick]) -> list[str]:
    """Labels that do not cover each other; each ends in an invisible number, since plotly joins ticks of one text."""
    texts, last = [], -math.inf
    for number, (place, label) in enumerate(ticks):
        has_room = place - last >= _APART
        last = place if has_room else last
        shown = shorten(label, _WIDTH).translate(_NO_MARKUP) if has_room else ""
        texts.append(shown + f"{number:b}".translate(_INVISIBLE))
    return texts


def _ranks(values: Sequence[Any]) -> dict[str, _Tick]:
    """The different values at even distances, in their order."""
    different = sorted({repr(value): value for value in values}.items(), key=lambda item: _order(item[1]))
    last = len(different) - 1
    labels = ["–" if value is None else value_text(value) for _, value in different]
    return {key: (rank / last if last else 0.5, labels[rank]) for rank, (key, _) in enumerate(different)}


def _order(value: Any) -> tuple[bool, bool, float, str]:
    """What is missing first, then numbers by their size, then names."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    is_name = math.isnan(number)
    return value is not None, is_name, 0.0 if is_name else number, str(value)


def _value_axis(rows: pd.DataFrame, goal: Goal) -> dict[str, Any]:
    """The axis of what came of the trials; those without a value stand below, by their state."""
    numbers = [float(value) for value in rows["value"].dropna()]
    # halves, since the whole distance may be more than a float has room for
    low, high = min(numbers, default=0.0) / 2, max(numbers, default=0.0) / 2
    spread = high - low
    ticks = {repr(value): ((value / 2 - low) / spread if spread else 0.5, f"{value:.4g}") for value in numbers}
    for number, state in enumerate(dict.fromkeys(rows.loc[rows["value"].isna(), "state"]), start=1):
        says = look.STATES[state].says if state in look.STATES else str(state)
        ticks[repr(state)] = (-_STATE_STEP * number, says)
    pairs = zip(rows["state"], rows["value"], strict=True)
    return _axis(goal.label, ticks, [state if pd.isna(value) else float(value) for state, value in pairs])


def _line_colours(values: "pd.Series[float]", goal: Goal) -> dict[str, Any]:
    """The better the darker; a trial without a value is as pale as the worst."""
    low, high = values.min(), values.max()
    if not low < high:
        return {"color": look.LINES[0]}
    return {
        "color": values.fillna(low if goal.maximize else high),
        "cmin": low,
        "cmax": high,
        "colorscale": _SCALE,
        "reversescale": not goal.maximize,
        "showscale": True,
        "colorbar": {"title": {"text": escape(goal.unit), "side": "right"}, "thickness": 12, "len": 0.85},
    }
