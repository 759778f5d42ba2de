"""Telemetry of a real server: samples in UTC, as columns that can be joined with batches."""

import sys

import httpx
import pandas as pd
import pytest
from support import FAULTY_SERVER
from support.processes import wait_until

from tuner.core.run_directory import Trial
from tuner.engines.base import ServerSpec
from tuner.errors import PathError
from tuner.servers import telemetry
from tuner.servers.server import launch


def samples(folder):
    return len((folder / "telemetry.jsonl").read_text().splitlines()) if (folder / "telemetry.jsonl").exists() else 0


def test_a_real_engine_is_recorded(tiny_gguf, tmp_path):
    spec = ServerSpec(engine="llamacpp", model=str(tiny_gguf))
    asked = {
        "model": "tiny",
        "max_tokens": 2000,
        "ignore_eos": True,
        "messages": [{"role": "user", "content": "hello"}],
    }
    with launch(spec, Trial(tmp_path)) as server, telemetry.Recorder(server, period=0.05):
        httpx.post(f"{server.base_url}/v1/chat/completions", json=asked, timeout=60)
        wait_until(lambda: samples(tmp_path) > 5)
    table = telemetry.load(tmp_path)
    assert str(table["at"].dtype.tz) == "UTC" and table["at"].is_monotonic_increasing
    assert (table["processes"] == 1).all()
    assert table["memory"].min() > 10_000_000
    assert table["cpu_cores"].max() > 0.1
    assert {"running", "waiting"} <= set(table.columns)


def test_the_engine_s_own_counters_are_columns(tmp_path):
    command = [sys.executable, str(FAULTY_SERVER), "--port", "{port}", "hang_every=1"]
    idle = {"running": 0, "waiting": 0, "kv_cache_use": 0}
    with launch(ServerSpec(engine="command", command=command), Trial(tmp_path)) as server:
        assert idle.items() <= telemetry.engine_columns(server).items()
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.base_url}/v1/chat/completions", json={}, timeout=0.3)
        busy = {"running": 1, "waiting": 0, "kv_cache_use": 0.001, "prefix_hits": 0, "prefix_queries": 100}
        assert busy.items() <= telemetry.engine_columns(server).items()


def test_requests_of_ranks_are_added_up_and_of_shares_the_fullest_counts(monkeypatch, tmp_path):
    command = [sys.executable, str(FAULTY_SERVER), "--port", "{port}"]
    ranks = {"vllm:num_requests_running": [3, 5], "vllm:kv_cache_usage_perc": [0.75, 0.7]}
    monkeypatch.setattr(telemetry.probe, "metrics", lambda http: ranks)
    with launch(ServerSpec(engine="command", command=command), Trial(tmp_path)) as server:
        assert telemetry.engine_columns(server) == {"running": 8, "kv_cache_use": 0.75}


def test_a_line_that_was_cut_is_left_out(tmp_path):
    (tmp_path / "telemetry.jsonl").write_text('{"at": "2026-11-24T06:00:00.000Z", "memory": 5}\n{"at": "2026-11-2')
    assert telemetry.load(tmp_path)["at"].tolist() == [pd.Timestamp("2026-11-24T06:00:00Z")]


def test_no_telemetry_is_said(tmp_path):
    with pytest.raises(PathError, match="no telemetry"):
        telemetry.load(tmp_path)
