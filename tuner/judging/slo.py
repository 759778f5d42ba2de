"""The SLO document, read strictly: constraints, each metric + statistic + threshold."""

import logging
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tuner.core.documents import read_document
from tuner.core.metrics import (
    LATENCIES,
    METRICS,
    PERCENTILES,
    SECONDS,
    SHARE,
    STATISTICS,
    WHOLE_FIRST,
    Metric,
    column_name,
)
from tuner.errors import SLOError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Position:
    """Where in an SLO something stands, for messages such as `slo.yaml: ttft.p90.threshold must be …`."""

    name: str
    path: str = ""

    def below(self, key: str) -> "Position":
        """The place of `key` within this one."""
        return Position(self.name, f"{self.path}.{key}" if self.path else key)

    def error(self, message: str) -> SLOError:
        """An error that starts with this place."""
        return SLOError(": ".join(part for part in (self.name, self.path, message) if part))

    def must_be_mapping(self, value: Any, otherwise: str) -> None:
        """Refuse what is no mapping."""
        if not isinstance(value, Mapping):
            raise self.error(f"{otherwise}, not {value!r}")

    def must_know(self, value: Mapping[str, Any], keys: list[str]) -> None:
        """Refuse keys that are none of `keys`."""
        for key in value:
            if key not in keys:
                raise self.error(f"unknown key {key!r}; known are {', '.join(keys)}")


def _number_and_unit(value: Any) -> tuple[float, str]:
    """A number and the unit behind it; NaN where it is no number, or an ambiguous one such as 010."""
    match = re.fullmatch(r"\s*([+-]?(?!0\d)(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([^\d\s.]*)\s*", str(value))
    return (float(match[1]), match[2]) if match else (math.nan, "")


#: what a number must be, and how that is tried
_POSITIVE, _NOT_NEGATIVE, _BELOW_ONE = "above 0", "that is 0 or more", "between 0 and 1"
_MUST_BE: dict[str, Callable[[float], bool]] = {
    _POSITIVE: lambda number: 0 < number < math.inf,
    _NOT_NEGATIVE: lambda number: 0 <= number < math.inf,
    _BELOW_ONE: lambda number: 0 < number < 1,
}


def _number_at(value: Mapping[str, Any], key: str, place: Position, default: Any, must: str) -> Any:
    if key not in value:
        return default
    number, unit = _number_and_unit(value[key])
    if unit or not _MUST_BE[must](number):
        raise place.below(key).error(f"must be a number {must}, not {value[key]!r}")
    return number


#: What each section of the file limits, latencies first: a column, without its statistic.
SECTIONS = {METRICS[name].section: name for name in dict.fromkeys([*WHOLE_FIRST, *METRICS]) if METRICS[name].section}
#: Units that a threshold may name, and how many of each are a second.
_PER_SECOND = {"s": 1, "ms": 1000}
#: Most errors that an SLO without `error_rate` lets pass.
MOST_ERRORS = 0.1
STEEPNESS = 0.1
_KEYS = ["threshold", "hard_fail", "fail_ratio", "weight"]
TIERS, LONGEST_NAME = "tiers", 40


@dataclass(frozen=True)
class Constraint:
    """One metric, one statistic, one threshold."""

    metric: str  # one of `core.metrics.METRICS` that has a section
    statistic: str  # `mean` or a percentile; empty for the metrics that have none
    threshold: float  # in the metric's unit; what lies exactly at it passes
    hard_fail: bool = True  # whether a violation can be hard at all
    fail_ratio: float = 0.0  # the violation ratio above which it is
    weight: float = 1.0  # of its penalty
    implied: bool = False  # nobody wrote it; see `SLO.all_constraints`

    @property
    def column(self) -> str:
        """The column of `load_batches` that it limits."""
        return f"{self.metric}_{self.statistic}" if self.statistic else self.metric

    @property
    def is_latency(self) -> bool:
        """Whether single requests can meet it."""
        return bool(self.statistic)

    @property
    def is_of_all_requests(self) -> bool:
        """Whether it limits a share of all requests: a few never exclude that it is missed, but they can show it."""
        return METRICS[self.metric].unit == SHARE

    @property
    def grows_with_load(self) -> bool:
        """Whether more load helps to meet it."""
        return METRICS[self.metric].grows_with_load

    @property
    def sign(self) -> int:
        """-1 where the threshold is the least allowed and not the most."""
        return -1 if METRICS[self.metric].more_is_better else 1

    @property
    def label(self) -> str:
        """What it limits, as texts call it: `TTFT p90`."""
        return column_name(self.column)

    def __str__(self) -> str:
        return f"{self.label} {'≥' if self.sign < 0 else '≤'} {self.threshold:g}{self.unit}"

    @property
    def unit(self) -> str:
        """The unit of threshold and actual value, for texts."""
        return METRICS[self.metric].suffix

    @property
    def key(self) -> str:
        """What a log calls it: a percentile of the whole latency by itself, a mean by its section: `p90`, `ttft`."""
        if self.statistic == "mean":
            return METRICS[self.metric].section
        return self.statistic if self.statistic and self.metric == "e2e_latency" else self.column

    @property
    def turns(self) -> tuple[float, ...]:
        """The values at which the verdict turns: to soft, and to hard where that is elsewhere."""
        hard = self.threshold * (1 + self.sign * self.fail_ratio)
        return (self.threshold, hard) if self.hard_fail and self.fail_ratio else (self.threshold,)


@dataclass(frozen=True)
class SLO:
    """What a batch must meet to count.

    Args:
        constraints: all of them must hold.
        confidence: where set, a percentile of too few requests makes the verdict unknown.
        steepness: how fast the penalty of a violation grows; smaller is faster.
        tiers: where the document has several SLOs, all of them by name; this one is the same as the first.
    """

    constraints: tuple[Constraint, ...] = ()
    confidence: float | None = None
    steepness: float = STEEPNESS
    tiers: "tuple[tuple[str, SLO], ...]" = ()

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "SLO":
        """Read an SLO from a YAML or JSON file.

        Raises:
            PathError: the file cannot be read.
            SLOError: it is wrong; the message names the place.

        Example:
            >>> tuner.SLO.load("slo.yaml").to_dict()["ttft"]["p90"]["threshold"]
            0.5
        """
        file = Path(path).expanduser()
        return cls.parse(read_document(file, "the SLO", SLOError), str(file))

    @classmethod
    def recorded(cls, document: Any, where: object) -> "SLO | None":
        """The SLO that a run or a report holds; None where it holds none, or, with a warning, a damaged one."""
        try:
            return cls.parse(document) if document else None
        except SLOError as error:
            logger.warning("the SLO of %s is damaged, nothing is judged by it: %s", where, error)
            return None

    @classmethod
    def parse(cls, document: "SLO | Mapping[str, Any]", name: str = "SLO") -> "SLO":
        """Read an SLO from a dict of the same form as the file; `name` is for messages. One that is read already stays.

        Raises:
            SLOError: it is wrong; the message names the place.

        Example:
            >>> slo = tuner.SLO.parse({"latency": {"p50": {"threshold": 2.0}}, "error_rate": {"threshold": 0.01}})
            >>> [limit.column for limit in slo.constraints]
            ['e2e_latency_p50', 'error_rate']
        """
        if isinstance(document, SLO):
            return document
        read = _tiered if isinstance(document, Mapping) and TIERS in document else _slo
        return read(document, Position(name))

    @property
    def all_constraints(self) -> tuple[Constraint, ...]:
        """What is judged: the constraints written, and last a limit on errors in any case.

        Where none is written, since a failed request met no latency whatever the survivors did: a percentile q over all
        requests, failed ones counted as endless, leaves room for 1 − q of them; the strictest percentile named sets the
        limit, and it is never above `MOST_ERRORS`.
        """
        percentiles = [PERCENTILES[c.statistic] / 100 for c in self.constraints if c.statistic in PERCENTILES]
        room = min([round(1 - q, 6) for q in percentiles] + [MOST_ERRORS])
        errors = [one for one in self.constraints if one.metric == "error_rate"]
        others = (one for one in self.constraints if one.metric != "error_rate")
        return (*others, *(errors or [Constraint("error_rate", "", room, implied=True)]))

    def to_dict(self) -> dict[str, Any]:
        """The document that `parse` reads back as this SLO."""
        if self.tiers:
            return {TIERS: {name: slo.to_dict() for name, slo in self.tiers}}
        document: dict[str, Any] = {}
        for constraint in self.constraints:
            section = document.setdefault(METRICS[constraint.metric].section, {})
            target = section.setdefault(constraint.statistic, {}) if constraint.statistic else section
            target.update({name: getattr(constraint, name) for name in _KEYS})
        extras = {"confidence": self.confidence} if self.confidence is not None else {}
        return document | extras | {"steepness": self.steepness}


def _slo(document: Mapping[str, Any], place: Position) -> SLO:
    place.must_be_mapping(document, "an SLO is a mapping such as {ttft: {threshold: 0.5}}")
    place.must_know(document, [*SECTIONS, "confidence", "steepness"])
    constraints = [one for section in SECTIONS if section in document for one in _constraints(document, section, place)]
    if "attainment" in document and not any(one.is_latency for one in constraints):
        raise place.below("attainment").error("is the share of requests that meet every latency threshold; give one")
    return SLO(
        tuple(constraints),
        _number_at(document, "confidence", place, None, _BELOW_ONE),
        _number_at(document, "steepness", place, STEEPNESS, _POSITIVE),
    )


def _tiered(document: Mapping[str, Any], place: Position) -> SLO:
    """The first of several SLOs, which knows them all."""
    if beside := [key for key in document if key != TIERS]:
        raise place.error(f"{beside[0]!r} stands beside {TIERS}: write it into each tier that it is meant for")
    here, value = place.below(TIERS), document[TIERS] or {}
    here.must_be_mapping(value, "expected {name of the tier: its SLO}")
    if not value:
        raise here.error("names no tier")
    for name in value:
        if not isinstance(name, str) or not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
            raise here.error(f"a tier has a name of at most {LONGEST_NAME} characters, not {name!r}")
    tiers = tuple((name, _slo(content, here.below(name))) for name, content in value.items())
    return replace(tiers[0][1], tiers=tiers)


def _constraints(document: Mapping[str, Any], section: str, place: Position) -> list[Constraint]:
    """The constraints of a section: of a latency one on the mean, or one a statistic."""
    here, value, metric = place.below(section), document[section], SECTIONS[section]
    if metric not in LATENCIES:
        constraint = _constraint(value, metric, "", here)
        if METRICS[metric].unit == SHARE and constraint.threshold > 1:
            raise here.error(f"threshold is a share of requests, at most 1, not {constraint.threshold:g}")
        return [constraint]
    here.must_be_mapping(value, "expected {threshold: …} or {p90: {threshold: …}}")
    if "threshold" in value:
        return [_constraint(value, metric, "mean", here)]
    here.must_know(value, [*STATISTICS, "threshold"])
    if not value:
        raise here.error("has no threshold")
    return [_constraint(entry, metric, statistic, here.below(statistic)) for statistic, entry in value.items()]


def _constraint(value: Any, metric: str, statistic: str, place: Position) -> Constraint:
    place.must_be_mapping(value, "expected {threshold: …}")
    place.must_know(value, _KEYS)
    if "threshold" not in value:
        raise place.error("has no threshold")
    hard_fail = value.get("hard_fail", True)
    if not isinstance(hard_fail, bool):
        raise place.below("hard_fail").error(f"must be true or false, not {hard_fail!r}")
    return Constraint(
        metric,
        statistic,
        _threshold(value["threshold"], place.below("threshold"), METRICS[metric]),
        hard_fail,
        _number_at(value, "fail_ratio", place, 0.0, _NOT_NEGATIVE),
        _number_at(value, "weight", place, 1.0, _NOT_NEGATIVE),
    )


def _threshold(value: Any, place: Position, metric: Metric) -> float:
    """A threshold in seconds (or as it stands, where it is no time): finite, above 0, or 0 where that is strictest."""
    number, unit = _number_and_unit(value)
    timed = metric.unit == SECONDS
    allowed = list(_PER_SECOND) if timed else []
    if unit and unit not in allowed:
        what = f"is none of {', '.join(allowed)}" if allowed else "has no place here, the threshold is a bare number"
        raise place.error(f"the unit {unit!r} {what}")
    must = _NOT_NEGATIVE if metric.unit == SHARE and not metric.more_is_better else _POSITIVE
    if not _MUST_BE[must](number):
        raise place.error(f"must be a number {must}{', in seconds or such as 500 ms' if timed else ''}, not {value!r}")
    return number / _PER_SECOND[unit or "s"]
