"""What was read of many result files, kept in one hidden file beside them, so that none is read twice.

An entry counts only for the very bytes it was made from: their place, inode, size, times of change of content and of
inode, and the schema. Where the folder cannot be written, the user's cache folder has the file instead. An index can be
deleted at any time; whatever is wrong with it, the result files themselves are read.
"""

import hashlib
import logging
import os
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import platformdirs

from tuner.batches.measure import LATENCIES, Floats, Measured
from tuner.core import files
from tuner.errors import PathError

logger = logging.getLogger(__name__)

#: Raise it whenever `Measured`, what it holds, or an audit sentence changes.
SCHEMA = 5
_CHECKSUM = 4  # bytes of it, before the content
#: What changes whenever a file does: inode, size, mtime_ns, ctime_ns.
Identity = tuple[int, int, int, int]


class Reading(msgspec.Struct, array_like=True):
    """What is kept of one file: its audited numbers, and the samples of its completed requests."""

    batch: Measured
    samples: bytes
    recomputed: bool  # from individual requests

    @property
    def latencies(self) -> dict[str, Floats]:
        """One value a completed request of each latency, in seconds; NaN where unknown."""
        return dict(zip(LATENCIES, self._rows[:-1], strict=True))

    @property
    def output_tokens(self) -> Floats:
        """One value a completed request; NaN where unknown."""
        return np.asarray(self._rows[-1])

    @property
    def is_whole(self) -> bool:
        """Whether it holds a sample of each latency, and of the tokens, for each completed request."""
        requests = (self.batch.completed or 0) if self.recomputed else 0
        return len(self.samples) == requests * (len(LATENCIES) + 1) * np.dtype(np.float64).itemsize

    @property
    def _rows(self) -> Floats:
        return np.frombuffer(self.samples, np.float64).reshape(len(LATENCIES) + 1, -1)


class Entry(msgspec.Struct, array_like=True):
    """What is kept of a file, and the identity of the bytes it comes from."""

    identity: Identity
    reading: Reading


class Content(msgspec.Struct):
    """What the hidden file holds: entries by the path of their file below the folder."""

    schema: int
    entries: dict[str, Entry]


@dataclass
class Index:
    """The result files at and below one folder, as far as they were read before.

    Args:
        folder: the folder they lie in, however deep.
        name: of the hidden file.
    """

    folder: Path
    name: str
    entries: dict[str, Entry] = field(init=False)
    changed: bool = False

    def __post_init__(self) -> None:
        self.entries = _load(self.folder, self.name)

    def known(self, key: str, statuses: Sequence[os.stat_result]) -> Reading | None:
        """What is kept of the file `key`, whose status is this one; None where it has changed since, or is new."""
        entry = self.entries.get(key)
        fits = entry and entry.identity == identity(*statuses) and entry.reading.is_whole
        return entry.reading if entry and fits else None

    def learn(self, key: str, before: Sequence[os.stat_result], reading: Reading) -> None:
        """Keep what was read of the file `key`, whose status was `before` that."""
        if all(map(_settled, before)):
            self.entries[key] = Entry(identity(*before), reading)
            self.changed = True

    def close(self) -> None:
        """Write the hidden file where something is new, without the files that are gone."""
        if self.changed:
            there = {key: entry for key, entry in self.entries.items() if self._has(key)}
            content = msgspec.msgpack.encode(Content(SCHEMA, there))
            save(self.folder, self.name, zlib.crc32(content).to_bytes(_CHECKSUM) + content)

    def _has(self, key: str) -> bool:
        return files.split_part(self.folder / key)[0].is_file()


def _load(folder: Path, name: str) -> dict[str, Entry]:
    for place in kept(folder, name):
        try:
            return _decoded(place.read_bytes())
        except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as error:
            logger.debug("%s is not used: %s", place, error)
    return {}


def _decoded(data: bytes) -> dict[str, Entry]:
    """The entries in the hidden file; ValueError where it is damaged, or of another schema."""
    content = memoryview(data)[_CHECKSUM:]
    if zlib.crc32(content) != int.from_bytes(data[:_CHECKSUM]):
        raise ValueError("damaged")
    found = msgspec.msgpack.decode(content, type=Content)
    if found.schema != SCHEMA:
        raise ValueError(f"schema {found.schema}")
    return found.entries


def identity(*statuses: os.stat_result) -> Identity:
    """What changes whenever a file does, or one of those that are read together."""
    one = statuses[0]
    if len(statuses) == 1:
        return one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns
    size = sum(status.st_size for status in statuses)
    changes = (max(status.st_mtime_ns for status in statuses), max(status.st_ctime_ns for status in statuses))
    return one.st_ino, size, *changes


def _settled(status: os.stat_result) -> bool:
    """Whether the last change is so long ago that a clock tick cannot hide another one."""
    tick = 2 * 10**9 if status.st_mtime_ns % 10**9 == 0 else 10**8  # some file systems count whole seconds
    return time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > tick


def places(folder: Path, name: str) -> tuple[Path, Path]:
    """Where something derived from `folder` is kept: beside its files, or else in the user's cache folder."""
    digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]
    return folder / name, platformdirs.user_cache_path("tuner") / "derived" / digest / name.lstrip(".")


def save(folder: Path, name: str, content: bytes) -> Path | None:
    """Keep `content` in the first of `places` that can be written; None, and a debug line, where none can."""
    for place in places(folder, name):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            files.write_atomically(place, content)
        except (OSError, PathError) as error:
            logger.debug("nothing is kept at %s: %s", place, error)
        else:
            return place
    return None


def kept(folder: Path, name: str) -> Iterable[Path]:
    """The places that may hold what was kept, and do."""
    return (place for place in places(folder, name) if place.is_file())
