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
_LOOPBACK = "127.0.0.2"  # Ray takes 127.0.0.1 for the outer address of this machine
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
    try:
        import ray
    except ImportError:
        raise ClusterError("Ray is not installed here: pip install 'tuner[ray]'") from None
    if ray.is_initialized():
        return False
    address = os.environ.get("RAY_ADDRESS", "local") if on == RAY else on
    try:
        with _signals_kept():
            _init(address)
    except Exception as error:  # Ray raises all kinds, plain ones too
        told = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ClusterError(f"cannot join the Ray cluster {address}: {told}") from error
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
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
        ray.init(address, include_dashboard=False, _node_ip_address=_LOOPBACK, **quiet)
        return
    if is_address(address):  # else Ray asks for minutes before it says that nobody is there
        host, _, port = address.removeprefix("ray://").rpartition(":")
        socket.create_connection((host, int(port)), timeout=_REACHED).close()
    ray.init(address, **quiet)
