"""Folders and files → one DataFrame, one row a batch, failed ones too.

`READERS` lists what a path can be and how its batches are read; a new kind of source is one more line there.
"""

import functools
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pandas as pd

from tuner.batches import genai_bench_folder
from tuner.batches.batch import SAMPLES, Batch, Place, Reading, Samples, to_frame
from tuner.batches.genai_bench_folder import read_files, read_genai_bench, readings_in, result_files
from tuner.batches.other_tools import format_of, holds_one_run
from tuner.batches.report_data import is_page, read_report
from tuner.batches.run_folder import is_trial, read_trial
from tuner.core.files import is_regular, split_part, subfolders
from tuner.core.records import EXPERIMENT_FILE
from tuner.core.run_directory import Experiment
from tuner.errors import PathError

logger = logging.getLogger(__name__)


def load_batches(*paths: str | os.PathLike[str]) -> pd.DataFrame:
    """Read the batches of runs, plain genai-bench folders, folders of many of them, single result files, or reports.

    Result files may also be GuideLLM's, AIPerf's, those of `vllm bench serve` and of SGLang's `bench_serving`.

    Args:
        paths: any number of folders and files; what is named twice is read once.

    Returns:
        One row a batch, also for those that were asked for and have no usable file (see `outcome` and `reason`).
        Latencies and durations in seconds, throughputs in tokens/s or requests/s, times in UTC; numbers recomputed
        from the individual requests; `warnings` lists what is suspicious about a batch. Columns: `batch.COLUMNS`.
        `attrs` holds the samples for whoever judges it.

    Raises:
        PathError: a path does not exist, cannot be read, or holds no batch.

    Example:
        >>> batches = tuner.load_batches("runs/monday")
        >>> batches[["concurrency", "outcome"]].values.tolist()
        [[1, 'completed'], [2, 'completed'], [4, 'completed'], [8, 'completed']]
    """
    if not paths:
        raise PathError("no path given: name a run directory, a genai-bench folder or a result file")
    return _to_frame(chain.from_iterable(map(_read, paths)))


def load_together(paths: Sequence[str | os.PathLike[str]]) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """The batches of all paths, as `load_batches` has them, and those of each by itself; each file is read once."""
    each = [_read(path) for path in paths]
    return _to_frame(chain.from_iterable(each)), [_to_frame(batches) for batches in each]


def _to_frame(batches: Iterable[Batch]) -> pd.DataFrame:
    return to_frame(_with_distinct_names(_without_doubles(list(batches))))


def readings_of(batches: pd.DataFrame) -> list[Reading | None]:
    """What was read of each batch's file, None without one to use; it is read only where the frame lacks that."""
    samples = batches.attrs.get(SAMPLES)
    known = dict(samples.readings) if isinstance(samples, Samples) else {}
    sources = batches["source"].tolist() if "source" in batches else [None] * len(batches)
    lacking = {split_part(Path(source))[0] for source in sources if isinstance(source, str) and source not in known}
    for path, reading in chain.from_iterable(readings_in(file).items() for file in lacking):
        known[str(path)] = reading if isinstance(reading, Reading) else None
    return [known.get(str(source)) for source in sources]


def _read(named: str | os.PathLike[str]) -> list[Batch]:
    _must_be_readable(path := Path(named).expanduser())
    reader = next((read for knows, read in READERS if knows(path)), None)
    batches = reader(path) if reader else None
    if batches is None:
        tools = "genai-bench, GuideLLM, AIPerf, vllm bench serve or SGLang"
        what = f"a run directory, result files (of {tools}), a folder of them, or a report"
        raise PathError(f"{path} holds no batch: expected {what}")
    return batches


def _must_be_readable(path: Path) -> None:
    try:
        path.stat()
    except FileNotFoundError as error:
        raise PathError(f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        raise PathError(f"{path} cannot be read: {error}") from error
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        raise PathError(f"{path} cannot be read: permission denied")


def is_run(folder: Path) -> bool:
    """Whether `folder` is a run directory that tuner made."""
    return is_regular(folder / EXPERIMENT_FILE) or any(is_trial(trial) for trial in Experiment(folder).trial_folders)


def _read_run(run: Path) -> list[Batch]:
    return [batch for folder in Experiment(run).trial_folders for batch in read_trial(folder)]


def _trial_of(path: Path) -> Path | None:
    """The trial that `path` is, or is a part of."""
    whole = path.resolve()
    folders = [whole, *whole.parents][:5]  # `batches/<scenario>/<level>/<file>` in it
    return next((folder for folder in folders if is_trial(folder)), None)


def _read_in_trial(path: Path) -> list[Batch] | None:
    """The batches of a trial, or of that part of it that `path` is, named after the run directory it lies in."""
    trial, whole = _trial_of(path), path.resolve()
    batches = read_trial(trial) if trial else []
    within = [b for b in batches if any(place and place.is_relative_to(whole) for place in (b.folder, b.file))]
    return batches if whole == trial else within or None


def _read_folder(folder: Path) -> list[Batch] | None:
    """A folder of runs and genai-bench folders, however deep; or one of result files under names of their own."""
    sources = list(_sources(folder, deepest=6))
    if sources:
        return [batch for read, source in sources for batch in read(source) or []]
    return _read_loose(folder)


def _read_loose(path: Path) -> list[Batch] | None:
    """The batches of one result file, or of a folder's under names of their own, whatever tool wrote them."""
    folder, paths = (path.resolve().parent, [path]) if path.is_file() else (path, _loose_files(path))
    return read_files(paths, Place(folder, folder.resolve().name)) or None


def _loose_files(folder: Path) -> list[Path]:
    """The result files of `folder`, and those in folders that hold one batch each."""
    within = (file for below in subfolders(folder) if holds_one_run(below) for file in result_files(below))
    return [*result_files(folder), *within]


def _sources(folder: Path, deepest: int) -> "Iterator[tuple[Reader, Path]]":
    """The runs, trials and folders of result files at and below `folder`; nothing is looked for within a run."""
    if is_run(folder):
        yield _read_run, folder
    elif is_trial(folder):
        yield _read_in_trial, folder
    else:
        if is_theirs := genai_bench_folder.is_genai_bench(folder):
            yield read_genai_bench, folder
        elif any(map(format_of, _loose_files(folder))):
            yield _read_loose, folder
        deeper = deepest > 0 and not holds_one_run(folder)
        for below in subfolders(folder) if deeper else ():
            if is_theirs or not holds_one_run(below):
                yield from _sources(below, deepest - 1)


Reader = Callable[[Path], list[Batch] | None]
#: What a path can be, most telling first: (is it that?, its batches or None where it holds none).
READERS: list[tuple[Callable[[Path], object], Reader]] = [
    (is_page, read_report),
    (is_run, _read_run),
    (_trial_of, _read_in_trial),
    (Path.is_file, _read_loose),
    (Path.is_dir, _read_folder),
]


def _without_doubles(batches: list[Batch]) -> list[Batch]:
    """Each batch once, though several of the paths lead to it; what was read as part of more knows more."""
    once: dict[object, Batch] = {}
    for batch in sorted(batches, key=lambda batch: not batch.superseded):
        once.setdefault(_where(batch), batch)
    kept = {id(batch) for batch in once.values()}
    return [batch for batch in batches if id(batch) in kept]


def _where(batch: Batch) -> object:
    """What a batch is the only one of: its file wherever it really lies, or its place in a trial."""
    if not batch.file:
        return os.path.realpath(batch.place.folder), batch.place.trial, batch.key
    is_as_it_was = batch.report_row is not None  # what lies there now need not be what the report was made of
    return os.path.abspath(batch.file) if is_as_it_was else os.path.realpath(batch.file)  # noqa: PTH100


def _with_distinct_names(batches: list[Batch], parts: int = 2) -> list[Batch]:
    """Experiments of one name in different folders are told apart by as many folders above as it takes."""
    real = functools.cache(Path.resolve)
    pairs = {(batch.place.experiment, real(batch.place.folder)) for batch in batches}
    twice = {name for name, count in Counter(name for name, _ in pairs).items() if count > 1}

    def renamed(batch: Batch) -> Batch:
        name = "/".join(real(batch.place.folder).parts[-parts:])
        return replace(batch, place=replace(batch.place, experiment=name)) if batch.place.experiment in twice else batch

    return _with_distinct_names([*map(renamed, batches)], parts + 1) if twice else batches
