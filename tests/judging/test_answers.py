"""Whether answers changed: what parts, by how much, and how often chance alone is taken for a change."""

import random

import pytest

from tuner.core.records import Alternative, Answer, Answers, Token
from tuner.judging.answers import CHANGED, NOT_COMPARED, UNCHANGED, compare_answers

LENGTH, PROMPTS = 32, 20


def answer(prompt, parts_at=None, shift=0.0, gap=0.0, words=False):
    """One answer of LENGTH tokens; from `parts_at` on another one, which the first model liked less by `gap` nats."""
    tokens = [f" w{place}" for place in range(LENGTH)]
    if parts_at is not None:
        tokens[parts_at:] = [f" other{place}" for place in range(parts_at, LENGTH)]
    if words:
        return Answer(str(prompt), "".join(tokens))
    likeliest = [{f" w{place}": -0.5, f" other{place}": -0.5 - gap} for place in range(LENGTH)]
    told = [
        Token(token, -0.5 - shift, [Alternative(*one) for one in others.items()])
        for token, others in zip(tokens, likeliest, strict=True)
    ]
    return Answer(str(prompt), "".join(tokens), told)


def answers(parted=0, at=10, **more):
    """PROMPTS answers, of which the first so many part."""
    return [answer(prompt, at if prompt < parted else None, **more) for prompt in range(PROMPTS)]


def baseline(again=0, gap=0.0, **more):
    """A baseline that likes what other answers say less by `gap`; asked again, so many of its own answers part."""
    return Answers(answers(gap=gap, **more), answers(again, **more))


def verdict(before, *own, **more):
    return compare_answers(before, Answers(*own), **more).verdict


def test_texts_alone_are_compared_by_word():
    before = baseline(again=1, words=True)
    found = compare_answers(before, Answers(answers(14, at=31, words=True)))
    assert found == (CHANGED, "14 of 20 part after 31 words; the baseline against itself: 1 of 20")
    assert verdict(before, answers(4, words=True)) == UNCHANGED  # against 1 that may be chance
    assert compare_answers(before, Answers(answers(words=True))).evidence.startswith("0 of 20 part; ")


@pytest.mark.parametrize(
    ("parted", "gap", "shift", "expected"),
    [
        (0, 0.0, 0.0, UNCHANGED),
        (14, 1.0, 0.0, CHANGED),  # its own token was clearly the better one: accepted all the same
        (14, 0.001, 0.0, UNCHANGED),  # two tokens were as good, and rounding decided
        (0, 0.0, 0.02, CHANGED),  # the same texts, so far, of another distribution
        (0, 0.0, 0.001, UNCHANGED),
        (14, 0.0, 0.02, CHANGED),
        (1, 10.0, 0.0, UNCHANGED),  # one of twenty is no more than may be
    ],
)
def test_log_probabilities_tell_rounding_from_another_model(parted, gap, shift, expected):
    assert verdict(baseline(gap=gap), answers(parted, shift=shift)) == expected


def test_the_baselines_own_noise_is_no_change():
    noisy = Answers(answers(gap=0.5), answers(12, shift=0.03))
    assert verdict(noisy, answers(13, shift=0.03)) == UNCHANGED
    assert verdict(noisy, answers(20, at=2, shift=0.3)) == CHANGED


def test_the_tolerance_is_the_users():
    assert verdict(baseline(), answers(shift=0.02), tolerance=0.05) == UNCHANGED
    assert verdict(baseline(), answers(shift=0.02), tolerance=0.01) == CHANGED


def test_an_answer_that_ends_earlier_parts_there():
    short = [Answer(one.prompt, "".join(token.token for token in one.tokens[:5]), one.tokens[:5]) for one in answers()]
    found = compare_answers(baseline(words=True), Answers(short))
    assert found == (CHANGED, "20 of 20 part after 5 words; the baseline against itself: 0 of 20")


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3, 0.6])
def test_chance_alone_is_seldom_taken_for_a_change(noise):
    dice = random.Random(7)

    def some():
        return [answer(prompt, 8 if dice.random() < noise else None, words=True) for prompt in range(PROMPTS)]

    trials = 300
    alarms = sum(verdict(Answers(answers(words=True), some()), some()) == CHANGED for _ in range(trials))
    assert alarms <= 0.04 * trials


def test_what_cannot_be_compared_says_why():
    failed = [Answer(str(prompt), error="503: overloaded") for prompt in range(PROMPTS)]
    before = baseline()
    assert compare_answers(None, Answers(answers())) == (NOT_COMPARED, "the baseline was not asked")
    assert compare_answers(before, None) == (NOT_COMPARED, "the trial was not asked")
    assert compare_answers(before, Answers([*failed[:17], *answers()[17:]])) == (
        NOT_COMPARED,
        "3 of 20 prompts were answered: 503: overloaded",
    )
    assert verdict(before, [*failed[:16], *answers()[16:]]) == UNCHANGED
    assert verdict(before, [answer(f"other {prompt}") for prompt in range(PROMPTS)]) == NOT_COMPARED


def test_files_of_anybody_are_compared_or_not():
    odd = [Answer(str(prompt), "x", [Token("x", 1e308), Token(" w1"), Token("")]) for prompt in range(PROMPTS)]
    for own in (odd, [*odd, *answers()]):
        assert compare_answers(baseline(), Answers(own)).verdict in (UNCHANGED, CHANGED)
        assert compare_answers(Answers(own, own), Answers(answers())).verdict in (UNCHANGED, CHANGED)
