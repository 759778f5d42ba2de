"""Numbers in words: one minus sign, one spelling of percent, `pp` for percentage points."""

import math

import pytest

from tuner.core import text
from tuner.core.level import Rate, level_name


@pytest.mark.parametrize(
    ("share", "unit", "expected"),
    [
        (-0.423, "s", "−42.3 %"),
        (0.874, "share", "+87.4 pp"),
        (1.5, "tokens/s", "+150 %"),
        (0.0, "", "+0.0 %"),
        (3.5e17, "s", "over 10000 times"),
        (390.2, "s", "391 times"),
        (9.99, "s", "+999 %"),
        (math.nan, "s", "–"),
    ],
)
def test_a_change(share, unit, expected):
    assert text.change(share, unit) == expected


def test_an_interval_claims_no_impossible_fall_and_no_number_that_nobody_can_read():
    assert text.interval(-1.14, 3.5e17) == "−100 to over +1000 %"
    assert text.interval(-0.012, 0.2, "share") == "−1.2 to +20 pp"
    assert text.interval(math.nan, 0.2) == ""


def test_values_have_their_unit():
    assert [text.value(0.5123, "s"), text.value(0.05, "share")] == ["0.5123 s", "5 %"]
    assert [text.percent(0.9995), text.percent(390), text.percent(1e9)] == ["99.95 %", "390 times", "over 10000 times"]
    assert text.value(math.nan, "s") == "–"
    assert [level_name(None), level_name(4), level_name(Rate(2.5))] == ["–", "4", "2.5/s"]


def test_words():
    assert [
        text.plural(1, "trial"),
        text.plural(2, "batch"),
        text.plural(0, "run"),
        text.plural(3, "latency"),
        text.plural(2, "day"),
    ] == [
        "1 trial",
        "2 batches",
        "0 runs",
        "3 latencies",
        "2 days",
    ]
    assert text.shorten("a  long\nname", 6) == "a lon…"
    assert text.one_line("Bearer abc123 \n sk-12345678") == "Bearer [redacted] [redacted]"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"error": {"message": "The model `x` does not exist.", "code": 404}}', "The model `x` does not exist."),
        ('{"object": "error", "message": "no chat template", "code": 400}', "no chat template"),
        ('{"error": "upstream timed out"}', "upstream timed out"),
        ('[{"error": {"code": 400, "message": "API key not valid"}}]', "API key not valid"),
        ('{"detail": [{"loc": ["body", "ignore_eos"], "msg": "not permitted"}]}', "body.ignore_eos: not permitted"),
        ('{"detail": "Not Found"}', "Not Found"),
        ("maximum <b>context</b> length", "maximum <b>context</b> length"),
        ('{"status": 3}', '{"status": 3}'),
        ("<html><head><title>502 Bad\n Gateway</title></head><p>x", "502 Bad Gateway"),
        ("<h1>no &amp; never</h1><script>alert(1)</script>", "no & never"),
        ("\x1b[31mred\x07\nlines", "red lines"),
        ('{"error": {"message": "bad key sk-abcdef1234567890"}}', "bad key [redacted]"),
        ("[" * 50_000, "[" * 300),
        ("", ""),
    ],
)
def test_a_servers_own_words(body, words):
    assert text.server_words(body) == words
