"""The owner's side of a supervised command: start it, hear of its end, stop it, and see that nothing is left."""

import contextlib
import json
import logging
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from tuner.core.secrets import variables
from tuner.errors import TunerError
from tuner.servers import supervisor

log = logging.getLogger(__name__)

GRACE = 5.0  # seconds between SIGTERM and SIGKILL
_START_TIMEOUT = 60.0
_MARGIN = 6.0  # seconds beyond the grace in which a supervisor has ended all, or is stuck


@dataclass(eq=False)
class Supervised:
    """One command under a supervisor of its own; it ends when it is stopped, when we end, and when we are killed.

    Not covered: a process that is no descendant any more *and* has dropped our environment, after the supervisor was
    killed; one that ignores SIGTERM, where supervisor and heir were killed with us; a container (see `afterwards`).
    A process forked from ours holds the pipe too: our end is then noticed within a second instead of at once.
    """

    command: Sequence[str]  # program and arguments; nothing goes through a shell
    log_path: Path  # where its output is appended
    env: Mapping[str, str] | None = field(default=None, repr=False)  # all of it, perhaps secrets; ours where not given
    grace: float = GRACE  # seconds between SIGTERM and SIGKILL
    has_pipes: bool = False  # to write to and to read from, `stdin` and `stdout`; else it reads nothing, and logs
    # file descriptors that the supervisor keeps open as long as anything of the command lives (locks)
    held: Sequence[int] = ()
    # a command to run when all of it has ended, for what is no process of ours (a container)
    afterwards: Sequence[str] = ()
    scratch: Path | None = None  # a folder that is removed when all of it has ended
    record: tuple[Path, str] | None = None  # a server's, and its start: where the end is noted if we are killed
    # called once, in a thread, with the exit code when all of the command has ended; `stop` waits for it
    on_end: Callable[[int | None], None] = lambda _: None

    pid: int = field(default=0, init=False)  # of the command, once it was started
    exit_code: int | None = field(default=None, init=False)  # negative for a signal; None where nobody learnt it
    stdin: IO[bytes] | None = field(default=None, init=False)
    stdout: IO[bytes] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._marker = secrets.token_hex(8)
        self._refusal = ""
        environment = os.environ if self.env is None else self.env
        #: the log, and by their names the variables whose values are to stand nowhere in it
        self._secrets: dict[str, Any] = {"log": self.log_path.absolute(), "secrets": variables(environment)}
        self._ours = contextlib.ExitStack()  # our ends of the pipes
        self._started, self._ended, self._gone = threading.Event(), threading.Event(), threading.Event()
        self._gone.set()

    def start(self) -> Self:
        """Start the command; TunerError where it cannot be."""
        with contextlib.ExitStack() as theirs:
            self._start_guard(theirs)
        self._gone.clear()
        threading.Thread(target=self._listen, name=f"supervised-{self._marker}", daemon=True).start()
        self._started.wait(_START_TIMEOUT)
        if not self.pid:
            self.stop()
            raise TunerError(f"cannot start {self.command[0]}: {self._refusal or 'its supervisor was killed'}")
        return self

    def is_alive(self) -> bool:
        """Whether the command runs; false from the instant its end was reported."""
        return bool(self.pid) and not self._ended.is_set()

    def stop(self) -> int | None:
        """End the command and its family, and wait until they are gone; again does nothing. Returns its exit code."""
        if self._gone.is_set():
            return self.exit_code
        with contextlib.suppress(OSError, ValueError):
            # a word, and not only the end of the pipe, which a process forked from ours may hold too
            self._leash.write(b"stop\n")
        self._ours.close()
        if not self._gone.wait(2 * self.grace + _MARGIN):
            self._guard.kill()  # stuck: `_listen` takes over
            self._gone.wait(self.grace + _MARGIN)
        return self.exit_code

    def processes(self) -> set[int]:
        """All living processes of the command, found as the supervisor finds them."""
        return supervisor.descendants_of(self._guard.pid) if self.is_alive() else set()

    def _start_guard(self, theirs: contextlib.ExitStack) -> None:
        leash, self._leash = self._pipe_to(theirs)
        report, self._report = self._pipe_from(theirs)
        passed: dict[str, int] = {}
        if self.has_pipes:
            passed["stdin"], self.stdin = self._pipe_to(theirs)
            passed["stdout"], self.stdout = self._pipe_from(theirs)
        order = {"command": self.command, "afterwards": self.afterwards, "marker": self._marker, "grace": self.grace}
        order |= {"owner": os.getpid(), "scratch": self.scratch, "record": self.record, **self._secrets, **passed}
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", supervisor.__file__, json.dumps(order, default=str)],
            stdin=leash,
            stdout=report,
            stderr=theirs.enter_context(self.log_path.open("ab")),
            env=self.env,
            pass_fds=[*self.held, *passed.values()],
            start_new_session=True,
        )

    def _pipe_to(self, theirs: contextlib.ExitStack) -> tuple[int, IO[bytes]]:
        reader, writer = os.pipe()
        theirs.callback(os.close, reader)
        return reader, self._ours.enter_context(open(writer, "wb", buffering=0))

    def _pipe_from(self, theirs: contextlib.ExitStack) -> tuple[int, IO[bytes]]:
        reader, writer = os.pipe()
        theirs.callback(os.close, writer)
        return writer, open(reader, "rb")

    def _listen(self) -> None:
        """Follow the supervisor's report to its end; where it was killed, do its work."""
        with self._report:
            for line in self._report:
                match line.decode().rstrip("\n").split(" ", 1):
                    case "started", pid:
                        self.pid = int(pid)
                        self._started.set()
                    case "refused", why:
                        self._refusal = why
                    case "ended", code:
                        self.exit_code = int(code)
                        self._ended.set()
        self._started.set()
        if self._guard.wait() != 0:
            self._end_family()
        self._ended.set()
        try:
            if self.pid:
                self.on_end(self.exit_code)
        finally:
            self._gone.set()

    def _end_family(self) -> None:
        log.warning("the supervisor of %s was killed; ending what it watched", self.command[0])
        if not supervisor.end_family(lambda: supervisor.marked_with(self._marker), self.grace):
            log.error("processes of %s are still alive", self.command[0])
        supervisor.run_afterwards(self.afterwards)
        supervisor.redact(**self._secrets)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self.stdout:
            self.stdout.close()
