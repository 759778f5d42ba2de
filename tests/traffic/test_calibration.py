"""The load generator's own share, measured for real, kept for this machine, and found again."""

import pytest
from support.processes import processes_of

from tuner.core.level import RATE, Rate
from tuner.errors import PathError, TunerError
from tuner.traffic import calibration
from tuner.traffic.calibration import Calibration, calibrate, processes_for, share_of_client, table
from tuner.traffic.genai_bench import Bench

LEVELS = (2, 8, Rate(8))


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """What was found at two levels, what was told meanwhile, and the cache it is kept in."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(cache))
        patched.setattr(calibration, "ROUNDS", 3)
        told = []
        found = calibrate(LEVELS, told.append)
        assert processes_of(cache) == []
    return found, told, cache


@pytest.fixture
def kept(calibrated, monkeypatch):
    """What was found, where `known` looks for it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(calibrated[2]))
    return calibrated[0]


pytestmark = [pytest.mark.real, pytest.mark.xdist_group("calibration")]


def test_every_level_is_measured_and_told(calibrated):
    found, told, _ = calibrated
    assert [each.of for each in found] == list(LEVELS)
    assert told == found
    for each in found:
        assert 0 <= each.ttft < 0.5
        assert 0 <= each.tpot < 0.05
        assert 0.1 < each.throughput < 1.05


def test_what_was_measured_is_known_and_interpolated_between(kept):
    low, high, _ = kept
    assert (share_of_client(2), share_of_client(8)) == (low, high)
    assert share_of_client(4).ttft == pytest.approx((low.ttft + high.ttft) / 2)  # half-way in ln(level)
    assert share_of_client(4).throughput == pytest.approx((low.throughput + high.throughput) / 2)
    assert (share_of_client(1), share_of_client(9)) == (None, None)


def test_another_machine_or_version_is_not_known(kept, monkeypatch):
    monkeypatch.setattr(calibration, "version", lambda package: "99")
    assert share_of_client(2) is None


def test_rates_are_kept_beside_levels_with_how_late_their_requests_are(kept):
    _, level, rate = kept
    assert (level.of, rate.of, level.lag) == (8, Rate(8), None)
    assert 0 <= rate.lag < 0.5 and 0 <= rate.ttft < 0.5 and rate.throughput == 1.0
    assert (share_of_client(8), share_of_client(Rate(8)), share_of_client(Rate(4))) == (level, rate, None)


@pytest.mark.parametrize("content", ["", "[", '{"level": 1}', '[{"level": "two"}]'])
def test_a_damaged_file_is_as_none(content, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "tuner" / "calibration").mkdir(parents=True)
    calibration._file().write_text(content)
    assert share_of_client(2) is None


def test_without_a_cache_nothing_is_known_and_keeping_is_refused(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    assert share_of_client(2) is None
    with pytest.raises(PathError, match="cannot keep the calibration in /proc/none"):
        calibration._keep(Calibration(1, 0.0, 0.0, 1.0))


def test_a_level_without_a_result_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(Bench, "run", lambda *_: None)
    with pytest.raises(TunerError, match=r"calibration at concurrency 1: genai-bench left no result"):
        calibrate([1])
    assert share_of_client(1) is None


#: milliseconds that TTFT is read too long, by processes; then cores, and the processes that were tried and chosen
NEEDS = {
    "one is enough": ({1: 2.0}, 8, [1], 1),
    "two are": ({1: 2.1, 2: 1.0}, 8, [1, 2], 2),
    "as many as the cores, the best counts": ({1: 9.0, 2: 4.0, 4: 5.0}, 4, [1, 2, 4], 2),
    "all cores at last": ({1: 9.0, 2: 5.0, 3: 2.0}, 3, [1, 2, 3], 3),
    "one core": ({1: 9.0}, 1, [1], 1),
}


@pytest.mark.parametrize(("ttfts", "cores", "tried", "chosen"), NEEDS.values(), ids=NEEDS)
def test_a_level_has_more_processes_while_it_is_read_too_long(ttfts, cores, tried, chosen, monkeypatch, tmp_path):
    seen = []

    def measure(_bench, _url, level, _folder, workers):
        seen.append(workers)
        return Calibration(level, ttfts[workers] / 1000, 0.0, 1.0, workers=workers)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(calibration, "_calibrate_level", measure)
    monkeypatch.setattr(calibration.os, "sched_getaffinity", lambda _: range(cores))
    (found,) = calibrate([64])
    assert (seen, found.workers, processes_for(64), processes_for(65)) == (tried, chosen, chosen, 1)


def test_the_table():
    rate = Calibration(2.5, 0.0633, 0.00046, 0.713, workers=2, kind=RATE, lag=0.0042)
    text = table([Calibration(1, 0.006, 0.00011, 0.941), rate])
    assert [line.split() for line in text.splitlines()[1:]] == [
        ["1", "+6.0", "+0.11", "94.1", "–", "1"],
        ["2.5/s", "+63.3", "+0.46", "71.3", "4.2", "2"],
    ]
