"""genai-bench's host process: imports it once, then forks a child for each level (`python -m …`).

Importing genai-bench takes seconds and patches the standard library for gevent, which hangs a Jupyter kernel; so it
lives here. The owner speaks JSON lines with us over stdin and stdout:

    owner: {"arguments": […], "key": "…", "seconds": 30, "extend_to": 60, "enough": 29, "deadline": 90, "errors": "…",
            "workload": "…/workload.jsonl"}
    host:  {"ready": true}  {"started": PID}  {"ended": 0, "timed_out": false, "cpu_seconds": 3.2}

Any line of the owner's while a level runs, or the end of its stdin, ends that level's whole process group.
"""

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

# What a level needs of the system, taken before gevent replaces it.
_fork, _select, _waitpid = os.fork, select.select, os.waitpid
_PR_SET_PDEATHSIG = 1
_STDIN = 0
_POLL_SECONDS = 0.1


def main() -> None:
    """Serve levels until the owner closes our stdin; should it die, our supervisor ends us."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not get between our answers
    cli = _import_genai_bench()
    _answer(answers, ready=True)
    while line := _read_line():
        _run_level(cli, json.loads(line), answers)


def _import_genai_bench() -> Any:
    """Import genai-bench's command line without its sheet, its pictures and its pauses for people."""
    from genai_bench.cli import cli

    plots = ("plot_experiment_data_flexible", "plot_single_scenario_inference_speed_vs_throughput")
    for name in ("create_workbook", *plots):
        setattr(cli, name, _nothing)
    cli.load_one_experiment = lambda folder: (None, {})
    cli.gevent = types.SimpleNamespace(sleep=_nothing)
    return cli


def _nothing(*_: Any, **__: Any) -> None:
    """Stand in for a step of genai-bench that costs seconds and that we don't need."""


def _read_line() -> bytes:
    """One line of the owner's, byte by byte so that nothing stays in a buffer that `select` cannot see."""
    line = b""
    while (byte := os.read(_STDIN, 1)) not in (b"", b"\n"):
        line += byte
    return line


def _answer(answers: Any, **message: Any) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def _run_level(cli: Any, request: dict[str, Any], answers: Any) -> None:
    """Fork, wait for the child, its deadline or the owner's wish, and say how it ended."""
    pid = _fork()
    if pid == 0:
        _be_the_child(lambda: _benchmark(cli, request), request["errors"])
    _answer(answers, started=pid)
    process = os.pidfd_open(pid)
    ready, _, _ = _select([process, _STDIN], [], [], request["deadline"])
    if process not in ready:
        _kill_group(pid)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _, status = _waitpid(pid, 0)
    _kill_group(pid)  # genai-bench's workers, where it was ended without them
    os.close(process)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
    _answer(answers, ended=os.waitstatus_to_exitcode(status), timed_out=not ready, cpu_seconds=cpu)
    if process not in ready and _STDIN in ready:
        _read_line()  # the wish that ended it


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _be_the_child(work: Callable[[], int], errors: str) -> None:
    """Leave the host's group, die with it, and do `work`; never returns."""
    code = 1
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for descriptor, path in ((_STDIN, os.devnull), (1, os.devnull), (2, errors)):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), descriptor)
        code = work()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


def _benchmark(cli: Any, request: dict[str, Any]) -> int:
    """Run `genai-bench benchmark` in this process; 0 where it ended well."""
    import gevent

    gevent.reinit()
    _limit(cli, request)
    _take_requests(request["workload"])
    _hand_over_key(cli, request["key"])
    try:
        cli.cli.main(["benchmark", *request["arguments"]], prog_name="genai-bench", standalone_mode=False)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


def _limit(cli: Any, request: dict[str, Any]) -> None:
    """End the level by our limits; genai-bench's own know whole minutes, and no number of requests that is enough."""
    import gevent

    def wait(max_time_per_run: int, max_requests_per_run: int, environment: Any) -> int:
        began = time.monotonic()
        while True:
            gevent.sleep(_POLL_SECONDS)
            seconds, requests = time.monotonic() - began, environment.runner.stats.total.num_requests
            long_enough = seconds >= request["seconds"] and requests >= request["enough"]
            if long_enough or seconds >= request["extend_to"] or requests >= max_requests_per_run:
                return round(seconds)

    cli.manage_run_time = wait


def _take_requests(path: str) -> None:
    """Send the requests of the file at `path`, in their order and then again; without one genai-bench draws its own."""
    import multiprocessing

    from genai_bench.protocol import UserChatRequest
    from genai_bench.sampling.text import TextSampler

    if not (file := Path(path)).exists():
        return
    requests = [json.loads(line) for line in file.read_bytes().splitlines()]
    taken = multiprocessing.Value("L", 0)  # worker processes, forked later, count on together

    def sample(self: Any, scenario: Any) -> UserChatRequest:
        with taken.get_lock():
            number, taken.value = taken.value, taken.value + 1
        request = requests[number % len(requests)]
        content = "\n".join(message["content"] for message in request["turns"][0])
        return UserChatRequest(
            model=self.model,
            prompt=content,
            num_prefill_tokens=None,
            max_tokens=request["max_tokens"],
            additional_request_params=self.additional_request_params | {"ignore_eos": request["fixed"]},
        )

    TextSampler.sample = sample


def _hand_over_key(cli: Any, key: str) -> None:
    """Give the key to the HTTP headers alone; genai-bench writes its arguments into several files in clear."""
    create = cli.UnifiedAuthFactory.create_model_auth
    cli.UnifiedAuthFactory.create_model_auth = lambda provider, **kwargs: create(
        provider, **(kwargs | {"api_key": key})
    )


if __name__ == "__main__":
    main()
