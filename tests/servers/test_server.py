"""Launching a server: ready, or why not; and nothing left behind either way."""

import json
import logging
import platform
import socket
import sys
from pathlib import Path

import httpx
import psutil
import pytest
from support import FAULTY_SERVER
from support.processes import alive, running_faulty_server, wait_until

from tuner.core.run_directory import Trial
from tuner.engines.base import ServerSpec
from tuner.errors import EngineError, ServerFailed, SpecError
from tuner.servers.server import launch
from tuner.servers.supervised import Supervised

FAULTY = [sys.executable, str(FAULTY_SERVER), "--port", "{port}"]


@pytest.fixture
def trial(tmp_path):
    return Trial(tmp_path)


@pytest.fixture
def taken_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def llamacpp(model, **more):
    return ServerSpec(engine="llamacpp", model=str(model), **more)


def faulty(*knobs, **more):
    return ServerSpec(engine="command", command=[*FAULTY, *knobs], **more)


def record(trial):
    return json.loads((trial.folder / "server.json").read_text())


def chat(server):
    body = {"model": server.model_name, "max_tokens": 4, "messages": [{"role": "user", "content": "hello"}]}
    headers = {"Authorization": f"Bearer {server.spec.api_key()}"}
    return httpx.post(f"{server.base_url}/v1/chat/completions", json=body, headers=headers)


def test_a_server_starts_serves_and_is_gone(tiny_gguf, trial):
    with launch(llamacpp(tiny_gguf, parameters={"n-parallel": 2}), trial) as server:
        assert server.model_name == "tiny"
        assert chat(server).json()["usage"]["completion_tokens"] == 4
        assert record(trial)["state"] == "ready" and record(trial)["ready_seconds"] < 60
        assert server.is_alive() and server.failure() is None
    assert not server.is_alive() and server.failure() is None
    assert not alive([server.record.pid])
    said = record(trial)
    assert (said["state"], said["exit_code"], said["failure"]) == ("stopped", 0, None)
    assert said["parameters"] == {"n_parallel": 2} and said["command"][-2:] == ["--n-parallel", "2"]
    assert said["started_at"] < said["ready_at"] < said["finished_at"]
    assert said["finished_at"].endswith("Z")
    server.stop()
    assert record(trial) == said


def test_two_servers_have_two_ports(tiny_gguf, tmp_path):
    trials = [Trial(tmp_path / name) for name in "ab"]
    for trial in trials:
        trial.folder.mkdir()
    with launch(llamacpp(tiny_gguf), trials[0]) as one, launch(faulty(), trials[1]) as two:
        assert one.base_url != two.base_url
        assert (one.model_name, two.model_name) == ("tiny", "faulty")
    assert not alive([one.record.pid, two.record.pid])


def test_a_second_launch_in_a_trial_keeps_the_record_and_log_of_the_first(trial):
    for _ in range(2):
        with launch(faulty(), trial):
            pass
    assert trial.server_log.read_text().count("listening on") == 2
    (first,) = record(trial)["previous"]
    assert first["state"] == "stopped" and first["finished_at"] < record(trial)["started_at"]


@pytest.mark.parametrize(
    ("knobs", "kind", "detail"),
    [
        pytest.param(["never_ready=1"], "timeout", "not ready within 1 s", id="never ready"),
        pytest.param(["die_after_seconds=0.3", "never_ready=1"], "crashed", "with exit code 9", id="dies"),
        pytest.param(["die_after_seconds=0.3", "never_ready=1", "exit_code=0"], "crashed", "code 0", id="just ends"),
        pytest.param(
            ["die_after_seconds=0.3", "never_ready=1", "last_words=torch.OutOfMemoryError: CUDA out of memory."],
            "out_of_memory",
            "CUDA out of memory",
            id="memory",
        ),
        pytest.param(["no_such_knob=1"], "crashed", "KeyError: 'no_such_knob'", id="bad argument"),
    ],
)
def test_a_server_that_does_not_get_ready_says_why(trial, knobs, kind, detail):
    with pytest.raises(ServerFailed, match=detail) as failed:
        launch(faulty(*knobs, ready_timeout=1), trial)
    assert failed.value.kind == kind
    assert "\n" not in str(failed.value)
    said = record(trial)
    assert (said["state"], said["failure"]["kind"]) == ("failed", kind)
    assert not alive([said["pid"]])


def test_a_server_that_dies_later_says_why(trial):
    with launch(faulty("die_after_seconds=2", "last_words=RuntimeError: CUDA out of memory"), trial) as server:
        assert server.failure() is None
        failure = wait_until(server.failure)
        assert failure.kind == "out_of_memory"
    assert server.failure().kind == "out_of_memory"
    assert record(trial)["state"] == "failed" and record(trial)["exit_code"] == 9
    assert "RuntimeError: CUDA out of memory" in record(trial)["failure"]["log_tail"]


def test_an_earlier_failure_in_the_log_is_not_the_reason_of_a_later_one(trial):
    with pytest.raises(ServerFailed):
        launch(faulty("die_after_seconds=0.1", "never_ready=1", "last_words=CUDA out of memory"), trial)
    with pytest.raises(ServerFailed) as failed:
        launch(faulty("die_after_seconds=0.1", "never_ready=1"), trial)
    assert failed.value.kind == "crashed"


def test_a_taken_port_is_found_before_the_launch(trial, taken_port):
    with pytest.raises(ServerFailed, match=f"port {taken_port} is in use") as failed:
        launch(faulty(port=taken_port), trial)
    assert failed.value.kind == "port_in_use"
    assert record(trial)["failure"]["kind"] == "port_in_use" and record(trial)["pid"] is None


def test_a_taken_port_is_found_by_the_engine_too(trial, taken_port):
    command = [*FAULTY[:-1], str(taken_port), "model={port}"]
    with pytest.raises(ServerFailed) as failed:
        launch(ServerSpec(engine="command", command=command), trial)
    assert failed.value.kind == "port_in_use"


def test_two_launches_never_fight_for_a_port(trial, tmp_path):
    with launch(faulty(), trial) as server:
        port = int(server.base_url.rpartition(":")[2])
        (tmp_path / "other").mkdir()
        with pytest.raises(ServerFailed) as failed:
            launch(faulty(port=port), Trial(tmp_path / "other"))
        assert failed.value.kind == "port_in_use"
        assert chat(server).status_code == 200
    with launch(faulty(port=port), trial) as again:
        assert again.base_url == server.base_url


@pytest.fixture
def limited_python(tmp_path):
    """A Python that may have 3 GB: it asks the system for memory and is refused, as on a full machine."""
    script = tmp_path / "limited-python"
    script.write_text(f'#!/bin/sh\nulimit -v 3000000\nexec {sys.executable} "$@"\n')
    script.chmod(0o755)
    return str(script)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"flash_attn": "off", "cache_type_v": "q4_0"}, "bad_argument: .*quantized V cache requires flash_attn"),
        ({"n_ctx": 20_000_000}, "out_of_memory: .*(insufficient memory|bad_alloc)"),
    ],
)
def test_the_embedded_engine_says_why(tiny_gguf, trial, limited_python, parameters, said):
    with pytest.raises(ServerFailed, match=said):
        launch(llamacpp(tiny_gguf, parameters=parameters, executable=limited_python), trial)
    assert record(trial)["exit_code"] == 1


def test_a_damaged_model_is_named(tiny_gguf, trial, tmp_path):
    half = tmp_path / "half.gguf"
    half.write_bytes(tiny_gguf.read_bytes()[: tiny_gguf.stat().st_size // 2])
    with pytest.raises(ServerFailed, match="corrupted or incomplete") as failed:
        launch(llamacpp(half), trial)
    assert failed.value.kind == "model_not_found"


def test_many_starts_and_stops_leave_nothing_behind(tiny_gguf, trial):
    me = psutil.Process()

    def open_things():
        return me.num_fds(), me.num_threads(), len(me.children(recursive=True)), abstract_sockets()

    with launch(llamacpp(tiny_gguf), trial):
        pass
    before = open_things()
    for _ in range(12):
        with launch(llamacpp(tiny_gguf, parameters={"warmup": False}), trial):
            pass
    wait_until(lambda: not more(open_things(), before))


def more(now, before):
    """What there is more of than before; printed, to be seen where the test fails."""
    found = [pair for pair in zip(now, before, strict=True) if pair[0] > pair[1]]
    sys.stdout.write(f"{now} {before}\n" if found else "")
    return found


def abstract_sockets():
    """The claims that this process holds on ports and GPUs; other tests may run beside this one."""
    held = {link for fd in Path("/proc/self/fd").iterdir() if (link := _target(fd)).startswith("socket:")}
    lines = Path("/proc/net/unix").read_text().splitlines()
    return sum("@tuner-" in line and f"socket:[{line.split()[6]}]" in held for line in lines)


def _target(fd):
    try:
        return str(fd.readlink())
    except OSError:
        return ""


# attach


def test_attach_uses_a_server_and_leaves_it_running(tmp_path):
    trials = [Trial(tmp_path / name) for name in "ab"]
    for trial in trials:
        trial.folder.mkdir()
    with launch(faulty(), trials[0]) as ours:
        with launch(ServerSpec(engine="attach", base_url=f"{ours.base_url}/v1/"), trials[1]) as server:
            assert (server.base_url, server.model_name, server.record.pid) == (ours.base_url, "faulty", None)
            assert server.is_alive()
        assert ours.is_alive() and record(trials[1])["state"] == "stopped"
        with launch(ServerSpec(engine="attach", base_url=ours.base_url), trials[1]) as server:
            assert server.failure() is None
            ours.stop()
            assert server.failure().kind == "unreachable"


def test_an_attached_server_that_has_gone_away_is_not_waited_for_as_one_that_may_still_start(trial):
    with running_faulty_server() as url, launch(ServerSpec(engine="attach", base_url=url), trial):
        pass
    with pytest.raises(ServerFailed, match=r"no server answers at .*, within 2 s \(ready_timeout\)"):
        launch(ServerSpec(engine="attach", base_url=url), trial)


def test_attach_to_nothing_is_unreachable(trial):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ServerFailed, match=f"no server answers at http://127.0.0.1:{port}") as failed:
        launch(ServerSpec(engine="attach", base_url=f"http://127.0.0.1:{port}", ready_timeout=0.2), trial)
    assert failed.value.kind == "unreachable"


# secrets

CANARY = "sk-canary-5d1f0a"


@pytest.mark.parametrize("engine", ["llamacpp", "command"])
def test_the_api_key_works_and_is_nowhere(tiny_gguf, trial, monkeypatch, caplog, engine):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MY_KEY", CANARY)
    if engine == "llamacpp":
        spec = llamacpp(tiny_gguf, api_key_env="MY_KEY")
    else:
        wrapper = ["sh", "-c", 'echo "key is $MY_KEY"; exec "$0" "$@" "api_key=$MY_KEY"']  # as a user might
        spec = ServerSpec(engine="command", command=[*wrapper, *FAULTY], api_key_env="MY_KEY")
    with launch(spec, trial) as server:
        assert chat(server).status_code == 200
        assert httpx.post(f"{server.base_url}/v1/chat/completions", json={}).status_code == 401
        assert CANARY not in server.log_text()
        if engine == "llamacpp":
            assert CANARY not in " ".join(psutil.Process(server.record.pid).cmdline())
            assert CANARY not in trial.server_log.read_text()
    seen = [(trial.folder / "server.json").read_text(), caplog.text, repr(server.spec), repr(server.__dict__)]
    assert not [text for text in seen if CANARY in text]


@pytest.mark.parametrize(("key", "remedy"), [(None, "api_key_env"), ("wrong", "the key in MY_KEY is not accepted")])
def test_attach_says_that_a_key_is_wanted(tmp_path, monkeypatch, key, remedy):
    monkeypatch.setenv("MY_KEY", str(key))
    ours, theirs = Trial(tmp_path), Trial(tmp_path / "theirs")
    theirs.folder.mkdir()
    monkeypatch.setenv("REAL", CANARY)
    command = ["sh", "-c", 'exec "$0" "$@" "api_key=$REAL"', *FAULTY]
    with launch(ServerSpec(engine="command", command=command, api_key_env="REAL"), ours) as server:
        spec = ServerSpec(engine="attach", base_url=server.base_url, api_key_env="MY_KEY" if key else None)
        with pytest.raises(ServerFailed, match=remedy) as failed:
            launch(spec, theirs)
        assert failed.value.kind == "unauthorized" and "401" in str(failed.value)


def test_a_key_that_is_not_set_is_a_wrong_request(trial):
    with pytest.raises(SpecError, match="NO_SUCH_KEY is not set"):
        launch(faulty(api_key_env="NO_SUCH_KEY"), trial)
    assert not (trial.folder / "server.json").exists()


def test_an_engine_that_is_not_there(trial):
    with pytest.raises(EngineError, match="did you mean llamacpp"):
        launch(ServerSpec(engine="lamacpp"), trial)


def test_a_stop_command_ends_what_is_no_process_of_ours(trial, tmp_path):
    spec = faulty("model={name}", stop_command=["touch", str(tmp_path / "{name}.stopped")])
    with launch(spec, trial) as server:
        assert server.model_name.startswith("tuner-")
        assert not list(tmp_path.glob("*.stopped"))
    assert (tmp_path / f"{server.model_name}.stopped").exists()


def test_the_command_is_known_before_anything_runs():
    from tuner.servers.server import preview
    from tuner.sweep.spec import ServeSpec

    shown = preview(ServeSpec(engine="vllm", model="m", executable=sys.executable), 8123)
    assert "m" in shown and "8123" in shown
    assert preview(ServeSpec(engine="attach", base_url="http://127.0.0.1:1", model="m"), 8123) == []


@pytest.mark.parametrize("engine", ["command", "attach"])
def test_a_list_of_models_that_never_ends_is_waited_for_no_longer_than_was_said(engine, trial):
    if engine == "command":
        with pytest.raises(ServerFailed, match=r"not ready within 2 s: it takes the connection and does not answer"):
            launch(faulty("trickle=/v1/models", ready_timeout=2), trial)
        return
    with Supervised([*FAULTY[:-1], "0", "trickle=/v1/models"], trial.folder / "log") as server:
        log = wait_until((trial.folder / "log").read_text)
        spec = ServerSpec(engine="attach", base_url=log.split()[-1], ready_timeout=2)
        with pytest.raises(ServerFailed, match=r"does not answer /v1/models in time, within 2 s \(ready_timeout\)"):
            launch(spec, trial)
        assert server.is_alive()


def test_a_server_that_others_can_reach_is_refused_unless_that_was_asked_for(trial, caplog):
    with pytest.raises(ServerFailed, match=r"listens on 0\.0\.0\.0:\d+, where others can reach it.*set expose"):
        launch(faulty("host=0.0.0.0"), trial)
    assert record(trial)["failure"]["kind"] == "bad_argument" and not alive([record(trial)["pid"]])
    with launch(faulty("host=0.0.0.0", expose=True), trial):
        assert "can use it, without a key (api_key_env names one)" in caplog.text


def test_the_embedded_server_is_exposed_where_that_was_asked_for(tiny_gguf, trial, caplog):
    with launch(llamacpp(tiny_gguf, expose=True), trial) as server:
        assert server.record.command[server.record.command.index("--host") + 1] == "0.0.0.0"
        assert f"whoever reaches {platform.node()} on 0.0.0.0:" in caplog.text
