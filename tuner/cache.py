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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import msgspec
import numpy as np
import platformdirs

from tuner import files
from tuner.audit import audit
from tuner.errors import PathError
from tuner.foreign import Reader, statuses
from tuner.measure import LATENCIES, Columns, Floats, Measured, measure
from tuner.results import Damage, unread

logger = logging.getLogger(__name__)

#: Below this many bytes a file is read again each time (some milliseconds).
WORTH_KEEPING = 1_000_000
#: Raise it whenever `Measured`, what it holds, or an audit sentence changes.
SCHEMA = 4
NAME = ".tuner-cache"


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
    def _rows(self) -> Floats:
        return np.frombuffer(self.samples, np.float64).reshape(len(LATENCIES) + 1, -1)


class Entry(msgspec.Struct, array_like=True):
    """What is kept, and the identity of the bytes it comes from."""

    identity: tuple[int, int, int]  # size, mtime_ns, ctime_ns
    reading: Reading


class Content(msgspec.Struct):
    """What one `.tuner-cache` holds: entries by file name."""

    schema: int
    entries: dict[str, Entry]


@dataclass
class FolderCache:
    """The result files of one folder, each read at most once; used as `with FolderCache(folder) as cache`."""

    folder: Path
    entries: dict[str, Entry] = field(default_factory=dict)
    changed: bool = False
    opened: bool = False
    reader: Reader = field(default_factory=Reader)

    def __enter__(self) -> "FolderCache":
        return self

    def __exit__(self, *_: object) -> None:
        if self.changed:
            there = {
                name: entry for name, entry in self.entries.items() if files.split_part(self.folder / name)[0].is_file()
            }
            save(self.folder, NAME, msgspec.msgpack.encode(Content(SCHEMA, there)))

    def reading(self, path: Path) -> Reading | Damage:
        """The numbers and latencies of the result file `path` of this folder, or of the part of one that it names."""
        try:
            before = statuses(path)
        except OSError as error:
            return unread(path, error)
        if before[0].st_size < WORTH_KEEPING:
            return self._compute(path)
        return self._known(path.name, before) or self._learn(path, before)

    def batches(self, path: Path) -> list[tuple[Path, Reading | Damage]]:
        """Each batch in the file `path`, with what names it: the file itself where it holds one."""
        first = self.reading(path)
        origin = first.batch.origin if isinstance(first, Reading) else None
        count = origin.parts if origin else self.reader.parts(path) if isinstance(first, Damage) else 1
        if count < 2:
            return [(path, first)]
        parts = [path.with_name(f"{path.name}#{part}") for part in range(1, count + 1)]
        return [(part, self.reading(part)) for part in parts]

    def _known(self, name: str, before: list[os.stat_result]) -> Reading | None:
        if not self.opened:
            self.opened, self.entries = True, _load(self.folder)
        entry = self.entries.get(name)
        return entry.reading if entry and entry.identity == identity(*before) else None

    def _learn(self, path: Path, before: list[os.stat_result]) -> Reading | Damage:
        reading = self._compute(path)
        if isinstance(reading, Reading) and all(map(_settled, before)):
            self.entries[path.name] = Entry(identity(*before), reading)
            self.changed = True
        return reading

    def _compute(self, path: Path) -> Reading | Damage:
        file = self.reader.read(path)
        if isinstance(file, Damage):
            return file
        columns = Columns(file)
        batch = measure(columns)
        batch.warnings = audit(columns, batch)
        samples = [*(columns.latencies[name] for name in LATENCIES), columns.output_tokens]
        return Reading(batch, np.concatenate(samples).tobytes(), bool(columns.requests))


def readings(sources: Iterable[str | None]) -> Iterator[Reading | None]:
    """What is kept of each result file, in their order.

    Args:
        sources: a result file for each batch, or None.

    Returns:
        None where there is no file, or none that can be used.
    """
    for folder, found in groupby((Path(source) if source else None for source in sources), _folder):
        with FolderCache(folder) as cache:
            for file in found:
                reading = cache.reading(file) if file else None
                yield reading if isinstance(reading, Reading) else None


def _folder(file: Path | None) -> Path:
    return file.parent if file else Path()


def identity(*statuses: os.stat_result) -> tuple[int, int, int]:
    """What changes whenever a file does, or one of those that are read together."""
    sizes, changes, inodes = zip(*((one.st_size, one.st_mtime_ns, one.st_ctime_ns) for one in statuses), strict=True)
    return sum(sizes), max(changes), max(inodes)


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


def _load(folder: Path) -> dict[str, Entry]:
    for place in kept(folder, NAME):
        try:
            content = msgspec.msgpack.decode(place.read_bytes(), type=Content)
        except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
            continue  # damaged, or of another schema
        if content.schema == SCHEMA:
            return content.entries
    return {}


def _settled(status: os.stat_result) -> bool:
    """Whether the last change is so long ago that a clock tick cannot hide another one."""
    tick = 2 * 10**9 if status.st_mtime_ns % 10**9 == 0 else 10**8  # some file systems count whole seconds
    return time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > tick
