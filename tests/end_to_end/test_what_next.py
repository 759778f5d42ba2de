"""A sweep says what limits the server, and writes the search that begins with what may move that; all of it real."""

import pytest
from support.commands import run

import tuner
from tuner.core.bottleneck import SEQUENCES
from tuner.core.documents import parse_yaml
from tuner.judging.trials import load_trials
from tuner.report.results import read_results

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

SLO = "{ttft: {p50: {threshold: 30 s}}}"
LOAD = ("--scenarios", "D(20,100)", "--max-seconds", "6", "--slo", SLO)


def test_slots_that_are_too_few_are_named_and_the_search_begins_with_more(tiny_gguf, tmp_path):
    code, out, err = run(
        tmp_path, "sweep", "--model", tiny_gguf, "--parameters", "{n_parallel: 2}", "--levels", "8", *LOAD
    )
    assert code == 0, err
    (folder,) = (tmp_path / "runs").iterdir()
    (row,) = tuner.load_batches(folder).to_dict("records")
    assert row["limit"] == SEQUENCES and row["limit_evidence"].endswith("the server runs 2 at once (n_parallel)")
    assert f"At concurrency 8 {row['limit_evidence']}." in out
    assert f"To try next: n_parallel=4, or n_parallel=8; tuner tune runs/{folder.name}/search.yaml does" in out
    search = folder / "search.yaml"
    assert parse_yaml(search.read_text())["space"] == {"n_parallel": [2, 4, 8]}

    code, out, err = run(tmp_path, "tune", search, "--trials", "2", "--confirm", "0", "--max-seconds", "3")
    assert code == 0, err
    (searched,) = (one for one in (tmp_path / "runs").iterdir() if one != folder)
    trials = load_trials(searched)
    assert trials["parameters"].tolist() == [{"n_parallel": 2}, {"n_parallel": 4}]
    assert trials["promise"].tolist() == ["", row["limit_evidence"]]
    (promise,) = [line for line in read_results(searched).answer if line.startswith("Proposed since")]
    assert promise.startswith(f"Proposed since {row['limit_evidence']} – trial 2 n_parallel=4") and promise in out


def test_a_proposal_out_of_the_space_is_refused(tmp_path):
    first = "[{parameters: {n_parallel: 64}}]"
    code, _, err = run(tmp_path, "tune", "--space", "{n_parallel: [2, 4]}", "--first", first)
    assert code == 2 and "first: n_parallel 64 of number 1 is not in the space" in err
