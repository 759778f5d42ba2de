"""Over time: a run's own timeline in UTC, and its result from run to run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from textwrap import shorten
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from tuner.core.level import axis_of, level_name, level_of, level_title, levels_in, number_of
from tuner.core.metrics import DRIFTED, column_name
from tuner.core.records import COMPLETED
from tuner.figures import style as look
from tuner.judging.levels import best_of, levels_of

#: the curves below the batches: (axis title, what their columns end in, factor to the unit of the title)
PANELS: tuple[tuple[str, tuple[str, ...], float], ...] = (
    ("GPU use (%)", ("_utilization",), 100),
    ("CPU (cores)", ("cpu_cores",), 1),
    ("requests", ("running", "waiting"), 1),
    ("KV cache (%)", ("kv_cache_use",), 100),
)
_MOST_SAMPLES = 300


def timeline(judged: pd.DataFrame, telemetry: pd.DataFrame | None = None) -> go.Figure:
    """The batches as bars over time (UTC), telemetry below them on the same axis.

    Args:
        judged: batches with verdicts; those without times are left out.
        telemetry: as from `tuner.servers.telemetry.load`, of one or more trials; None or empty for none.

    Example:
        >>> judged = tuner.judge(tuner.load_batches("runs/monday"), {"ttft": {"p90": {"threshold": "500 ms"}}})
        >>> figure = tuner.figures.timeline(judged)
    """
    samples = _thinned(telemetry) if telemetry is not None and len(telemetry) else pd.DataFrame({"at": []})
    known = [name for name in samples.columns if samples[name].notna().any()]
    shown = [(title, [name for name in known if name.endswith(ends)], factor) for title, ends, factor in PANELS]
    panels = [panel for panel in shown if panel[1]]
    figure = look.figure("Timeline", look.measured_when(judged), "time (UTC)", axis_of(judged)[0])
    heights = [2.0 if len(judged) else 0.01, *[1.0] * len(panels)]
    stack = make_subplots(rows=len(heights), shared_xaxes=True, vertical_spacing=0.06, row_heights=heights)
    stack.update_layout(figure.layout)
    stack.update_layout(height=320 + 130 * len(panels), legend={"y": -0.1 if panels else -0.3})
    _add_batches(stack, judged.dropna(subset=["started_at", "finished_at"]))
    for row, (title, columns, factor) in enumerate(panels, start=2):
        for number, column in enumerate(columns):
            curve = {"x": _instants(samples["at"]), "y": (samples[column] * factor).round(3), "mode": "lines"}
            named = {"name": column.replace("_", " "), "showlegend": len(columns) > 1, "hovertemplate": "%{y} at %{x}"}
            stack.add_scatter(**curve, **named, line=look.line(number), row=row, col=1)
        stack.update_yaxes(title=title, rangemode="tozero", row=row, col=1)
    stack.update_xaxes(title="", type="date", automargin=True, hoverformat="%Y-%m-%d %H:%M:%S UTC")
    stack.update_xaxes(title="time (UTC)", row=len(heights), col=1)
    stack.update_yaxes(title=axis_of(judged)[0], type="category", row=1, col=1)
    return stack


def _add_batches(figure: go.Figure, rows: pd.DataFrame) -> None:
    for done, colour, shape in ((True, "#56B4E9", ""), (False, "#FFFFFF", "x")):
        chosen = rows[(rows["outcome"] == COMPLETED) == done].sort_values("started_at")
        records = chosen.to_dict("records")
        lasted = (chosen["finished_at"] - chosen["started_at"]).dt.total_seconds() * 1000
        levels, drifts = [level_name(level_of(row)) for row in records], [_drift(row)[0] for row in records]
        marker = {"color": colour, "line": {"color": "#333", "width": 1}, "pattern": {"shape": shape}}
        bars = {"base": _instants(chosen["started_at"]), "orientation": "h", "marker": marker, "text": drifts}
        named = {"name": "completed" if done else "no result", "showlegend": not chosen.empty}
        hover = {"hovertext": list(map(_batch_hover, records)), "hoverinfo": "text"}
        figure.add_bar(x=lasted, y=levels, **bars, **named, **hover)
    figure.update_layout(barmode="overlay")


def _drift(row: dict[Any, Any]) -> tuple[str, str]:
    """By how much a level's latency drifted while it was measured, and all that is said of that; empty where not."""
    warnings = [text for text in row["warnings"] if DRIFTED in text]
    return (f"drift {warnings[0].split(DRIFTED)[1].split()[0]}", warnings[0]) if warnings else ("", "")


def _batch_hover(row: dict[Any, Any]) -> str:
    return look.hover(
        look.level_title(row),
        f"{row['started_at']:%Y-%m-%d %H:%M:%S} to {row['finished_at']:%H:%M:%S} UTC",
        look.wrapped(row["outcome"]),
        look.wrapped(row["reason"]) if isinstance(row["reason"], str) else "",
        look.wrapped(_drift(row)[1]),
    )


def _thinned(telemetry: pd.DataFrame) -> pd.DataFrame:
    """At most some hundred samples, each the mean of its neighbours; a chart has no more pixels to show them."""
    size = -(-len(telemetry) // _MOST_SAMPLES)
    ordered = telemetry.sort_values("at", ignore_index=True)
    groups = ordered.groupby(ordered.index // size)
    return groups.mean(numeric_only=True).assign(at=groups["at"].min())


def _instants(times: Iterable[pd.Timestamp]) -> list[str]:
    """Wall times in UTC: plotly.js ignores offsets and draws what is written."""
    return [f"{time:%Y-%m-%d %H:%M:%S.%f}" for time in times]


#: so many marks have room for their text; of more only the line and its head are drawn, and hovering tells the rest
_NAMED = 8
_LONGEST = 40  # characters
_LINE = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "line": {"dash": "dot", "color": "#333", "width": 1}}
_NAME = {
    **{"yref": "y3", "y": 0.02, "xanchor": "right", "yanchor": "bottom", "textangle": -90, "showarrow": False},
    "font": {"size": 11},
}
_FAILED = look.Look("no compliant batch", "x-thin-open", "#000", edge=2.5)
_CHANGED = look.Look("changed", "triangle-down", "#333", 9, 0)
_MARKERS = ("circle", "square", "diamond", "triangle-up", "star", "pentagon")
#: columns of `runs` that say which run it is, and not what it was made with
_NO_FACTS = ("run_folder", "started_at", "state")


@dataclass(frozen=True)
class _Point:
    """One run under one scenario."""

    run: str
    scenario: str
    at: pd.Timestamp
    setup: dict[str, str]  # what it was made with
    best: dict[Any, Any]  # the level with the most throughput among those that comply; empty where none does
    highest: float  # of the levels of its kind
    failure: str  # why none complies

    @property
    def head(self) -> str:
        return f"<b>{look.wrapped(self.run)}</b><br>{escape(self.scenario)}<br>{self.at:%Y-%m-%d %H:%M} UTC"


def trend(
    judged: pd.DataFrame, runs: pd.DataFrame | None = None, *, metric: str = "e2e_latency", statistic: str = "p90"
) -> go.Figure:
    """The compliant maximum of each run over time (UTC), and the latency there; one point a run and scenario.

    Args:
        judged: batches with verdicts.
        runs: what each run was made with, one row a run: `run_folder`, `started_at` (for runs of which no batch has a
            time), and a column for each thing that may change, such as `vllm` or `max_num_seqs`. Where one of them,
            the engine or the model differs from the run before, a mark names it.
        metric: `e2e_latency`, `ttft` or `tpot`.
        statistic: `mean`, `p50`, `p90`, `p95` or `p99`.

    Example:
        >>> runs = tuner.load_batches("runs/monday", "runs/tuesday")
        >>> figure = tuner.figures.trend(tuner.judge(runs, {"ttft": {"p90": {"threshold": "500 ms"}}}))
    """
    points = _points(judged, {} if runs is None else {row["run_folder"]: row for row in runs.to_dict("records")})
    column = f"{metric}_{statistic}"
    title = "Trend: the most throughput within the SLO, run by run"
    figure = look.figure(title, look.measured_when(judged), "start of the run (UTC)", "output tokens/s")
    below = {"domain": [0, 0.36], "title": f"{column_name(column)} there (s)", "rangemode": "tozero"}
    figure.update_layout(
        height=600,
        xaxis={"anchor": "y2", "type": "date", "rangemode": "normal", "hoverformat": "%Y-%m-%d %H:%M UTC"},
        yaxis={"domain": [0.42, 1]},
        yaxis2=below | {"automargin": True},
        yaxis3={"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},  # heads of the marks
    )
    scenarios = list(dict.fromkeys(point.scenario for point in points))
    for number, scenario in enumerate(scenarios):
        chosen = [point for point in points if point.scenario == scenario]
        _add_line(figure, chosen, column, scenario if len(scenarios) > 1 else "best compliant batch", number)
    if failed := [point for point in points if not point.best]:  # on the zero line: they must be seen
        marks = {"x": _instants(point.at for point in failed), "y": [0.0] * len(failed)}
        hovers = [f"{point.head}<br>{look.wrapped(point.failure)}" for point in failed]
        look.add_markers(figure, marks, _FAILED, hovers, cliponaxis=False)
    _add_changes(figure, points)
    return figure


def _points(judged: pd.DataFrame, runs: Mapping[Any, Mapping[Any, Any]]) -> list[_Point]:
    """The runs whose time is known, the oldest first."""
    began, points = judged.groupby("run_folder", dropna=False)["started_at"].min().to_dict(), []
    for (folder, scenario), levels in levels_of(judged).groupby(["run_folder", "scenario"], dropna=False, sort=False):
        facts, first, at = runs.get(folder, {}), levels.iloc[0], began.get(folder, pd.NaT)
        made = {"engine": first["engine"], "model": first["model"]} | dict(facts)
        setup = {str(name): str(one) for name, one in made.items() if name not in _NO_FACTS and pd.notna(one)}
        best = {} if (most := best_of(levels)) is None else most.to_dict()
        of_kind = levels[levels["iteration_type"] == best.get("iteration_type")]
        reason = next(filter(None, levels["verdict_reason"]), "nobody knows why")
        points.append(
            _Point(
                run=str(first["experiment"]),
                scenario=str(scenario),
                at=facts.get("started_at", pd.NaT) if pd.isna(at) else at,
                setup={name: one for name, one in setup.items() if one},
                best=best,
                highest=float(levels_in(of_kind).max()),
                failure=f"none of {len(levels)} levels complies: {reason}",
            )
        )
    return sorted((point for point in points if pd.notna(point.at)), key=lambda point: point.at)


def _add_line(figure: go.Figure, points: list[_Point], column: str, name: str, number: int) -> None:
    """The maxima above, the latency of the same batches below; no line leads over a run without one."""
    symbol = _MARKERS[number % len(_MARKERS)]
    symbols = [f"{symbol}-open" if point.best.get("evidence") == "weak" else symbol for point in points]
    marker = {"symbol": symbols, "size": 7 if len(points) > look.LABELLED else 10}
    line = {"mode": "lines+markers", "line": look.line(number), "marker": marker}
    hover = {"hovertext": list(map(_run_hover, points)), "hoverinfo": "text"}
    named = {"name": escape(name), "legendgroup": str(number)}
    for panel, values in (("y", "output_throughput"), ("y2", column)):
        x, y = _instants(point.at for point in points), [point.best.get(values) for point in points]
        figure.add_scatter(x=x, y=y, **line, **hover, **named, showlegend=panel == "y", yaxis=panel)


def _run_hover(point: _Point) -> str:
    best = point.best
    if not best:
        return point.head
    level = level_of(best)
    most = f"{best['output_throughput']:.1f} output tokens/s at {level_title(level)}"
    is_last = level is not None and number_of(level) == point.highest
    bound = "the highest level measured: at least this much" if is_last else ""
    return look.hover(point.head, most, bound, *look.latencies(best), f"{best['evidence']} evidence")


def _add_changes(figure: go.Figure, points: list[_Point]) -> None:
    """A line between two runs that were made with something else, its text or a head to hover over."""
    marks = []
    for before, after in pairwise({point.run: point for point in points}.values()):
        names = dict.fromkeys([*before.setup, *after.setup])
        values = [(name, before.setup.get(name, "–"), after.setup.get(name, "–")) for name in names]
        if lines := [f"{name} {old} → {new}" for name, old, new in values if old != new]:
            marks.append((_instants([before.at + (after.at - before.at) / 2])[0], lines))
    labels: list[dict[str, Any]] = []
    for at, (line, *more) in marks if len(marks) <= _NAMED else ():
        text = shorten(line, _LONGEST, placeholder=" …") + (f" +{len(more)}" if more else "")
        labels.append(_NAME | {"x": at, "text": escape(text)})
    figure.update_layout(shapes=[_LINE | {"x0": at, "x1": at} for at, _ in marks], annotations=labels)
    if marks:
        heads = {"x": [at for at, _ in marks], "y": [1.0] * len(marks)}
        hovers = [look.hover("<b>changed</b>", *map(look.wrapped, lines)) for _, lines in marks]
        look.add_markers(figure, heads, _CHANGED, hovers, yaxis="y3", cliponaxis=False)
