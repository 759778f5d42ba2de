"""The real vLLM, where it is installed (its CPU build will do): swept by the command line, and made to fail."""

import json
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest
from support.commands import start
from support.processes import alive, processes_of, wait_until
from support.tiny_llama import write_tiny_llama

import tuner
from tuner.core.run_directory import Trial
from tuner.engines.base import ServerSpec
from tuner.errors import ServerFailed
from tuner.servers.server import launch
from tuner.servers.telemetry import engine_columns

VLLM = os.environ.get("TUNER_TEST_VLLM") or shutil.which("vllm")
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "OMP_NUM_THREADS": "1",  # two threads spin: faster alone, far slower beside anything else
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}
PARAMETERS = {"dtype": "bfloat16", "max_model_len": 2048, "max_num_seqs": 16, "enforce_eager": True}

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("vllm"),
    pytest.mark.skipif(not VLLM, reason="vLLM is not installed; name its program in TUNER_TEST_VLLM"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_llama(tmp_path_factory.mktemp("model") / "tiny-llama")


def test_vllm_is_launched_swept_and_stopped(model, tmp_path):
    config = {
        "engine": "vllm",
        "model": str(model),
        "executable": VLLM,
        "environment": ENVIRONMENT,
        "parameters": PARAMETERS,
        "levels": [1, 4, 8],
        "scenarios": ["D(60,48)"],
        "max_seconds": 15,
    }
    (tmp_path / "vllm.yaml").write_text(json.dumps(config))  # JSON is YAML
    with start(tmp_path, "sweep", "vllm.yaml") as sweep:
        _, err = sweep.communicate(timeout=540)
    assert sweep.returncode == 0, err
    assert processes_of(tmp_path) == []
    (folder,) = (tmp_path / "runs").iterdir()
    batches = tuner.load_batches(folder)
    assert list(batches["concurrency"]) == [1, 4, 8]
    assert set(batches["outcome"]) == {"completed"} and (batches["errors"] == 0).all()
    assert (batches["output_throughput"] > 0).all()
    assert json.loads((folder / "trials/0001/server.json").read_text())["state"] == "stopped"


def vllm(model, parameters=(), environment=()):
    return ServerSpec(
        engine="vllm",
        model=str(model),
        executable=VLLM,
        environment=ENVIRONMENT | dict(environment),
        parameters=PARAMETERS | dict(parameters),
    )


def kill_engine_core(server):
    (core,) = [pid for pid in server.processes() if "EngineCore" in psutil.Process(pid).cmdline()[0]]
    os.kill(core, signal.SIGKILL)


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        pytest.param(lambda server: server.stop(), None, id="stop"),
        pytest.param(
            lambda server: os.kill(server.record.pid, signal.SIGKILL), "crashed", id="kill -9 of the API server"
        ),
        pytest.param(kill_engine_core, "crashed", id="kill -9 of the engine core"),
    ],
)
def test_vllm_is_gone_within_10_seconds_also_with_a_request_in_flight(model, tmp_path, end, kind):
    with launch(vllm(model), Trial(tmp_path)) as server, ThreadPoolExecutor() as pool:
        family = server.processes()
        asked = {"model": server.model_name, "prompt": "hello", "max_tokens": 2000, "ignore_eos": True}
        pool.submit(httpx.post, f"{server.base_url}/v1/completions", json=asked, timeout=30)
        wait_until(lambda: engine_columns(server).get("running"))
        end(server)
        wait_until(lambda: not alive(family), 10)
        failure = server.failure()
        assert (failure and failure.kind) == kind


@pytest.mark.parametrize(
    ("parameters", "environment", "kind", "detail"),
    [
        ({"no_dtype": True}, {}, "bad_argument", "unrecognized arguments: --no-dtype"),
        ({}, {"VLLM_CPU_KVCACHE_SPACE": "900"}, "out_of_memory", "less than requested memory for kv"),
    ],
)
def test_vllm_says_why_it_failed(model, tmp_path, parameters, environment, kind, detail):
    with ThreadPoolExecutor() as pool:
        ended = pool.submit(instant_of_end, tmp_path / "server.json")
        with pytest.raises(ServerFailed, match=detail) as failed:
            launch(vllm(model, parameters, environment), Trial(tmp_path))
        assert time.monotonic() - ended.result() < 5
    assert failed.value.kind == kind
    assert processes_of(tmp_path) == []


def instant_of_end(record):
    """When the main process of the server that `record` tells of has ended, on the monotonic clock."""
    wait_until(record.exists)
    psutil.wait_procs([psutil.Process(json.loads(record.read_text())["pid"])])
    return time.monotonic()
