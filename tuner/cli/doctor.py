"""What this machine has for tuner, what is missing, and the command that would install it."""

import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from tuner import engines
from tuner.engines.base import ServerSpec
from tuner.errors import EngineError
from tuner.servers import gpus

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class Finding(NamedTuple):
    """One thing that was looked for."""

    name: str  # what it is
    ok: bool  # it is there and as it should be
    detail: str  # which one, or what is the matter
    remedy: str = ""  # what to do; empty where nothing is to be done
    needed: bool = False  # nothing works without it; otherwise only what needs it does not


def examine() -> list[Finding]:
    """Look for everything; nothing is started or changed."""
    return [_python(), _genai_bench(), *_engines(), *_gpus(), _browser()]


def _python() -> Finding:
    here = ".".join(map(str, sys.version_info[:3]))
    ok = (3, 11) <= sys.version_info < (3, 13)
    remedy = "make an environment with Python 3.11 or 3.12 (pandas 3 needs 3.11, genai-bench ends at 3.12)"
    return Finding("Python", ok, f"{here} at {sys.executable}", "" if ok else remedy, needed=True)


def _genai_bench() -> Finding:
    try:
        return Finding("genai-bench", True, version("genai-bench"), needed=True)
    except PackageNotFoundError:
        return Finding("genai-bench", False, "not installed", "pip install genai-bench==0.0.5", needed=True)


def _engines() -> Iterator[Finding]:
    for name in engines.names():
        try:
            engine = engines.find(name)
        except EngineError as error:  # another package's
            yield Finding(f"engine {name}", False, str(error))
            continue
        if engine.install:
            try:
                yield Finding(f"engine {name}", True, engine.find(ServerSpec(engine=name)))
            except EngineError:
                yield Finding(f"engine {name}", False, "not installed", engine.install)


def _gpus() -> Iterator[Finding]:
    here = gpus.gpus()
    for gpu in here:
        state = "free" if gpu.is_free else gpu.use
        yield Finding(f"GPU {gpu.index}", True, f"{gpu.name}, {gpu.memory_total / (1 << 30):.0f} GiB, {state}")
    if not here:
        detail, remedy = gpus.why_none()
        yield Finding("GPU", False, detail, remedy)


def _browser() -> Finding:
    browser = next(filter(None, map(shutil.which, _BROWSERS)), "")
    detail, remedy = "no Chromium on PATH; only the tests of the report need it", "playwright install chromium"
    return Finding("browser", bool(browser), browser or detail, "" if browser else remedy)
