"""What ran when, in UTC, with what the server used meanwhile."""

from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from tuner.core.run_directory import COMPLETED
from tuner.core.text import level_name
from tuner.figures import style as look

#: the curves below the batches: (axis title, what their columns end in, divisor, factor to the title's unit)
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
    """
    samples = _thinned(telemetry) if telemetry is not None and len(telemetry) else pd.DataFrame({"at": []})
    panels = [panel for panel in PANELS if _columns(samples, panel[1])]
    figure = look.figure("Timeline", look.measured_when(judged), "time (UTC)", "concurrency")
    heights = [2.0 if len(judged) else 0.01, *[1.0] * len(panels)]
    made = make_subplots(rows=len(heights), shared_xaxes=True, vertical_spacing=0.06, row_heights=heights)
    made.update_layout(figure.layout)
    made.update_layout(height=320 + 130 * len(panels), legend={"y": -0.1 if panels else -0.3})
    _add_batches(made, judged[judged["started_at"].notna() & judged["finished_at"].notna()])
    for row, (title, endings, factor) in enumerate(panels, start=2):
        _add_panel(made, samples, _columns(samples, endings), row, factor)
        made.update_yaxes(title=title, rangemode="tozero", row=row, col=1)
    made.update_xaxes(title="", type="date", automargin=True, hoverformat="%Y-%m-%d %H:%M:%S UTC")
    made.update_xaxes(title="time (UTC)", row=len(heights), col=1)
    made.update_yaxes(title="concurrency", type="category", row=1, col=1)
    return made


def _add_batches(figure: go.Figure, rows: pd.DataFrame) -> None:
    for done, colour, shape in ((True, "#56B4E9", ""), (False, "#FFFFFF", "x")):
        chosen = rows[(rows["outcome"] == COMPLETED) == done].sort_values("started_at")
        records = chosen.to_dict("records")
        lasted = (chosen["finished_at"] - chosen["started_at"]).dt.total_seconds() * 1000
        figure.add_bar(
            x=lasted,
            base=_utc(chosen["started_at"]),
            y=[level_name(row["concurrency"]) for row in records],
            orientation="h",
            name="completed" if done else "no result",
            marker={"color": colour, "line": {"color": "#333", "width": 1}, "pattern": {"shape": shape}},
            hovertext=[_hover(row) for row in records],
            hoverinfo="text",
            showlegend=not chosen.empty,
        )
    figure.update_layout(barmode="overlay")


def _hover(row: dict[Any, Any]) -> str:
    lines = [
        f"<b>concurrency {level_name(row['concurrency'])}</b> {escape(str(row['scenario']))}",
        f"{row['started_at']:%Y-%m-%d %H:%M:%S} to {row['finished_at']:%H:%M:%S} UTC",
        look.wrapped(row["outcome"]),
        look.wrapped(row["reason"]) if isinstance(row["reason"], str) else "",
    ]
    return "<br>".join(filter(None, lines))


def _add_panel(figure: go.Figure, samples: pd.DataFrame, columns: list[str], row: int, factor: float) -> None:
    for number, column in enumerate(columns):
        figure.add_scatter(
            x=_utc(samples["at"]),
            y=(samples[column] * factor).round(3),
            name=column.replace("_", " "),
            showlegend=len(columns) > 1,
            mode="lines",
            line=look.line(number),
            row=row,
            col=1,
        )


def _columns(samples: pd.DataFrame, endings: tuple[str, ...]) -> list[str]:
    return [name for name in samples.columns if name.endswith(endings) and samples[name].notna().any()]


def _thinned(telemetry: pd.DataFrame) -> pd.DataFrame:
    """At most some hundred samples, each the mean of its neighbours; a chart has no more pixels to show them."""
    size = -(-len(telemetry) // _MOST_SAMPLES)
    numbers = telemetry.select_dtypes("number").columns
    ordered = telemetry.sort_values("at").reset_index(drop=True)
    groups = ordered.groupby(ordered.index // size)
    return groups[list(numbers)].mean().assign(at=groups["at"].min())


def _utc(times: "pd.Series[Any]") -> list[str]:
    """Wall times in UTC: plotly.js ignores offsets and draws what is written."""
    return [f"{time:%Y-%m-%d %H:%M:%S.%f}" for time in times]
