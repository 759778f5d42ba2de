"""Launching the real embedded engine, and being told why it did not start."""

import json
from pathlib import Path

import httpx
import pytest

from tuner.engines.base import ServerSpec
from tuner.experiment import Trial
from tuner.server import launch


@pytest.fixture
def trial(tmp_path):
    return Trial(tmp_path)


def spec(model, **more):
    return ServerSpec(engine="llamacpp", model=str(model), **more)


def record(trial):
    return json.loads(trial.server_file.read_text())


def chat(server, **headers):
    body = {"model": server.model_name, "max_tokens": 4, "messages": [{"role": "user", "content": "hello"}]}
    return httpx.post(f"{server.base_url}/v1/chat/completions", json=body, headers=headers)


def is_running(pid):
    return Path(f"/proc/{pid}").exists()


def test_a_server_starts_serves_and_is_gone(tiny_gguf, trial):
    with launch(spec(tiny_gguf, parameters={"n_parallel": 2}), trial) as server:
        assert server.model_name == "tiny"
        assert chat(server).json()["usage"]["completion_tokens"] == 4
        assert record(trial)["state"] == "ready"
        assert server.failure() is None
    assert not server.is_alive()
    assert not is_running(server.pid)
    said = record(trial)
    assert said["state"] == "stopped" and said["exit_code"] == 0 and said["failure"] is None
    assert said["started_at"].endswith("Z") and said["started_at"] < said["ready_at"] < said["finished_at"]
    server.stop()
    assert record(trial) == said


def test_attach_uses_a_server_and_leaves_it_running(tiny_gguf, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with launch(spec(tiny_gguf), Trial(tmp_path / "a")) as ours:
        attached = ServerSpec(engine="attach", base_url=f"{ours.base_url}/v1")
        with launch(attached, Trial(tmp_path / "b")) as server:
            assert server.model_name == "tiny" and server.is_alive() and server.pid is None
        assert ours.is_alive()
