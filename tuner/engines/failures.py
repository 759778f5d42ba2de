"""Why a server failed: one table of log patterns, and one loop over it."""

import re
import signal
from collections.abc import Sequence
from typing import NamedTuple

#: what can be the matter with a server
FAILURE_KINDS = (
    "out_of_memory",
    "port_in_use",
    "bad_argument",
    "model_not_found",
    "gpu_unavailable",
    "timeout",
    "unreachable",
    "unauthorized",
    "crashed",
)


class Pattern(NamedTuple):
    """A regular expression, and the kind of failure that a log line with it means."""

    kind: str
    regex: str


#: what any engine may print, the most telling first; healthy logs hold "error" and "memory" too, so never those alone
COMMON = (
    Pattern("out_of_memory", r"torch\.OutOfMemoryError|(CUDA|HIP) out of memory|CUDA error: out of memory"),
    Pattern("out_of_memory", r"Cannot allocate memory|^MemoryError\b|std::bad_alloc"),
    Pattern("port_in_use", r"Address already in use|Errno 98\b|EADDRINUSE"),
    Pattern("gpu_unavailable", r"No CUDA GPUs are available|no CUDA-capable device|invalid device ordinal"),
    Pattern("gpu_unavailable", r"CUDA driver version is insufficient|Failed to infer device type"),
    Pattern("model_not_found", r"RepositoryNotFoundError|HFValidationError|is not a local folder and is not a valid"),
    Pattern("model_not_found", r"does not appear to have a file named config\.json|Can't load the configuration of"),
    Pattern("bad_argument", r"unrecognized arguments|invalid choice: |error: argument |\bValidationError: "),
)

_TAIL_LINES = 12
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Failure(NamedTuple):
    """Why a server failed.

    Args:
        kind: one of FAILURE_KINDS.
        detail: the line that tells it.
        exit_code: of the process, negative for a signal; None where it still ran, or its supervisor was killed.
        log_tail: the last lines of the log up to where it tells.
    """

    kind: str
    detail: str
    exit_code: int | None = None
    log_tail: tuple[str, ...] = ()


def diagnose(log: str, exit_code: int | None, patterns: Sequence[Pattern]) -> Failure:
    """Read in a server's log why it ended.

    Args:
        log: what it printed since it was started.
        exit_code: with which it ended, negative for a signal; None where its supervisor was killed.
        patterns: the engine's own and COMMON; the first that is found anywhere decides.
    """
    lines = [line.rstrip() for line in _ANSI.sub("", log).splitlines() if line.strip()]
    for kind, regex in patterns:
        for number, line in enumerate(lines):
            if re.search(regex, line):
                tail = lines[max(0, number + 1 - _TAIL_LINES) : number + 1]
                return Failure(kind, line.strip(), exit_code, tuple(tail))
    tail = lines[-_TAIL_LINES:]
    return Failure("crashed", _how_it_ended(exit_code, tail), exit_code, tuple(tail))


def _how_it_ended(exit_code: int | None, tail: Sequence[str]) -> str:
    last = f"; its last line: {tail[-1].strip()}" if tail else ""
    return f"it ended {describe_exit(exit_code)}{last}"


def describe_exit(exit_code: int | None) -> str:
    """`with exit code 3`, or by which signal, or why there is none."""
    if exit_code is None:
        return "because its supervisor was killed"
    if exit_code >= 0:
        return f"with exit code {exit_code}"
    hint = " (the kernel does that when memory runs out)" if exit_code == -signal.SIGKILL else ""
    return f"by signal {signal.Signals(-exit_code).name}{hint}"
