"""The best level for each tier of an SLO, and what it costs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tuner.core.text import plural
from tuner.errors import RequestError
from tuner.judging.slo import SLO
from tuner.judging.summary import Summary, answer, summarize
from tuner.judging.verdicts import COMPLIANT, judge

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

    @property
    def table(self) -> pd.DataFrame:
        """One row a tier: `tier`, `scenario`, `best_level`, `max_throughput` (output tokens/s), `goodput` (requests/s),
        `bracket`, `compliant` and `total` (batches), `slo`; missing where no batch complies.
        """
        rows = [_row(name, tier) for name, tier in self.tiers.items()]
        kinds = {"best_level": "object", "max_throughput": "float64", "goodput": "float64", "scenario": "str"}
        return pd.DataFrame(rows).astype(kinds)


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


def _row(name: str, tier: Tier) -> dict[str, Any]:
    summary, best = tier.summary, tier.summary.best
    return {
        "tier": name,
        "scenario": summary.scenario,
        "best_level": summary.best_level,
        "max_throughput": summary.max_throughput,
        "goodput": None if best is None else best["goodput"],
        **{part: getattr(summary, part) for part in ("bracket", "compliant", "total")},
        "slo": ", ".join(map(str, tier.slo.constraints)),
    }


_MILLION = 1e6
_HOUR = 3600.0  # seconds


@dataclass(frozen=True)
class Price:
    """What one GPU costs, in whatever currency.

    Raises:
        RequestError: one of them is no such number.
    """

    per_gpu_hour: float  # above 0
    gpus: int | None = None  # how many; None for as many as the server had

    def __post_init__(self) -> None:
        price, gpus = self.per_gpu_hour, self.gpus
        if isinstance(price, bool) or not isinstance(price, int | float) or not 0 < price < math.inf:
            raise RequestError(f"price_per_gpu_hour must be a number above 0, not {price!r}")
        if gpus is not None and (isinstance(gpus, bool) or not isinstance(gpus, int) or gpus < 1):
            raise RequestError(f"gpus must be a whole number from 1, not {gpus!r}")

    @classmethod
    def optional(cls, per_gpu_hour: float | None, gpus: int | None) -> "Price | None":
        """The price that somebody asked for; None where nobody did.

        Raises:
            RequestError: a number is wrong, or there are only GPUs.
        """
        if per_gpu_hour is None and gpus is not None:
            raise RequestError("gpus are for a price: give price_per_gpu_hour too")
        return None if per_gpu_hour is None else cls(per_gpu_hour, gpus)


def cost_text(batch: Mapping[Any, Any], price: Price, gpus: int) -> str:
    """What a million tokens cost at the level of a batch, if the server were kept as busy as in it.

    price · GPUs · 10⁶ / (throughput in tokens/s · 3600). The output tokens bear all of it in the one number, the input
    tokens in the other: two views of one bill, which do not add up. Only the one that is spread evenly over both may be
    multiplied with all tokens of a bill.

    Returns:
        A sentence; empty where the batch doesn't comply with the SLO (verdict neither pass nor soft): nobody could sell
        that. What is left out of it is not known.
    """
    if batch.get("verdict") not in COMPLIANT:
        return ""
    costs = {kind: _per_million(price.per_gpu_hour * gpus, batch, kind) for kind in ("output", "input", "total")}
    total = costs.pop("total")
    shares = " or ".join(f"{value:.4g} per million {kind} tokens" for kind, value in costs.items() if value)
    of_both = f"; {total:.4g} per million of both together" if total else ""
    server = f"{plural(gpus, 'GPU')} at {price.per_gpu_hour:g} an hour"
    return f"Cost with {server}: {shares or 'not known'}{' (each bears all of it)' if shares else ''}{of_both}."


def _per_million(hourly: float, batch: Mapping[Any, Any], kind: str) -> float | None:
    throughput = batch.get(f"{kind}_throughput")
    if not isinstance(throughput, int | float) or not 0 < throughput < math.inf:
        return None
    return hourly * _MILLION / (throughput * _HOUR)
