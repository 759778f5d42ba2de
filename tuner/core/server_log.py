"""Why a server failed: one table of log patterns, and one loop over it."""

import re
import signal
from collections.abc import Sequence
from typing import NamedTuple

import msgspec


class Pattern(NamedTuple):
    """A regular expression, and the kind of failure that a log line with it means."""

    kind: str
    regex: str


OUT_OF_MEMORY = Pattern(  # what PyTorch (vLLM, SGLang), vLLM, llama.cpp and the kernel print when memory ran out
    "out_of_memory",
    r"torch\.OutOfMemoryError|(CUDA|HIP) out of memory|CUDA error: out of memory|cudaErrorMemoryAllocation"
    r"|No available memory for the cache blocks|failed to allocate buffer|Out of memory: Killed",
)
#: what any engine may print, the most telling first; healthy logs hold "error" and "memory" too, so never those alone
COMMON = (
    OUT_OF_MEMORY,
    Pattern("out_of_memory", r"[Cc]annot allocate memory|^MemoryError\b|std::bad_alloc"),
    Pattern("port_in_use", r"Address already in use|Errno 98\b|EADDRINUSE"),
    Pattern("gpu_unavailable", r"No CUDA GPUs are available|no CUDA-capable device|invalid device ordinal"),
    Pattern("gpu_unavailable", r"CUDA driver version is insufficient|Failed to infer device type"),
    Pattern(
        "model_not_found", r"(RepositoryNotFound|HFValidation|LocalEntryNotFound|GatedRepo|OfflineModeIsEnabled)\w*: "
    ),
    Pattern("model_not_found", r"is not a local folder and is not a valid|We couldn't connect to 'https?://"),
    Pattern("model_not_found", r"does not appear to have a file named config\.json|Can't load the configuration of"),
    Pattern("bad_argument", r"unrecognized arguments|invalid choice: |error: argument |\bValidationError: "),
)

_LAST_LINES = 1000  # of a log are searched: an engine of many processes repeats its traceback in each
_BEFORE, _AFTER = 10, 3  # lines kept around the telling one
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
#: what stands before a message: the process (vLLM, Ray), then vLLM's, SGLang's or llama.cpp's level and time
_PREFIX = re.compile(
    r"^(\([\w.-]+( rank=\d+)? pid=\d+(, ip=[\d.]+)?\) ?)*"
    r"([A-Z]+ [\d :-]+(\[[^]]*\]|[\w./]+:\d+\]) |\[\d{4}-\d\d-\d\d [^]]*\] |[\d.]+ [A-Z] )?"
)
#: the last line of a traceback; the first one in a log is the root, the others come of it and say "see above"
_EXCEPTION = re.compile(
    r"^(?!.*(WorkerProc initialization failed|[Ee]ngine ?[Cc]ore (initialization failed|encountered)))"
    r"([\w.]+\.)?\w*(Error|Exception): ."
)


class Failure(msgspec.Struct, frozen=True):
    """Why a server failed."""

    kind: str = ""  # as in `tuner.errors.ServerFailed`
    detail: str = ""  # the line that tells it
    log_tail: list[str] = []  # the lines of the log around it


def diagnose(log: str, exit_code: int | None, patterns: Sequence[Pattern]) -> Failure:
    """Read in a server's log why it ended: of the engine's patterns and COMMON the first that is found decides.

    `exit_code` is negative for a signal, and None where its supervisor was killed.
    """
    lines = [_PREFIX.sub("", line.rstrip()) for line in _ANSI.sub("", log).splitlines() if line.strip()]
    lines = lines[-_LAST_LINES:]
    searched = ((kind, re.compile(regex)) for kind, regex in [*patterns, ("crashed", _EXCEPTION)])
    found = ((kind, at) for kind, regex in searched for at, line in enumerate(lines) if regex.search(line))
    kind, telling = next(found, ("crashed", len(lines) - 1))
    words = lines[telling].strip() if lines else ""
    if kind == "crashed":
        words = f"it ended {describe_exit(exit_code)}" + f": {words}" * bool(words)
    return Failure(kind, words, lines[max(0, telling - _BEFORE) : telling + 1 + _AFTER])


def describe_exit(exit_code: int | None) -> str:
    """`with exit code 3`, or by which signal, or why there is none."""
    if exit_code is None:
        return "because its supervisor was killed"
    if exit_code >= 0:
        return f"with exit code {exit_code}"
    hint = " (the kernel does that when memory runs out)" if exit_code == -signal.SIGKILL else ""
    name = next((one.name for one in signal.Signals if one == -exit_code), str(-exit_code))
    return f"by signal {name}{hint}"
