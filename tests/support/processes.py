"""Finding and awaiting the processes of a test, and nobody else's."""

import contextlib
import socket
import subprocess
import sys
import time

import psutil

from support import FAULTY_SERVER


def wait_until(condition, seconds=30.0, every=0.05):
    """Return what `condition` gives once it is true; fail the test where it stays false."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{condition} stayed false for {seconds} s"
        time.sleep(every)
    return found


def processes_of(mark):
    """The living processes that have `mark` anywhere in their environment or command line."""
    return [process for process in psutil.process_iter() if _is_of(process, str(mark))]


def _is_of(process, mark):
    with contextlib.suppress(psutil.Error, OSError):
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return any(mark in text for text in [*process.environ().values(), *process.cmdline()])
    return False


def alive(pids):
    """Those of `pids` that run; a zombie does not."""
    return {pid for pid in pids if _runs(pid)}


def _runs(pid):
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    return False


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def command_of(process):
    """A process's words; none of one that has just ended, of which a zombie may be left."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.cmdline()
    return []


@contextlib.contextmanager
def running_faulty_server(*knobs):
    """A server that misbehaves as `knobs` say; gives its address."""
    command = [sys.executable, str(FAULTY_SERVER), *knobs]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield server.stdout.readline().split()[-1]
        finally:
            server.kill()
