"""Waiting for a condition instead of sleeping."""

import time
from pathlib import Path


def wait_until(condition, seconds=10.0):
    """Ask until `condition()` is true; its value, or the last false one after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return value


def alive(pids):
    """Those of `pids` that run (a zombie does not)."""
    return {pid for pid in pids if _state(pid) not in ("", "Z", "X")}


def _state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
