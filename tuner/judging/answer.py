"""The answer in words: the best compliant batch, how sure it is, and under which SLO."""

import math
from typing import Any

import pandas as pd

from tuner.judging.intervals import CONFIDENCE
from tuner.judging.slo import SLO, Constraint
from tuner.judging.summary import CURVE, TOO_MUCH, Summary
from tuner.judging.verdicts import COMPLIANT, FAIL


def answer(judged: pd.DataFrame, summary: Summary, slo: SLO | None) -> list[str]:
    """What a reader wants to know first, most important line first.

    Args:
        judged: the judged batches.
        summary: theirs.
        slo: what they were judged by; None where nobody asked for one.
    """
    best = summary.best
    if best is None:
        return [_nothing(judged, slo), *_counted(summary, slo)]
    known = [_best(summary, judged), _limit(_curve(judged, best), summary), *_counted(summary, slo), _evidence(best)]
    return [*known, *_intervals(best, slo)]


def _nothing(judged: pd.DataFrame, slo: SLO | None) -> str:
    if (judged["outcome"] != "completed").all():
        return "No batch has a usable result"
    return "No batch meets the SLO, so there is no maximum" if slo else "Every batch has too many errors to count"


def _best(summary: Summary, judged: pd.DataFrame) -> str:
    bound = "At least " if summary.bracket == "open" else ""
    names = [name for name in ("scenario", "experiment") if judged[name].nunique() > 1]
    where = ", ".join(str(summary.best[name]) for name in names) if summary.best is not None else ""
    most = f"{bound}{summary.max_throughput:.1f} output tokens/s at {_level(summary)}"
    return f"{most} ({where})" if where else most


def _level(summary: Summary) -> str:
    return "an unknown concurrency" if summary.best_level is None else f"concurrency {summary.best_level}"


def _limit(curve: pd.DataFrame, summary: Summary) -> str:
    """How far the measured levels confine the maximum."""
    fails = (curve["verdict"] == FAIL) | curve["outcome"].isin(TOO_MUCH)
    highest = curve.loc[curve["verdict"].isin(COMPLIANT), "concurrency"].max()
    above = curve[fails & (curve["concurrency"] > highest)].head(1)
    below = curve[fails & (curve["concurrency"] < highest)].tail(1)
    if pd.isna(highest):
        return "No concurrency was held where the SLO is met, so that the limit is none of concurrency."
    if summary.bracket == "non_monotone" and len(below):
        level = below.iloc[0]["concurrency"]
        return f"Concurrency {level} does not meet the SLO ({_why(below)}) while {highest} does: measure them again."
    if len(above):
        level = above.iloc[0]["concurrency"]
        return f"The limit lies between concurrency {highest} and {level}, which does not meet the SLO ({_why(above)})."
    return (
        f"Concurrency {highest}, the highest that was measured, still meets the SLO: measure higher ones for the limit."
    )


def _curve(judged: pd.DataFrame, best: "pd.Series[Any]") -> pd.DataFrame:
    """The batches of the best one's trial and scenario, by level."""
    same = (judged[CURVE] == best[CURVE]).all(axis="columns")
    return judged[same & ~judged["superseded"].astype(bool)].sort_values("concurrency")


def _why(row: pd.DataFrame) -> str:
    return str(row.iloc[0]["verdict_reason"])


def _counted(summary: Summary, slo: SLO | None) -> list[str]:
    if slo is None:
        return ["No SLO was given: every batch counts in which at most one request in ten failed."]
    limits = ", ".join(map(str, slo.constraints))
    return [f"{summary.compliant} of {summary.total} batches meet the SLO: {limits}."]


def _evidence(best: "pd.Series[Any]") -> str:
    doubt = f" – {best['evidence_reason']}" if best["evidence_reason"] else ""
    return f"The evidence is {best['evidence']}: {best['completed']} completed requests{doubt}."


def _intervals(best: "pd.Series[Any]", slo: SLO | None) -> list[str]:
    """How far the best batch's throughput, and what the SLO limits of it, may lie from what is said."""
    throughput = Constraint("output_throughput", "", 1.0)
    limited = [*(one for one in (slo.constraints if slo else ()) if one.metric != "error_rate"), throughput]
    told = dict.fromkeys(text for one in limited if (text := _interval(best, one)))
    confidence = (slo.confidence if slo else None) or CONFIDENCE
    over = " over its runs" if best.get("interval_over") == "runs" else ""
    return [f"At {confidence * 100:.4g} %{over}: {', '.join(told)}."] if told else []


def _interval(best: "pd.Series[Any]", constraint: Constraint) -> str:
    low, high = (best.get(f"{constraint.column}_{side}", math.nan) for side in ("low", "high"))
    value, unit = best[constraint.column], constraint.unit
    if pd.isna(low) or pd.isna(high):
        return ""
    return f"{constraint.label} {_short(value)}{unit} ({_short(low)} to {_short(high)})"


def _short(value: float) -> str:
    """Three digits, and all of those before the point."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
