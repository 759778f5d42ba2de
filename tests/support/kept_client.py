"""One load generator for all runs of this process: importing genai-bench anew takes seconds for each of them."""

import pytest

from tuner.traffic.genai_bench import Benches


class Kept(Benches):
    """Those that a run leaves stay for the next one."""

    def __exit__(self, *_):
        pass


@pytest.fixture(scope="session")
def kept_benches():
    kept = Kept()
    yield kept
    Benches.__exit__(kept)


@pytest.fixture(autouse=True)
def kept_client(kept_benches, monkeypatch):
    """Where a run starts a load generator of its own, it gets one that is there."""
    for module in ("tuner.sweep.sweep", "tuner.search.executors"):
        monkeypatch.setattr(f"{module}.Benches", lambda: kept_benches)
