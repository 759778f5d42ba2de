"""What a search looks for, as it is shown: its name, its unit, and whether more is better."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from tuner.judging.score import LATENCIES, maximised, statistic_of
from tuner.judging.slo import NAMES
from tuner.judging.trials import THROUGHPUT_UNIT
from tuner.judging.verdicts import SLO


class Goal(NamedTuple):
    """One objective of a search as it is shown.

    Args:
        label: what it is called.
        unit: of its values.
        maximize: whether more is better.
    """

    label: str = "max throughput"
    unit: str = THROUGHPUT_UNIT
    maximize: bool = True

    @property
    def title(self) -> str:
        """For an axis or a header."""
        return f"{self.label} ({self.unit})"

    @property
    def decimals(self) -> int:
        """So many are worth being read."""
        return 1 if self.maximize else 4

    def of(self, value: float) -> str:
        """A value with its unit, and its name where the unit does not tell."""
        return f"{value:.1f} output {self.unit}" if self.maximize else f"{self.label} {value:.3g} {self.unit}"


#: what a search looks for where nothing else is asked
THROUGHPUT = Goal()


def goals_of(spec: Mapping[str, Any], slo: SLO, per_gpu: bool = False) -> tuple[Goal, ...]:
    """The objectives of a search's plain spec as they are shown."""
    wanted = spec.get("objective") or ["max_throughput"]
    return tuple(_goal(str(one), slo, per_gpu) for one in ([wanted] if isinstance(wanted, str) else wanted))


def _goal(objective: str, slo: SLO, per_gpu: bool) -> Goal:
    if objective in LATENCIES:
        metric = LATENCIES[objective]
        return Goal(f"{NAMES[metric]} {statistic_of(objective, slo)}", "s", maximised(objective))
    return Goal(unit=f"{THROUGHPUT_UNIT} per GPU") if per_gpu else THROUGHPUT
