"""No server outlives its owner: real processes, killed in every way.

The server is as bad as they come: it ignores SIGTERM, and has children in sessions of their own that ignore it too.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import psutil
import pytest
from jupyter_client.manager import KernelManager
from support import CHECKOUT, FAULTY_SERVER, SUPPORT
from support.processes import alive, command_of, processes_of, wait_until

from tuner.servers.supervised import Supervised

STUBBORN = ["ignore_sigterm=1", "orphans=2"]


def spec(*knobs):
    command = [sys.executable, str(FAULTY_SERVER), "--port", "{port}", *knobs]
    return {"engine": "command", "command": command, "ready_timeout": 20}


class Owner:
    """The owner's process, and what it says of its server."""

    def __init__(self, folder, how="", grace="0.5", knobs=STUBBORN):
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, SUPPORT / "server_owner.py", folder, json.dumps(spec(*knobs)), how],
            env=os.environ | {"TEST_GRACE": grace},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.said = json.loads(self.process.stdout.readline())
        self.servers = {self.said["main"], *self.said["processes"]}

    def record(self):
        return json.loads((self.folder / "server.json").read_text())


@pytest.fixture
def own(tmp_path):
    owners = []

    def start(*args, **more):
        owners.append(Owner(tmp_path, *args, **more))
        return owners[-1]

    yield start
    for owner in owners:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(owner.process.pid, signal.SIGKILL)  # with what it forked
        owner.process.communicate()
        for left in alive(owner.servers):  # the test has failed
            os.kill(left, signal.SIGKILL)


def signal_owner(number):
    return lambda owner: owner.process.send_signal(number)


def signal_guard(number):
    return lambda owner: os.kill(owner.said["guard"], number)


def nothing(_):
    pass


@pytest.mark.parametrize(
    ("how", "fault"),
    [
        pytest.param("", signal_owner(signal.SIGKILL), id="kill -9 of the owner"),
        pytest.param("", signal_owner(signal.SIGTERM), id="SIGTERM to the owner"),
        pytest.param("", signal_owner(signal.SIGINT), id="Ctrl-C"),
        pytest.param("", signal_owner(signal.SIGHUP), id="its terminal is closed"),
        pytest.param("raise", nothing, id="an exception in the with-block"),
        pytest.param("exit", nothing, id="the owner just ends"),
        pytest.param("fork", signal_owner(signal.SIGKILL), id="kill -9 of an owner with a forked child"),
        pytest.param("", signal_guard(signal.SIGKILL), id="kill -9 of the supervisor"),
        pytest.param("", signal_guard(signal.SIGTERM), id="SIGTERM to the supervisor"),
    ],
)
def test_nothing_is_left_within_10_seconds(own, how, fault):
    owner = own(how)
    assert len(owner.servers) == 3
    fault(owner)
    wait_until(lambda: not alive([*owner.servers, owner.said["guard"]]), 10)


def test_with_the_ordinary_grace_it_is_still_10_seconds(own):
    owner = own(grace="5")
    owner.process.kill()
    began = time.monotonic()
    wait_until(lambda: not alive(owner.servers), 10)
    assert time.monotonic() - began > 4  # it had its time to end well


def test_killed_with_its_supervisor_a_server_that_ignores_sigterm_ends_and_its_record_says_so(own):
    owner = own()
    owner.process.kill()
    os.kill(owner.said["guard"], signal.SIGKILL)
    wait_until(lambda: not alive(owner.servers), 10)
    wait_until(lambda: owner.record()["state"] == "stopped" and owner.record()["finished_at"])
    assert owner.record()["warnings"] == ["tuner was killed, and its supervisor ended the server"]


def test_killed_with_supervisor_and_heir_a_server_is_still_told_to_end(own, tmp_path):
    owner = own(knobs=[])
    owner.process.kill()
    for process in processes_of(tmp_path):
        if "supervisor.py" in " ".join(command_of(process)):
            process.kill()
    wait_until(lambda: not alive(owner.servers), 10)


def test_what_ended_with_its_killed_owner_is_recorded_as_stopped(own):
    owner = own()
    owner.process.kill()
    wait_until(lambda: owner.record()["state"] == "stopped" and owner.record()["finished_at"])


SHARES = """
import sys, time
from multiprocessing.shared_memory import SharedMemory
own, lent = SharedMemory(sys.argv[1], create=True, size=4096), SharedMemory(sys.argv[2])
print("up", flush=True)
time.sleep(60)
"""


def test_shared_memory_goes_with_the_family_that_left_it_and_only_that(tmp_path):
    left, lent = (f"tuner-test-{name}-{os.getpid()}" for name in ("left", "lent"))
    others = SharedMemory(lent, create=True, size=4096)
    try:
        command = Supervised([sys.executable, "-c", SHARES, left, lent], tmp_path / "log").start()
        wait_until(lambda: "up" in (tmp_path / "log").read_text())
        for process in psutil.Process(command.pid).children():
            process.kill()  # Python's own tracker, which would remove it
        command.stop()
        assert not Path("/dev/shm", left).exists() and Path("/dev/shm", lent).exists()
    finally:
        others.close()
        others.unlink()


@pytest.mark.parametrize(
    ("fault", "detail"),
    [
        pytest.param(signal_guard(signal.SIGKILL), "its supervisor was killed", id="supervisor"),
        pytest.param(lambda owner: os.kill(owner.said["main"], signal.SIGKILL), "by signal SIGKILL", id="server"),
    ],
)
def test_the_owner_learns_why_its_server_is_gone(own, fault, detail):
    owner = own()
    fault(owner)
    said = json.loads(owner.process.stdout.readline())
    assert "crashed" in said["failure"] and detail in said["failure"]
    wait_until(lambda: not alive(owner.servers), 10)  # the orphans of a dead server too
    wait_until(lambda: owner.record()["state"] == "failed")
    assert owner.record()["failure"]["kind"] == "crashed"


KERNEL_CODE = """
import json, sys
from pathlib import Path
from tuner.engines.base import ServerSpec
from tuner.engines.command import Command
from tuner.core.run_directory import Trial
from tuner.servers.server import launch
from tuner.sweep.spec import make_spec
Command.grace = 0.5
server = launch(make_spec({spec!r}, ServerSpec), Trial(Path({folder!r})))
Path({folder!r}, "processes").write_text(json.dumps(sorted(server.processes())))
"""


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda kernel: kernel.restart_kernel(now=True), id="restart"),
        pytest.param(lambda kernel: os.kill(kernel.provisioner.process.pid, signal.SIGKILL), id="kill -9"),
    ],
)
def test_a_server_ends_with_its_notebook_kernel_and_not_with_an_interrupt(tmp_path, end):
    kernel = KernelManager(kernel_name="python3")
    kernel.start_kernel(env=os.environ | {"PYTHONPATH": str(CHECKOUT)})
    client = kernel.blocking_client()
    try:
        client.wait_for_ready(timeout=60)
        code = KERNEL_CODE.format(spec=spec(*STUBBORN), folder=str(tmp_path))
        assert client.execute_interactive(code, timeout=60)["content"]["status"] == "ok"
        servers = set(json.loads((tmp_path / "processes").read_text()))
        kernel.interrupt_kernel()
        assert client.execute_interactive("1 + 1", timeout=30)
        assert alive(servers) == servers and len(servers) == 3
        end(kernel)
        wait_until(lambda: not alive(servers), 10)
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)
