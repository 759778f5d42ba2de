"""Whoever decides by a level, decides by its steady part: the search for a limit, trials, comparisons, early ends."""

from datetime import UTC, datetime

import pytest
from support import result_files

import tuner
from tuner.core import request_log
from tuner.core.request_log import LevelRecord, SentRequest
from tuner.judging.scores import Scoring
from tuner.judging.slo import SLO
from tuner.search.early import cannot_win
from tuner.search.spec import TuneSpec
from tuner.sweep.level import judged_level
from tuner.sweep.limit import excess

SCENARIO, LEVELS = "D(9,9)", [4, 16]
LIMITS = {"ttft": {"threshold": 0.2}}
#: seconds that the first request of every user takes, and each later one; of these 0.1 s to the first token
BURST, LATER, ROUNDS = 5.0, 1.0, 20


def users(level, burst):
    """The requests of a level whose users all begin at 0 s."""
    for user in range(level):
        for number in range(1, ROUNDS + 2):
            sent = 0.0 if number == 1 else burst + (number - 2) * LATER
            first = sent + (burst - 0.5 if number == 1 else 0.1) + user / 1e4
            end = burst + (number - 1) * LATER
            times = {"scheduled": sent, "sent": sent, "first_token": first, "last_token": end, "end": end}
            yield SentRequest(user=user, number=number, prompt_tokens=9, output_tokens=9, **times)


def measured(folder, window, burst=BURST, asked=LEVELS):
    """A run whose levels began with a burst, and are judged by this window."""
    trial = result_files.run(folder, asked, scenarios=[SCENARIO])
    for level in LEVELS:
        place = result_files.add_level(trial, level, scenario=SCENARIO)
        when = {"begin": 0.0 if window == "whole" else burst, "end": burst + ROUNDS * LATER, "monotonic": 0.0}
        record = LevelRecord(
            scenario=SCENARIO, concurrency=level, window=window, utc=datetime(2026, 11, 26, tzinfo=UTC), **when
        )
        request_log.write(place / request_log.REQUESTS_FILE, record, list(users(level, burst)))
    return trial


@pytest.mark.parametrize(("window", "meets"), [("steady", True), ("whole", False)])
class TestDecidedBy:
    def test_the_search_for_the_limit(self, tmp_path, window, meets):
        trial, slo = measured(tmp_path / "run", window), SLO.parse(LIMITS)
        found = [excess(judged_level([trial.batch_folder(SCENARIO, level, 1)], slo), slo) for level in LEVELS]
        assert [value <= 0 for value in found] == [meets, meets]

    def test_a_trials_score(self, tmp_path, window, meets):
        scoring = Scoring.of({"slo": LIMITS})
        score = scoring.score(scoring.judged(measured(tmp_path / "run", window).folder))
        assert score.state == ("complete" if meets else "infeasible")
        assert not meets or score.values == pytest.approx((16 * 9 / LATER,), rel=0.01)

    def test_the_early_end_of_a_trial(self, tmp_path, window, meets):
        spec = TuneSpec(engine="llamacpp", levels=[*LEVELS, 64], scenarios=[SCENARIO], slo=LIMITS)
        own = tuner.judge(tuner.load_batches(measured(tmp_path / "own", window, asked=[*LEVELS, 64]).folder), LIMITS)
        best = tuner.judge(tuner.load_batches(measured(tmp_path / "best", "steady").folder), LIMITS)
        assert bool(cannot_win(own, best, spec)) != meets

    def test_a_comparison(self, tmp_path, window, meets):
        sides = [measured(tmp_path / f"{burst:g}", window, burst).folder for burst in (BURST, 2 * BURST)]
        rows = tuner.compare(*map(tuner.load_batches, sides)).differences.set_index("metric")
        changes = rows.loc[["ttft_mean", "e2e_latency_mean", "output_throughput"], "change"].abs()
        assert (changes < 0.01).all() == meets
