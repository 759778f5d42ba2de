"""What only one process of a host may have: a port, a GPU, a run directory."""

import socket
import sys

from tuner.errors import ServerFailed

LOOPBACK = "127.0.0.1"


class Taken(Exception):
    """Somebody else has it."""


def claim(name: str) -> socket.socket:
    """Claim `name` for as long as the socket, or a copy that a child inherited, is open.

    Raises:
        Taken: another process holds it.
    """
    holder = socket.socket(socket.AF_UNIX)
    try:
        if sys.platform == "linux":
            holder.bind(f"\0tuner-{name}")
    except OSError:
        holder.close()
        raise Taken(name) from None
    return holder


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
        return [holder, claim(f"port-{port_of(holder)}")]
    except (OSError, Taken):
        holder.close()
        raise ServerFailed(
            f"port {port} is in use; choose another, or none for a free one", kind="port_in_use"
        ) from None


def port_of(holder: socket.socket) -> int:
    """The port that a reservation is for."""
    return int(holder.getsockname()[1])
