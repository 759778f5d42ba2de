"""The numbers of large result files, kept so that a second load need not read them again.

A file under `WORTH_KEEPING` bytes is read faster than it is looked up, so folders of small files are never littered.
For larger ones their folder gets one hidden file, `.tuner-cache`; where the folder cannot be written, the user's cache
folder gets it instead. An entry counts only for the very bytes it was made from: name, size, times of change of content
and of inode, and the schema. Whatever goes wrong with the cache, the batch file itself is read.
"""

import hashlib
import logging
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import platformdirs

from tuner import files
from tuner.audit import audit
from tuner.errors import PathError
from tuner.results import Damage, Measured, measure, read

logger = logging.getLogger(__name__)

#: Below this many bytes a file is read again each time (about a hundredth of a second).
WORTH_KEEPING = 1_000_000
#: Raise it whenever `Measured`, what it holds, or an audit sentence changes.
SCHEMA = 1
NAME = ".tuner-cache"


class Entry(msgspec.Struct, array_like=True):
    """The numbers of one file, and the identity of the bytes they come from."""

    size: int
    mtime_ns: int
    ctime_ns: int
    batch: Measured


class Content(msgspec.Struct):
    """What one `.tuner-cache` holds: entries by file name."""

    schema: int
    entries: dict[str, Entry]


@dataclass
class FolderCache:
    """The cache of the result files of one folder; used as `with FolderCache(folder) as cache`."""

    folder: Path
    entries: dict[str, Entry] = field(default_factory=dict)
    changed: bool = False
    opened: bool = False

    def __enter__(self) -> "FolderCache":
        return self

    def __exit__(self, *_: object) -> None:
        if self.changed:
            self._save()

    def numbers(self, path: Path) -> Measured | Damage:
        """The recomputed and audited numbers of the result file `path` of this folder."""
        try:
            before = path.stat()
        except OSError as error:
            return Damage("unreadable", f"cannot read {path.name}: {error.strerror}")
        if before.st_size < WORTH_KEEPING:
            return _compute(path)
        return self._known(path.name, before) or self._learn(path, before)

    def _known(self, name: str, status: os.stat_result) -> Measured | None:
        if not self.opened:
            self.opened, self.entries = True, _load(self.folder)
        entry = self.entries.get(name)
        return entry.batch if entry and _identity(entry) == _stamp(status) else None

    def _learn(self, path: Path, before: os.stat_result) -> Measured | Damage:
        batch = _compute(path)
        if isinstance(batch, Measured) and _settled(path, before):
            self.entries[path.name] = Entry(*_stamp(before), batch)
            self.changed = True
        return batch

    def _save(self) -> None:
        content = msgspec.msgpack.encode(Content(SCHEMA, self.entries))
        for place in _places(self.folder):
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                files.write_atomically(place, content)
                return
            except (OSError, PathError) as error:
                logger.debug("no cache at %s: %s", place, error)


def _compute(path: Path) -> Measured | Damage:
    file = read(path)
    if isinstance(file, Damage):
        return file
    batch = measure(file)
    batch.warnings = audit(file, batch)
    return batch


def _places(folder: Path) -> tuple[Path, Path]:
    """Beside the files, or else in the user's cache folder under a name made from the folder's path."""
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]
    return folder / NAME, platformdirs.user_cache_path("tuner") / "batches" / name


def _load(folder: Path) -> dict[str, Entry]:
    for place in _places(folder):
        try:
            content = msgspec.msgpack.decode(place.read_bytes(), type=Content)
        except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
            continue
        if content.schema == SCHEMA:
            return content.entries
    return {}


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _identity(entry: Entry) -> tuple[int, int, int]:
    return entry.size, entry.mtime_ns, entry.ctime_ns


def _settled(path: Path, before: os.stat_result) -> bool:
    """Whether the file stayed as it was while it was read, and so long that a clock tick cannot hide a change."""
    try:
        now = path.stat()
    except OSError:
        return False
    tick = 2 * 10**9 if before.st_mtime_ns % 10**9 == 0 else 10**8  # some file systems count whole seconds
    return _stamp(now) == _stamp(before) and time.time_ns() - max(before.st_mtime_ns, before.st_ctime_ns) > tick
