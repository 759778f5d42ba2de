"""Numbers and samples of result files, kept beside them as long as they do not change."""

import hashlib
import logging
import os
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import msgspec
import numpy as np
import pandas as pd
import platformdirs

from tuner.batches.audit import audit
from tuner.batches.other_tools import Reader, statuses
from tuner.batches.result_file import Columns, Damage, Floats, Measured, measure, unread
from tuner.core import files
from tuner.core.metrics import LATENCIES
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


__all__ = ["INDEX_NAME", "NAME", "WORTH_INDEXING", "WORTH_KEEPING", "Cache", "Reading", "readings"]

#: From this many bytes on a file is kept on its own (reading it takes some milliseconds).
WORTH_KEEPING = 1_000_000
#: From this many bytes on the smaller files of several runs are kept together (some ten milliseconds).
WORTH_INDEXING = 4_000_000
NAME, INDEX_NAME = ".tuner-cache", ".tuner-index"


class Cache(AbstractContextManager["Cache"]):
    """The result files of one load; what was read of them is kept at the end of `with Cache() as cache`."""

    def __init__(self) -> None:
        self._single: Index | None = None  # of the folder whose large files are read
        self._many: dict[str, _Runs] = {}
        self._reader = Reader()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for index in [self._single, *(runs.index for runs in self._many.values())]:
            if index:
                index.close()

    def batches(self, path: Path) -> list[tuple[Path, Reading | Damage]]:
        """Each batch in the file `path`, with what names it: the file itself where it holds one."""
        first = self.reading(path)
        origin = first.batch.origin if isinstance(first, Reading) else None
        count = origin.parts if origin else self._reader.parts(path) if isinstance(first, Damage) else 1
        if count < 2:
            return [(path, first)]
        parts = [path.with_name(f"{path.name}#{part}") for part in range(1, count + 1)]
        return [(part, self.reading(part)) for part in parts]

    def reading(self, path: Path) -> Reading | Damage:
        """The numbers and latencies of the result file `path`, or of the part of one that it names."""
        try:
            before = statuses(path)
        except OSError as error:
            return unread(path, error)
        index, key = self._index_of(path, before[0].st_size)
        known = index.known(key, before) if index else None
        if known:
            return known
        found = self._compute(path)
        if index and isinstance(found, Reading):
            index.learn(key, before, found)
        return found

    def _compute(self, path: Path) -> Reading | Damage:
        file = self._reader.read(path)
        if isinstance(file, Damage):
            return file
        columns = Columns(file)
        batch = measure(columns)
        batch.warnings = audit(columns, batch)
        samples = [*(columns.latencies[name] for name in LATENCIES), columns.output_tokens]
        return Reading(batch, np.concatenate(samples).tobytes(), bool(columns.requests))

    def _index_of(self, path: Path, size: int) -> tuple[Index | None, str]:
        """The index that a file of this size is in, and its key there."""
        if size >= WORTH_KEEPING:
            return self._of_folder(path.parent), path.name
        runs, trial, key = _split(path)
        if not runs:
            return None, key
        if runs not in self._many:
            self._many[runs] = _Runs(Path(runs))
        return self._many[runs].index_for(trial, size), key

    def _of_folder(self, folder: Path) -> Index:
        if self._single is None or self._single.folder != folder:
            if self._single:
                self._single.close()
            self._single = Index(folder, NAME)
        return self._single


class _Runs:
    """A folder of runs, as far as a load has read their small files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index: Index | None = None
        self._bytes = 0
        self._trials: set[str] = set()

    def index_for(self, trial: str, size: int) -> Index | None:
        """The index, once so much was read of several trials that it is worth opening."""
        if self.index is None:
            self._bytes += size
            self._trials.add(trial)
            if self._bytes >= WORTH_INDEXING and len(self._trials) > 1:
                self.index = Index(self.folder, INDEX_NAME)
        return self.index


def _split(path: Path) -> tuple[str, str, str]:
    """The folder of runs that a result file lies in, its trial, and the file's path, both below that folder.

    `RUNS` and `RUN/trials/TRIAL` of `RUNS/RUN/trials/TRIAL/batches/SCENARIO/LEVEL/FILE`; or `RUNS` and `RUN` of
    genai-bench's `RUNS/RUN/FILE`. No folder of runs where the path doesn't lead through one.
    """
    parts = path.as_posix().split("/")
    ours = parts[-4:-3] == ["batches"]
    if ours and parts[-6:-5] != ["trials"]:
        return "", "", ""
    below = parts[-7:] if ours else parts[-2:]
    return "/".join(parts[: -len(below)]), "/".join(below[:3] if ours else below[:1]), "/".join(below)


def readings(sources: Iterable[str | None]) -> Iterator[Reading | None]:
    """What is kept of each result file, in their order.

    Args:
        sources: a result file for each batch, or None.

    Returns:
        None where there is no file, or none that can be used.
    """
    with Cache() as cache:
        for source in sources:
            found = cache.reading(Path(source)) if source else None
            yield found if isinstance(found, Reading) else None


def readings_of(batches: pd.DataFrame) -> list[Reading | None]:
    """What is kept of each batch's result file, in their order; None where there is none, or none that can be used."""
    sources = batches["source"] if "source" in batches else [None] * len(batches)
    return list(readings(source if isinstance(source, str) else None for source in sources))
