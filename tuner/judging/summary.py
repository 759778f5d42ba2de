"""The best compliant batch, how far it is confined, the table, and the answer in words."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from tuner.core.level import (
    BATCH_SIZE,
    Level,
    Rate,
    by_level,
    kind_of,
    level_from,
    level_of,
    level_title,
    levels_in,
    number_of,
)
from tuner.core.metrics import column_name, metric_of
from tuner.core.records import COMPLETED
from tuner.core.text import percent, plural
from tuner.judging import levels as curves
from tuner.judging.intervals import CONFIDENCE, column_of
from tuner.judging.slo import SLO
from tuner.judging.verdicts import COMPLIANT, FAIL, PASS, SOFT, UNKNOWN

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Summary:
    """What judged batches amount to; over several scenarios, the best one's numbers and `scenarios` for each.

    Where a level was run several times, it is one level of `levels_of`: the mean of its runs.

    Args:
        max_throughput: output tokens/s, the highest among compliant levels; None where no level is compliant.
        best_level: the lowest level it was reached at; None too where no concurrency was held and no rate is known.
        bracket: `bracketed` (a higher level fails), `open` (the highest level still passes: at least this much),
            `non_monotone` (a level below a compliant one fails, and not for want of load), `none` (no compliant level).
        compliant: how many batches meet the SLO by themselves (verdict pass or soft).
        total: how many batches there are, failed ones too, without those that were run again later.
        best: the row of the best level; None where no level is compliant.
        levels: one row a level, as `levels_of` has them.
        scenarios: the same for each scenario alone; scenarios are never mixed in one figure.
        common_level: of several scenarios the highest level up to which all hold in one trial; None without one.
    """

    max_throughput: float | None
    best_level: int | float | None
    bracket: str
    compliant: int
    total: int
    best: "pd.Series[Any] | None" = None
    levels: pd.DataFrame = field(default_factory=pd.DataFrame)
    scenarios: "dict[str, Summary]" = field(default_factory=dict)
    common_level: Level | None = None

    @property
    def fallback(self) -> pd.DataFrame:
        """Where no level is compliant, all judged ones, the least penalised first; otherwise none."""
        levels = self.levels if self.best is None else self.levels.head(0)
        return levels[levels["penalty"].notna()].sort_values("penalty", kind="stable") if len(levels) else levels

    @property
    def scenario(self) -> str | None:
        """The scenario of the best batch."""
        return None if self.best is None else str(self.best.get("scenario", ""))

    @property
    def is_of_rates(self) -> bool:
        """Whether the best level is a request rate."""
        return self.best is not None and isinstance(level_of(self.best), Rate)

    @property
    def text(self) -> str:
        """The result in one line, with its unit."""
        if len(self.scenarios) > 1:
            parts = "; ".join(f"{name}: {part.text}" for name, part in self.scenarios.items())
            return f"{self.common_text}; {parts}"
        if self.best is None and self.compliant:
            return f"{self.compliant}/{self.total} batches comply, but no level that does has a known throughput"
        if self.best is None:
            kept = (
                f"all {self.total} are kept with their penalties" if self.total != 1 else "it is kept with its penalty"
            )
            return f"No SLO-compliant batch: {kept}, and there is no maximum"
        bound = "≥ " if self.bracket == curves.OPEN else ""
        batches = plural(self.compliant, "SLO-compliant batch")
        return f"Max throughput: {bound}{self.max_throughput:.1f} tokens/s at {_level(self.best)} (from {batches})"

    @property
    def common_text(self) -> str:
        """What holds for all scenarios together."""
        which = f"No {'rate' if self.is_of_rates else 'concurrency'}"
        if self.common_level is not None:
            which = f"{level_title(self.common_level).capitalize()} is the highest that"
        return f"{which} meets the SLO in each of {len(self.scenarios)} scenarios"


def summarize(judged: pd.DataFrame) -> Summary:
    """Find the most throughput among the compliant batches, and log how it came about.

    Args:
        judged: batches with verdicts, as from `judge`.

    Returns:
        The summary over all of them, with one for each scenario.

    Example:
        >>> judged = tuner.judge(tuner.load_batches("runs/monday"), {"ttft": {"p90": {"threshold": "500 ms"}}})
        >>> summary = tuner.summarize(judged)
        >>> round(summary.max_throughput), summary.best_level, summary.bracket
        (367, 4, 'bracketed')
    """
    rows, levels = curves.without_superseded(judged), curves.levels_of(judged)
    _log_batches(rows, levels)
    of_rows, of_levels = (column_of(frame, "scenario") for frame in (rows, levels))
    parts = {str(name): _of_scenario(rows[of_rows == name], levels[of_levels == name]) for name in of_rows.unique()}
    summary = _overall(rows, levels, parts)
    logger.info("%s %d/%d batches passed SLO", "✓" if summary.compliant else "✗", summary.compliant, summary.total)
    for name, part in parts.items():
        logger.info("%s%s", f"{name}: " if len(parts) > 1 else "", part.text)
    return summary


def _overall(rows: pd.DataFrame, levels: pd.DataFrame, scenarios: dict[str, Summary]) -> Summary:
    """The numbers of the scenario with the most throughput, the counts of all of them."""
    parts = list(scenarios.values())
    best = max(parts, key=lambda part: -math.inf if part.max_throughput is None else part.max_throughput, default=None)
    return replace(
        best or Summary(None, None, curves.NONE, 0, 0),
        compliant=sum(part.compliant for part in parts),
        total=len(rows),
        levels=levels,
        scenarios=scenarios,
        common_level=_common_level(levels, len(scenarios)),
    )


def _of_scenario(batches: pd.DataFrame, levels: pd.DataFrame) -> Summary:
    best = curves.best_of(levels)
    return Summary(
        max_throughput=None if best is None else float(best["output_throughput"]),
        best_level=None if best is None or (level := level_of(best)) is None else number_of(level),
        bracket=curves.NONE if best is None else curves.bracket(_curve_of(best, levels)),
        compliant=int(batches["verdict"].isin(COMPLIANT).sum()),
        total=len(batches),
        best=best,
        levels=levels,
    )


def _curve_of(best: "pd.Series[Any]", levels: pd.DataFrame) -> pd.DataFrame:
    """The levels of the trial and scenario that `best` belongs to."""
    names = [name for name in curves.CURVE if name in levels]
    return levels[(levels[names] == best[names]).all(axis=1)]


def _common_level(levels: pd.DataFrame, scenarios: int) -> Level | None:
    """The highest level up to which every scenario holds, in the trial where that is highest; None without one."""
    if scenarios < 2:
        return None
    ends: list[Level] = []
    names = [name for name in curves.CURVE if name in levels and name != "scenario"]
    for _, trial in levels.groupby(names, dropna=False, sort=False) if names else [((), levels)]:
        held = np.array([curves.held_levels(curve) for _, curve in trial.groupby("scenario")])
        if len(held) == scenarios and held[:, 0].max() <= held[:, 1].min():  # never, where one is NaN
            ends.append(level_from(held[:, 1].min(), kind_of(level_of(trial.iloc[0]))))
    return max((end for end in ends if type(end) is type(ends[0])), default=None)


_LOGGED = {
    PASS: "✓ %s met SLO%.0s",
    SOFT: "✓ %s met SLO with soft violations: {%s}",
    FAIL: "✗ %s violated SLO: {%s}",
    UNKNOWN: "? %s cannot be judged, so it does not count: %s",
}


def _log_batches(batches: pd.DataFrame, levels: pd.DataFrame) -> None:
    if not logger.isEnabledFor(logging.INFO):
        return
    logger.info("Filtering %d batches by SLO compliance", len(batches))
    several = "scenario" in batches and batches["scenario"].nunique() > 1
    repeated = levels[levels["runs"] > 1].to_dict("records") if "runs" in levels else []
    for what, row in [*(("Batch", row) for row in batches.to_dict("records")), *(("Level", row) for row in repeated)]:
        name = " ".join(filter(None, [what, row["scenario"] if several else "", _level(row, "=")]))
        logger.info(_LOGGED[row["verdict"]], name, row.get("verdict_reason", ""))


def _level(row: "Mapping[Any, Any] | pd.Series[Any]", between: str = " ") -> str:
    title = level_title(level_of(row), between)
    return title.replace("concurrency", BATCH_SIZE) if row.get("iteration_type") == BATCH_SIZE else title


def answer(judged: pd.DataFrame, summary: Summary, slo: SLO | None) -> list[str]:
    """What a reader wants to know first, most important line first; `slo` is None where nobody asked for one."""
    if len(summary.scenarios) > 1 and summary.best is not None:
        parts = {name: _of_best(part, summary.levels, slo) for name, part in summary.scenarios.items()}
        each = [f"{name}: {'. '.join([lines[0], ' '.join(lines[1:])])}" for name, lines in parts.items()]
        return [summary.common_text, *each, _compliance_text(summary, slo)]
    lines = _of_best(summary, summary.levels, slo) if summary.best is not None else _nothing(judged, slo)
    return [*lines[:2], _compliance_text(summary, slo), *lines[2:]]


def _of_best(summary: Summary, levels: pd.DataFrame, slo: SLO | None) -> list[str]:
    """What is to be said of one scenario's best level, most important line first."""
    best = summary.best
    if best is None:
        return ["no level meets the SLO"]
    first, requests = _best(summary, best, levels), plural(best["completed"], "completed request")
    if slo is None:
        return [first, f"Of {requests}.", *_intervals(best, slo)]
    doubt = f" – {best['evidence_reason']}" if best["evidence_reason"] else ""
    evidence = f"The evidence is {best['evidence']}: {requests}{doubt}."
    lines = [first, _limit(by_level(_curve_of(best, levels))), evidence, *_intervals(best, slo)]
    limiting = limiting_level(replace(summary, levels=levels))
    why = "" if limiting is None else limiting.get("limit_evidence")
    return [*lines, f"At {_level(limiting)} {why}."] if limiting is not None and isinstance(why, str) and why else lines


def limiting_level(summary: Summary) -> "pd.Series[Any] | None":
    """The first level above those that comply, or the highest of them where none is above: what limits it is asked."""
    if summary.best is None:
        return None
    curve = by_level(_curve_of(summary.best, summary.levels))
    ranked = curve[levels_in(curve) >= curves.compliant_levels(curve).max()].head(2)
    return None if ranked.empty else ranked.iloc[-1]


def _nothing(judged: pd.DataFrame, slo: SLO | None) -> list[str]:
    what = "No batch meets the SLO, so there is no maximum" if slo else "Every batch has too many errors to count"
    if judged["outcome"].ne(COMPLETED).all():
        what = "No batch has a usable result"
    lowest = by_level(judged[judged["verdict_reason"] != ""]).head(1).to_dict("records")
    return [what, *(f"{level_title(level_of(row)).capitalize()}: {row['verdict_reason']}." for row in lowest)]


def _best(summary: Summary, best: "pd.Series[Any]", levels: pd.DataFrame) -> str:
    bound, at = "At least " if summary.bracket == curves.OPEN else "", level_of(best)
    where = f" ({best['experiment']})" if levels["experiment"].nunique() > 1 else ""
    level = "an unknown concurrency" if at is None else level_title(at)
    return f"{bound}{summary.max_throughput:.1f} output tokens/s at {level}{where}"


def _limit(curve: pd.DataFrame) -> str:
    """How far the measured levels confine those that comply: from above, and where a limit asks for load from below."""
    level, fails = levels_in(curve), curves.too_much(curve)
    lowest, highest = curves.compliant_levels(curve).agg(["min", "max"])
    if pd.isna(highest):
        return "The batches that meet the SLO held no concurrency, so the highest that meets it is not known."
    low, high = (level_from(end, kind_of(level_of(curve.iloc[0]))) for end in (lowest, highest))
    most = level_title(high)
    amid, above = _named(curve[fails & (level < highest)]), curve[fails & (level > highest)].head(1)
    if amid:
        return f"{most.split()[0].capitalize()} {amid[-1]} while {high} does: measure them again."
    less = _named(curve[curves.needs_more_load(curve) & (level < lowest)])
    least = f" It takes at least {level_title(low)}, since {less[-1]}." if less else ""
    if len(above):
        what = ", which does not meet the SLO" if above["verdict"].eq(FAIL).all() else ", which gave no result"
        return f"The limit lies between {most} and {_named(above, what)[0]}.{least}"
    if unknown := ", ".join(_named(curve[level > highest], "")):
        still = f"{most.capitalize()} still meets the SLO. Whether higher levels do is not known"
        return f"{still}, so measure them again: {unknown}.{least}"
    there = f"{most.capitalize()}, the highest that was measured, still meets the SLO"
    if peak := curves.past_peak(curve):
        return f"{there}, and its throughput is below that at {level_title(peak)}: higher ones promise no more.{least}"
    return f"{there}: measure higher ones for the limit.{least}"


def _named(levels: pd.DataFrame, what: str = " does not meet the SLO") -> list[str]:
    """Levels, each with the reason."""
    return [f"{level_of(row)}{what} ({row['verdict_reason']})" for row in levels.to_dict("records")]


def _compliance_text(summary: Summary, slo: SLO | None) -> str:
    if slo is None:
        return "No SLO was given: every batch counts in which at most one request in ten failed."
    return f"{summary.compliant} of {summary.total} batches meet the SLO: {', '.join(map(str, slo.constraints))}."


def _intervals(best: "pd.Series[Any]", slo: SLO | None) -> list[str]:
    """How far the best batch's throughput, and what the SLO limits of it, may lie from what is said."""
    columns = dict.fromkeys([*(slo.bounded if slo else ()), "output_throughput"])
    texts = [text for column in columns if (text := _interval(best, column))]
    confidence = (slo.confidence if slo else None) or CONFIDENCE
    over = " over its runs" if best.get("interval_over") == "runs" else ""
    return [f"At {percent(confidence)}{over}: {', '.join(texts)}."] if texts else []


def _interval(best: "pd.Series[Any]", column: str) -> str:
    low, high = (best.get(f"{column}_{side}", math.nan) for side in ("low", "high"))
    if not best.get("interval_over") or pd.isna(best[column]):
        return ""
    between = f"{_short(low)} to {_short(high)}" if pd.notna(low) else "interval not known: the level is too short"
    return f"{column_name(column)} {_short(best[column])}{metric_of(column).suffix} ({between})"


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
