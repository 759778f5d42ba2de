"""What was read of large result files, kept beside them as long as they do not change."""

import logging
import os
import time
import zlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec
import numpy as np

from tuner.batches._audit import audit
from tuner.batches.batch import Reading
from tuner.batches.other_tools import BatchReader, statuses
from tuner.batches.result_file import Columns, Damage, measure
from tuner.core import files
from tuner.core.metrics import LATENCIES
from tuner.errors import PathError

logger = logging.getLogger(__name__)

#: Raise it whenever `Measured`, what it holds, or an audit sentence changes.
SCHEMA = 10
#: The hidden file's name.
NAME = ".tuner-cache"
#: From this many bytes on a file is kept (reading it takes some milliseconds).
WORTH_KEEPING = 1_000_000
#: Bytes of samples that one load holds in memory, of some 2.5 million requests; those beyond are read again.
MOST_HELD = 128_000_000
_CHECKSUM = 4  # bytes of it, before the content
#: What changes whenever a file does: inode, size, mtime_ns, ctime_ns.
Identity = tuple[int, int, int, int]


class Entry(msgspec.Struct, array_like=True):
    """What is kept of a file, and the identity of the bytes it comes from."""

    identity: Identity
    reading: Reading


class Content(msgspec.Struct):
    """What the hidden file holds: entries by the name of their file."""

    schema: int
    entries: dict[str, Entry]


class FolderCache:
    """The large result files of one folder, as far as they were read before."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries = _load(folder / NAME)
        self.changed = False

    def find(self, name: str, status: Sequence[os.stat_result]) -> Reading | None:
        """What is kept of the file `name`, whose status is this one; None where it has changed since, or is new."""
        entry = self.entries.get(name)
        fits = entry and entry.identity == identity(*status) and entry.reading.is_whole
        return entry.reading if entry and fits else None

    def add(self, name: str, before: Sequence[os.stat_result], reading: Reading) -> None:
        """Keep what was read of the file `name`, whose status was `before` that."""
        if all(map(_is_settled, before)):
            self.entries[name] = Entry(identity(*before), reading)
            self.changed = True

    def save(self) -> None:
        """Write the hidden file where something is new, without the files that are gone; where nothing can, do not."""
        if not self.changed:
            return
        there = {
            name: entry for name, entry in self.entries.items() if files.split_part(self.folder / name)[0].is_file()
        }
        content = msgspec.msgpack.encode(Content(SCHEMA, there))
        try:
            files.write_atomically(self.folder / NAME, zlib.crc32(content).to_bytes(_CHECKSUM) + content, is_text=False)
        except (OSError, PathError) as error:
            logger.debug("nothing is kept in %s: %s", self.folder, error)


def _load(place: Path) -> dict[str, Entry]:
    """The entries in the hidden file; none where it is damaged, or of another schema."""
    try:
        data = files.read_beside(place, files.RESULTS)
        packed = memoryview(data)[_CHECKSUM:]
        if zlib.crc32(packed) != int.from_bytes(data[:_CHECKSUM]):
            raise ValueError("damaged")
        content = msgspec.msgpack.decode(packed, type=Content)
        if content.schema != SCHEMA:
            raise ValueError(f"schema {content.schema}")
        return content.entries
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        logger.debug("%s is not used: %s", place, error)
        return {}


def identity(*statuses: os.stat_result) -> Identity:
    """What changes whenever a file does, or one of those that are read together."""
    size = sum(status.st_size for status in statuses)
    changes = (max(status.st_mtime_ns for status in statuses), max(status.st_ctime_ns for status in statuses))
    return statuses[0].st_ino, size, *changes


def _is_settled(status: os.stat_result) -> bool:
    """Whether the last change is so long ago that a clock tick cannot hide another one."""
    tick = 2 * 10**9 if status.st_mtime_ns % 10**9 == 0 else 10**8  # some file systems count whole seconds
    return time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > tick


class Cache(AbstractContextManager["Cache"]):
    """The result files of one load; what was read of large ones is kept at the end of `with Cache() as cache`."""

    def __init__(self) -> None:
        self._folder: FolderCache | None = None  # whose large files are read
        self._reader = BatchReader()
        self._room = MOST_HELD

    def __exit__(self, *_: object) -> None:
        if self._folder:
            self._folder.save()

    def batches(self, path: Path) -> list[tuple[Path, Reading | Damage]]:
        """Each batch in the file `path`, with what names it: the file itself where it holds one."""
        first = self.reading(path)
        origin = first.batch.origin if isinstance(first, Reading) else None
        count = origin.parts if origin else self._reader.parts(path) if isinstance(first, Damage) else 1
        if count < 2:
            return [(path, self._within_room(first))]
        parts = [path.with_name(f"{path.name}#{part}") for part in range(1, count + 1)]
        return [(part, self._within_room(self.reading(part))) for part in parts]

    def _within_room(self, reading: Reading | Damage) -> Reading | Damage:
        """What was read, without its samples where there is no room for them."""
        if isinstance(reading, Damage):
            return reading
        self._room -= len(reading.samples)
        return reading if self._room >= 0 else msgspec.structs.replace(reading, samples=b"")

    def reading(self, path: Path) -> Reading | Damage:
        """The numbers and samples of the result file `path`, or of the part of one that it names."""
        try:
            before = statuses(path)
        except OSError as error:
            return Damage("unreadable", f"cannot read {path.name}: {error.strerror}")
        folder = self._of_folder(path.parent) if before[0].st_size >= WORTH_KEEPING else None
        kept = folder.find(path.name, before) if folder else None
        if kept:
            return kept
        reading = self._compute(path)
        if folder and isinstance(reading, Reading):
            folder.add(path.name, before, reading)
        return reading

    def _compute(self, path: Path) -> Reading | Damage:
        file = self._reader.read(path)
        if isinstance(file, Damage):
            return file
        columns = Columns(file)
        batch = measure(columns)
        batch.warnings = audit(columns, batch)
        samples = [*(columns.latencies[name] for name in LATENCIES), columns.output_tokens]
        return Reading(batch, np.concatenate(samples).tobytes(), bool(columns.requests))

    def _of_folder(self, folder: Path) -> FolderCache:
        if self._folder is None or self._folder.folder != folder:
            if self._folder:
                self._folder.save()
            self._folder = FolderCache(folder)
        return self._folder
