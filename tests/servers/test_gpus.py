"""GPUs as NVML tells of them: answers in its form, read from a file; and the real thing where there is one."""

import json
import sys

import pytest
from support import FAULTY_SERVER
from support.processes import wait_until
from support.recorded_nvml import RecordedNVML

from tuner.core.run_directory import Trial
from tuner.engines.base import ServerSpec
from tuner.errors import ServerFailed
from tuner.servers import gpus, telemetry
from tuner.servers.server import launch

FAULTY = [sys.executable, str(FAULTY_SERVER), "--port", "{port}"]


@pytest.fixture
def nvml(monkeypatch, worker_id):
    """Four GPUs, with UUIDs of their own in each test process, since a claim counts on the whole host."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    recorded = RecordedNVML()
    for gpu in recorded.gpus:
        gpu["nvmlDeviceGetUUID"] += worker_id
    monkeypatch.setitem(sys.modules, "pynvml", recorded)
    yield recorded
    assert recorded.open == 0


def uuids(nvml, *indices):
    return [nvml.gpus[index]["nvmlDeviceGetUUID"] for index in indices]


def release(claim):
    for holder in claim.holders:
        holder.close()


def test_gpus_are_listed_with_what_they_do(nvml):
    found = gpus.gpus()
    assert [gpu.is_free for gpu in found] == [True, True, False, False]
    busy, silent = found[2], found[3]
    assert (busy.name, busy.utilization, busy.processes) == ("NVIDIA H100 80GB HBM3", 0.97, (40123,))
    assert (round(busy.power), busy.temperature) == (613, 64)
    assert (silent.utilization, silent.power) == (None, None)
    assert busy.use == "70.6 GiB in use by processes 40123"


@pytest.mark.parametrize(
    ("asked", "visible", "indices"),
    [
        (1, None, [0]),
        (2, None, [0, 1]),
        (1, "1,2", [1]),
        (1, "GPU-2222,GPU-1111", [1]),
        ([1], None, [1]),
        (["1", 0], None, [1, 0]),
        ([2], None, [2]),  # named: taken though it is in use
        (0, None, []),
    ],
)
def test_free_or_named_gpus_are_taken(nvml, monkeypatch, asked, visible, indices):
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    claim = gpus.claim(asked)
    assert [gpu.index for gpu in claim.gpus] == indices
    release(claim)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (3, r"asked for \(3\), and not so many are free or unclaimed: .*2: 70.6 GiB in use by processes 40123"),
        ([7], "there is no GPU 7 here; there are: 0 "),
        (["GPU-x"], "there is no GPU GPU-x here"),
        ([0, 0], "not so many"),
    ],
)
def test_gpus_that_cannot_be_had(nvml, asked, message):
    with pytest.raises(ServerFailed, match=message) as failed:
        gpus.claim(asked)
    assert failed.value.kind == "gpu_unavailable"
    release(gpus.claim(2))  # and nothing was kept


def test_a_gpu_is_taken_once(nvml):
    first = gpus.claim(1)
    second = gpus.claim(1)
    assert (first.gpus[0].index, second.gpus[0].index) == (0, 1)
    with pytest.raises(ServerFailed):
        gpus.claim([0])
    release(first)
    release(gpus.claim([0]))
    release(second)


def test_without_a_driver_there_are_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpus.gpus() == []
    assert gpus.why_none()[1] == "pip install nvidia-ml-py"
    with pytest.raises(ServerFailed, match="NVML finds none"):
        gpus.claim(1)


def test_a_server_gets_its_gpus_by_index_and_keeps_others_off_them(nvml, tmp_path):
    command = ["sh", "-c", 'echo "sees $CUDA_VISIBLE_DEVICES $CUDA_DEVICE_ORDER"; exec "$0" "$@"', *FAULTY]
    with launch(ServerSpec(engine="command", command=command, gpus=2), Trial(tmp_path)) as server:
        assert server.record.gpus == uuids(nvml, 0, 1)
        assert "sees 0,1 PCI_BUS_ID" in server.log_text()
        with pytest.raises(ServerFailed):
            gpus.claim(1)
        nvml.use(0, 60 << 30)
        assert telemetry.gpu_columns(server)["gpu0_memory"] == 60 << 30
        nvml.use(0, 600 << 20)
    release(gpus.claim(2))
    said = json.loads((tmp_path / "server.json").read_text())
    assert set(said["gpu_memory"]["before"]) == set(said["gpus"]) and said["warnings"] == []


@pytest.mark.parametrize(
    ("asked", "visible", "shown"),
    [
        ([1, 0], None, "1,0"),
        (1, "1", "1"),
        (["{uuid}"], None, "1"),
        (1, "MIG-a", "MIG-a"),
        (["MIG-b"], None, "MIG-b"),
        (3, None, "MIG-a,MIG-b,1"),
    ],
)
def test_whole_gpus_are_shown_by_index_and_slices_by_uuid(nvml, monkeypatch, asked, visible, shown):
    if "MIG" in f"{asked}{visible}{shown}":
        nvml.cut(2, ["MIG-a", "MIG-b"])
        nvml.gpus[0], nvml.gpus[2] = nvml.gpus[2], nvml.gpus[0]
        for part in nvml.gpus[0]["slices"]:
            part |= {
                "nvmlDeviceGetComputeRunningProcesses": [],
                "nvmlDeviceGetMemoryInfo": {"total": 8 << 30, "used": 0},
            }
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    asked = uuids(nvml, 1) if asked == ["{uuid}"] else asked
    claim = gpus.claim(asked)
    assert gpus.cuda_environment(claim.gpus)["CUDA_VISIBLE_DEVICES"] == shown
    release(claim)


def test_memory_that_was_not_given_back_is_warned_of(nvml, tmp_path, monkeypatch):
    monkeypatch.setattr(gpus, "GIVE_BACK", 0.1)
    spec = ServerSpec(engine="command", command=FAULTY, gpus=[1])
    with launch(spec, Trial(tmp_path)):
        nvml.use(1, 50 << 30)
    (warning,) = json.loads((tmp_path / "server.json").read_text())["warnings"]
    assert f"GPU {uuids(nvml, 1)[0]} did not get 49.4 GiB back" in warning


def test_no_gpu_at_all_is_said_to_the_server(nvml, tmp_path):
    command = ["sh", "-c", 'echo "sees <$CUDA_VISIBLE_DEVICES>"; exec "$0" "$@"', *FAULTY]
    with launch(ServerSpec(engine="command", command=command, gpus=0), Trial(tmp_path)) as server:
        assert "sees <>" in server.log_text()


def test_gpus_that_are_not_there_end_the_launch_with_a_record(tmp_path, nvml):
    with pytest.raises(ServerFailed):
        launch(ServerSpec(engine="command", command=FAULTY, gpus=4), Trial(tmp_path))
    assert json.loads((tmp_path / "server.json").read_text())["failure"]["kind"] == "gpu_unavailable"


@pytest.mark.skipif(not gpus.gpus(), reason="no NVIDIA GPU on this machine")
def test_a_real_gpu():
    found = gpus.gpus()
    assert all(gpu.uuid.startswith("GPU-") and 0 < gpu.memory_used < gpu.memory_total for gpu in found)
    claim = gpus.claim([found[0].uuid])
    wait_until(lambda: gpus.gpus()[0].memory_used)
    release(claim)
