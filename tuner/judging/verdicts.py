"""Every batch judged against every constraint, and how sure the verdict is."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tuner.batches.batch import Reading
from tuner.batches.load import readings_of
from tuner.batches.parsing import mend
from tuner.batches.result_file import Columns, Floats, measure
from tuner.core.metrics import PERCENTILES, requests_needed
from tuner.core.records import COMPLETED
from tuner.core.text import change, percent
from tuner.errors import SLOError
from tuner.judging.intervals import CONFIDENCE, clopper_pearson, column_of, intervals
from tuner.judging.slo import SECTIONS, SLO, Constraint

PASS, SOFT, FAIL, UNKNOWN = "pass", "soft", "fail", "unknown"
Flags = NDArray[np.bool_]
#: Verdicts of batches that count.
COMPLIANT = (PASS, SOFT)
#: Outcomes in which the server answered, if only with errors.
ANSWERED = (COMPLETED, "all_errors")
#: Outcomes that say nothing of the server.
NOT_RUN = ("missing", "skipped")
HARD_FAIL, SOFT_VIOLATION = "HARD_FAIL", "SOFT_VIOLATION"
#: Relative difference that rounding makes, such as by a file in milliseconds: it violates nothing.
ROUNDING = 1e-9
#: Largest exponent of a penalty, so that it stays finite: e^20 is 5 · 10⁸.
STEEPEST = 20.0
#: Where the load generator's own share of a metric is found; of the whole latency it is at least that of its TTFT.
CLIENT_SHARES = {"ttft": "client_ttft", "tpot": "client_tpot", "e2e_latency": "client_ttft"}


def judge(batches: pd.DataFrame, slo: SLO | Mapping[str, Any]) -> pd.DataFrame:
    """Judge every batch against the SLO.

    Args:
        batches: one row a batch, as from `load_batches`.
        slo: the SLO, or its document.

    Returns:
        A copy with `verdict` (pass, soft, fail, unknown), `violations` (a list of dicts: metric, threshold, actual,
        violation_ratio, type), `verdict_reason`, `penalty` (0 where nothing is violated, NaN where unknown),
        `evidence` (strong, weak; weak where requests are too few, a value lies nearer to its threshold than the load
        generator's own share of it, or its interval on both sides or unknown), `evidence_reason` (why it is weak),
        `attainment` (the share of all requests, failed ones included, that met every latency threshold; NaN where the
        file is gone or has no requests) and `goodput` (such requests/s). A batch in which every request failed violates
        the error rate; one that ended otherwise, or that was run again later, is unknown. The intervals are those of
        `intervals` where the batches have them already; else they are computed for what is limited.

    Raises:
        SLOError: `slo` is a document and is wrong.

    Example:
        >>> judged = tuner.judge(tuner.load_batches("runs/monday"), {"ttft": {"p90": {"threshold": "500 ms"}}})
        >>> judged["verdict"].tolist()
        ['pass', 'pass', 'pass', 'fail']
    """
    return _Judgement(batches, SLO.parse(slo)).frame()


def check_batch_slo_compliance(
    batch_metrics: Mapping[str, Any], slo_config: SLO | Mapping[str, Any] | None = None
) -> tuple[bool, dict[str, dict[str, Any]]]:
    """Judge one batch by what genai-bench wrote of it.

    Args:
        batch_metrics: an `aggregated_metrics` dict (in seconds, unless it holds `_time_unit`), or the whole file's.
        slo_config: the SLO, or its document; without one every batch counts.

    Returns:
        Whether the batch counts (soft violations do), and for each violated limit (a percentile of `latency` by itself,
        `p90`; else by metric: `ttft`, `tpot_p95`, `error_rate`): threshold, actual, violation_ratio and type (HARD_FAIL
        or SOFT_VIOLATION). A metric that is missing or too weak to judge makes the batch not count and is listed too,
        with a `reason` and without a ratio.

    Raises:
        SLOError: the SLO is wrong.

    Example:
        >>> aggregates = json.loads(Path("aggregates.json").read_text())
        >>> tuner.check_batch_slo_compliance(aggregates, {"latency": {"p90": {"threshold": 5.0}}})
        (True, {})
    """
    if slo_config is None:
        return True, {}
    if not isinstance(batch_metrics, Mapping):
        raise SLOError(f"batch_metrics must be the aggregated_metrics of one batch, not {type(batch_metrics).__name__}")
    is_file = isinstance(batch_metrics.get("aggregated_metrics"), Mapping)
    whole = {"aggregated_metrics": dict(batch_metrics), "_time_unit": batch_metrics.get("_time_unit")}
    numbers = measure(Columns(mend(dict(batch_metrics) if is_file else whole)))
    row = {name: getattr(numbers, name, None) for name in ("completed", *SECTIONS.values())}
    judgement = _Judgement(pd.DataFrame([row | numbers.latencies]), SLO.parse(slo_config))
    shown = [finding for finding in judgement.findings if finding.violated[0] or finding.unknown[0]]
    return judgement.verdicts[0] in COMPLIANT, {finding.constraint.key: finding.detail(0) for finding in shown}


class _Judgement:
    """The table of all constraints against all batches."""

    def __init__(self, batches: pd.DataFrame, slo: SLO) -> None:
        self.batches, self.slo = batches, slo
        self.confidence = slo.confidence or CONFIDENCE
        superseded = column_of(batches, "superseded", False).eq(True)
        self.judged = (column_of(batches, "outcome", COMPLETED).isin(ANSWERED) & ~superseded).to_numpy(bool)
        self.findings = [_Finding(self, constraint) for constraint in slo.all_constraints]
        hard, unknown, soft = (self._any(mask) for mask in ("hard", "unknown", "soft"))
        chosen = np.select([~self.judged, hard, unknown, soft], [UNKNOWN, FAIL, UNKNOWN, SOFT], PASS)
        self.verdicts = [str(verdict) for verdict in chosen]

    def numbers(self, name: str) -> Floats:
        if name == "attainment":
            return self.attainment
        values = pd.to_numeric(column_of(self.batches, name, np.nan), errors="coerce").to_numpy(
            "float64", na_value=np.nan
        )
        # where nothing completed, all that was sent failed
        lacking = np.where(self.numbers("completed") == 0, 1.0, np.nan) if name == "error_rate" else np.nan
        return np.where(np.isfinite(values), values, lacking)

    def frame(self) -> pd.DataFrame:
        rows, duration = range(len(self.batches)), self.numbers("duration")
        strong = self.judged & np.array([not doubt for doubt in self.doubts], bool)
        total = sum((finding.penalty for finding in self.findings), start=np.zeros(len(self.batches)))
        before = self.batches
        if "attainment" in before:  # found anew, behind all else
            before = before.drop(columns="attainment").copy()  # in few blocks
        judged = before.assign(
            verdict=self._texts(self.verdicts),
            verdict_reason=self._texts(list(map(self.reason, rows))),
            violations=pd.Series(list(map(self.violations, rows)), self.batches.index, dtype="object"),
            penalty=np.where(np.array(self.verdicts, "str") == UNKNOWN, np.nan, total),
            evidence=self._texts(np.where(strong, "strong", "weak")),
            evidence_reason=self._texts(self.doubts),
            attainment=self.attainment,
            # as `vllm bench serve` counts it; DistServe (OSDI '24) calls so the highest rate that meets the SLO
            goodput=self.attainment * self.numbers("requests") / np.where(duration > 0, duration, np.nan),
        )
        judged.attrs["slo"] = self.slo.to_dict()  # so that a figure of it can draw the thresholds
        return judged

    def _texts(self, values: Any) -> "pd.Series[Any]":
        return pd.Series(values, self.batches.index, dtype="str")

    def _any(self, mask: str) -> Flags:
        return np.asarray(np.any([getattr(finding, mask) for finding in self.findings], axis=0))

    def violations(self, row: int) -> list[dict[str, Any]]:
        return [finding.violation(row) for finding in self.findings if self.judged[row] and finding.violated[row]]

    def reason(self, row: int) -> str:
        """Why the verdict is what it is, as a sentence; empty for a pass."""
        outcome, reason = (str(column_of(self.batches, name).iloc[row]) for name in ("outcome", "reason"))
        if outcome not in ("", COMPLETED) or not self.judged[row]:
            return ending(outcome, reason)
        return "; ".join(text for finding in self.findings if (text := finding.text(row)))

    @cached_property
    def readings(self) -> list[Reading | None]:
        return readings_of(self.batches)

    @cached_property
    def attainment(self) -> Floats:
        """One that was found before by the same thresholds counts: a report lacks the requests, and a mean has none."""
        limits, known = latency_limits(self.slo), np.full(len(self.batches), np.nan)
        before = self.batches.attrs.get("slo")
        if before and latency_limits(SLO.parse(before)) == limits:
            known = column_of(self.batches, "attainment", np.nan).to_numpy("float64", na_value=np.nan)
        if not np.isnan(known).any():
            return known
        own = np.array([_attainment(reading, limits) for reading in self.readings], np.float64)
        return np.where(np.isnan(known), own, known)

    @cached_property
    def bounds(self) -> pd.DataFrame:
        """The intervals of what is limited: those that the batches have already, or else from their requests."""
        if all(f"{column}_low" in self.batches for column in self.slo.bounded):
            return self.batches
        return intervals(self.batches, self.slo.bounded, self.confidence, self.readings)

    @cached_property
    def doubts(self) -> list[str]:
        """Why the evidence is weak; empty where it is strong, or nothing was judged."""
        few, near = (self._any(mask) for mask in ("weak", "near"))
        across = np.full(len(self.batches), "", "object")
        for finding in reversed(self.findings):  # of several that leave it open, the first is named
            for row, doubt in finding.doubts(self.bounds, self.confidence):
                across[row] = doubt
        return [str(doubt) for doubt in np.select([~self.judged, few, near], ["", TOO_FEW, TOO_NEAR], across)]


class _Finding:
    """One constraint against all batches; every field is an array with one element a batch."""

    def __init__(self, judgement: _Judgement, constraint: Constraint) -> None:
        self.constraint = constraint
        slo = judgement.slo
        self.actual = judgement.numbers(constraint.column)
        self.ratio = constraint.sign * (self.actual - constraint.threshold) / (constraint.threshold or 1.0)
        self.violated = self.ratio > ROUNDING
        self.needed = requests_needed_for(constraint, judgement.confidence)
        self.completed = judgement.numbers("completed")
        requests = judgement.numbers("requests")
        self.requests = np.where(np.isnan(requests), self.completed, requests)
        self.weak = (self.needed > 0) & ~(self.completed >= self.needed)
        if constraint.is_of_all_requests:
            self.weak &= ~self.violated
        self.missing = np.isnan(self.actual) & (not constraint.implied)
        self.unknown = self.missing | (self.weak & (slo.confidence is not None))
        self.share = judgement.numbers(CLIENT_SHARES.get(constraint.metric, ""))
        self.near = np.min([np.abs(self.actual - turn) for turn in constraint.turns], axis=0) < self.share
        is_hard = constraint.hard_fail & (self.ratio > constraint.fail_ratio + ROUNDING)
        self.over = self.violated & (is_hard | (self.completed == 0))  # where nothing was answered, nothing is soft
        self.hard = self.over & ~self.unknown
        self.soft = self.violated & ~self.over & ~self.unknown
        exponent = np.clip(np.nan_to_num(self.ratio) / slo.steepness, 0, STEEPEST)
        self.penalty = constraint.weight * np.expm1(np.where(self.violated, exponent, 0.0))

    def violation(self, row: int) -> dict[str, Any]:
        return {
            "metric": self.constraint.column,
            "threshold": self.constraint.threshold,
            "actual": float(self.actual[row]),
            "violation_ratio": float(self.ratio[row]),
            "type": HARD_FAIL if self.over[row] else SOFT_VIOLATION,
        }

    def detail(self, row: int) -> dict[str, Any]:
        detail = {name: value for name, value in self.violation(row).items() if name != "metric"}
        if not self.violated[row]:
            actual = None if self.missing[row] else float(self.actual[row])
            detail |= {"actual": actual, "violation_ratio": None, "type": HARD_FAIL}
        return detail | ({"reason": self.text(row)} if self.unknown[row] or self.constraint.implied else {})

    def text(self, row: int) -> str:
        """What is to be said of this constraint; nothing where it is met."""
        name, limit = self.constraint.label, f"{self.constraint.threshold:.4g}{self.constraint.unit}"
        if self.missing[row]:
            return f"{name} is not known"
        if self.unknown[row]:
            there = "an unknown number" if np.isnan(self.completed[row]) else f"{self.completed[row]:.0f}"
            return f"{name} needs {self.needed} completed requests, and {there} completed"
        if not self.violated[row]:
            return ""
        against = f"{self.actual[row]:.4g}{self.constraint.unit} {'<' if self.constraint.sign < 0 else '>'} {limit}"
        implied = ", implied as the SLO names no error_rate" if self.constraint.implied else ""
        own = f", of which {self.share[row]:.2g} s may be the load generator's own" if self.near[row] else ""
        ratio = float(self.ratio[row])
        form = "+.2g" if ratio < 0.1 else "+.0f"  # a small excess is none of 0 %
        excess = f"{100 * ratio:{form}} %" if ratio < 10 else change(ratio)
        return f"{name} {against} ({excess}{implied}{own})"

    def doubts(self, bounds: pd.DataFrame, confidence: float) -> Iterator[tuple[int, str]]:
        """The batches whose verdict the interval of the metric leaves open, each with that in words."""
        if self.constraint.is_of_all_requests and not self.needed:
            return
        low, high = self._interval(bounds, confidence)
        label, unit = self.constraint.label, self.constraint.unit
        for turn in reversed(self.constraint.turns):
            limit = "threshold" if turn == self.constraint.threshold else "hard limit"
            # over several runs a batch's own value may lie outside: then they disagree, which is doubt as well
            across = (np.fmin(low, self.actual) <= turn) & (turn < np.fmax(high, self.actual)) & ~np.isnan(low)
            for row in map(int, np.flatnonzero(across)):
                lies = "lies" if low[row] <= self.actual[row] <= high[row] else "is one of runs whose mean lies"
                between = f"{self.actual[row]:.3g}{unit} {lies} between {low[row]:.3g} and {high[row]:.3g}{unit}"
                sides = f"on both sides of the {limit} {turn:.4g}{unit}"
                yield row, f"{label} {between} at {percent(confidence)}, {sides}"
        of_requests = bounds["interval_over"].ne("").to_numpy() if "interval_over" in bounds else False
        for row in map(int, np.flatnonzero(np.isnan(low) & ~np.isnan(self.actual) & of_requests)):
            yield row, f"how far {label} may be off is not known: {TOO_SHORT}; measure longer"

    def _interval(self, bounds: pd.DataFrame, confidence: float) -> tuple[Floats, Floats]:
        """A share of all requests has each side at this confidence, which agrees with how many its limit needs."""
        if self.constraint.is_of_all_requests:
            return clopper_pearson(self.actual * self.requests, self.requests, 1 - confidence)
        low, high = (bounds[f"{self.constraint.column}_{side}"].to_numpy("float64") for side in ("low", "high"))
        return low, high


def ending(outcome: str, reason: str) -> str:
    """How a batch or a trial ended in words, such as `out of memory: CUDA out of memory`."""
    return ": ".join(filter(None, [outcome.replace("_", " ").removeprefix(COMPLETED), reason]))


def met(reading: Reading, limits: Mapping[str, float]) -> NDArray[np.bool_]:
    """Whether each completed request met every limit: seconds, by `ttft`, `tpot`, `e2e_latency`."""
    meets = np.ones(reading.batch.completed or 0, bool)
    for latency, limit in limits.items():
        meets &= reading.latencies[latency] <= limit * (1 + ROUNDING)
    return meets


def _attainment(reading: Reading | None, limits: Mapping[str, float]) -> float:
    """The share of all requests that met every limit; NaN without the file, or a limited latency."""
    if reading is None or not reading.batch.requests or not reading.recomputed:
        return np.nan
    if reading.batch.completed and any(np.isnan(reading.latencies[latency]).all() for latency in limits):
        return np.nan
    return float(met(reading, limits).sum() / reading.batch.requests)


#: Why evidence is weak: there are too few requests, or the verdict may be the load generator's own doing.
TOO_FEW = "too few for what the SLO limits; measure longer"
TOO_SHORT = "the level is too short for how slowly it varies"
TOO_NEAR = "the verdict turns on less than the load generator's own share of the latency"


def requests_needed_for(constraint: Constraint, confidence: float) -> int:
    """How many requests a constraint needs to be judged: the mean as many as the median, a throughput none.

    An error rate needs as many without an error as only a server of fewer errors would give, with this confidence: 299
    for 1 % at 0.95; an attainment of 99 % likewise. A limit of no request at all can only be refuted.
    """
    if constraint.is_of_all_requests and not constraint.implied and 0 < constraint.threshold < 1:
        allowed = constraint.threshold if constraint.sign > 0 else 1 - constraint.threshold
        return requests_needed(1 - allowed, confidence)
    if not constraint.is_latency:
        return 0
    return requests_needed(PERCENTILES.get(constraint.statistic, 50.0) / 100, confidence)


def latency_limits(slo: SLO) -> dict[str, float]:
    """What a single request must meet: the strictest threshold of each latency."""
    latencies = sorted((one for one in slo.constraints if one.is_latency), key=lambda one: -one.threshold)
    return {constraint.metric: constraint.threshold for constraint in latencies}
