"""The table of metrics: what each number of a batch is called, its unit, which way is better, and what limits it."""

import math
from dataclasses import dataclass

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0}
STATISTICS = ("mean", *PERCENTILES)
SECONDS, SHARE = "s", "share"
DRIFTED = "drifted by "  # by these words a warning says that a latency changed through a level; by how much follows
#: Units as tables show them: (text, so many of them are one of the unit's own).
_IN_TABLES = {SHARE: ("%", 100.0), "ms": ("ms", 1000.0)}


@dataclass(frozen=True)
class Metric:
    """One metric of a batch."""

    name: str  # in texts
    unit: str = SECONDS  # of its column; a metric in seconds has one column a statistic
    section: str = ""  # of the SLO file that limits it; empty where none does
    label: str = ""  # in headers of tables
    decimals: int = 3  # there
    more_is_better: bool = False  # so that a limit is the least allowed and not the most
    in_milliseconds: bool = False  # there

    @property
    def suffix(self) -> str:
        """Its unit behind a bare number: ` s`; nothing for a share."""
        return "" if self.unit == SHARE else f" {self.unit}"

    @property
    def grows_with_load(self) -> bool:
        """Whether more load helps to reach a limit from below; a share of requests only falls."""
        return self.more_is_better and self.unit != SHARE


METRICS = {  # by column, without the statistic of a latency. A limit on one of them is its `section`.
    "ttft": Metric("TTFT", section="ttft", label="TTFT"),
    "tpot": Metric("TPOT", section="tpot", label="TPOT", decimals=1, in_milliseconds=True),
    "e2e_latency": Metric("e2e latency", section="latency", label="latency"),
    "itl": Metric("ITL", section="itl", label="ITL", decimals=1, in_milliseconds=True),
    "ttfa": Metric("TTFA", section="ttfa", label="TTFA"),
    "error_rate": Metric("error rate", SHARE, "error_rate", "errors", 1),
    "output_throughput": Metric("output throughput", "tokens/s", "min_throughput", "output", 1, True),
    "request_throughput": Metric("request throughput", "requests/s", "min_request_throughput", "requests", 2, True),
    "input_throughput": Metric("input throughput", "tokens/s", "", "input", 1, True),
    "total_throughput": Metric("total throughput", "tokens/s", "", "total", 1, True),
    "cache_hit_rate": Metric("cache hit rate", SHARE, "", "cached", 1, True),
    "energy_per_token": Metric("energy per output token", "J", "", "energy", 2),
    "attainment": Metric("attainment", SHARE, "attainment", "met SLO", 1, True),
    "goodput": Metric("goodput", "requests/s", "", "goodput", 2, True),
    "max_throughput": Metric("compliant maximum", "tokens/s", "", "maximum", 1, True),
}
LATENCIES = tuple(name for name, metric in METRICS.items() if metric.unit == SECONDS)
#: Those that are always shown, as people read them: the whole first. The others are where an SLO limits them.
WHOLE_FIRST = ("e2e_latency", "ttft", "tpot")
#: The latency columns of a batch, `ttft_mean` … `ttfa_p99`.
LATENCY_COLUMNS = tuple(f"{latency}_{statistic}" for latency in LATENCIES for statistic in STATISTICS)


def split(column: str) -> tuple[str, str]:
    """A column's metric and its statistic: (`ttft`, `p90`); one that is no latency has none."""
    latency, _, statistic = column.rpartition("_")
    return (latency, statistic) if latency in LATENCIES else (column, "")


def metric_of(column: str) -> Metric:
    """What the table says of a column's metric; one without a unit where it does not know it."""
    name, _ = split(column)
    return METRICS.get(name) or Metric(name.replace("_", " "), "")


def column_name(column: str) -> str:
    """A column in texts: `TTFT p90`, `output throughput`."""
    return f"{metric_of(column).name} {split(column)[1]}".strip()


def table_column(column: str) -> tuple[str, str, float, int]:
    """A column in tables: (header with its unit, the column, factor to that unit, decimals)."""
    metric = metric_of(column)
    unit, factor = _IN_TABLES.get("ms" if metric.in_milliseconds else metric.unit, (metric.unit, 1.0))
    return f"{metric.label} {split(column)[1]}".strip() + f" ({unit})", column, factor, metric.decimals


def requests_needed(percentile: float, confidence: float = 0.95) -> int:
    """How many requests a percentile (as 0.99) needs, so that with this confidence at least one lies above it.

    The least n with percentileⁿ ≤ 1 − confidence: ln(1−c)/ln(q), 29 for p90, 59 for p95, 299 for p99 at 0.95 (the
    one-sided non-parametric tolerance bound of Wilks, 1941).
    """
    return math.ceil(math.log(1 - confidence) / math.log(percentile))
