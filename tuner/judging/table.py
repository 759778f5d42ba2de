"""Judged batches as a table for people: one row a batch, the handful of columns that say something."""

from typing import Any

import pandas as pd

from tuner.core.bottleneck import NOT_KNOWN
from tuner.core.level import COLUMNS
from tuner.core.metrics import table_column
from tuner.core.text import shorten
from tuner.judging.slo import SLO

#: The columns a person wants: (header, column of the batches, factor to the header's unit, decimals or None).
TABLE: tuple[tuple[str, str, float, int | None], ...] = (
    *((name, name, 1, None) for name in ("experiment", "trial", "scenario")),
    ("level", "concurrency", 1, None),
    ("rate (1/s)", "request_rate", 1, None),
    *((name, name, 1, None) for name in ("repeat", "verdict")),
    *map(table_column, ("output_throughput", "ttft_p50", "ttft_p99")),
    ("burst TTFT p90 (s)", "burst_ttft_p90", 1.0, 3),
    *map(table_column, ("tpot_p50", "e2e_latency_p50", "e2e_latency_p99")),
    ("requests", "requests", 1, None),
    *map(table_column, ("error_rate", "attainment", "goodput", "energy_per_token")),
    ("limit", "limit", 1, None),
    ("outcome", "outcome", 1, None),
    ("start (UTC)", "started_at", 1, None),
)
#: What the columns with the verdicts of further tiers begin with.
TIER = "verdict_of_"
#: Characters of the last column.
WIDEST = 400
#: Columns that say nothing where all rows have the same.
ONLY_IF_DIFFERENT = ("experiment", "trial", "repeat")
#: The first requests of a level are told of where their TTFT p90 is more than so many times that of the others.
LONG_BURST = 1.1


def table(judged: pd.DataFrame) -> pd.DataFrame:
    """The handful of columns a person wants of batches, rounded and with units in the headers; one row a batch.

    Returns:
        The last column, `why`, says why the verdict is what it is or how the batch ended, else what is suspicious
        about it. Columns that say nothing here are left out: one experiment, one trial, one repeat, no SLO.
    """
    tiers = [str(name) for name in judged if str(name).startswith(TIER)]
    shown = [entry for entry in TABLE if entry[1] in judged and not _says_nothing(judged, entry[1])]
    place = [entry[1] for entry in shown].index("verdict") + 1 if tiers else 0
    shown[place:place] = [(f"verdict, {name.removeprefix(TIER)}", name, 1, None) for name in tiers]
    columns = {header: _cells(judged[name], factor, decimals) for header, name, factor, decimals in shown}
    if "time_source" in judged and "start (UTC)" in columns:
        of_file = judged["time_source"].eq("file_mtime") & judged["started_at"].notna()
        columns["start (UTC)"] = columns["start (UTC)"].mask(of_file, columns["start (UTC)"] + " (file's date)")
    said = [
        (row.get("verdict_reason"), row.get("reason"), "; ".join(row.get("warnings") or []))
        for row in judged.to_dict("records")
    ]
    why = [shorten(next((text for text in each if isinstance(text, str) and text), ""), WIDEST) for each in said]
    return pd.DataFrame(columns, index=judged.index).assign(why=why)


def _says_nothing(judged: pd.DataFrame, name: str) -> bool:
    if name == "goodput":  # without a limit it is the throughput in other words
        return not SLO.parse(judged.attrs.get("slo", {})).constraints
    if name == "energy_per_token":
        return bool(judged[name].isna().all())
    if name == "limit":
        return bool(judged[name].isin(["", NOT_KNOWN]).all())
    if name == "burst_ttft_p90":
        return not (judged[name] > LONG_BURST * judged["ttft_p90"]).any()
    if name in COLUMNS:  # of two that are empty, the level's own is shown
        lacking = [one for one in COLUMNS if one not in judged or judged[one].isna().all()]
        return name in lacking and (name == "request_rate" or len(lacking) == 1)
    return name in ONLY_IF_DIFFERENT and judged[name].nunique() < 2


def _cells(values: "pd.Series[Any]", factor: float, decimals: int | None) -> "pd.Series[Any]":
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        return pd.Series(values.dt.strftime("%Y-%m-%d %H:%M:%S"))
    return values if decimals is None else (values * factor).round(decimals)
