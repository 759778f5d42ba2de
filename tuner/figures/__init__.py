"""Figures of judged batches and of the trials of a search: DataFrame in, plotly figure out; no file, no widget.

What a batch's verdict is shows in its marker's shape as well as its colour, and curves differ in dash and marker, so
that a print in black and white says the same. Times are UTC and say so.
"""

from tuner.figures.comparison import changes
from tuner.figures.history import timeline, trend
from tuner.figures.levels import distribution, latency_vs_concurrency, throughput_vs_latency, trade_off
from tuner.figures.search import best_so_far, importance, parallel_coordinates, pareto_front
from tuner.figures.style import notebook_bundle

__all__ = [
    "best_so_far",
    "changes",
    "distribution",
    "importance",
    "latency_vs_concurrency",
    "notebook_bundle",
    "parallel_coordinates",
    "pareto_front",
    "throughput_vs_latency",
    "timeline",
    "trade_off",
    "trend",
]
