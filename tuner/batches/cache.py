"""Result files, each read at most once, and not again as long as it does not change.

What is slow to read is kept in an index. A file of `WORTH_KEEPING` bytes is in that of its own folder, `.tuner-cache`.
Smaller ones are read faster than they are looked up, until there are many: once a load has read `WORTH_INDEXING` bytes
of several trials below one folder of runs, the others are in the index of that folder, `.tuner-index`. So a small run,
and a folder of a few, is never littered.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

import numpy as np
import pandas as pd

from tuner.batches.audit import audit
from tuner.batches.index import Index, Reading
from tuner.batches.measure import LATENCIES, Columns, measure
from tuner.batches.other_tools import Reader, statuses
from tuner.batches.results import Damage, unread

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
