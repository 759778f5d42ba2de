"""Figures of judged batches: DataFrame in, plotly figure out; no file, no widget.

What a batch's verdict is shows in its marker's shape as well as its colour (Okabe and Ito's palette, safe for the
colour-blind). Times are UTC and say so.
"""

from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from tuner.slo import SLO

#: plotly.js's own settings: nothing is uploaded, nothing advertised
CONFIG = {"showSendToCloud": False, "plotlyServerURL": "", "displaylogo": False, "responsive": True}

LABELS = {"e2e_latency": "e2e latency", "ttft": "TTFT", "tpot": "TPOT", "mean": "mean"}
STATISTICS = ("mean", "p50", "p90", "p95", "p99")
METRICS = ("e2e_latency", "ttft", "tpot")
_LINES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_DASHES = ("solid", "dash", "dot", "dashdot")


@dataclass(frozen=True)
class _Look:
    """How a verdict is drawn."""

    says: str
    symbol: str
    colour: str


VERDICTS = {
    "pass": _Look("meets the SLO", "circle", "#0072B2"),
    "soft": _Look("over a soft limit", "diamond-tall", "#E69F00"),
    "fail": _Look("violates the SLO", "x", "#D55E00"),
    "unknown": _Look("cannot be judged", "circle-open", "#666666"),
}


def throughput_vs_latency(
    judged: pd.DataFrame, slo: SLO | None = None, *, metric: str = "e2e_latency", statistic: str = "p90"
) -> go.Figure:
    """Output throughput over latency, one curve a trial and scenario, the level at each point.

    Args:
        judged: batches with verdicts.
        slo: whose thresholds on this metric and statistic are drawn; by default the one that judged.
        metric: `e2e_latency`, `ttft` or `tpot`.
        statistic: `mean`, `p50`, `p90`, `p95` or `p99`.
    """
    latency = f"{metric}_{statistic}"
    figure = _figure(_title("Throughput versus latency", judged), _axis(metric, statistic), "output tokens/s")
    drawn = judged[judged[latency].notna() & judged["output_throughput"].notna()]
    for number, (name, curve) in enumerate(_curves(drawn)):
        _add_curve(figure, curve.sort_values("concurrency"), latency, name, number)
    _add_verdicts(figure, drawn, latency)
    _add_missing(figure, judged.drop(drawn.index))
    _add_thresholds(figure, slo or _judge_of(judged), metric, statistic)
    return figure


def latency_vs_concurrency(judged: pd.DataFrame, slo: SLO | None = None, *, metric: str = "ttft") -> go.Figure:
    """A latency's mean and percentiles over the concurrency level.

    Args:
        judged: batches with verdicts, best of one trial and scenario.
        slo: whose thresholds on this metric are drawn; by default the one that judged.
        metric: `e2e_latency`, `ttft` or `tpot`.
    """
    title = _title(f"{LABELS[metric]} versus concurrency", judged)
    figure = _figure(title, "concurrency (requests in flight)", f"{LABELS[metric]} (s)")
    rows = judged[judged[f"{metric}_p50"].notna()].sort_values("concurrency")
    for number, statistic in enumerate(STATISTICS):
        for name, curve in _curves(rows):
            figure.add_scatter(
                x=curve["concurrency"],
                y=curve[f"{metric}_{statistic}"],
                name=f"{statistic} {name}".strip(),
                mode="lines+markers",
                line={"color": _LINES[number], "dash": _DASHES[number % len(_DASHES)]},
                marker={"symbol": number},
            )
    for constraint in _constraints(slo or _judge_of(judged), metric):
        line = {"line_dash": "dot", "line_color": "#333", "annotation_text": f"SLO {constraint}"}
        figure.add_hline(y=constraint.threshold, **line)
    figure.update_xaxes(type="log", tickvals=sorted(rows["concurrency"].unique()))
    return figure


def _figure(title: str, x: str, y: str) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        title={"text": title, "x": 0, "xref": "paper", "font": {"size": 16}},
        template="plotly_white",
        height=460,
        margin={"l": 70, "r": 30, "t": 70, "b": 60},
        legend={"orientation": "h", "y": -0.2},
        hoverlabel={"align": "left"},
    )
    figure.update_xaxes(title=x, rangemode="tozero")
    figure.update_yaxes(title=y, rangemode="tozero")
    return figure


def _axis(metric: str, statistic: str) -> str:
    return f"{LABELS[metric]} {statistic} (s)"


def _title(text: str, judged: pd.DataFrame) -> str:
    """The title, and when the batches were measured, in UTC."""
    began, ended = judged["started_at"].min(), judged["finished_at"].max()
    if pd.isna(began) or pd.isna(ended):
        return text
    when = f"{began:%Y-%m-%d %H:%M:%S} to {ended:%H:%M:%S} UTC"
    return f"{text}<br><sup>numbers at the points: concurrency · measured {when}</sup>"


def _curves(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each trial and scenario, with a name that says only what tells them apart."""
    keys = ["experiment", "trial", "scenario"]
    telling = [key for key in keys if rows[key].nunique() > 1]
    groups = rows.groupby(keys, sort=True, dropna=False)
    return [(_name(dict(zip(keys, values, strict=True)), telling), group) for values, group in groups]


def _name(values: dict[str, Any], telling: list[str]) -> str:
    words = [f"trial {values[key]}" if key == "trial" else str(values[key]) for key in telling]
    return escape(", ".join(words))


def _add_curve(figure: go.Figure, curve: pd.DataFrame, latency: str, name: str, number: int) -> None:
    figure.add_scatter(
        x=curve[latency],
        y=curve["output_throughput"],
        name=name,
        mode="lines",
        line={"color": _LINES[number % len(_LINES)], "dash": _DASHES[number % len(_DASHES)], "width": 1.5},
        hoverinfo="skip",
        showlegend=bool(name),
    )
    for _, row in curve.iterrows():
        where = {"x": row[latency], "y": row["output_throughput"], "yshift": 16, "showarrow": False}
        figure.add_annotation(text=f"<b>{row['concurrency']}</b>", **where)


def _add_verdicts(figure: go.Figure, rows: pd.DataFrame, latency: str) -> None:
    for verdict, look in VERDICTS.items():
        chosen = rows[rows["verdict"] == verdict]
        if chosen.empty:
            continue
        figure.add_scatter(
            x=chosen[latency],
            y=chosen["output_throughput"],
            name=look.says,
            mode="markers",
            marker={"symbol": look.symbol, "color": look.colour, "size": 12, "line": {"width": 1.5}},
            hovertext=[_hover(row) for _, row in chosen.iterrows()],
            hoverinfo="text",
        )


def _hover(row: pd.Series) -> str:
    lines = [
        f"<b>concurrency {row['concurrency']}</b> {escape(str(row['scenario']))}",
        f"{row['output_throughput']:.1f} output tokens/s",
        *(f"{LABELS[metric]} p50 {row[f'{metric}_p50']:.3g} s, p90 {row[f'{metric}_p90']:.3g} s" for metric in METRICS),
        f"{row['completed']} completed, {row['errors']} failed",
        f"{VERDICTS[row['verdict']].says}, {escape(str(row['evidence']))} evidence",
        f"started {row['started_at']:%Y-%m-%d %H:%M:%S} UTC",
        escape(str(row["verdict_reason"])),
    ]
    return "<br>".join(filter(None, lines))


def _add_missing(figure: go.Figure, missing: pd.DataFrame) -> None:
    """Levels without a result, in a strip at the right edge: they have no coordinates, and must be seen."""
    if missing.empty:
        return
    strip = {"domain": [0.93, 1], "showticklabels": False, "title": "no result", "range": [0, 1], "fixedrange": True}
    figure.update_layout(xaxis={"domain": [0, 0.9]}, xaxis2=strip, yaxis2=_STRIP_HEIGHT)
    figure.add_scatter(
        x=[0.5] * len(missing),
        y=[(place + 0.5) / len(missing) for place in range(len(missing))],
        xaxis="x2",
        yaxis="y2",
        name="no result",
        mode="markers+text",
        text=missing["concurrency"].astype(str),
        textposition="middle right",
        marker={"symbol": "square-x-open", "color": "#000000", "size": 12},
        hovertext=[_why(row) for _, row in missing.iterrows()],
        hoverinfo="text",
    )


_STRIP_HEIGHT = {"anchor": "x2", "domain": [0, 1], "range": [0, 1], "visible": False, "fixedrange": True}


def _why(row: pd.Series) -> str:
    return f"<b>concurrency {row['concurrency']}</b><br>{escape(str(row['outcome']))}<br>{escape(str(row['reason']))}"


def _add_thresholds(figure: go.Figure, slo: SLO | None, metric: str, statistic: str) -> None:
    for constraint in _constraints(slo, metric):
        if constraint.statistic == statistic:
            line = {"line_dash": "dot", "line_color": "#333", "annotation_text": f"SLO {constraint}"}
            figure.add_vline(x=constraint.threshold, **line)


def _constraints(slo: SLO | None, metric: str) -> list[Any]:
    return [constraint for constraint in slo.constraints if constraint.metric == metric] if slo else []


def _judge_of(judged: pd.DataFrame) -> SLO | None:
    """The SLO that gave the verdicts, which `judge` leaves with its result."""
    content = judged.attrs.get("slo")
    return SLO.parse(content) if content else None


def notebook_bundle(figure: go.Figure) -> dict[str, Any]:
    """What a notebook keeps of `figure`: its data alone, without plotly.js."""
    import plotly.io as pio

    bundle: dict[str, Any] = pio.renderers["plotly_mimetype"].to_mimebundle(figure.to_dict())
    bundle["application/vnd.plotly.v1+json"]["config"] = CONFIG
    return bundle
