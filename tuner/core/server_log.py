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


OUT_OF_MEMORY = Pattern(  # what PyTorch (vLLM, SGLang), NCCL, vLLM, Ray, llama.cpp and the kernel print
    "out_of_memory",
    r"OutOf(Device)?Memory|\b[A-Z]{3,4} out of memory|(error|fail(ed|ure)|EXHAUSTED)\b.{1,4}\b[Oo]ut of memory"
    r"|cudaErrorMemoryAllocation|_ALLOC_FAILED|No available memory for the cache blocks|Not enough (GPU )?memory"
    r"|failed to allocate buffer|Device memory allocation of size|Out of memory: Killed",
)
#: what any engine may print, the most telling first; healthy logs hold "error" and "memory" too, so never those alone
COMMON = (
    OUT_OF_MEMORY,
    Pattern("out_of_memory", r"[Cc]annot allocate memory|^MemoryError\b|std::bad_alloc"),
    Pattern("port_in_use", r"[Aa]ddress already in use|Errno 98\b|EADDRINUSE|port is already allocated"),
    Pattern("gpu_unavailable", r"No \w+ (GPUs|devices) are available|no CUDA-capable device|invalid device ordinal"),
    Pattern("gpu_unavailable", r"CUDA driver version is insufficient|Failed to infer device type|NVMLError_\w+: "),
    Pattern("gpu_unavailable", r"Error: (Unexpected error from cuda|Found no NVIDIA|The NVIDIA driver|Torch not comp)"),
    Pattern("gpu_unavailable", r"nvml error|could not select device driver"),
    Pattern("model_not_found", r"(RepositoryNotFound|RevisionNotFound|EntryNotFound|HFValidation|GatedRepo)\w*: "),
    Pattern("model_not_found", r"OfflineModeIsEnabled: |is not a local folder and is not a valid|access a gated repo"),
    Pattern("model_not_found", r"We couldn't connect to 'https?://|does not appear to have a file named config\.json"),
    Pattern("model_not_found", r"Can't load [\w ]+ (of|for) '|Cannot find any model weights|Error no file named"),
    Pattern("model_not_found", r"No supported config format|Incorrect path_or_model_id"),
    Pattern("bad_argument", r"unrecognized arguments|error: (argument |ambiguous|the following)|\bValidationError: "),
)

_KILLED = 128 + signal.SIGKILL  # what a shell or a container gives for a process that was
_LAST_LINES = 1000  # of a log are searched: an engine of many processes repeats its traceback in each
_BEFORE, _AFTER = 10, 3  # lines kept around the telling one
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
#: what stands before a message: the service (docker compose), the process (vLLM, Ray), then the level and time as vLLM,
#: SGLang or llama.cpp write them
_PREFIX = re.compile(
    r"^([\w.-]+-\d+ +\| )?(\([^()]*\bpid=\d+[^()]*\) ?)*"
    r"([A-Z]+ [\d :.-]+(\[[^]]*\]|[\w./]+:\d+\]) |\[\d{4}-\d\d-\d\d [^]]*\] |[\d.]+ [A-Z] )?"
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
    hint = " (the kernel does that when memory runs out)"
    if exit_code >= 0:
        return f"with exit code {exit_code}" + f", by SIGKILL{hint}" * (exit_code == _KILLED)
    hint = hint if exit_code == -signal.SIGKILL else ""
    name = next((one.name for one in signal.Signals if one == -exit_code), str(-exit_code))
    return f"by signal {name}{hint}"
