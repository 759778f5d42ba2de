"""What a search need not measure: trials that are known from earlier runs, and configurations that cannot start."""

import errno
import json
import logging
import re
import sys

import pytest
from support import BYTE_TOKENIZER
from support.recorded_nvml import RecordedNVML
from support.simulated_trials import SimulatedExecutor

from tuner import engines
from tuner.core.records import TrialRecord
from tuner.core.run_directory import Experiment
from tuner.engines.base import ServerSpec
from tuner.errors import PathError, ServerFailed, SpecError
from tuner.judging.search_answer import Searched
from tuner.judging.trials import load_trials
from tuner.search import executors
from tuner.search.search import run_search
from tuner.search.spec import TuneSpec
from tuner.sweep.spec import make_spec

GIB = 1 << 30


class Ran(SimulatedExecutor):
    """Notes the parameters and levels of each trial that it runs."""

    def __init__(self, curve, ran):
        super().__init__(curve)
        self.ran = ran

    def submit(self, spec, trial, stop):
        self.ran.append((dict(spec.parameters), spec.fixed_levels))
        return super().submit(spec, trial, stop)


@pytest.fixture
def search(tmp_path, monkeypatch):
    """Runs a search over `n`, whose servers have 100·n tokens/s; returns what it ran, its facts and its trials."""

    def run(name, curve=lambda number, parameters, level: 100 * parameters["n"], **changes):
        ran = []
        monkeypatch.setattr(executors, "make", lambda *_: Ran(curve, ran))
        asked = {"engine": "command", "command": ["true", "{n}", "{port}"], "model": "m", "confirm": 0}
        asked |= {"tokenizer": str(BYTE_TOKENIZER), "levels": [1, 4], "scenarios": ["D(100,100)"], "sampler": "grid"}
        asked |= {"parameters": {"n": 1}, "space": {"n": [1, 2, 3]}}
        run_search(make_spec(asked | changes, TuneSpec), Experiment.at(tmp_path / name))
        return ran, Experiment(tmp_path / name).facts["search"], load_trials(tmp_path / name)

    return run


def fails_at_3(number, parameters, level):
    if parameters["n"] == 3:
        raise ServerFailed("CUDA out of memory", kind="out_of_memory")
    return 100 * parameters["n"]


def test_earlier_trials_are_known_and_the_baseline_is_measured_again(search, tmp_path, caplog):
    search("before", fails_at_3, trials=9)
    caplog.set_level(logging.WARNING)
    space = {"n": [1, 2, 3, 4]}
    ran, facts, trials = search("now", space=space, trials=2, **{"from": str(tmp_path / "before")})
    assert [parameters for parameters, _ in ran] == [{"n": 1}, {"n": 4}]  # which count alone for `trials`
    assert not caplog.records
    assert list(trials["trial"]) == [1, 2, 3, 4]
    assert list(trials["parameters"]) == [{"n": 1}, {"n": 2}, {"n": 3}, {"n": 4}]
    assert list(trials["state"]) == ["complete", "complete", "failed", "complete"]
    assert trials.loc[1, "value"] == pytest.approx(200, rel=0.05)
    assert trials.loc[1, "cause"] == "known from before, trial 2"
    assert trials.loc[2, "cause"] == "CUDA out of memory; known from before, trial 3"
    searched = Searched(trials, facts={"search": facts})
    assert "known from before, trial 2" in searched.line(trials.iloc[1])
    assert "known from before, trial 2" in searched.table["cause"].to_list()
    record = Experiment(tmp_path / "now").trial(2).record
    assert record.seconds == 0 and record.known_from == "before, trial 2"

    (tmp_path / "before").rename(tmp_path / "gone")
    ran, _, trials = search("now", space=space, trials=2, **{"from": str(tmp_path / "before")})
    assert not ran and len(trials) == 4  # resumed: none is taken twice


def test_a_copy_that_was_cut_off_is_made_again(search, tmp_path):
    search("before")
    half = Experiment.at(tmp_path / "now").trial(2)
    (half.folder / "batches" / "half").mkdir(parents=True)
    _, _, trials = search("now", from_runs=[tmp_path / "before"])
    assert list(trials["state"]) == ["complete"] * 3 and not (half.folder / "batches" / "half").exists()


def test_a_known_winner_is_confirmed_here(search, tmp_path):
    search("before")
    ran, facts, _ = search("now", from_runs=[tmp_path / "before"], confirm=2)
    assert [parameters["n"] for parameters, _ in ran] == [1, 1, 3, 1, 3]
    assert facts["confirmation"]["verdict"] == "gain" and facts["winner"]["parameters"] == {"n": 3}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"seed": 1}, "workload"),
        ({"scenarios": ["D(100,50)"]}, "workload"),
        ({"levels": [1, 8]}, "levels"),
        ({"max_seconds": 5}, "max_seconds"),
        ({"slo": {"ttft": {"p90": {"threshold": 1}}}}, "slo"),
        ({"environment": {"A": "1"}}, "environment"),
    ],
)
def test_what_was_measured_otherwise_is_refused_in_one_line(search, tmp_path, changes, what):
    search("before")
    with pytest.raises(SpecError, match=f"from: .*before cannot be taken as known, it differs in {what}; "):
        search("now", from_runs=[tmp_path / "before"], **changes)
    assert not (tmp_path / "now").exists()


def test_another_machine_is_refused(search, tmp_path):
    search("before")
    before = Experiment(tmp_path / "before")
    before.describe(host=before.facts["host"] | {"name": "elsewhere"})
    with pytest.raises(SpecError, match="differs in host"):
        search("now", from_runs=[tmp_path / "before"])


def test_trials_that_do_not_fit_are_left_out_with_the_reason(search, tmp_path, caplog):
    search("before", space={"n": [1, 2, 3, 4]})
    trial = Experiment(tmp_path / "before").trial(3)
    TrialRecord(role="candidate", parameters={"n": 3}, state="failed", kind="gpu_unavailable").write(trial.folder)
    ran, _, _ = search("now", from_runs=[tmp_path / "before"])
    assert [parameters["n"] for parameters, _ in ran] == [1, 3]
    assert "trial 3 of" in caplog.text and "it tells nothing" in caplog.text
    assert "trial 4 of" in caplog.text and "it is not in the space" in caplog.text


def test_another_command_is_another_server(search, tmp_path, caplog):
    search("before")
    ran, _, _ = search("now", from_runs=[tmp_path / "before"], command=["false", "{n}", "{port}"])
    assert len(ran) == 3 and "its command was another" in caplog.text


def test_known_trials_are_no_way_out_of_a_run_directory(search, tmp_path):
    search("before")
    secret = tmp_path / "secret"
    secret.write_text("x")
    (Experiment(tmp_path / "before").trial(2).folder / "server.log").symlink_to(secret)
    search("now", from_runs=[tmp_path / "before"])
    assert not (Experiment(tmp_path / "now").trial(2).folder / "server.log").exists()


def test_a_journal_that_the_disk_has_no_room_for_costs_no_trial(search, tmp_path, monkeypatch):
    from optuna.storages.journal import JournalFileBackend

    def run_out(self, logs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        monkeypatch.context() as patch,
        pytest.raises(PathError, match=r"cannot write into .*run: No space left"),
    ):
        search(
            "run", lambda number, parameters, level: patch.setattr(JournalFileBackend, "append_logs", run_out) or 100
        )
    assert Experiment(tmp_path / "run").facts["state"] == "failed"
    ran, _, trials = search("run")
    assert [parameters["n"] for parameters, _ in ran] == [2, 3] and list(trials["state"]) == ["complete"] * 3


def test_candidates_are_measured_at_the_best_trials_best_level_first(search):
    slo = {"ttft": {"p50": {"threshold": 0.025}}}  # the level over the throughput: 0.02 at 4, 0.028 at 8

    def curve(number, parameters, level):
        return 100 * parameters["n"] * level**0.5

    values = {"levels": [1, 2, 4, 8], "slo": slo, "space": {"n": [1, 2]}}
    ran, _, _ = search("run", curve, **values)
    assert ran == [({"n": 1}, [1, 2, 4, 8]), ({"n": 2}, [4, 8, 2, 1])]
    for own_order in ({"early_stop": False}, {"order": "ascending"}, {"stop_when_saturated": True}):
        ran, _, _ = search(f"run {own_order}", curve, **values, **own_order)
        assert ran[1] == ({"n": 2}, [1, 2, 4, 8])


def model(folder, gib, **config):
    """A model's folder whose index says how large its weights are; Qwen3-8B's sizes, but for `config`."""
    folder.mkdir(exist_ok=True)
    plain = {"model_type": "qwen3", "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8}
    plain |= {"hidden_size": 4096, "head_dim": 128, "max_position_embeddings": 40960, "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(plain | config))
    index = {"metadata": {"total_size": int(gib * GIB)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return str(folder)


@pytest.mark.parametrize(
    ("gib", "config", "parameters", "reason"),
    [
        (15.27, {}, {"gpu_memory_utilization": 0.85}, "15.3 GiB .* 40960 tokens, 5.6 GiB, on each GPU .* 0.85 of 24.0"),
        (15.27, {}, {"gpu_memory_utilization": 0.9}, ""),
        (15.27, {}, {"gpu_memory_utilization": 0.85, "max_model_len": 32768}, ""),
        (15.27, {}, {"gpu_memory_utilization": 0.85, "kv_cache_dtype": "fp8"}, ""),
        (15.27, {}, {"gpu_memory_utilization": 0.85, "tensor_parallel_size": 2}, ""),
        (46.0, {}, {"tensor_parallel_size": 2}, "weights of 23.0 GiB"),
        (46.0, {}, {"pipeline_parallel_size": 2}, "weights of 23.0 GiB"),
        (46.0, {}, {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}, ""),
        (46.0, {}, {"data_parallel_size": 2}, "weights of 46.0 GiB"),  # each copy has them all
        (30.0, {"torch_dtype": "float32"}, {"max_model_len": 1024}, ""),  # which is loaded as 16 bits
        (30.0, {"torch_dtype": "float32", "quantization_config": {}}, {}, "weights of 30.0 GiB"),
        (30.0, {}, {"quantization": "fp8"}, ""),  # nobody knows how small they get
        (30.0, {}, {"cpu_offload_gb": 10}, ""),  # nor what another parameter does
        (15.27, {"sliding_window": 4096}, {"gpu_memory_utilization": 0.85}, ""),
        (15.27, {"sliding_window": 4096, "use_sliding_window": False}, {"gpu_memory_utilization": 0.85}, "5.6 GiB"),
        (15.27, {"model_type": "jamba"}, {"gpu_memory_utilization": 0.85}, ""),
        (15.27, {"num_hidden_layers": "many"}, {"gpu_memory_utilization": 0.85}, ""),
        (1.0, {"num_attention_heads": 14}, {"tensor_parallel_size": 4}, "14 attention heads cannot be shared by 4"),
    ],
)
def test_what_vllm_cannot_start_is_known_by_arithmetic(tmp_path, gib, config, parameters, reason):
    spec = ServerSpec(engine="vllm", model=model(tmp_path / "m", gib, **config), parameters=parameters)
    found = engines.find("vllm").cannot_start(spec, 24 * GIB)
    assert bool(found) == bool(reason)
    assert not reason or re.search(reason, found), found


def test_sglang_needs_room_for_weights_alone_and_where_nobody_knows_nothing_is_said(tmp_path):
    sglang, folder = engines.find("sglang"), model(tmp_path / "m", 15.27)
    asked = {"mem_fraction_static": 0.7}
    assert not sglang.cannot_start(ServerSpec(engine="sglang", model=folder, parameters=asked), 24 * GIB)
    assert sglang.cannot_start(ServerSpec(engine="sglang", model=folder, parameters=asked), 20 * GIB)
    for engine in ("vllm", "sglang", "llamacpp", "command"):
        for name in ("no/such-model", "/no/where", "m", "", str(tmp_path)):
            assert not engines.find(engine).cannot_start(ServerSpec(engine=engine, model=name), GIB)


def test_what_cannot_start_stands_in_the_table_and_is_not_started(search, tmp_path, monkeypatch):
    program = tmp_path / "vllm"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", RecordedNVML())  # four GPUs of 80 GB
    values = {"engine": "vllm", "executable": str(program), "command": None, "model": model(tmp_path / "m", 140)}
    values |= {"parameters": {"tensor_parallel_size": 4}, "space": {"tensor_parallel_size": [1, 2, 4]}, "trials": 2}
    ran, facts, trials = search("run", lambda *_: 100, **values)
    assert [parameters["tensor_parallel_size"] for parameters, _ in ran] == [4, 2]
    ruled_out = trials[trials["parameters"] == {"tensor_parallel_size": 1}].iloc[0]
    assert ruled_out["state"] == "failed" and ruled_out["kind"] == "cannot_start"
    assert "weights of 140.0 GiB" in ruled_out["cause"] and "of 79.6 GiB" in ruled_out["cause"]
    assert Experiment(tmp_path / "run").trial(int(ruled_out["trial"])).record.seconds == 0
    assert "1 failed (1 cannot start)" in Searched(trials, facts={"search": facts}).counts
