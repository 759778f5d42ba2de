"""How the requests of each level are spread: a box from the quartiles, whiskers to p5 and p95, a mark at p99."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from tuner.figures import style as look
from tuner.judging.verdicts import SLO

#: p5, p25, p50, p75, p95, p99 of one batch's completed requests
Quantiles = Sequence[float]


def distribution(
    judged: pd.DataFrame, spreads: Sequence[Quantiles | None], slo: SLO | None = None, *, metric: str = "ttft"
) -> go.Figure:
    """The distribution of a latency over the requests of each level.

    Args:
        judged: batches with verdicts.
        spreads: for each of them its quantiles in seconds, as `tuner.report.spreads` computes; None where it has none.
        slo: whose thresholds on this metric are drawn; by default the one that judged.
        metric: `e2e_latency`, `ttft` or `tpot`.
    """
    name = look.LABELS[metric]
    about = " · ".join(filter(None, ["box: p25 to p75, whiskers: p5 and p95, mark: p99", look.measured_when(judged)]))
    figure = look.figure(f"Distribution of {name} per level", about, "concurrency (requests in flight)", f"{name} (s)")
    rows = judged.assign(spread=pd.Series(list(spreads), judged.index, dtype="object"))
    rows = rows[rows["spread"].notna() & rows["concurrency"].notna()]
    for number, (curve_name, curve) in enumerate(look.curves(rows)):
        _add_boxes(figure, curve, curve_name, number)
    for constraint in look.constraints(slo or look.judge_of(judged), metric):
        figure.add_hline(y=constraint.threshold, **look.threshold(constraint))
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=_levels(rows))
    figure.update_layout(boxmode="group")
    return figure


def _add_boxes(figure: go.Figure, curve: pd.DataFrame, name: str, number: int) -> None:
    levels = [str(level) for level in curve["concurrency"]]
    p5, p25, p50, p75, p95, p99 = zip(*curve["spread"], strict=True)
    colour = look.LINES[number % len(look.LINES)]
    figure.add_box(
        x=levels,
        q1=p25,
        median=p50,
        q3=p75,
        lowerfence=p5,
        upperfence=p95,
        name=name or "p5 to p95",
        line={"color": colour, "width": 1.5},
        fillcolor="rgba(0,114,178,0.15)" if not number else "rgba(0,0,0,0.05)",
        offsetgroup=str(number),
        legendgroup=str(number),
    )
    figure.add_scatter(
        x=levels,
        y=p99,
        name=f"p99 {name}".strip(),
        mode="markers",
        marker={"symbol": "line-ew-open", "size": 16, "color": colour, "line": {"width": 2.5}},
        offsetgroup=str(number),
        legendgroup=str(number),
    )


def _levels(rows: pd.DataFrame) -> list[str]:
    return [str(level) for level in sorted(rows["concurrency"].unique())]
