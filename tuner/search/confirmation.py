"""Is the winner really better? Baseline and winner, measured again in turn, and what to copy.

The best of many noisy trials looks better than it is, so that the trials themselves prove nothing. Fresh servers of
both are measured in turn (ABAB…), at the same levels; only these runs count.
"""

import shlex
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import yaml

from tuner.core import text
from tuner.judging.estimates import Estimate, difference
from tuner.judging.intervals import CONFIDENCE
from tuner.judging.scores import maximised
from tuner.judging.search_answer import Confirmation
from tuner.search.spec import TuneSpec
from tuner.sweep.spec import sweep_of

BASELINE, WINNER = "baseline", "winner"
_WORDS = {
    "gain": "confirmed gain {}",
    "loss": "the defaults are better: the winner's change is {}",
    "noise": "within the noise: {}; the defaults may be just as good",
}


def conclude(
    objective: str, baseline: Sequence[float], winner: Sequence[float], levels: list[float], trials: list[int]
) -> Confirmation:
    """What runs of both show at these levels: their values of the objective, NaN where a run has no compliant batch."""
    sides = [[float(value) for value in side if value > 0] for side in (baseline, winner)]
    found = _verdict(objective, sides, (len(baseline), len(winner)))
    return msgspec.structs.replace(found, levels=levels, baseline=sides[0], winner=sides[1], trials=trials)


def _verdict(objective: str, sides: list[list[float]], runs: tuple[int, int]) -> Confirmation:
    """What the values of both, of so many runs each, say."""
    (default, winner), (defaults, winners) = map(len, sides), runs
    if winner < winners:
        return Confirmation(
            "neither", f"not confirmed: the winner met the SLO in only {winner} of {winners} further runs"
        )
    if default < defaults:
        met = f"the winner met the SLO in all of {winners} further runs, the defaults in {default} of {defaults}"
        from scipy import stats

        # by Fisher's exact test; 0 of 3 against 3 of 3 is no chance
        chance = stats.fisher_exact([[winners, 0], [default, defaults - default]], alternative="greater").pvalue
        if chance > 1 - CONFIDENCE + 1e-9:
            return Confirmation("unknown", f"not confirmed: {met}, which may be chance")
        return Confirmation("only_winner", f"confirmed: {met}")
    if min(default, winner) < 2:
        return Confirmation("unknown", "too few further runs to tell a gain from noise: confirm at least 2 times")
    before, after = (Estimate(np.array(side) if maximised(objective) else 1 / np.array(side)) for side in sides)
    change = difference(before, after)  # of logarithms, since noise of a rate is relative
    gain, (low, high) = change.change(change.shift), change.interval(CONFIDENCE)
    verdict = "gain" if low > 0 else "loss" if high < 0 else "noise"
    interval = f"{text.change(gain)} ({text.interval(low, high)} at {text.percent(CONFIDENCE)})"
    return Confirmation(verdict, _WORDS[verdict].format(interval), gain=gain, low=low, high=high)


def to_copy(spec: TuneSpec, parameters: dict[str, Any], command: Sequence[str]) -> dict[str, Any]:
    """What a person copies of a winner: `parameters`, its server's `command` for a shell, `yaml` for `tuner sweep`."""
    document = yaml.safe_dump(sweep_of(spec.model_dump(mode="json", exclude_none=True), parameters), sort_keys=False)
    return {"parameters": parameters, "command": shlex.join(command), "yaml": document}
