"""Whether a configuration changes what the model answers: its answers beside the baseline's, which was asked twice."""

import re
from collections.abc import Sequence
from itertools import takewhile
from statistics import fmean, median
from typing import NamedTuple

from tuner.core.records import Alternative, Answer, Answers
from tuner.judging.intervals import CONFIDENCE

UNCHANGED, CHANGED, NOT_COMPARED = "unchanged", "changed", "not compared"
#: nats a token that log probabilities of unchanged answers may differ by: with weights of 16 bits, other kernels and
#: batches came to 0.0015, a cache of 8 bits to 0.013
TOLERANCE = 0.005
FEWEST = 4  # prompts: below, not even all of them parting is beyond chance
_LEAST = -20.0  # nats: below, one is as good as another
_CHANCE = (1 - CONFIDENCE) / 2  # of either test, so that together they find a change that is none as seldom as others


class Sameness(NamedTuple):
    """Whether answers changed, and what shows it."""

    verdict: str  # UNCHANGED, CHANGED or NOT_COMPARED
    evidence: str  # in words


class _Parting(NamedTuple):
    """How two answers to one prompt differ."""

    place: int | None  # tokens or words before which they are the same; None where all of it is
    difference: float = 0.0  # nats a token, on average up to there; of words none


def compare_answers(baseline: Answers | None, own: Answers | None, tolerance: float = TOLERANCE) -> Sameness:
    """Whether a trial's answers are the baseline's, as far as the baseline's own second ones are.

    Changed are answers of which more part than by chance (Fisher's exact test), or whose log probabilities differ by
    more, prompt by prompt (sign test); and where there are any, these must differ by more than `tolerance`.

    Args:
        baseline: asked twice; None where there is none.
        own: of the trial.
        tolerance: nats a token.
    """
    if baseline is None or own is None:
        return Sameness(NOT_COMPARED, f"the {'baseline' if baseline is None else 'trial'} was not asked")
    others, agains = ({one.prompt: one for one in side if one.text} for side in (own.first, baseline.again))
    trios = [
        (one, others[one.prompt], agains[one.prompt])
        for one in baseline.first
        if one.text and one.prompt in others and one.prompt in agains
    ]
    if len(trios) < FEWEST:
        error = next((one.error for one in (*baseline.first, *baseline.again, *own.first) if one.error), "too few")
        return Sameness(NOT_COMPARED, f"{len(trios)} of {len(baseline.first)} prompts were answered: {error}")
    has_tokens = all(one.tokens for trio in trios for one in trio)
    part = _part_by_token if has_tokens else _part_by_word
    pairs = [(part(one, other), part(one, third)) for one, other, third in trios]
    is_larger = not has_tokens or fmean(own.difference for own, _ in pairs) > tolerance
    return Sameness(CHANGED if is_larger and _chance(pairs) < _CHANCE else UNCHANGED, _evidence(pairs, has_tokens))


def _part_by_word(one: Answer, other: Answer) -> _Parting:
    words, others = (re.findall(r"\S+|\n", answer.text) for answer in (one, other))
    return _Parting(_place(words, others))


def _part_by_token(one: Answer, other: Answer) -> _Parting:
    """Where they part, and how much log probabilities differ up to there.

    At that token it is by how much the first model preferred its own: little where two were as good.
    """
    place = _place(*([token.token for token in answer.tokens] for answer in (one, other)))
    pairs = zip(one.tokens[:place], other.tokens[:place], strict=False)
    gaps = [abs(_nats(own) - _nats(theirs)) for own, theirs in pairs]
    if place is not None and place < min(len(one.tokens), len(other.tokens)):
        known = {other.token: _nats(other) for other in one.tokens[place].top_logprobs}
        theirs = known.get(other.tokens[place].token, min(known.values(), default=_LEAST))
        gaps.append(abs(_nats(one.tokens[place]) - theirs))
    return _Parting(place, fmean(gaps) if gaps else 0.0)


def _place(parts: Sequence[str], others: Sequence[str]) -> int | None:
    """How many parts are the same before one is not; None where all are."""
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(parts, others, strict=False)))
    return None if common == len(parts) == len(others) else common


def _nats(one: Alternative) -> float:
    """A log probability; servers say null or −9999 where there is hardly any."""
    return _LEAST if one.logprob is None else max(_LEAST, min(one.logprob, 0.0))


def _chance(pairs: Sequence[tuple[_Parting, _Parting]]) -> float:
    """How likely so many or more answers part, or differ by more, than in the baseline itself where nothing changed."""
    from scipy import stats

    sides = zip(*pairs, strict=True)
    parted = [[sum((one.place is None) == same for one in side) for same in (False, True)] for side in sides]
    larger = [own.difference > again.difference for own, again in pairs if own.difference != again.difference]
    tossed = stats.binomtest(sum(larger), len(larger), alternative="greater").pvalue if larger else 1.0
    return float(min(stats.fisher_exact(parted, alternative="greater").pvalue, tossed))


def _evidence(pairs: Sequence[tuple[_Parting, _Parting]], has_tokens: bool) -> str:
    own, again = zip(*pairs, strict=True)
    places, noise = ([one.place for one in side if one.place is not None] for side in (own, again))
    after = f" after {median(places):.0f} {'tokens' if has_tokens else 'words'}" if places else ""
    text = f"{len(places)} of {len(own)} part{after}; the baseline against itself: {len(noise)} of {len(own)}"
    by, usual = (fmean(one.difference for one in side) for side in (own, again))
    return f"{text}; log probabilities: {by:.4f} and {usual:.4f} nats apart" if has_tokens else text
