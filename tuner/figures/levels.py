"""Throughput versus latency, latency versus level, and how latencies are distributed."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from tuner.core.level import COLUMNS, axis_of, level_name, level_of, levels_in
from tuner.core.metrics import column_name, metric_of
from tuner.figures import style as look
from tuner.judging.levels import levels_of
from tuner.judging.slo import SLO

_STRIP = {
    **{"domain": [0.88, 1], "range": [0, 1], "showticklabels": False, "fixedrange": True},
    "title": {"text": "no result", "font": {"size": 11}},
}
_STRIP_HEIGHT = {"anchor": "x2", "domain": [0, 1], "range": [0, 1], "visible": False, "fixedrange": True}
_STRIP_HOLDS = 12
_NO_RESULT = look.Look("no result", "square-x-open", "#000000", 12, 0)


def throughput_vs_latency(
    judged: pd.DataFrame, slo: SLO | None = None, *, metric: str = "e2e_latency", statistic: str = "p90"
) -> go.Figure:
    """Output throughput over latency, one curve a trial and scenario, the level at each point.

    Args:
        judged: batches with verdicts.
        slo: whose thresholds on this metric and statistic are drawn; by default the one that judged.
        metric: `e2e_latency`, `ttft` or `tpot`.
        statistic: `mean`, `p50`, `p90`, `p95` or `p99`.

    Example:
        >>> judged = tuner.judge(tuner.load_batches("runs/monday"), {"ttft": {"p90": {"threshold": "500 ms"}}})
        >>> tuner.figures.throughput_vs_latency(judged, metric="ttft").write_html("figure.html")
    """
    judged = levels_of(judged)
    latency = judged[f"{metric}_{statistic}"]
    bounded = (f"{metric}_{statistic}", "output_throughput")
    titles = ("Throughput versus latency", f"{column_name(bounded[0])} (s)", "output tokens/s")
    figure = _points(judged, latency, judged["output_throughput"], titles, bounded)
    for constraint, line in look.thresholds(judged, slo, metric):
        if constraint.statistic == statistic:
            figure.add_vline(x=constraint.threshold, annotation_position="top", **line)  # above the points' numbers
    return figure


def trade_off(judged: pd.DataFrame, gpus: Mapping[int, int] | None = None) -> go.Figure:
    """What one user gets against what the machine gives, one curve a trial and scenario: up and to the right is better.

    A user's tokens/s are 1 / TPOT p50, what one stream runs at once it has begun.

    Args:
        judged: batches with verdicts.
        gpus: how many GPUs each trial used; where it is not known of every trial the machine's tokens/s are shown.

    Example:
        >>> judged = tuner.judge(tuner.load_batches("runs/monday"), {"ttft": {"p90": {"threshold": "500 ms"}}})
        >>> figure = tuner.figures.trade_off(judged)
    """
    judged = levels_of(judged)
    counts = judged["trial"].map(gpus or {})
    per_gpu = len(judged) > 0 and bool(counts.gt(0).all())
    each = 1 / judged["tpot_p50"].where(judged["tpot_p50"] > 0)
    unit = "output tokens/s per GPU" if per_gpu else "output tokens/s"
    title = f"The trade-off: tokens/s per user versus {unit.removeprefix('output ')}"
    titles = (title, "tokens/s per user (1 / TPOT p50)", unit)
    return _points(judged, each, judged["output_throughput"] / (counts if per_gpu else 1), titles)


def latency_vs_concurrency(judged: pd.DataFrame, slo: SLO | None = None, *, metric: str = "ttft") -> go.Figure:
    """A latency's mean and percentiles over the concurrency level, or over the request rate.

    Args:
        judged: batches with verdicts, best of one trial and scenario.
        slo: whose thresholds on this metric are drawn; by default the one that judged.
        metric: `e2e_latency`, `ttft` or `tpot`.

    Example:
        >>> judged = tuner.judge(tuner.load_batches("runs/monday"), {"ttft": {"p90": {"threshold": "500 ms"}}})
        >>> figure = tuner.figures.latency_vs_concurrency(judged, metric="tpot")
    """
    name, (varied, unit) = look.LABELS[metric], axis_of(judged)
    figure = look.figure(f"{name} versus {varied}", look.measured_when(judged), f"{varied} ({unit})", f"{name} (s)")
    levels = levels_of(judged)
    rows = levels[levels[f"{metric}_p50"].notna() & levels_in(levels).notna()]
    limits = look.thresholds(judged, slo, metric)
    shown = {limit.statistic for limit, _ in limits} or {"p50", "p99"}
    for number, (curve_name, curve) in enumerate(look.curves(rows)):
        _add_percentiles(figure, curve, metric, (curve_name, number), shown)
    for constraint, line in limits:
        figure.add_hline(y=constraint.threshold, **line)
    figure.update_xaxes(type="log", tickvals=_ticks(levels_in(rows)))
    return figure


def _add_percentiles(
    figure: go.Figure, curve: pd.DataFrame, metric: str, label: tuple[str, int], shown: Collection[str]
) -> None:
    """One line a statistic; of several curves each has its colour, and those `shown` their dashes and markers."""
    name, number = label
    for place, statistic in enumerate(look.STATISTICS):
        colour = look.LINES[(number if name else place) % len(look.LINES)]
        figure.add_scatter(
            x=levels_in(curve),
            y=curve[f"{metric}_{statistic}"],
            name=f"{statistic} {name}".strip(),
            mode="lines+markers",
            line={"color": colour, "dash": look.DASHES[place % len(look.DASHES)]},
            marker={"symbol": place},
            error_y=look.error_bars(curve, f"{metric}_{statistic}", colour),
            hovertemplate=f"{statistic} %{{y:.3g}} s at %{{x}}<extra>{name}</extra>",
            visible=True if number < 3 and (not name or statistic in shown) else "legendonly",
        )


def _ticks(levels: "pd.Series[float]") -> list[float]:
    """The levels that a logarithmic axis has room for: none closer than a fifth above the last."""
    ticks: list[float] = []
    for level in sorted(levels.unique()):
        if not ticks or level >= 1.2 * ticks[-1]:
            ticks.append(float(level))
    return ticks


def _points(
    judged: pd.DataFrame, x: pd.Series, y: pd.Series, titles: tuple[str, str, str], bounded: Sequence[str] = ()
) -> go.Figure:
    """Curves of levels, each with its verdict's marker and its level; those without a result at the right edge.

    `bounded` names the columns that x and y are, where their intervals are drawn.
    """
    about = " · ".join(filter(None, [f"numbers: {axis_of(judged)[0]}", look.measured_when(judged)]))
    figure = look.figure(titles[0], about, *titles[1:])
    every = judged.copy().assign(x=x, y=y, position=judged.index, curve="")
    points = every[every["x"].notna() & every["y"].notna()]
    curves = look.curves(points)
    names = {position: name for name, curve in curves for position in curve["position"]}
    _add_curves(figure, curves, bounded, labelled=len(points) <= look.LABELLED)
    size = 12 if len(points) <= 5 * look.LABELLED else 5  # pixels
    _add_verdicts(figure, points.assign(curve=points["position"].map(names)), bounded, size=size)
    _add_missing(figure, every.drop(points.index))
    return figure


def _add_curves(
    figure: go.Figure, curves: list[tuple[str, pd.DataFrame]], bounded: Sequence[str], *, labelled: bool
) -> None:
    """Each curve with a line and a name of its own; of very many the latest, and the others as one thin grey trace."""
    if len(curves) <= look.MOST_CURVES:
        for number, (name, curve) in enumerate(curves):
            _add_curve(figure, curve, name, number, labelled=labelled)
            for axis, column in zip(("error_x", "error_y"), bounded, strict=False):
                figure.data[-1][axis] = look.error_bars(curve, column)
        return
    latest = max(curves, key=lambda named: (str(named[1]["started_at"].max()), named[0]))
    others = [curve for name, curve in curves if name != latest[0]]
    x, y = ([value for curve in others for value in (*curve[axis], None)] for axis in ("x", "y"))  # None: a gap
    name, line = f"{len(others)} earlier curves", {"color": "#AAA", "width": 0.5}
    figure.add_scatter(x=x, y=y, name=name, mode="lines", line=line, hoverinfo="skip")
    _add_curve(figure, latest[1], f"latest: {latest[0]}", 0, labelled=True)


def _add_curve(figure: go.Figure, curve: pd.DataFrame, name: str, number: int, *, labelled: bool) -> None:
    levels = [f"<b>{level_name(level_of(row))}</b><br> " for row in curve[[*COLUMNS]].to_dict("records")]
    texts = {"mode": "lines+text" if labelled else "lines", "text": levels, "textposition": "top center"}
    line = {"line": look.line(number), "hoverinfo": "skip", "cliponaxis": False}
    figure.add_scatter(x=curve["x"], y=curve["y"], name=name, showlegend=bool(name), **texts, **line)


def _add_verdicts(figure: go.Figure, rows: pd.DataFrame, bounded: Sequence[str], *, size: float) -> None:
    """One trace a verdict, also those that no batch has: another SLO may give it (`customdata`: position, facts)."""
    limited = bool(SLO.parse(rows.attrs.get("slo") or {}).constraints)
    for verdict, style in look.VERDICTS.items():
        chosen = rows[rows["verdict"] == verdict]
        records = chosen.to_dict("records")
        facts = [_facts(row, bounded) for row in records]
        says = [f"{style.says}, {row['evidence']} evidence" if limited else _NO_LIMITS for row in records]
        reasons = [look.wrapped(row["verdict_reason"]) if limited else "" for row in records]
        hovers = [look.hover(*lines) for lines in zip(facts, says, reasons, strict=True)]
        points = {axis: chosen[axis].tolist() for axis in ("x", "y")}  # the page moves them, and cannot move base64
        data = np.array([chosen["position"], facts], dtype="object").T
        marks = replace(style, size=size, edge=size / 8)
        name = style.says if limited or verdict != "pass" else _NO_LIMITS
        meta = {"verdict": verdict, "says": name}  # the page's sliders may limit what nothing limited before
        look.add_markers(figure, points, marks, hovers, customdata=data, meta=meta, name=name)


def _facts(row: dict[Any, Any], bounded: Sequence[str]) -> str:
    runs, workers = row.get("runs", 1), row.get("client_workers", 1)
    own = row.get("client_ttft", np.nan) * 1000  # where the machine was calibrated
    processes = f" ({workers:.0f} processes)" if workers > 1 else ""
    return look.hover(
        look.level_title(row),
        str(row["curve"]),
        f"{row['output_throughput']:.1f} output tokens/s",
        *look.latencies(row),
        *(_interval(row, column) for column in bounded),
        f"{row['completed']} completed, {row['errors']} failed",
        look.wrapped(row.get("limit_evidence") or ""),
        f"the mean of {runs} runs" if runs > 1 else "",
        "" if pd.isna(own) else f"of the TTFT, {own:.1f} ms are the load generator's own{processes}",
        look.start_line(row),
    )


def _interval(row: dict[Any, Any], column: str) -> str:
    low, high = (row.get(f"{column}_{side}", np.nan) for side in ("low", "high"))
    if pd.isna(low) or pd.isna(high):
        return ""
    over = " over its runs" if row.get("interval_over") == "runs" else ""
    return f"{column_name(column)} lies between {low:.3g} and {high:.3g}{metric_of(column).suffix}{over}"


def _add_missing(figure: go.Figure, missing: pd.DataFrame) -> None:
    """Levels without a result, in a strip at the right edge: they have no coordinates, and must be seen."""
    if missing.empty:
        return
    figure.update_layout(xaxis={"domain": [0, 0.86]}, xaxis2=_STRIP, yaxis2=_STRIP_HEIGHT)
    rows = missing.to_dict("records")
    hovers = [look.hover(look.level_title(row), *map(look.wrapped, (row["outcome"], row["reason"]))) for row in rows]
    places = {"x": [0.5] * len(rows), "y": [(place + 0.5) / len(rows) for place in range(len(rows))]}
    texts = {"text": [f" {level_name(level_of(row))}" for row in rows], "textposition": "top center"}
    texts["mode"] = "markers+text" if len(rows) <= _STRIP_HOLDS else "markers"
    look.add_markers(
        figure, places, _NO_RESULT, hovers, xaxis="x2", yaxis="y2", showlegend=False, cliponaxis=False, **texts
    )


_NO_LIMITS = "measured; no SLO was given"
#: p5, p25, p50, p75, p95, p99 of one batch's completed requests
Quantiles = Sequence[float]


def distribution(
    judged: pd.DataFrame, spreads: Sequence[Quantiles | None], slo: SLO | None = None, *, metric: str = "ttft"
) -> go.Figure:
    """The distribution of a latency over the requests of each level.

    Args:
        judged: batches with verdicts.
        spreads: for each of them its quantiles in seconds, as `report.run_facts` computes; None where it has none.
        slo: whose thresholds on this metric are drawn; by default the one that judged.
        metric: `e2e_latency`, `ttft` or `tpot`.

    Example:
        >>> judged = tuner.judge(tuner.load_batches("runs/monday"), {"ttft": {"p90": {"threshold": "500 ms"}}})
        >>> spreads = tuner.read_results(Path("runs/monday")).run_facts.spreads["ttft"]
        >>> figure = tuner.figures.distribution(judged, spreads)
    """
    name = look.LABELS[metric]
    about = " · ".join(filter(None, ["box: p25 to p75, whiskers: p5 and p95, mark: p99", look.measured_when(judged)]))
    figure = look.figure(f"Distribution of {name} per level", about, "{} ({})".format(*axis_of(judged)), f"{name} (s)")
    rows = judged.assign(spread=pd.Series(list(spreads), judged.index, dtype="object"))
    rows = rows[rows["spread"].notna() & levels_in(rows).notna()]
    for number, (curve_name, curve) in enumerate(look.curves(rows)):
        _add_boxes(figure, curve, curve_name, number)
    for constraint, line in look.thresholds(judged, slo, metric):
        figure.add_hline(y=constraint.threshold, **line)
    levels = [f"{level:g}" for level in sorted(levels_in(rows).unique())]
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=levels)
    figure.update_layout(boxmode="group", hovermode="x")
    return figure


def _add_boxes(figure: go.Figure, curve: pd.DataFrame, name: str, number: int) -> None:
    levels = [f"{level:g}" for level in levels_in(curve)]
    p5, p25, p50, p75, p95, p99 = zip(*curve["spread"], strict=True)
    colour = look.LINES[number % len(look.LINES)]
    both = {"x": levels, "offsetgroup": str(number), "legendgroup": str(number)}
    box = {"q1": p25, "median": p50, "q3": p75, "lowerfence": p5, "upperfence": p95}
    fill = "rgba(0,0,0,0.05)" if number else "rgba(0,114,178,0.15)"
    figure.add_box(**both, **box, name=name or "p5 to p95", line={"color": colour, "width": 1.5}, fillcolor=fill)
    mark = {"symbol": "line-ew-open", "size": 16, "color": colour, "line": {"width": 2.5}}
    named = {"name": f"p99 {name}".strip(), "hovertemplate": "%{y:.3g} s"}
    figure.add_scatter(**both, y=p99, mode="markers", marker=mark, **named)
