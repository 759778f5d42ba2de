"""Files: written whole or not at all; read through one door: regular ones, up to the size and nesting of their kind."""

import contextlib
import json
import logging
import os
import re
import secrets
import stat
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from tuner.core.secrets import redact_bytes
from tuner.core.text import shorten
from tuner.errors import PathError

logger = logging.getLogger(__name__)

Struct = TypeVar("Struct", bound=msgspec.Struct)

#: Bytes that a file of a kind has at most: what a person wrote, a record of ours, telemetry, results and reports.
DOCUMENT, RECORD, TELEMETRY, RESULTS = 1 << 17, 1 << 24, 1 << 28, 1 << 30
DEEPEST = 50  # so many levels deep nothing is nested that is meant
_LARGEST_NUMBER = 2**63
_NO_FILE = "it is no file, but a folder, a pipe or a device"

UNSEALED = "0" * 8  # what stands for the checksum of a file of ours while it is counted; it lies within so many bytes
_SEALED_WITHIN = 4096
_SEAL = re.compile(rb'"checksum":\s*"([0-9a-f]{8})"')
_PART = re.compile(r"(?P<name>.+\.\w+)#(?P<part>[1-9]\d{0,6})", re.DOTALL)
ASIDE = re.compile(r"\..+\.[0-9a-f]{8}")  # what a file is called while it is written aside


def write_atomically(path: Path, content: str | bytes, *, sync_it: bool = True, is_text: bool = True) -> None:
    """Replace `path` by `content`, sealed and without keys, so that a reader or a crash sees the old file or the new.

    Where it need not survive a power cut, `sync_it` is false: nobody waits for the disk. Where its bytes are counted,
    `is_text` is false and keys stay in it. PathError: the folder is missing, read-only or full, or what lies there is
    a device, a pipe or a folder.
    """
    if path.exists() and not path.is_file():
        raise PathError(f"cannot write {path}: {_NO_FILE}")
    data = content.encode() if isinstance(content, str) else content
    with _aside(path, f"cannot write {path}") as file:
        file.write(seal(redact_bytes(data)) if is_text else data)
        file.flush()
        if sync_it:
            os.fsync(file.fileno())
        Path(file.name).replace(path)
        if sync_it:
            sync(path.parent)


def must_have_room(folder: Path, size: int) -> None:
    """PathError where a file of `size` bytes cannot be written into a folder: before it is made."""
    with _aside(folder / "room", f"cannot write into {folder}") as file:
        os.posix_fallocate(file.fileno(), 0, size)


@contextlib.contextmanager
def _aside(path: Path, failure: str) -> Iterator[IO[bytes]]:
    """A new file beside `path`, that is gone in the end where it was not renamed."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(aside, "xb") as file:
            yield file
    except OSError as error:
        raise PathError(f"{failure}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def seal(data: bytes) -> bytes:
    """`data` with the CRC-32 of the rest at the place that is kept for it, `"checksum":"00000000"`, if there is one."""
    place = _SEAL.search(data, 0, _SEALED_WITHIN)
    return data[: place.start(1)] + _checksum(data, place) + data[place.end(1) :] if place else data


def is_changed(data: bytes) -> bool:
    """Whether `data` holds a checksum, and is not what `seal` gave."""
    place = _SEAL.search(data, 0, _SEALED_WITHIN)
    return place is not None and place[1] != _checksum(data, place)


def _checksum(data: bytes, place: re.Match[bytes]) -> bytes:
    view = memoryview(data)  # which copies nothing
    return b"%08x" % zlib.crc32(view[place.end(1) :], zlib.crc32(view[: place.start(1)]))


def sync(path: Path) -> None:
    """Make a file, or the renames within a folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN and Infinity are refused, since JSON has none."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_bytes(path: Path, most: int = RECORD, count: int = -1) -> bytes:
    """What is in a regular file, to which links may lead; of one of any size the first `count` bytes.

    PathError: it cannot be read, is a pipe, a device or a folder, or has more than `most` bytes.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(_NO_FILE)
        if status.st_size > most and count < 0:
            raise ValueError(f"it has {status.st_size} bytes, and a file of its kind {most} at most")
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            return file.read(status.st_size if count < 0 else count)
    except (OSError, ValueError) as error:
        raise PathError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def read_json(path: Path, kind: Any = Any) -> Any:
    """What is in a JSON file that tuner wrote, a `kind`; PathError where it is missing, unreadable or no such JSON."""
    data = read_bytes(path)
    try:
        return must_be_plain(msgspec.json.decode(data, type=kind))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise PathError(f"{path} is not valid JSON: {error}") from error


def read_object(path: Path) -> dict[str, Any]:
    """What the JSON file `path` says; nothing where it is missing, a link, or damaged, of which a warning tells."""
    try:
        if is_regular(path):
            return dict(must_be_plain(msgspec.json.decode(read_bytes(path), type=dict[str, Any])))
        if os.path.lexists(path):
            logger.warning("%s is not read: it is a link, or no file", path)
    except (PathError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        logger.warning("%s is damaged: %s", path, error)
    return {}


def must_be_plain(value: Any, forbidden: re.Pattern[str] | None = None, depth: int = 0) -> Any:
    """`value`, made of dicts and lists, as it is.

    ValueError: it is nested too deeply, holds what is `forbidden` in texts, or a number that nothing can count.
    """
    if depth > DEEPEST:
        raise ValueError("it is nested too deeply")
    if isinstance(value, str) and forbidden and forbidden.search(value):
        raise ValueError(f"{shorten(ascii(value), 60)} holds what is no character")
    if isinstance(value, int) and abs(value) >= _LARGEST_NUMBER:
        raise ValueError("it holds a number of more than 18 digits")
    parts = value if isinstance(value, (list, tuple)) else ()
    for part in chain.from_iterable(value.items()) if isinstance(value, dict) else parts:
        must_be_plain(part, forbidden, depth + 1)
    return value


def read_struct(path: Path, kind: type[Struct]) -> Struct | None:
    """The JSON file `path` as a `kind`; None where `read_object` finds nothing, or what `kind` needs is not there.

    A field that `kind` does not have is ignored, one of another type is as if it were not there.
    """
    if not (values := read_object(path)):
        return None
    with contextlib.suppress(msgspec.ValidationError):  # which would be said of the first fault alone
        return msgspec.convert(values, kind)
    try:
        return msgspec.convert(fitting(values, kind, path), kind)
    except msgspec.ValidationError as error:  # it lacks what has no default
        logger.warning("%s is damaged: %s", path, error)
        return None


def fitting(values: dict[str, Any], kind: type[msgspec.Struct], where: object) -> dict[str, Any]:
    """`values` without those that cannot be what `kind` says they are, of which a warning tells."""
    types, found = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}, dict(values)
    for name in types.keys() & values.keys():
        try:
            msgspec.convert(values[name], types[name])
        except msgspec.ValidationError as error:
            logger.warning("%s is damaged at %s: %s", where, name, error)
            del found[name]
    return found


def read_end(path: Path, most: int, start: int = 0) -> str:
    """The last `most` bytes of a log as text, nothing of it from before byte `start`; empty where it cannot be read."""
    if not is_regular(path):
        return ""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        file.seek(max(start, file.seek(0, os.SEEK_END) - most))
        return file.read().decode(errors="replace")
    return ""


def is_regular(path: Path) -> bool:
    """Whether `path` is a file itself: no folder, no pipe, and no link, which could lead anywhere."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError):
        return False


def subfolders(folder: Path) -> list[Path]:
    """The real folders in `folder`, sorted; links are not followed, hidden ones left alone."""
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        logger.warning("cannot read the folder %s: %s", folder, error.strerror)
        return []
    return [folder / name for name in sorted(names)]


def split_part(path: Path) -> tuple[Path, int]:
    """The file that `path` names and which of its batches, from 1: `file.json#2` is the second of `file.json`."""
    match = _PART.fullmatch(path.name)
    return (path.with_name(match["name"]), int(match["part"])) if match else (path, 1)
