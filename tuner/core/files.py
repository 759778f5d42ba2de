"""Files that are either whole or not there: written aside, synced, renamed."""

import json
import logging
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Any

import msgspec

from tuner.errors import PathError

logger = logging.getLogger(__name__)

#: How one batch of a file that holds several is named: `file.json#2`.
PART = re.compile(r"(?P<name>.+\.\w+)#(?P<part>[1-9]\d{0,6})", re.DOTALL)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace `path` by `content` so that a reader, or a crash, sees the old file or the new one.

    Args:
        path: the file; its folder must exist.
        content: text (written as UTF-8) or bytes.

    Raises:
        PathError: the folder is missing, read-only or full.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        _write_and_rename(path, data)
    except OSError as error:
        raise PathError(f"cannot write {path}: {error.strerror}") from error


def _write_and_rename(path: Path, data: bytes) -> None:
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(aside, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync(path.parent)


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


def read_json(path: Path) -> Any:
    """Read a JSON file that tuner wrote.

    Raises:
        PathError: it is missing, unreadable or no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise PathError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise PathError(f"{path} is not valid JSON: {error}") from error


def is_regular(path: Path) -> bool:
    """Whether `path` is a file itself: no folder, no pipe, and no link, which could lead anywhere."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError):
        return False


def decoded(path: Path, kind: Any) -> Any:
    """The JSON file `path` as a `kind`; None where it is missing, a link, or damaged."""
    if not is_regular(path):
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        logger.warning("%s is damaged: %s", path, error)
        return None


def split_part(path: Path) -> tuple[Path, int]:
    """The file that `path` names and which of its batches, from 1: `file.json#2` is the second of `file.json`."""
    match = PART.fullmatch(path.name)
    return (path.with_name(match["name"]), int(match["part"])) if match else (path, 1)
