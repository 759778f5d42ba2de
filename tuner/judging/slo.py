"""The SLO document, read strictly: constraints, each metric + statistic + threshold."""

import logging
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tuner.core import metrics
from tuner.core.documents import read_document
from tuner.errors import SLOError

logger = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class _Part:
    """A part of an SLO's document and where it stands, for messages such as `slo.yaml: ttft.threshold must be …`."""

    value: Any
    name: str  # of the document
    path: str = ""

    def part(self, key: str) -> "_Part":
        return _Part(self.value[key], self.name, f"{self.path}.{key}" if self.path else key)

    def error(self, message: str) -> SLOError:
        return SLOError(": ".join(filter(None, (self.name, self.path, message))))

    def must_be_mapping(self, otherwise: str) -> None:
        if not isinstance(self.value, Mapping):
            raise self.error(f"{otherwise}, not {self.value!r}")

    def must_know(self, keys: list[str]) -> None:
        for key in self.value:
            if key not in keys:
                raise self.error(f"unknown key {key!r}; known are {', '.join(keys)}")

    def number(self, key: str, default: float | None, must: str) -> Any:
        if key not in self.value:
            return default
        number, unit = _number_and_unit(self.value[key])
        if unit or not _MUST_BE[must](number):
            raise self.part(key).error(f"must be a number {must}, not {self.value[key]!r}")
        return number


#: What each section of the file limits, latencies first: a column, without its statistic.
SECTIONS = {
    metrics.METRICS[name].section: name
    for name in dict.fromkeys([*metrics.WHOLE_FIRST, *metrics.METRICS])
    if metrics.METRICS[name].section
}
#: Units that a threshold may name, and how many of each are a second.
_PER_SECOND = {"s": 1, "ms": 1000}
#: Most errors that an SLO without `error_rate` lets pass.
MOST_ERRORS = 0.1
STEEPNESS = 0.1
_SHAPE = {"fail_ratio": 0.0, "weight": 1.0}
_KEYS = ["threshold", "hard_fail", *_SHAPE]
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
        return metrics.METRICS[self.metric].unit == metrics.SHARE

    @property
    def sign(self) -> int:
        """-1 where the threshold is the least allowed and not the most."""
        return -1 if metrics.METRICS[self.metric].more_is_better else 1

    @property
    def label(self) -> str:
        """What it limits, as texts call it: `TTFT p90`."""
        return metrics.column_name(self.column)

    def __str__(self) -> str:
        return f"{self.label} {'≥' if self.sign < 0 else '≤'} {self.threshold:g}{self.unit}"

    @property
    def unit(self) -> str:
        """The unit of threshold and actual value, for texts."""
        return metrics.METRICS[self.metric].suffix

    @property
    def key(self) -> str:
        """What a log calls it: a percentile of the whole latency by itself, a mean by its section: `p90`, `ttft`."""
        if self.statistic == "mean":
            return metrics.METRICS[self.metric].section
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
        return read(_Part(document, name))

    @property
    def all_constraints(self) -> tuple[Constraint, ...]:
        """What is judged: the constraints written, and last a limit on errors in any case.

        Where none is written, since a failed request met no latency whatever the survivors did: a percentile q over all
        requests, failed ones counted as endless, leaves room for 1 − q of them; the strictest percentile named sets the
        limit, and it is never above `MOST_ERRORS`.
        """
        percentiles = [
            metrics.PERCENTILES[c.statistic] / 100 for c in self.constraints if c.statistic in metrics.PERCENTILES
        ]
        room = min([round(1 - q, 6) for q in percentiles] + [MOST_ERRORS])
        errors = [one for one in self.constraints if one.metric == "error_rate"]
        others = (one for one in self.constraints if one.metric != "error_rate")
        return (*others, *(errors or [Constraint("error_rate", "", room, implied=True)]))

    @property
    def bounded(self) -> list[str]:
        """The columns that it limits and that have an interval; a share of all requests has none."""
        return list(dict.fromkeys(one.column for one in self.constraints if not one.is_of_all_requests))

    def to_dict(self) -> dict[str, Any]:
        """The document that `parse` reads back as this SLO."""
        if self.tiers:
            return {TIERS: {name: slo.to_dict() for name, slo in self.tiers}}
        document: dict[str, Any] = {}
        for constraint in self.constraints:
            section = document.setdefault(metrics.METRICS[constraint.metric].section, {})
            target = section.setdefault(constraint.statistic, {}) if constraint.statistic else section
            target.update({name: getattr(constraint, name) for name in _KEYS})
        extras = {"confidence": self.confidence} if self.confidence is not None else {}
        return document | extras | {"steepness": self.steepness}


def _slo(document: _Part) -> SLO:
    document.must_be_mapping("an SLO is a mapping such as {ttft: {threshold: 0.5}}")
    document.must_know([*SECTIONS, "confidence", "steepness"])
    sections = [section for section in SECTIONS if section in document.value]
    limits = [one for section in sections for one in _constraints(document.part(section), SECTIONS[section])]
    if "attainment" in sections and not any(one.is_latency for one in limits):
        words = "is the share of requests that meet every latency threshold; give one"
        raise document.part("attainment").error(words)
    confidence = document.number("confidence", None, _BELOW_ONE)
    return SLO(tuple(limits), confidence, document.number("steepness", STEEPNESS, _POSITIVE))


def _tiered(document: _Part) -> SLO:
    """The first of several SLOs, which knows them all."""
    if beside := [key for key in document.value if key != TIERS]:
        raise document.error(f"{beside[0]!r} stands beside {TIERS}: write it into each tier that it is meant for")
    tiers = document.part(TIERS)
    if not tiers.value:
        raise tiers.error("names no tier")
    tiers.must_be_mapping("expected {name of the tier: its SLO}")
    for name in tiers.value:
        if not isinstance(name, str) or not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
            raise tiers.error(f"a tier has a name of at most {LONGEST_NAME} characters, not {name!r}")
    named = tuple((name, _slo(tiers.part(name))) for name in tiers.value)
    return replace(named[0][1], tiers=named)


def _constraints(section: _Part, metric: str) -> list[Constraint]:
    """The constraints of a section: of a latency one on the mean, or one a statistic."""
    if metric not in metrics.LATENCIES:
        constraint = _constraint(section, metric)
        if metrics.METRICS[metric].unit == metrics.SHARE and constraint.threshold > 1:
            raise section.error(f"threshold is a share of requests, at most 1, not {constraint.threshold:g}")
        return [constraint]
    section.must_be_mapping("expected {threshold: …} or {p90: {threshold: …}}")
    if "threshold" in section.value:
        return [_constraint(section, metric, "mean")]
    section.must_know([*metrics.STATISTICS, "threshold"])
    if not section.value:
        raise section.error("has no threshold")
    return [_constraint(section.part(statistic), metric, statistic) for statistic in section.value]


def _constraint(limit: _Part, metric: str, statistic: str = "") -> Constraint:
    limit.must_be_mapping("expected {threshold: …}")
    limit.must_know(_KEYS)
    if "threshold" not in limit.value:
        raise limit.error("has no threshold")
    hard_fail = limit.value.get("hard_fail", True)
    if not isinstance(hard_fail, bool):
        raise limit.part("hard_fail").error(f"must be true or false, not {hard_fail!r}")
    threshold = _threshold(limit.part("threshold"), metrics.METRICS[metric])
    shape = {name: limit.number(name, default, _NOT_NEGATIVE) for name, default in _SHAPE.items()}
    return Constraint(metric, statistic, threshold, hard_fail, **shape)


def _threshold(limit: _Part, metric: metrics.Metric) -> float:
    """A threshold in seconds (or as it stands, where it is no time): finite, above 0, or 0 where that is strictest."""
    number, unit = _number_and_unit(limit.value)
    timed = metric.unit == metrics.SECONDS
    if unit and not (timed and unit in _PER_SECOND):
        wrong = f"is none of {', '.join(_PER_SECOND)}" if timed else "has no place here, the threshold is a bare number"
        raise limit.error(f"the unit {unit!r} {wrong}")
    must = _NOT_NEGATIVE if metric.unit == metrics.SHARE and not metric.more_is_better else _POSITIVE
    if not _MUST_BE[must](number):
        words = f"must be a number {must}{', in seconds or such as 500 ms' if timed else ''}"
        raise limit.error(f"{words}, not {limit.value!r}")
    return number / _PER_SECOND[unit or "s"]
