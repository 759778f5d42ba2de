"""The guard process: runs one command and lets nothing of it outlive its owner.

`python supervisor.py '{"command": [...], "afterwards": [], "marker": "…", "grace": 5, "owner": 123, …}'`

Its standard input is a pipe that the owner holds open: a line on it, or its end, stops the command; so do SIGTERM,
SIGINT and SIGHUP, and the death of the owner where a process forked from it still holds the pipe. Its standard output
is the report (`started PID`, `refused REASON`, `ended CODE`), its standard error the command's log.

The command gets a session of its own. To stop is SIGTERM to the whole family, then SIGKILL to what is left after
`grace` seconds. The family is everything that descends from us (orphans come back to us, a sub-reaper) or carries our
marker in its environment. Should owner and guard be killed together, a heir of the guard does the same, with the same
locks. What the family leaves behind goes too: shared memory, the folder `scratch`, and in its `log` the values of the
variables `secrets`. Where the owner is gone, the guard notes the end in the file `record`. Standard library only, and
nothing of tuner: it starts in 30 ms.
"""

import contextlib
import ctypes
import json
import mmap
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

MARKER = "TUNER_SUPERVISED"  # the environment variable that marks every process of one command

_prctl = ctypes.CDLL(None).prctl
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PROC, _SHARED = Path("/proc"), "/dev/shm/"  # noqa: S108 - we look there, and make nothing
_KILL_WAIT = 3.0  # seconds in which SIGKILL takes effect, unless a process hangs in the kernel
_PAUSE = 0.03
_AFTERWARDS_WAIT = 10.0


def end_family(find: Callable[[], set[int]], grace: float) -> bool:
    """SIGTERM once to each that `find` sees, SIGKILL to what is left after `grace` seconds; whether all are gone."""
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, _KILL_WAIT)):
        deadline = time.monotonic() + seconds
        signalled: set[int] = set()
        while (family := find()) and time.monotonic() < deadline:
            for pid in family - signalled:  # those born meanwhile too
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
            signalled |= family
            time.sleep(_PAUSE)
    return not find()


def run_afterwards(command: Sequence[str]) -> None:
    """Run what ends things that are no processes of ours, such as a container; its failure changes nothing."""
    if command:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, timeout=_AFTERWARDS_WAIT, check=False)


def redact(log: Path | str, secrets: Iterable[str]) -> None:
    """Overwrite in a log the values of these environment variables; it stays as long as it is, for its readers."""
    values = {os.environ.get(name, "") for name in secrets} - {""}
    spelt = {form.encode(errors="surrogateescape") for value in values for form in (value, json.dumps(value)[1:-1])}
    with contextlib.suppress(OSError, ValueError), open(log, "r+b") as file, mmap.mmap(file.fileno(), 0) as text:
        for key in spelt:
            place = 0
            while (place := text.find(key, place)) >= 0:
                text[place : place + len(key)] = b"[redacted]".ljust(len(key), b"*")[: len(key)]


def note_end(path: str, started_at: str) -> None:
    """Note in a server's record that it is stopped, if it is still that of the start at `started_at`."""
    record = json.loads(Path(path).read_bytes())
    if record.get("started_at") == started_at and not record.get("finished_at"):
        finished = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        words = "tuner was killed, and its supervisor ended the server"
        record |= {"state": "stopped", "finished_at": finished, "warnings": [*record.get("warnings", []), words]}
        aside = Path(path).with_name(f".{Path(path).name}.{os.getpid():08x}")
        aside.write_text(json.dumps(record, indent=2) + "\n")
        aside.replace(path)


def marked_with(marker: str) -> set[int]:
    """The living processes that carry `marker` in their environment."""
    wanted, found = f"{MARKER}={marker}".encode(), set()
    for pid, _ in _living():
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if wanted in (_PROC / str(pid) / "environ").read_bytes().split(b"\0"):
                found.add(pid)
    return found


def descendants_of(root: int) -> set[int]:
    """The living descendants of process `root`."""
    children: dict[int, list[int]] = {}
    for pid, parent in _living():
        children.setdefault(parent, []).append(pid)
    family: set[int] = set()
    todo = [root]
    while todo:
        fresh = set(children.get(todo.pop(), [])) - family
        family |= fresh
        todo += fresh
    return family


def shared_memory_of(pids: Iterable[int]) -> set[Path]:
    """The files of shared memory that these processes have mapped."""
    found: set[Path] = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in (_PROC / str(pid) / "maps").read_text(errors="replace").splitlines():
                _, folder, name = line.partition(_SHARED)
                if folder and not name.endswith(" (deleted)"):
                    found.add(Path(folder + name))
    return found


def remove_shared_memory(left: set[Path], since: float) -> None:
    """Remove what of `left` is ours, was made or changed `since` (seconds since 1970), and is mapped by nobody."""
    for path in left - shared_memory_of(pid for pid, _ in _living()) if left else ():
        with contextlib.suppress(OSError):
            if path.stat().st_uid == os.getuid() and path.stat().st_ctime >= since:
                path.unlink()


def _living() -> Iterable[tuple[int, int]]:
    for entry in _PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            state, parent = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state != "Z":
                yield int(entry.name), int(parent)


class Supervisor:
    """The command, its family, and the pipe to the owner."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._order = order
        self._main = 0  # the command's process, while it runs
        self._began = time.time()
        self._wakeup, writer = os.pipe()  # gets a byte, the signal's number, at each signal we listen to
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (*_STOP_SIGNALS, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)

    def run(self) -> int:
        """Start the command, wait for its end or for a reason to end it, and leave nothing behind."""
        heir = self._leave_heir()  # before orphans come to us, of which it is none
        _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            self._main = self._start()
            _report(f"started {self._main}")
        except OSError as error:
            _report(f"refused {error.strerror}: {error.filename}")
        while self._main and not self._asked_to_stop():
            self._reap()
        all_gone = self._end(self._family, lambda: os.getppid() != self._order["owner"])
        with contextlib.suppress(BrokenPipeError):  # somebody has killed it
            os.write(heir, b"done")
        return 0 if all_gone else 1

    def _leave_heir(self) -> int:
        """Fork the heir; returns the pipe whose end, without a word, calls it."""
        reader, writer = os.pipe()
        if child := os.fork():
            os.waitpid(child, 0)
            os.close(reader)
            return writer
        try:
            if os.fork() == 0:
                os.close(writer)
                self._be_heir(reader)
        finally:
            os._exit(0)

    def _be_heir(self, call: int) -> None:
        """Wait for the guard's end; where it was killed, see that all ends once the owner does not."""
        os.setsid()
        for number in _STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        for fd in (0, 1, *(self._order[name] for name in ("stdin", "stdout") if name in self._order)):
            os.close(fd)
        try:
            owner = os.pidfd_open(self._order["owner"])
        except OSError:
            owner = call  # whose end has come by then, as the owner's has

        def family() -> set[int]:
            return marked_with(self._order["marker"])

        def is_alone(seconds: float = 0) -> bool:
            return bool(select.select([owner], [], [], seconds)[0])

        if not os.read(call, 4):
            while family() and not is_alone(1.0):
                pass
            self._end(family, is_alone)

    def _end(self, find: Callable[[], set[int]], is_alone: Callable[[], bool]) -> bool:
        """Whether all that `find` sees has gone, with what it leaves; it is noted where nobody else can."""
        shared = shared_memory_of(find())
        all_gone = end_family(find, self._order["grace"])
        run_afterwards(self._order["afterwards"])
        redact(self._order["log"], self._order["secrets"])
        remove_shared_memory(shared, self._began)
        if scratch := self._order["scratch"]:
            shutil.rmtree(scratch, ignore_errors=True)
        if self._order["record"] and is_alone():  # asked last: a dying owner closes its pipe before it is gone
            with contextlib.suppress(OSError, ValueError, AttributeError):
                note_end(*self._order["record"])
        return all_gone

    def _start(self) -> int:
        order = self._order
        stdin, stdout = order.get("stdin"), order.get("stdout")
        child = subprocess.Popen(
            order["command"],
            env=os.environ | {MARKER: order["marker"]},
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=sys.stderr if stdout is None else stdout,
            start_new_session=True,
            # should all three of us be killed, the kernel still asks the command to end
            preexec_fn=lambda: _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0),  # noqa: PLW1509  we have one thread
        )
        for fd in filter(None, (stdin, stdout)):
            os.close(fd)
        child.returncode = 0  # we reap it ourselves, with its orphans
        return child.pid

    def _asked_to_stop(self) -> bool:
        ready, _, _ = select.select([0, self._wakeup], [], [], 1.0)
        if self._wakeup in ready and any(number in _STOP_SIGNALS for number in os.read(self._wakeup, 4096)):
            return True
        return 0 in ready or os.getppid() != self._order["owner"]

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (child := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                if child[0] == self._main:
                    self._main = 0
                    _report(f"ended {os.waitstatus_to_exitcode(child[1])}")

    def _family(self) -> set[int]:
        self._reap()
        return {self._main} - {0} | descendants_of(os.getpid()) | marked_with(self._order["marker"])


def _report(line: str) -> None:
    with contextlib.suppress(OSError):  # the owner is gone
        os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    sys.exit(Supervisor(json.loads(sys.argv[1])).run())
