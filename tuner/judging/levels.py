"""One row a level, all of its runs judged together; and how the levels of a curve confine its limit."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from tuner.batches.batch import COUNTS
from tuner.core.level import COLUMNS, Level, by_level, level_of, levels_in
from tuner.core.metrics import metric_of
from tuner.judging.intervals import column_of, intervals
from tuner.judging.slo import SLO
from tuner.judging.verdicts import COMPLIANT, FAIL, HARD_FAIL, UNKNOWN, judge

BRACKETED, OPEN, NONE, NON_MONOTONE = "bracketed", "open", "none", "non_monotone"
#: Outcomes which say that the level is too much for the server; others say nothing about it.
TOO_MUCH = ("out_of_memory", "server_died", "timeout", "all_errors")
#: What makes the batches of one curve: levels are compared only within it.
CURVE = ("experiment", "trial", "scenario", "iteration_type")
#: What `judge` finds in single requests, which a mean of runs has not.
_OF_REQUESTS = ("attainment", "goodput")


def levels_of(judged: pd.DataFrame, curve: Sequence[str] = CURVE) -> pd.DataFrame:
    """One row a level of each curve: what is said of a level rests on all of its runs.

    Of runs that can be judged it is their mean (requests and durations are summed), judged once by the rules for a
    batch: that is wrong less often than to go by the best, the worst or most of them (`benchmarks/limit_search.py`).
    A run that broke the server stands for its level; what cannot be judged does only where nothing else can.

    Args:
        judged: batches with verdicts, as from `judge`; without its `attrs` a level fails where one of its runs does.
        curve: the columns whose batches belong together.

    Returns:
        Rows as those of `judged`, each with the index of one of its level's runs; the same rows where every level ran
        once, else with `runs`, how many count. Batches of an unknown level stay as they are.
    """
    rows = without_superseded(judged)
    names = [name for name in (*curve, *COLUMNS) if name in rows]
    single = (~rows.duplicated(names, keep=False) | levels_in(rows).isna()).to_numpy()
    if single.all():
        return rows
    broken, known = column_of(rows, "outcome").isin(TOO_MUCH), rows["verdict"].ne(UNKNOWN)
    level = rows.groupby(names, sort=False, dropna=False).ngroup()
    counts = ~single & known.to_numpy() & ~broken.groupby(level).transform("any").to_numpy()
    order = np.argsort(np.select([broken, known], [0, 1], 2), kind="stable")
    first = np.zeros(len(rows), bool)
    first[order] = ~level.iloc[order].duplicated().to_numpy()
    alone = single | (first & ~counts)
    levels = pd.concat([rows[alone].assign(runs=1), _mean(rows[counts], names)])
    places = np.argsort(np.concatenate([np.flatnonzero(alone), np.flatnonzero(first & counts)]))
    levels = pd.DataFrame(levels.iloc[places])
    levels.attrs = judged.attrs
    return levels


def _mean(runs: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """The mean of each level's runs in the place of the first, judged."""
    slo = SLO.parse(runs.attrs.get("slo") or {})
    limited = [column for column in slo.bounded if f"{column}_low" not in runs]
    runs = runs.assign(**intervals(runs, limited)) if limited else runs
    levels, first = runs.groupby(names, sort=False, dropna=False), ~runs.duplicated(names).to_numpy()
    sums = [name for name in (*COUNTS, "duration") if name in runs]
    means = [*runs.select_dtypes("number").columns.difference([*names, *sums, "repeat"])]
    mean = runs.assign(**levels[means].transform("mean"), **levels[sums].transform("sum"))[first]
    mean.attrs = runs.attrs
    again = judge(mean, slo).assign(**mean[[name for name in _OF_REQUESTS if name in mean]])
    if "slo" not in runs.attrs:
        again["verdict"] = levels["verdict"].transform("min")[first]  # fail comes before pass and soft
    again["runs"] = levels["verdict"].transform("size")[first]
    again.loc[(again["runs"] > 1) & again["verdict_reason"].ne(""), "verdict_reason"] += ", in the mean of its runs"
    return again[[*dict.fromkeys([*runs, "runs"])]].copy()  # in few blocks


def best_of(levels: pd.DataFrame, column: str = "output_throughput") -> "pd.Series[Any] | None":
    """The level with the most of a column among those that comply, of equal ones the lowest; None without one."""
    ranked = _compliant_with(levels, column).sort_values(column, ascending=False, kind="stable")
    return None if ranked.empty else ranked.iloc[0]


def _compliant_with(levels: pd.DataFrame, column: str) -> pd.DataFrame:
    return by_level(levels[levels["verdict"].isin(COMPLIANT) & levels[column].notna()])


def without_superseded(judged: pd.DataFrame) -> pd.DataFrame:
    """The batches that are asked about: not those whose level was run again later."""
    return judged[~column_of(judged, "superseded", False).eq(True)]


def fails_slo(batches: pd.DataFrame) -> "pd.Series[Any]":
    """Which batches or levels do not hold: they violate the SLO, or the server broke under them."""
    return (batches["verdict"] == FAIL) | column_of(batches, "outcome").isin(TOO_MUCH)


def needs_more_load(levels: pd.DataFrame) -> "pd.Series[Any]":
    """Which levels fail only by limits from below, such as `min_throughput`, which more load helps to reach."""
    violated = ([v for v in each if v["type"] == HARD_FAIL] for each in column_of(levels, "violations"))
    only = [bool(hard) and all(metric_of(v["metric"]).grows_with_load for v in hard) for hard in violated]
    return fails_slo(levels) & pd.Series(only, levels.index, dtype="bool")


def compliant_levels(levels: pd.DataFrame) -> "pd.Series[Any]":
    """The levels that comply, as numbers."""
    return levels_in(levels)[levels["verdict"].isin(COMPLIANT)]


def too_much(levels: pd.DataFrame) -> "pd.Series[Any]":
    """Which levels of one curve bound the compliant ones from above; too little is what they need at least."""
    too_little = needs_more_load(levels) & (levels_in(levels) < compliant_levels(levels).min())
    return pd.Series(fails_slo(levels) & ~too_little)


#: By how much the throughput of a level may differ from run to run, where no interval says more.
NOISE = 0.05


def past_peak(curve: pd.DataFrame) -> Level | None:
    """The compliant level with the most throughput where the highest one has less by more than noise."""
    if (best := best_of(curve)) is None:
        return None
    last = _compliant_with(curve, "output_throughput").iloc[-1]
    high = np.fmax(last["output_throughput"] * (1 + NOISE), last.get("output_throughput_high", np.nan))
    low = np.fmin(best["output_throughput"], best.get("output_throughput_low", np.nan))
    return level_of(best) if high < low else None


def bracket(levels: pd.DataFrame) -> str:
    """How far the compliant levels of one curve are confined by levels that fail."""
    fails, highest = levels_in(levels)[too_much(levels)], compliant_levels(levels).max()
    if (fails <= highest).any():
        return NON_MONOTONE
    return BRACKETED if (fails > highest).any() else OPEN


def held_levels(levels: pd.DataFrame) -> tuple[float, float]:
    """The lowest and the highest level of one curve that comply with no level below that is too much; NaN without."""
    compliant, first = compliant_levels(levels), levels_in(levels)[too_much(levels)].min()
    held = compliant[~(compliant > first)]
    return float(held.min()), float(held.max())
