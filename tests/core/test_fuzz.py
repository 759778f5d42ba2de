"""Mutants of every kind of file that we read: no traceback, no good batch lost, no number changed without a word.

`benchmarks/fuzz.py` reads many more of them.
"""

import pytest
from support.fuzzed import KINDS, Fuzzed

MUTANTS = 500
#: what the benchmark found beyond them, and was mended
FOUND = {
    "genai-bench batch": (700142, 700248),
    "report, read whole": (700030, 700123),
    "vllm bench serve": (700167, 700182),
    "vllm bench serve, one batch of many": (700033,),
    "SGLang": (700059, 700374),
}


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    for name in ("XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", KINDS)
def test_a_mutant_costs_its_own_content_alone(tmp_path, name):
    fuzzed = Fuzzed(name, tmp_path)
    mutants = map(fuzzed.read, [*range(MUTANTS // fuzzed.kind.cost), *FOUND.get(name, ())])
    assert [one for one in mutants if one.fault] == []
