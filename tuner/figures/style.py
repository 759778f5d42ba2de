"""How all figures look: palette, shapes, dashes, names, and the empty figure that each of them starts from."""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from textwrap import wrap
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from tuner.core import level, metrics
from tuner.core.records import COMPLETE, FAILED, INFEASIBLE, PRUNED, RUNNING
from tuner.judging import search_answer
from tuner.judging.slo import SLO, Constraint

#: plotly.js's own settings: nothing is uploaded, nothing advertised
CONFIG = {"showSendToCloud": False, "plotlyServerURL": "", "displaylogo": False, "responsive": True}

METRICS, STATISTICS = metrics.WHOLE_FIRST, metrics.STATISTICS
LABELS = {name: metrics.METRICS[name].name for name in metrics.LATENCIES}
#: Okabe and Ito's palette, safe for the colour-blind
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
DASHES = ("solid", "dash", "dot", "dashdot")
#: the attribute of a frame of batches under which trials have names, by number
TRIAL_NAMES = "trial_names"
#: so many points can still carry their number without covering each other
LABELLED = 40
#: so many curves can still be told apart; of more, all but the latest are drawn as one
MOST_CURVES = 12
_HOVER_WIDTH = 60  # characters
_AXIS = {
    **dict.fromkeys(("gridcolor", "linecolor", "zerolinecolor"), "#EBF0F8"),
    **{"zerolinewidth": 2, "ticks": "", "title": {"standoff": 15}, "automargin": True},
}
#: plotly's own `plotly_white`, as far as our figures show it: reading the whole one takes longer than all else
_TEMPLATE = {
    "layout": {
        "autotypenumbers": "strict",
        "colorway": LINES,
        "font": {"color": "#2a3f5f"},
        "hovermode": "closest",
        **{"paper_bgcolor": "white", "plot_bgcolor": "white", "xaxis": _AXIS, "yaxis": _AXIS},
    },
    "data": {"bar": [{"marker": {"pattern": {"fillmode": "overlay", "size": 10, "solidity": 0.2}}}]},
}


@dataclass(frozen=True)
class Look:
    """How a mark is drawn, and what it is called; size and edge in pixels."""

    says: str
    symbol: str
    colour: str
    size: float = 11
    edge: float = 1.5


VERDICTS = {
    "pass": Look("meets the SLO", "circle", "#0072B2"),
    "soft": Look("over a soft limit", "diamond-tall", "#E69F00"),
    "fail": Look("violates the SLO", "x", "#D55E00"),
    "unknown": Look("cannot be judged", "circle-open", "#666666"),
}

_OF_STATES = {
    COMPLETE: ("circle", "#0072B2"),
    INFEASIBLE: ("diamond-tall-open", "#9A6700"),
    PRUNED: ("triangle-down-open", "#666666"),
    FAILED: ("x", "#D55E00"),
    RUNNING: ("circle-open-dot", "#666666"),
}
#: how a trial of a search is drawn, by its state
STATES = {state: Look(says, *_OF_STATES[state]) for state, says in search_answer.STATES.items()}


def figure(title: str, subtitle: str, x: str, y: str) -> go.Figure:
    """An empty figure with its titles; sized for a laptop's screen and half a printed page."""
    empty = go.Figure()
    empty.update_layout(
        title={"text": title, "subtitle": {"text": subtitle}, "x": 0, "xref": "paper", "font": {"size": 16}},
        template=_TEMPLATE,
        height=460,
        margin={"l": 70, "r": 30, "t": 92, "b": 60},
        legend={"orientation": "h", "y": -0.16, "yanchor": "top"},
        hoverlabel={"align": "left"},
    )
    empty.update_xaxes(title=x, rangemode="tozero", automargin=True)
    empty.update_yaxes(title=y, rangemode="tozero", automargin=True)
    return empty


def measured_when(judged: pd.DataFrame) -> str:
    """When the batches were measured, in UTC; of what only files tell, their dates; empty where nobody knows."""
    of_files = judged["time_source"].eq("file_mtime") if "time_source" in judged else pd.Series(False, judged.index)
    recorded, guessed = (_from_to(judged[chosen]) for chosen in (~of_files, of_files))
    parts = {"measured": recorded, "nobody recorded when: files of": guessed}
    return " · ".join(f"{what} {when}" for what, when in parts.items() if when)


def _from_to(rows: pd.DataFrame) -> str:
    began, ended = rows["started_at"].min(), rows["finished_at"].max()
    if pd.isna(began) or pd.isna(ended):
        return ""
    ending = f"{ended:%H:%M:%S}" if began.date() == ended.date() else f"{ended:%Y-%m-%d %H:%M:%S}"
    return f"{began:%Y-%m-%d %H:%M:%S} to {ending} UTC"


def curves(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each trial and scenario by level, with a name that says only what tells them apart."""
    keys = ["experiment", "trial", "scenario", "iteration_type"]
    telling = [key for key in keys if rows[key].nunique() > 1]
    groups = level.by_level(rows).groupby(keys, sort=True, dropna=False)
    trials, named = rows.attrs.get(TRIAL_NAMES, {}), []
    for values, group in groups:
        known = dict(zip(keys, map(str, values), strict=True)) | {"trial": trials.get(values[1], f"trial {values[1]}")}
        named.append((escape(", ".join(known[key] for key in telling)), group))
    return named


def line(number: int) -> dict[str, Any]:
    """The line of the curve with this number."""
    return {"color": LINES[number % len(LINES)], "dash": DASHES[number % len(DASHES)], "width": 1.5}


def thresholds(judged: pd.DataFrame, slo: SLO | None, metric: str) -> list[tuple[Constraint, dict[str, Any]]]:
    """The limits on this metric, each with its line: `slo`'s, else those of the SLO that `judge` left."""
    limits = (slo or SLO.parse(judged.attrs.get("slo") or {})).constraints
    look = {"line_dash": "dot", "line_color": "#333"}
    lines = []
    for one in (one for one in limits if one.metric == metric):  # named, so that a slider finds it
        note = {"text": f"SLO {one}", "name": one.column, "bgcolor": "rgba(255,255,255,0.8)"}
        lines.append((one, look | {"name": one.column, "annotation": note}))
    return lines


def add_markers(
    figure: go.Figure, rows: Mapping[str, Any] | pd.DataFrame, style: Look, hovers: list[str], **more: Any
) -> None:
    """The `x` and `y` of rows as marks of one style; `more` as `add_scatter` takes it, also instead of what is here."""
    trace = {
        **{"x": rows["x"], "y": rows["y"], "name": style.says, "mode": "markers", "showlegend": bool(len(hovers))},
        "marker": {"symbol": style.symbol, "color": style.colour, "size": style.size, "line": {"width": style.edge}},
        **{"hovertext": hovers, "hoverinfo": "text"},
    }
    figure.add_scatter(**trace | more)


def hover(*lines: str) -> str:
    """A hover label: its lines, without those that have nothing to say."""
    return "<br>".join(filter(None, lines))


def level_title(row: Mapping[Any, Any]) -> str:
    """A batch's level and scenario, the first line of its hover label."""
    return f"<b>{level.level_title(level.level_of(row))}</b> {escape(str(row['scenario']))}"


def start_line(row: Mapping[Any, Any]) -> str:
    """When a batch or a trial began, as a line of a hover label; empty where nobody knows."""
    return "" if pd.isna(row["started_at"]) else f"started {row['started_at']:%Y-%m-%d %H:%M:%S} UTC"


def error_bars(rows: pd.DataFrame, column: str, colour: str = "#aaaaaa") -> dict[str, Any] | None:
    """The interval of a column as light bars; None where the rows have none."""
    if f"{column}_low" not in rows or not rows[f"{column}_low"].notna().any():
        return None
    beyond = {"array": rows[f"{column}_high"] - rows[column], "arrayminus": rows[column] - rows[f"{column}_low"]}
    sizes = {name: [max(float(size), 0.0) for size in values.fillna(0)] for name, values in beyond.items()}
    return {"type": "data", "symmetric": False, "thickness": 1, "width": 3, "color": colour, **sizes}


def latencies(row: Mapping[Any, Any]) -> list[str]:
    """The median and p90 of each latency of a batch, one line each."""
    return [f"{LABELS[name]} p50 {row[f'{name}_p50']:.3g} s, p90 {row[f'{name}_p90']:.3g} s" for name in METRICS]


def wrapped(text: object) -> str:
    """A text of others for a hover label: escaped, in lines that fit the screen."""
    return "<br>".join(escape(part) for part in wrap(str(text), _HOVER_WIDTH))


def notebook_bundle(figure: go.Figure) -> dict[str, Any]:
    """What a notebook keeps of `figure`: its data alone, without plotly.js.

    Example:
        >>> from IPython.display import display
        >>> bundle = tuner.figures.notebook_bundle(tuner.figures.importance({"max_num_seqs": 1.0}))
        >>> display(bundle, raw=True)  # doctest: +SKIP
    """
    import plotly.io as pio

    bundle: dict[str, Any] = pio.renderers["plotly_mimetype"].to_mimebundle(figure.to_dict())
    bundle["application/vnd.plotly.v1+json"]["config"] = CONFIG
    return bundle
