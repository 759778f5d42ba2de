"""Folders and files → one DataFrame, one row a batch, failed ones too.

`READERS` lists what a path can be and how its batches are read; a new kind of source is one more line there.
"""

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd

from tuner.errors import PathError
from tuner.experiment import EXPERIMENT_FILE
from tuner.plain import Metadata, is_plain, json_files, read_files, read_plain
from tuner.rows import Batch, Place, to_frame
from tuner.trials import is_trial, read_trial, subfolders

logger = logging.getLogger(__name__)

#: How far below a folder of many runs they are looked for.
DEEPEST = 6


def load_batches(*paths: str | os.PathLike[str]) -> pd.DataFrame:
    """Read the batches of runs, plain genai-bench folders, folders of many of them, or single result files.

    Args:
        paths: any number of folders and files; what is named twice is read once.

    Returns:
        One row a batch, also for those that were asked for and have no usable file (see `outcome` and `reason`).
        Latencies and durations in seconds, throughputs in tokens/s or requests/s, times in UTC; numbers recomputed
        from the individual requests; `warnings` lists what is suspicious about a batch. Columns: `rows.COLUMNS`.

    Raises:
        PathError: a path does not exist, cannot be read, or holds no batch.
    """
    if not paths:
        raise PathError("no path given: name a run directory, a genai-bench folder or a result file")
    batches = [batch for path in paths for batch in _read(Path(path).expanduser())]
    return to_frame(_with_distinct_names(_without_doubles(batches)))


def _read(path: Path) -> list[Batch]:
    """The batches of the first reader that knows what `path` is."""
    if not path.exists():
        raise PathError(f"{path} does not exist")
    if path.is_dir() and not os.access(path, os.R_OK | os.X_OK):
        raise PathError(f"{path} cannot be read: permission denied")
    reader = next((read for knows, read in READERS if knows(path)), None)
    batches = reader(path) if reader else None
    if batches is None:
        raise PathError(f"{path} holds no batch: expected a run directory, a genai-bench folder or a result file")
    return batches


def _read_run(run: Path) -> list[Batch]:
    trials = [folder for folder in subfolders(run / "trials") if is_trial(folder)]
    return [batch for folder in trials for batch in read_trial(folder, run)]


def _read_trial_alone(folder: Path) -> list[Batch]:
    """One trial, named after the run directory that it lies in."""
    absolute = folder.resolve()
    return read_trial(folder, absolute.parents[1] if absolute.parent.name == "trials" else absolute)


def _read_file(path: Path) -> list[Batch] | None:
    folder = path.resolve().parent
    return read_files([path], Place(folder, folder.name), Metadata()) or None


def _read_folder(folder: Path) -> list[Batch] | None:
    """A folder of runs and genai-bench folders, however deep; or one of result files under names of their own."""
    sources = list(_sources(folder, DEEPEST))
    if sources:
        return [batch for source in sources for batch in (_read_run if is_run(source) else read_plain)(source)]
    return read_files(json_files(folder), Place(folder, folder.name), Metadata()) or None


def _sources(folder: Path, depth: int) -> Iterator[Path]:
    """The runs and genai-bench folders at and below `folder`; nothing is looked for within a run."""
    if is_run(folder):
        yield folder
        return
    if is_plain(folder):
        yield folder
    if depth:
        for below in subfolders(folder):
            yield from _sources(below, depth - 1)


def is_run(folder: Path) -> bool:
    """Whether `folder` is a run directory that tuner made."""
    return (folder / EXPERIMENT_FILE).is_file() or (folder / "trials").is_dir()


Reader = Callable[[Path], list[Batch] | None]
#: What a path can be, most telling first: (is it that?, its batches or None where it holds none).
READERS: list[tuple[Callable[[Path], bool], Reader]] = [
    (Path.is_file, _read_file),
    (is_run, _read_run),
    (is_trial, _read_trial_alone),
    (Path.is_dir, _read_folder),
]


def _without_doubles(batches: list[Batch]) -> list[Batch]:
    """Each batch once, though several of the paths lead to it."""
    once = {(batch.place.folder.resolve(), batch.place.trial, *batch.key, batch.file): batch for batch in batches}
    return list(once.values())


def _with_distinct_names(batches: list[Batch]) -> list[Batch]:
    """Experiments of one name in different folders are told apart by the folder above."""
    folders: dict[str, set[Path]] = {}
    for batch in batches:
        folders.setdefault(batch.place.experiment, set()).add(batch.place.folder)
    return [batch if len(folders[batch.place.experiment]) == 1 else _named_longer(batch) for batch in batches]


def _named_longer(batch: Batch) -> Batch:
    folder = batch.place.folder.resolve()
    return replace(batch, place=replace(batch.place, experiment=f"{folder.parent.name}/{folder.name}"))
