"""What several tests of the load share."""

import pytest

from tuner.traffic.genai_bench import Bench


@pytest.fixture(scope="module")
def bench():
    """The load generator, one for a module's tests: its start takes seconds."""
    with Bench() as bench:
        yield bench
