"""What only one process of a host may have: a port, a GPU, a run directory."""

import socket
import sys

from tuner.errors import ServerFailed

LOOPBACK = "127.0.0.1"


class AlreadyTaken(Exception):
    """Another holder has the lock."""


def take(name: str) -> socket.socket:
    """Take the lock `name` for as long as the socket, or a copy that a child inherited, is open.

    Raises:
        AlreadyTaken: another holder has it.
    """
    holder = socket.socket(socket.AF_UNIX)
    try:
        if sys.platform == "linux":
            holder.bind(f"\0tuner-{name}")
    except OSError:
        holder.close()
        raise AlreadyTaken(name) from None
    return holder


def is_taken(name: str) -> bool:
    """Whether anybody has the lock `name`."""
    try:
        take(name).close()
    except AlreadyTaken:
        return True
    return False


def reserve_port(port: int | None) -> list[socket.socket]:
    """Bind a loopback port, or a free one, so that a server of ours can have it and nobody is given it meanwhile.

    The socket is bound and never listens: the system hands such a port to nobody who asks for a free one, while a
    server that sets SO_REUSEADDR or SO_REUSEPORT, as all of them do, can bind it and listen.

    Args:
        port: the port, or None for a free one.

    Returns:
        The sockets to hold until the server has ended; the first is bound to the port.

    Raises:
        ServerFailed: (port_in_use) somebody listens there, or another launch of ours has reserved it.
    """
    holder = socket.socket()
    try:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that linger are no matter
        holder.bind((LOOPBACK, port or 0))
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        return [holder, take(f"port-{port_of(holder)}")]
    except (OSError, AlreadyTaken):
        holder.close()
        raise ServerFailed(
            f"port {port} is in use; choose another, or none for a free one", kind="port_in_use"
        ) from None


def port_of(holder: socket.socket) -> int:
    """The port that a reservation is for."""
    return int(holder.getsockname()[1])
