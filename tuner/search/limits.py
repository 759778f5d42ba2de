"""When a search ends: enough trials, no more gain, no more time, no more money, or somebody's wish."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tuner.core.timestamps import now
from tuner.core.trial_record import COMPLETE, FAILED
from tuner.search.spec import TuneSpec
from tuner.search.state import Known, Trials

#: The first trials, the baseline among them, that may all fail before the search is given up.
HOPELESS = 5


@dataclass(frozen=True)
class Limits:
    """The limits of one search.

    Args:
        spec: what is searched.
        trials: all of it.
        spent: seconds that earlier calls of the same search took.
        began: on the monotonic clock, when this call began.
    """

    spec: TuneSpec
    trials: Trials
    spent: float = 0.0
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """What the search took so far."""
        return self.spent + time.monotonic() - self.began

    @property
    def cost(self) -> float | None:
        """Money spent on GPUs by the trials that have ended; None where nobody said what one costs."""
        if self.spec.price_per_gpu_hour is None:
            return None
        return sum(known.record.seconds * known.record.gpus for known in self.trials.all) * self._price

    def deadline(self, *, confirming: bool = False) -> datetime | None:
        """When whatever runs must end after its level; None where it need not."""
        if self.spec.max_minutes is None:
            return None
        return now() + timedelta(seconds=self._most_seconds(confirming=confirming) - self.seconds)

    def is_over(self, *, confirming: bool = False) -> bool:
        """Whether the time is over: all of it, or what is left for the search beside the confirmation."""
        return self.spec.max_minutes is not None and self.seconds >= self._most_seconds(confirming=confirming)

    def _most_seconds(self, *, confirming: bool) -> float:
        """The time there is; while it searches without what the confirmation will take, at most half of it."""
        whole = (self.spec.max_minutes or 0.0) * 60
        return (
            whole if confirming else whole - min(self._again(known.record.seconds for known in self._ended), whole / 2)
        )

    def _again(self, each: Iterable[float]) -> float:
        """What the confirmation will take, by what trials took: two for each turn, as short as the shortest."""
        return 2 * self.spec.confirm * min((one for one in each if one), default=0.0)

    @property
    def _ended(self) -> list[Known]:
        return [known for known in self.trials.searched if known.is_settled and known.state != FAILED]

    def reached(self) -> str:
        """Why no further trial is to be begun; empty where one is."""
        searched = self.trials.searched
        reasons = (
            (len(searched) >= self.spec.trials, f"all {self.spec.trials} trials were made"),
            (self._is_hopeless(), f"the first {HOPELESS} trials all failed"),
            (self._gained_nothing(), f"{self.spec.patience} trials gained nothing"),
            (self.is_over(), f"{self.spec.max_minutes} minutes are over"),
            (self._is_out_of_money(), f"more would cost over {self.spec.max_cost}"),
        )
        return next((reason for reached, reason in reasons if reached), "")

    def _is_hopeless(self) -> bool:
        settled = [known for known in self.trials.searched if known.is_settled]
        return len(settled) >= HOPELESS and all(known.state == FAILED for known in settled)

    def _gained_nothing(self) -> bool:
        """Whether none of the last trials is better than all before them."""
        settled = [known for known in self.trials.searched if known.is_settled]
        if not self.spec.patience or not any(known.state == COMPLETE for known in settled):
            return False
        last = max(place for place, known in enumerate(settled) if self._is_gain(known, settled[:place]))
        return len(settled) - 1 - last >= self.spec.patience

    def _is_gain(self, known: Known, before: list[Known]) -> bool:
        """Whether no trial before is at least as good in everything."""
        if not known.counts:
            return False
        own, gains = self.trials.gains(known), self.trials.gains
        return not any(all(a >= b for a, b in zip(gains(one), own, strict=True)) for one in before if one.counts)

    def _is_out_of_money(self) -> bool:
        """Whether one more trial, as dear as the dearest so far, and the confirmation would cost too much."""
        if self.spec.max_cost is None or self.cost is None:
            return False
        each = [known.record.seconds * known.record.gpus * self._price for known in self._ended]
        running = max(each, default=0.0) * sum(not known.is_settled for known in self.trials.searched)
        return self.cost + running + max(each, default=0.0) + self._again(each) > self.spec.max_cost

    @property
    def _price(self) -> float:
        """What one GPU costs a second."""
        return (self.spec.price_per_gpu_hour or 0.0) / 3600
