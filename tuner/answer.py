"""The answer in words: the best compliant batch, how sure it is, and under which SLO."""

import math
from typing import Any

import pandas as pd

from tuner.constraints import SLO, Constraint
from tuner.intervals import CONFIDENCE
from tuner.slo import COMPLIANT, FAIL
from tuner.summary import CURVE, TOO_MUCH, Summary


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
    known = [_best(summary), _limit(_curve(judged, best), summary), *_counted(summary, slo), _evidence(best)]
    return [*known, *_intervals(best, slo)]


def _nothing(judged: pd.DataFrame, slo: SLO | None) -> str:
    if (judged["outcome"] != "completed").all():
        return "No batch has a usable result"
    return "No batch meets the SLO, so there is no maximum" if slo else "Every batch has too many errors to count"


def _best(summary: Summary) -> str:
    bound = "At least " if summary.bracket == "open" else ""
    where = f" ({summary.scenario})" if len(summary.scenarios) > 1 else ""
    return f"{bound}{summary.max_throughput:.1f} output tokens/s at concurrency {summary.best_level}{where}"


def _limit(curve: pd.DataFrame, summary: Summary) -> str:
    """How far the measured levels confine the maximum."""
    fails = (curve["verdict"] == FAIL) | curve["outcome"].isin(TOO_MUCH)
    highest = curve.loc[curve["verdict"].isin(COMPLIANT), "concurrency"].max()
    above = curve[fails & (curve["concurrency"] > highest)].head(1)
    below = curve[fails & (curve["concurrency"] < highest)].tail(1)
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
    return "" if pd.isna(low) or pd.isna(high) else f"{constraint.label} {value:.3g}{unit} ({low:.3g} to {high:.3g})"
