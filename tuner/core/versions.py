"""What a result depends on besides the spec: versions and the machine."""

import platform
from importlib import metadata
from typing import Any

_PACKAGES = ("tuner", "genai-bench", "xllamacpp", "vllm", "sglang", "pandas", "plotly")


def environment() -> dict[str, Any]:
    """Versions and the machine, as plain JSON values for `experiment.json`."""
    return {"versions": _versions(), "host": _host()}


def _versions() -> dict[str, str]:
    """Versions of Python and of what is installed of the packages that shape a result."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _host() -> dict[str, Any]:
    import psutil

    return {
        "name": platform.node(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }
