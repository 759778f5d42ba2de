"""The handle on a supervised command: pipes, exit codes, and what it holds."""

import socket
import sys

import pytest
from support.processes import alive, wait_until

from tuner.core import locks
from tuner.errors import ServerFailed, TunerError
from tuner.servers.supervised import Supervised


def python(code):
    return [sys.executable, "-c", code]


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [("raise SystemExit(3)", 3), ("pass", 0), ("import os; os.kill(os.getpid(), 9)", -9)],
)
def test_its_end_and_exit_code_are_known(log, code, exit_code):
    with Supervised(python(code), log) as command:
        wait_until(lambda: not command.is_alive())
        assert command.stop() == exit_code


def test_it_is_stopped_once(log):
    command = Supervised(python("import time; time.sleep(60)"), log).start()
    assert command.is_alive() and alive([command.pid]) and command.processes() == {command.pid}
    assert command.stop() == command.stop() == -15
    assert not alive([command.pid])
    assert Supervised(["never"], log).stop() is None


def test_lines_go_in_and_out_and_errors_to_the_log(log):
    code = "import sys\nfor line in sys.stdin: print(line.upper(), end='', flush=True); print('noted', file=sys.stderr)"
    with Supervised(python(code), log, has_pipes=True) as command:
        for word in (b"one\n", b"two\n"):
            command.stdin.write(word)
            assert command.stdout.readline() == word.upper()
        command.stdin.close()
        wait_until(lambda: not command.is_alive())
        assert command.stdout.read() == b""
    assert command.exit_code == 0
    assert log.read_text() == "noted\n" * 2


def test_the_command_inherits_nothing_but_its_three_streams(log):
    code = "import os; print(sorted(os.listdir('/proc/self/fd')))"
    with socket.create_server(("127.0.0.1", 0)) as held:
        held.set_inheritable(True)
        with Supervised(python(code), log, held=[held.fileno()]) as command:
            wait_until(lambda: not command.is_alive())
    assert log.read_text() == "['0', '1', '2', '3']\n"  # 3 is the folder being listed


def test_what_it_holds_is_held_until_all_of_it_is_gone(log):
    child = "import time, signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    with locks.take("test-held") as holder:
        command = Supervised(python(child), log, held=[holder.fileno()], grace=0.5).start()
    wait_until(lambda: "up" in log.read_text())
    with pytest.raises(locks.AlreadyTaken):
        locks.take("test-held")
    command.stop()
    locks.take("test-held").close()


@pytest.mark.parametrize("command", ["no-such-program", "/etc/passwd"])
def test_a_command_that_cannot_be_started_is_said(log, command):
    with pytest.raises(TunerError, match=f"cannot start {command}: .*{command}"):
        Supervised([command], log).start()


def test_its_end_is_told_once_with_the_exit_code(log):
    told = []
    with Supervised(python("raise SystemExit(4)"), log, on_end=told.append) as command:
        wait_until(lambda: told)
        command.stop()
    assert told == [4]


def test_a_free_port_is_reserved_and_given_back():
    port, claim = locks.reserve_port(None)
    number = port.getsockname()[1]
    with pytest.raises(ServerFailed, match=f"port {number} is in use"):
        locks.reserve_port(number)
    port.close()
    claim.close()
    for holder in locks.reserve_port(number):
        holder.close()
