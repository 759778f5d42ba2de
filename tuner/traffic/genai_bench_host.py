"""genai-bench's host process: imports it once, then forks a child for each level (`python -m …`).

Importing genai-bench takes seconds and patches the standard library for gevent, which hangs a Jupyter kernel; so it
lives here. The owner sends a level at a time over stdin (see `Bench`), and hears over stdout:

    {"ready": True}  {"exit_code": 0, "timed_out": False, "cpu_seconds": 3.2}

Anything that it sends while a level runs, or the end of stdin, ends that level's whole process group.
"""

import contextlib
import ctypes
import importlib.abc
import importlib.util
import multiprocessing
import os
import resource
import select
import signal
import sys
import types
from collections.abc import Callable
from functools import cache
from importlib.machinery import ModuleSpec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

# What a level needs of the system, taken before gevent replaces it.
_fork, _select, _waitpid = os.fork, select.select, os.waitpid
_STDIN = 0
_ANALYSIS = ("excel_report", "experiment_loader", "flexible_plot_report", "plot_config", "plot_report")
#: what genai-bench imports for its own reports, other clouds and data sets, which no level here needs: two thirds of
#: the time that its import takes
_UNUSED = {
    *(f"genai_bench.analysis.{name}" for name in _ANALYSIS),
    *("datasets", "huggingface_hub", "oci", "oci_openai", "openai", "pandas", "transformers"),
}


def main() -> None:
    """Serve levels until the owner closes our stdin; should it die, our supervisor ends us."""
    orders, answers = Connection(_STDIN, writable=False), Connection(os.dup(1), readable=False)
    os.dup2(2, 1)  # what libraries print must not get between our answers
    cli = _import_genai_bench()
    answers.send({"ready": True})
    with contextlib.suppress(EOFError):
        while True:
            _run_level(cli, orders, answers)


def _import_genai_bench() -> Any:
    import gc

    with _Placeholders():
        from genai_bench.cli import cli

    from tuner.traffic.tokenizer import load_tokenizer

    importlib.import_module("tuner.traffic.user")
    cli.validate_tokenizer = cache(lambda name: load_tokenizer(name) if name else None)
    gc.freeze()  # a collection in a level, among all that was imported, would stop its clock for 0.1 s
    return cli


class _AnyName(type):
    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls


class _Placeholder(metaclass=_AnyName):
    """Stands for whatever an unused library would give: to subclass, to call, to name in a signature."""


class _Placeholders(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """In the with-block an import of what is unused gives an empty module; afterwards the real one, as ever."""

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        is_unused = name in _UNUSED or name.partition(".")[0] in _UNUSED
        return importlib.util.spec_from_loader(name, self, is_package=True) if is_unused else None

    def exec_module(self, module: types.ModuleType) -> None:
        module.__getattr__ = lambda name: getattr(_Placeholder, name)  # type: ignore[method-assign]

    def __enter__(self) -> None:
        sys.meta_path.insert(0, self)

    def __exit__(self, *_: object) -> None:
        sys.meta_path.remove(self)
        for name in [name for name, module in sys.modules.items() if getattr(module, "__loader__", None) is self]:
            del sys.modules[name]


def _run_level(cli: Any, orders: "Connection[Any, Any]", answers: "Connection[Any, Any]") -> None:
    request = orders.recv()
    with contextlib.suppress(Exception):  # the level says what is the matter
        cli.validate_tokenizer(request["tokenizer"])  # once for all levels
    pid = _fork()
    if pid == 0:
        _be_the_child(lambda: _benchmark(cli, request), request["errors"])
    process = os.pidfd_open(pid)
    ready, _, _ = _select([process, _STDIN], [], [], request["seconds"])
    if process not in ready:
        _kill_group(pid)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _, status = _waitpid(pid, 0)
    _kill_group(pid)  # genai-bench's workers, where it was ended without them
    os.close(process)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
    answers.send({"exit_code": os.waitstatus_to_exitcode(status), "timed_out": not ready, "cpu_seconds": cpu})
    if process not in ready and _STDIN in ready:
        orders.recv()  # the wish that ended it


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _be_the_child(work: Callable[[], int], errors: Path) -> None:
    """Leave the host's group, die with it, and do `work`; never returns."""
    code = 1
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        for descriptor, path in ((_STDIN, os.devnull), (1, os.devnull), (2, errors)):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), descriptor)
        code = work()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


def _benchmark(cli: Any, request: dict[str, Any]) -> int:
    """Run `genai-bench benchmark` in this process, with our users and our limits; 0 where it ended well."""
    import gevent
    import urllib3.connection
    from genai_bench.cli.validation import API_BACKEND_USER_MAP

    from tuner.core.request_log import REQUESTS_FILE
    from tuner.core.secrets import keep_out
    from tuner.traffic.course import Course, SharedCount, Spool
    from tuner.traffic.live import Gauge
    from tuner.traffic.user import ArrivalUser, User, can_read, fill_collector, stop_users
    from tuner.traffic.workload import read_workload

    limits, folder = request["limits"], request["folder"]
    keep_out(request["key"])

    class LevelUser(ArrivalUser if limits.arrivals else User):  # type: ignore[misc]
        key, workers, spool, places = request["key"], max(request["workers"], 1), Spool(), SharedCount()
        gauge = Gauge(workers)
        workload = read_workload(folder)
        arrivals = enumerate(limits.arrivals.instants() if limits.arrivals else ())

    gevent.reinit()
    course = Course(limits, LevelUser.spool, gevent.sleep)
    API_BACKEND_USER_MAP.update(dict.fromkeys(("openai", "vllm", "sglang"), LevelUser))

    def run(environment: Any, **_: Any) -> int:
        gevent.spawn(LevelUser.gauge.write, folder, gevent.sleep)
        with gevent.Timeout(30.0, False):
            while limits.arrivals and environment.runner.user_count < limits.concurrency:
                gevent.sleep(0.01)  # so that what is due at the start is not sent late
        seconds = course.run()
        stop_users(environment.runner)
        fill_collector(environment, course.requests())
        return round(seconds)

    urllib3.connection.wait_for_read = can_read  # type: ignore[attr-defined]
    cli.manage_run_time = run
    cli.gevent = types.SimpleNamespace(sleep=lambda _: sys.exit(0))  # the pause after its file: the rest is for people
    try:
        cli.cli.main(["benchmark", *request["arguments"]], prog_name="genai-bench", standalone_mode=False)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    finally:
        course.write(folder / REQUESTS_FILE, request["scenario"])
        for worker in multiprocessing.active_children():
            worker.kill()
            worker.join()  # so that its processor time counts
    return 0


if __name__ == "__main__":
    main()
