"""What the best level costs, and how many servers like it a load takes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuner.core.text import percent, plural
from tuner.errors import RequestError
from tuner.judging.intervals import CONFIDENCE
from tuner.judging.levels import OPEN
from tuner.judging.summary import Summary
from tuner.judging.verdicts import COMPLIANT

_MILLION, _HOUR = 1e6, 3600.0  # tokens, seconds
_MONTH = 730.0  # hours, a twelfth of a year


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
    rates = {kind: batch.get(f"{kind}_throughput") for kind in ("output", "input", "total")}
    hourly = price.per_gpu_hour * gpus * _MILLION / _HOUR
    costs = {kind: hourly / rate for kind, rate in rates.items() if rate and 0 < rate < math.inf}
    total = costs.pop("total", None)
    shares = " or ".join(f"{value:.4g} per million {kind} tokens" for kind, value in costs.items())
    of_both = f"; {total:.4g} per million of both together" if total else ""
    server = f"{plural(gpus, 'GPU')} at {price.per_gpu_hour:g} an hour"
    return f"Cost with {server}: {shares or 'not known'}{' (each bears all of it)' if shares else ''}{of_both}."


@dataclass(frozen=True)
class Target:
    """The load that a fleet of such servers is to carry.

    Raises:
        RequestError: a number is not above 0.
    """

    rate: float | None = None  # requests per second, of all users together
    users: float | None = None  # requests in flight at once

    def __post_init__(self) -> None:
        for name, value in (("target_rate", self.rate), ("target_users", self.users)):
            if value is not None and not 0 < value < math.inf:
                raise RequestError(f"{name} must be a number above 0, not {value!r}")


def fleet_text(summary: Summary, target: Target, gpus: int, price: Price | None) -> list[str]:
    """How many servers like the best level's a load takes, with what is uncertain about it; a sentence each.

    Servers = load / what one carries at the best level that meets the SLO, rounded up; its interval is that of the
    throughput. What holds for one is taken to hold for each (linear in servers): no router was measured.

    Args:
        summary: of one server's batches.
        target: what the fleet is to carry.
        gpus: of one server, as `cost_text` has them; 0 where it has none.
        price: of a GPU-hour; None where nobody said.
    """
    loads = {"requests/s": target.rate, "users at once": target.users}
    lines = [_fleet(summary, load, unit, gpus, price) for unit, load in loads.items() if load]
    assumed = "That takes each server to carry what the measured one did; no router was measured."
    return [*lines, assumed] if lines and summary.best is not None else lines


def _fleet(summary: Summary, load: float, unit: str, gpus: int, price: Price | None) -> str:
    capacity = _capacity(summary, of_rate=unit == "requests/s")
    if capacity is None:
        reason = "no level meets the SLO" if summary.best is None else f"nobody measured how many {unit} one carries"
        return f"For {load:g} {unit}: none, since {reason}."
    servers, most, least = (math.ceil(load / number - 1e-9) for number in capacity)
    bound = "at most " if summary.bracket == OPEN else ""
    interval = f" ({least} to {most} at {percent(CONFIDENCE)})" if least < most else ""
    hourly = servers * gpus * price.per_gpu_hour if price else 0.0
    bill = f", {plural(servers * gpus, 'GPU')}" if gpus else ""
    cost = f" at {hourly:,.2f} an hour, {hourly * _MONTH:,.0f} a month of {_MONTH:g} hours" if hourly else ""
    each = f"{capacity[0]:.3g} each{bill}{cost}"
    return f"For {load:g} {unit}: {bound}{plural(servers, 'server')}{interval} of {each}."


def _capacity(summary: Summary, *, of_rate: bool) -> tuple[float, float, float] | None:
    """What one server carries, and the ends of its interval; None where nobody measured it."""
    if summary.best is None or not (of_rate or summary.best_level) or (summary.is_of_rates and not of_rate):
        return None
    if summary.is_of_rates or not of_rate:  # the level itself, at which the SLO holds
        level = float(summary.best_level or 0)
        return level, level, level
    tokens, one = summary.best["output_throughput"], float(summary.best["request_throughput"])
    ends = [summary.best.get(f"output_throughput_{side}", math.nan) / tokens * one for side in ("low", "high")]
    low, high = (one if math.isnan(end) else float(end) for end in ends)
    return (one, low, high) if one > 0 and low > 0 else None
