"""Over time: a run's own timeline in UTC, and its result from run to run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from textwrap import shorten
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from tuner.core.level import axis_of, level_name, level_of, level_title
from tuner.core.metrics import DRIFTED, column_name
from tuner.core.records import COMPLETED
from tuner.figures import style as look
from tuner.judging.levels import levels_of
from tuner.judging.verdicts import COMPLIANT

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
    panels = [panel for panel in PANELS if _columns(samples, panel[1])]
    figure = look.figure("Timeline", look.measured_when(judged), "time (UTC)", axis_of(judged)[0])
    heights = [2.0 if len(judged) else 0.01, *[1.0] * len(panels)]
    stack = make_subplots(rows=len(heights), shared_xaxes=True, vertical_spacing=0.06, row_heights=heights)
    stack.update_layout(figure.layout)
    stack.update_layout(height=320 + 130 * len(panels), legend={"y": -0.1 if panels else -0.3})
    _add_batches(stack, judged.dropna(subset=["started_at", "finished_at"]))
    for row, (title, endings, factor) in enumerate(panels, start=2):
        _add_panel(stack, samples, _columns(samples, endings), row, factor)
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
        figure.add_bar(
            x=lasted,
            base=_instants(chosen["started_at"]),
            y=[level_name(level_of(row)) for row in records],
            orientation="h",
            name="completed" if done else "no result",
            marker={"color": colour, "line": {"color": "#333", "width": 1}, "pattern": {"shape": shape}},
            text=[_drift(row)[0] for row in records],
            hovertext=[_batch_hover(row) for row in records],
            hoverinfo="text",
            showlegend=not chosen.empty,
        )
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


def _add_panel(figure: go.Figure, samples: pd.DataFrame, columns: list[str], row: int, factor: float) -> None:
    for number, column in enumerate(columns):
        figure.add_scatter(
            x=_instants(samples["at"]),
            y=(samples[column] * factor).round(3),
            name=column.replace("_", " "),
            showlegend=len(columns) > 1,
            mode="lines",
            hovertemplate="%{y} at %{x}",
            line=look.line(number),
            row=row,
            col=1,
        )


def _columns(samples: pd.DataFrame, endings: tuple[str, ...]) -> list[str]:
    return [name for name in samples.columns if name.endswith(endings) and samples[name].notna().any()]


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


@dataclass
class _Point:
    """One run under one scenario: when, what it was made with, its levels, and the best of those that comply."""

    run: str
    scenario: str
    at: pd.Timestamp
    setup: dict[str, str]
    levels: list[dict[Any, Any]] = field(default_factory=list)

    @property
    def best(self) -> dict[Any, Any] | None:
        counts = [row for row in self.levels if row["verdict"] in COMPLIANT and row["output_throughput"] >= 0]
        return max(counts, key=lambda row: float(row["output_throughput"]), default=None)

    @property
    def failure(self) -> str:
        """Why there is no best batch."""
        reasons = [row["verdict_reason"] for row in self.levels if row["verdict_reason"]]
        return f"none of {len(self.levels)} levels complies: {(reasons or ['nobody knows why'])[0]}"


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
    figure.update_layout(
        height=600,
        xaxis={"anchor": "y2", "type": "date", "rangemode": "normal", "hoverformat": "%Y-%m-%d %H:%M UTC"},
        yaxis={"domain": [0.42, 1]},
        yaxis2={
            "domain": [0, 0.36],
            "title": f"{column_name(column)} there (s)",
            "rangemode": "tozero",
            "automargin": True,
        },
        yaxis3={"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},  # heads of the marks
    )
    scenarios = list(dict.fromkeys(point.scenario for point in points))
    for number, scenario in enumerate(scenarios):
        chosen = [point for point in points if point.scenario == scenario]
        _add_line(figure, chosen, column, scenario if len(scenarios) > 1 else "best compliant batch", number)
    _add_failed(figure, [point for point in points if point.best is None])
    _add_changes(figure, points)
    return figure


def _points(judged: pd.DataFrame, runs: Mapping[str, Mapping[Any, Any]]) -> list[_Point]:
    """The runs whose time is known, the oldest first."""
    points: dict[tuple[str, str], _Point] = {}
    began = judged.groupby("run_folder", dropna=False)["started_at"].min().to_dict()
    for row in levels_of(judged).to_dict("records"):
        folder, scenario = row["run_folder"], str(row["scenario"])
        facts = runs.get(folder, {})
        if (folder, scenario) not in points:
            at = began.get(folder, pd.NaT)
            at = facts.get("started_at", pd.NaT) if pd.isna(at) else at
            points[folder, scenario] = _Point(str(row["experiment"]), scenario, at, _setup(row, facts))
        points[folder, scenario].levels.append(row)
    return sorted((point for point in points.values() if pd.notna(point.at)), key=lambda point: point.at)


def _setup(row: Mapping[Any, Any], facts: Mapping[Any, Any]) -> dict[str, str]:
    every = {"engine": row["engine"], "model": row["model"]} | dict(facts)
    values = pd.Series(every, dtype="object").drop(list(_NO_FACTS), errors="ignore").dropna()
    return {str(name): str(value) for name, value in values.items() if value != ""}


def _add_line(figure: go.Figure, points: list[_Point], column: str, name: str, number: int) -> None:
    """The maxima above, the latency of the same batches below; no line leads over a run without one."""
    best = [point.best or {} for point in points]
    symbol = _MARKERS[number % len(_MARKERS)]
    symbols = [f"{symbol}-open" if row.get("evidence") == "weak" else symbol for row in best]
    for panel, values in (("y", "output_throughput"), ("y2", column)):
        figure.add_scatter(
            x=_instants(point.at for point in points),
            y=[row.get(values) for row in best],
            name=escape(name),
            mode="lines+markers",
            line=look.line(number),
            marker={"symbol": symbols, "size": 7 if len(points) > look.LABELLED else 10},
            hovertext=[_run_hover(point, row) for point, row in zip(points, best, strict=True)],
            hoverinfo="text",
            legendgroup=str(number),
            showlegend=panel == "y",
            yaxis=panel,
        )


def _add_failed(figure: go.Figure, points: list[_Point]) -> None:
    """Runs without a compliant batch, on the zero line: they must be seen."""
    if points:
        marks = {"x": _instants(point.at for point in points), "y": [0.0] * len(points)}
        hovers = [f"{_head(point)}<br>{look.wrapped(point.failure)}" for point in points]
        look.add_markers(figure, marks, _FAILED, hovers, cliponaxis=False)


def _add_changes(figure: go.Figure, points: list[_Point]) -> None:
    """A line between two runs that were made with something else, its text or a head to hover over."""
    marks = list(_changes(points))
    figure.update_layout(
        shapes=[_LINE | {"x0": at, "x1": at} for at, _ in marks],
        annotations=[_NAME | {"x": at, "text": _short(lines)} for at, lines in marks if len(marks) <= _NAMED],
    )
    if marks:
        heads = {"x": [at for at, _ in marks], "y": [1.0] * len(marks)}
        hovers = [look.hover("<b>changed</b>", *map(look.wrapped, lines)) for _, lines in marks]
        look.add_markers(figure, heads, _CHANGED, hovers, yaxis="y3", cliponaxis=False)


def _short(lines: list[str]) -> str:
    """What changed first, and how much else."""
    return escape(shorten(lines[0], _LONGEST, placeholder=" …") + (f" +{len(lines) - 1}" if lines[1:] else ""))


def _changes(points: list[_Point]) -> Iterable[tuple[str, list[str]]]:
    """(an instant between two runs, what is different after it) wherever anything is."""
    runs = list({point.run: point for point in points}.values())
    for before, after in pairwise(runs):
        names = dict.fromkeys([*before.setup, *after.setup])
        values = [(name, before.setup.get(name, "–"), after.setup.get(name, "–")) for name in names]
        if lines := [f"{name} {old} → {new}" for name, old, new in values if old != new]:
            yield _instants([before.at + (after.at - before.at) / 2])[0], lines


def _run_hover(point: _Point, best: Mapping[Any, Any]) -> str:
    if not best:
        return _head(point)
    most = f"{best['output_throughput']:.1f} output tokens/s at {level_title(level_of(best))}"
    levels = [level for row in point.levels if type(level := level_of(row)) is type(level_of(best))]
    last = level_of(best) == max(level for level in levels if level is not None)
    bound = "the highest level measured: at least this much" if last else ""
    return look.hover(_head(point), most, bound, *look.latencies(best), f"{best['evidence']} evidence")


def _head(point: _Point) -> str:
    return f"<b>{look.wrapped(point.run)}</b><br>{escape(point.scenario)}<br>{point.at:%Y-%m-%d %H:%M} UTC"
