"""Is the winner really better? Baseline and winner, measured again in turn, and what to copy.

The best of many noisy trials looks better than it is, so that the trials themselves prove nothing. Fresh servers of
both are measured in turn (ABAB…), at the same levels; only these runs count.
"""

import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np
import yaml

from tuner.core import text
from tuner.judging.estimates import Estimate, difference
from tuner.judging.intervals import CONFIDENCE
from tuner.judging.scores import maximised
from tuner.judging.search_answer import Confirmation
from tuner.search.spec import TuneSpec
from tuner.sweep.spec import sweep_of

Interval = tuple[float, float, float]
BASELINE, WINNER = "baseline", "winner"
GAIN, NOISE, LOSS, ONLY_WINNER, NEITHER, UNKNOWN = "gain", "noise", "loss", "only_winner", "neither", "unknown"
_WORDS = {
    GAIN: "confirmed gain {}",
    LOSS: "the defaults are better: the winner's change is {}",
    NOISE: "within the noise: {}; the defaults may be just as good",
}


def conclude(
    objective: str, baseline: Sequence[float], winner: Sequence[float], levels: list[float], trials: list[int]
) -> Confirmation:
    """What runs of both show at these levels: their values of the objective, NaN where a run has no compliant batch."""
    sides = [[float(value) for value in side if value > 0] for side in (baseline, winner)]
    verdict, words, interval = _verdict(objective, sides, (len(baseline), len(winner)))
    gain, low, high = interval or (None, None, None)
    return Confirmation(verdict, words, levels, sides[0], sides[1], gain, low, high, trials=trials)


def _verdict(objective: str, sides: list[list[float]], runs: tuple[int, int]) -> tuple[str, str, Interval | None]:
    """The verdict on the values of both, of so many runs each, in words, and gain, low and high where there are any."""
    from scipy import stats

    (default, winner), (defaults, winners) = map(len, sides), runs
    if winner < winners:
        return NEITHER, f"not confirmed: the winner met the SLO in only {winner} of {winners} further runs", None
    if default < defaults:
        met = f"the winner met the SLO in all of {winners} further runs, the defaults in {default} of {defaults}"
        # by Fisher's exact test; 0 of 3 against 3 of 3 is no chance
        chance = stats.fisher_exact([[winners, 0], [default, defaults - default]], alternative="greater").pvalue
        if chance > 1 - CONFIDENCE + 1e-9:
            return UNKNOWN, f"not confirmed: {met}, which may be chance", None
        return ONLY_WINNER, f"confirmed: {met}", None
    if min(default, winner) < 2:
        return UNKNOWN, "too few further runs to tell a gain from noise: confirm at least 2 times", None
    before, after = (Estimate(np.array(side) if maximised(objective) else 1 / np.array(side)) for side in sides)
    change = difference(before, after)  # of logarithms, since noise of a rate is relative
    gain, (low, high) = change.change(change.shift), change.interval(CONFIDENCE)
    verdict = GAIN if low > 0 else LOSS if high < 0 else NOISE
    interval = f"{text.change(gain)} ({text.interval(low, high)} at {text.percent(CONFIDENCE)})"
    return verdict, _WORDS[verdict].format(interval), (gain, low, high)


def to_copy(spec: TuneSpec, parameters: dict[str, Any], command: Sequence[str]) -> dict[str, Any]:
    """What a person copies of a winner: `parameters`, its server's `command` for a shell, `yaml` for `tuner sweep`."""
    document = yaml.safe_dump(sweep_of(spec.model_dump(mode="json", exclude_none=True), parameters), sort_keys=False)
    return {"parameters": parameters, "command": shlex.join(command), "yaml": document}
