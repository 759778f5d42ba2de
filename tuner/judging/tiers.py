"""The best level for each tier of an SLO."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tuner.judging.slo import SLO
from tuner.judging.summary import Summary, answer, summarize
from tuner.judging.verdicts import judge

#: What a plain SLO's only tier is called.
ONLY = "SLO"


@dataclass(frozen=True)
class Tier:
    """One kind of users: its SLO, the batches judged by it, and their summary."""

    slo: SLO
    judged: pd.DataFrame
    summary: Summary

    @property
    def answer(self) -> list[str]:
        """The result in words, most important line first."""
        return answer(self.judged, self.summary, self.slo)


@dataclass(frozen=True)
class Tiers:
    """The tiers by name, in the order of the document."""

    tiers: dict[str, Tier]


def tiers(batches: pd.DataFrame, document: SLO | Mapping[str, Any]) -> Tiers:
    """Judge every batch by each of several SLOs.

    Args:
        batches: one row a batch, as from `load_batches`.
        document: the SLO with tiers, or its document: `{tiers: {chat: {ttft: …}, batch: {…}}}`; a plain one is the
            only tier, `SLO`.

    Raises:
        SLOError: the document is wrong; the message names the place.

    Example:
        >>> tiers = {"chat": {"ttft": {"p90": {"threshold": 0.5}}}, "batch": {"latency": {"p90": {"threshold": 60}}}}
        >>> both = tuner.tiers(tuner.load_batches("runs/monday"), {"tiers": tiers})
        >>> {name: tier.summary.best_level for name, tier in both.tiers.items()}
        {'chat': 4, 'batch': 8}
    """
    slo = SLO.parse(document)
    judged = {name: (each, judge(batches, each)) for name, each in dict(slo.tiers or {ONLY: slo}).items()}
    return Tiers({name: Tier(each, rows, summarize(rows)) for name, (each, rows) in judged.items()})
