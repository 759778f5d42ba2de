"""Joining a Ray cluster, or starting one on this machine, without Ray's own noise."""

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

from tuner.errors import ClusterError

RAY = "ray"
_LONGEST = 300  # characters of what Ray says
_LOCAL = "local"
#: for a cluster that we start, read when Ray is imported: on loopback alone, and nothing is sent to Ray's makers
_ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
_REACHED = 5.0  # seconds in which a cluster's address must answer


def is_address(on: str) -> bool:
    """Whether `on` names a cluster: `ray`, `ray://HOST:PORT` or `HOST:PORT`."""
    host, _, port = on.removeprefix("ray://").rpartition(":")
    return on == RAY or (bool(host) and port.isdecimal())


def join(on: str) -> bool:
    """Join the cluster, or start one; whether the connection is ours to end.

    Raises:
        ClusterError: Ray is not installed, or nobody answers.
    """
    address = os.environ.get("RAY_ADDRESS", _LOCAL) if on == RAY else on
    for name, value in _ALONE.items() if address == _LOCAL else ():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise ClusterError("Ray is not installed here: pip install 'tuner[ray]'") from None
    if ray.is_initialized():
        return False
    try:
        with _signals_kept():
            _init(address)
    except Exception as error:  # Ray raises all kinds, plain ones too
        told = " ".join(str(error).split())[:_LONGEST] or type(error).__name__
        raise ClusterError(
            f"cannot join the Ray cluster {address}: {told}; is it up (ray status), and is that its address?"
        ) from error
    return True


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray sets a handler of its own for SIGTERM, with which a command that is terminated would not end with 143."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _init(address: str) -> None:
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == _LOCAL:
        ray.init(address, include_dashboard=False, **quiet)
        return
    if is_address(address):  # else Ray asks for minutes before it says that nobody is there
        host, _, port = address.removeprefix("ray://").rpartition(":")
        socket.create_connection((host, int(port)), timeout=_REACHED).close()
    ray.init(address, **quiet)
