"""What only one process may have: a port of its network, a GPU, a run directory."""

import contextlib
import fcntl
import logging
import os
import platform
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

from tuner.core.files import is_regular
from tuner.core.text import one_line
from tuner.core.timestamps import now, to_text
from tuner.errors import PathError, ServerFailed

LOOPBACK = "127.0.0.1"
Holder = socket.socket | IO[str]  # of a lock, which is let go when it is closed
_log = logging.getLogger(__name__)
#: the folder whose files lock GPUs: one for all users and containers that share them; by default the user's own
FOLDER_VARIABLE = "TUNER_LOCKS"
_TRIES, _PAUSE = 5, 0.02  # somebody who only asks whether a file is locked has it for an instant
_HELD, _SURELY_HELD = ".lock", 5.0  # seconds after which a temporary folder that is used is locked


class AlreadyTaken(Exception):
    """Another holder has the lock; the text says who, where that is known."""


def take(name: str) -> socket.socket:
    """Take the lock `name` of this network namespace while the socket, or a child's copy, is open; or AlreadyTaken."""
    holder = socket.socket(socket.AF_UNIX)
    try:
        holder.bind(f"\0tuner-{name}")
    except OSError:
        holder.close()
        raise AlreadyTaken("another process of this host") from None
    return holder


def take_file(path: Path) -> IO[str]:
    """Lock the file `path` for as long as what is returned, or a child's copy of it, is open; the file stays.

    It holds between containers over one folder, and over NFS where its server keeps locks (`flock`). AlreadyTaken:
    another holder has it. PathError: the file cannot be made.
    """
    try:
        file = _open(path)
    except OSError as error:
        raise PathError(f"cannot write {path}: {error.strerror}") from error
    for _ in range(_TRIES):
        if _lock(file, fcntl.LOCK_EX, path):
            _sign(file)
            return file
        time.sleep(_PAUSE)
    who = ""
    with file, contextlib.suppress(OSError, ValueError):
        who = one_line(file.read(1000))
    raise AlreadyTaken(who or "another process")


def is_locked(path: Path) -> bool:
    """Whether anybody has the lock of `take_file`."""
    with contextlib.suppress(OSError):
        if is_regular(path):
            with open(path, encoding="utf-8") as file:
                return not _lock(file, fcntl.LOCK_SH, path)
    return False


def temporary_folder(prefix: str) -> tuple[Path, IO[str]]:
    """A new temporary folder, and what holds it; those of the same prefix that nobody holds any more are removed."""
    for old in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            if time.time() - old.lstat().st_mtime > _SURELY_HELD and not is_locked(old / _HELD):
                shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    return folder, take_file(folder / _HELD)


def _open(path: Path) -> IO[str]:
    """To read and write it; one of another user's, in a folder for all, to read; no link is followed."""
    try:
        return open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644), "r+", encoding="utf-8")
    except PermissionError:
        return open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), encoding="utf-8")


def _lock(file: IO[str], how: int, path: Path) -> bool:
    """Whether it could be locked; a file system without locks is warned of, and counts as locked by us."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        _log.warning("%s cannot be locked (%s): use it from one process at a time", path, error.strerror)
    return True


def _sign(file: IO[str]) -> None:
    """Write down who has it, for the one who is refused."""
    program = " ".join([Path(sys.argv[0]).stem.replace("__main__", "tuner"), *sys.argv[1:2]]) or "python"
    with contextlib.suppress(OSError):  # another user's file
        file.truncate(0)
        file.write(f"process {os.getpid()} ({program}) on host {platform.node()}, since {to_text(now(), 'seconds')}")
        file.flush()


def take_gpu(uuid: str) -> list[Holder]:
    """Take a GPU, or AlreadyTaken: in the folder that containers can share, and on this host whoever the user is.

    PathError: nothing can be written in the folder that TUNER_LOCKS names.
    """
    import platformdirs

    named, holders = os.environ.get(FOLDER_VARIABLE), list[Holder]()
    folder = Path(named) if named else platformdirs.user_state_path("tuner") / "locks"
    with contextlib.suppress(OSError):  # which the file in it will say
        folder.mkdir(parents=True, exist_ok=True)
    try:
        holders.append(take_file(folder / f"gpu-{uuid}.lock"))
    except PathError as error:
        if named:
            raise
        _log.warning("%s: GPUs are locked on this host alone (%s names another folder)", error, FOLDER_VARIABLE)
    try:
        return [*holders, take(f"gpu-{uuid}")]
    except AlreadyTaken:
        for holder in holders:
            holder.close()
        raise


def reserve_port(port: int | None) -> tuple[socket.socket, socket.socket]:
    """Bind a loopback port, or a free one, so that a server of ours can have it and nobody is given it meanwhile.

    The socket, the first that is returned, never listens: the system hands such a port to nobody who asks for a free
    one, while a server that sets SO_REUSEADDR or SO_REUSEPORT, as all do, can bind it. All are to be held until it has
    ended. ServerFailed (port_in_use): somebody listens there, or another launch of ours has reserved it.
    """
    holder = socket.socket()
    try:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that linger are no matter
        holder.bind((LOOPBACK, port or 0))
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        return holder, take(f"port-{holder.getsockname()[1]}")
    except (OSError, AlreadyTaken):
        holder.close()
        raise ServerFailed(
            f"port {port} is in use; choose another, or none for a free one", kind="port_in_use"
        ) from None


def free_port() -> int:
    """A free loopback port, for who takes no socket but only a number."""
    port, lock = reserve_port(None)
    with port, lock:
        return int(port.getsockname()[1])
