"""A folder of result files: genai-bench's, by name or by what is in them, and other tools'."""

import contextlib
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain, groupby, product
from pathlib import Path
from typing import Any

import msgspec

from tuner.batches.batch import Batch, Place, Reading
from tuner.batches.other_tools import aiperf, distinct, format_of, read_all
from tuner.batches.other_tools.values import DATASET
from tuner.batches.result_file import MOST, Damage, Origin, iteration_type
from tuner.core.files import is_regular, read_object, read_struct, split_part
from tuner.core.level import CONCURRENCY, RATE
from tuner.core.records import COMPLETED, EXPERIMENT_FILE, SERVER_FILE, SIDECAR_FILE, TRIAL_FILE, Sidecar
from tuner.core.request_log import LIVE_FILE, REQUESTS_FILE

logger = logging.getLogger(__name__)
NamedReading = tuple[Path, Reading | Damage]
METADATA_FILE = "experiment_metadata.json"
RESULT_NAME = re.compile(
    r"(?P<scenario>.+)_(?P<task>(?!num_)[^_]+)_(?P<iteration>num_concurrency|concurrency|batch_size)_(?P<level>\d{1,9})"
    r"_time_\d+s\.json"
)
DEBUG_NAME = re.compile(r"debug_for_run_(?P<scenario>.+)_(?P<level>\d{1,9})\.json")
#: What else it says that a result depends on; its command line, which holds the API key, is not among it.
SERVER_FACTS = (
    *("server_engine", "server_version", "server_gpu_type", "server_gpu_count", "api_backend", "benchmark_version"),
    *("server_model_tokenizer", "max_time_per_run_s", "max_requests_per_run", "additional_request_params"),
)
#: Files of ours, of genai-bench and of AIPerf that are JSON but never a batch.
OTHER_FILES = {METADATA_FILE, EXPERIMENT_FILE, TRIAL_FILE, SERVER_FILE, SIDECAR_FILE, LIVE_FILE, *aiperf.OTHER_FILES}


def _of_tools(found: list[NamedReading], place: Place) -> list[Batch]:
    def order(batch: Batch) -> tuple[Any, ...]:
        when = batch.sidecar.started_at if batch.sidecar else ""
        return batch.place.trial, batch.scenario, batch.level or 0, when, *split_part(batch.file or Path())

    trials: dict[tuple[str, str], int] = {}
    last = sorted(found, key=lambda one: isinstance(one[1], Damage))  # so that it shifts no number of a trial
    batches = sorted((_batch_of_tool(path, reading, place, trials) for path, reading in last), key=order)
    repeats: Counter[object] = Counter()
    for batch in batches:
        repeats[same := (batch.place.trial, *batch.key[:-1])] += 1
        batch.repeat = repeats[same]
    return batches


def _batch_of_tool(path: Path, reading: Reading | Damage, place: Place, trials: dict[tuple[str, str], int]) -> Batch:
    if isinstance(reading, Damage):
        trial = next((number for (tool, _), number in trials.items() if tool == reading.tool), len(trials) + 1)
        place = replace(place, trial=trials.setdefault((reading.tool, ""), trial))
        return Batch(place, DATASET, None, file=path, outcome=reading.outcome, reason=reading.reason)
    numbers, origin = reading.batch, reading.batch.origin or Origin("")
    trial = trials.setdefault((origin.tool, origin.model), max(trials.values(), default=0) + 1)
    place = replace(place, trial=trial, engine=origin.engine, model=origin.model)
    sidecar = Sidecar(scenario=numbers.scenario, started_at=origin.started_at, finished_at=origin.finished_at)
    same = numbers.scenario, numbers.level, numbers.iteration_type
    return Batch(place, *same, file=path, reading=reading, sidecar=sidecar)


class _Metadata(msgspec.Struct):
    """The wanted keys of `experiment_metadata.json`: what was asked for."""

    traffic_scenario: list[str] | None = None
    num_concurrency: list[int] | None = None
    batch_size: list[int] | None = None
    iteration_type: str | None = None
    api_model_name: str | None = None
    server_engine: str | None = None


def result_files(folder: Path) -> list[Path]:
    """The regular files of `folder` that may hold batches, sorted; links and pipes are left alone.

    Where a level's own file of requests is there, it says all that genai-bench's file beside it says, and more.
    """
    if is_regular(folder / REQUESTS_FILE):
        return [folder / REQUESTS_FILE]
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if _may_be_batch(entry)]
    except OSError as error:
        logger.warning("cannot read the folder %s: %s", folder, error.strerror)
        return []
    return [folder / name for name in sorted(names)]


def _may_be_batch(entry: os.DirEntry[str]) -> bool:
    path = Path(entry.path)
    if entry.name.startswith(".") or entry.name in OTHER_FILES or (path.suffix != ".json" and not format_of(path)):
        return False
    if entry.is_symlink():
        logger.warning("%s is a link and is not followed", entry.path)
    return entry.is_file(follow_symlinks=False)


def is_genai_bench(folder: Path) -> bool:
    """Whether genai-bench wrote into `folder`."""
    names: list[str] = []
    with contextlib.suppress(OSError):
        names = [path.name for path in folder.iterdir()]
    return is_regular(folder / METADATA_FILE) or any(RESULT_NAME.fullmatch(n) or DEBUG_NAME.fullmatch(n) for n in names)


def read_genai_bench(folder: Path) -> list[Batch]:
    """Every batch of a plain genai-bench folder: those asked for, and those that are there besides."""
    asked = read_struct(folder / METADATA_FILE, _Metadata)
    if asked is None:
        logger.warning("%s: missing or damaged, so nobody knows which batches were asked for", folder / METADATA_FILE)
        asked = _Metadata()
    place = Place(folder, folder.resolve().name, 1, asked.server_engine or "", asked.api_model_name or "")
    scenarios, kind = list(dict.fromkeys(asked.traffic_scenario or [])), iteration_type(asked.iteration_type)
    batches = read_files(result_files(folder), place, scenarios, kind)
    if any(batch.iteration_type == RATE for batch in batches):  # ours, for which genai-bench was asked for users
        return batches
    levels = [level for level in getattr(asked, kind, None) or [] if 0 < level < MOST]
    there = {(batch.scenario, batch.level) for batch in batches if batch.iteration_type == kind}
    lacking = (key for key in dict.fromkeys(product(scenarios, levels)) if key not in there)
    reason = "it was asked for, but genai-bench left no file"
    every = [*batches, *(Batch(place, *key, kind, 1, "missing", reason) for key in lacking)]
    order = [*scenarios, *sorted({batch.scenario for batch in batches})]
    return sorted(every, key=lambda batch: (order.index(batch.scenario), batch.level or 0, batch.repeat))


def words_of_failure(folder: Path) -> str:
    """How many requests of a level failed, with which status, and the server's words for the first that has some."""
    batches = read_files(result_files(folder), Place(folder, ""))
    return next((batch.reason for batch in batches if batch.reason), "every request failed")


def genai_bench_facts(folder: Path) -> dict[str, dict[str, Any]]:
    """What `experiment_metadata.json` says of the server and the load, under `genai_bench`; no key is in it."""
    document = read_object(folder / METADATA_FILE)
    known = {name: document[name] for name in SERVER_FACTS if document.get(name) is not None}
    return {"genai_bench": known} if known else {}


def read_files(
    paths: Iterable[Path], place: Place, scenarios: Sequence[str] = (), kind: str = CONCURRENCY
) -> list[Batch]:
    """One batch a level that `paths` hold a file of; older runs of a level follow as superseded repeats.

    Those of other tools come last, each with all its repeats, as nothing says that one replaces another. `scenarios`
    and the `kind` of levels that were asked for make names of files clear.
    """
    theirs: list[NamedReading] = []
    ours: list[Batch] = []
    files = list(paths)
    named = [path for path in files if RESULT_NAME.fullmatch(path.name)]  # which needs no look inside beforehand
    others = distinct(path for path in files if not RESULT_NAME.fullmatch(path.name))
    for path, reading in chain.from_iterable(readings_in(path).items() for path in [*named, *others]):
        is_named = isinstance(reading, Damage) and RESULT_NAME.fullmatch(path.name)
        if not is_named and (reading.tool if isinstance(reading, Damage) else reading.batch.origin):
            theirs.append((path, reading))
        elif batch := _batch(path, reading, _from_name(path, place, scenarios, kind), place):
            ours.append(batch)
    ours.sort(key=lambda batch: (batch.scenario, batch.iteration_type, batch.level or 0))
    same_level = groupby(ours, key=lambda batch: batch.key)
    chosen = [batch for _, group in same_level for batch in _choose(list(group))]
    return chosen + [_with_outcome(batch) for batch in _of_tools(theirs, place)]


def readings_in(path: Path) -> dict[Path, Reading | Damage]:
    """Every batch in the file `path`, by what names it."""
    return {name: part if isinstance(part, Damage) else Reading.of(part) for name, part in read_all(path).items()}


def _batch(path: Path, reading: Reading | Damage, named: Batch | None, place: Place) -> Batch | None:
    """The batch in `path`; None, and a warning, where it is none and its name does not say that it should be."""
    if isinstance(reading, Damage):
        if named is None:
            logger.warning("skipped: %s (%s)", path, reading.reason)
            return None
        return replace(named, outcome=reading.outcome, reason=reading.reason)
    batch, numbers = named or Batch(place, "", None), reading.batch
    batch.file, batch.reading, batch.scenario = path, reading, numbers.scenario or batch.scenario
    if numbers.level is not None:
        batch.level, batch.iteration_type = numbers.level, numbers.iteration_type
    if batch.level is None or not batch.scenario:
        logger.warning("skipped: %s names no scenario or no level", path)
        return None
    return _with_outcome(batch)


def _from_name(path: Path, place: Place, scenarios: Sequence[str], kind: str) -> Batch | None:
    """What the name of a result file says, for files whose content says nothing."""
    match = RESULT_NAME.fullmatch(path.name) or DEBUG_NAME.fullmatch(path.name)
    if match is None:
        return None
    found = match.groupdict()
    known = {name_in_file(scenario): scenario for scenario in scenarios}
    scenario = known.get(found["scenario"], found["scenario"])
    return Batch(place, scenario, int(found["level"]), iteration_type(found.get("iteration") or kind), file=path)


def name_in_file(scenario: str) -> str:
    """A scenario as genai-bench writes it in file names."""
    return scenario.translate(str.maketrans("/,", "__", "()"))


def _with_outcome(batch: Batch) -> Batch:
    """A file without one completed request is no completed batch."""
    if (numbers := batch.numbers) is None:
        return batch
    if numbers.completed or (numbers.completed is None and numbers.request_throughput > 0):
        if batch.file and DEBUG_NAME.fullmatch(batch.file.name):
            return replace(batch, outcome="client_failed", reason="genai-bench failed over this level (debug file)")
        return batch
    if numbers.completed is None or not numbers.errors:
        says = "does not say how many requests completed" if numbers.completed is None else "holds no request"
        return replace(batch, outcome="incomplete", reason=f"the file {says}")
    codes = ", ".join(f"{code} ×{count}" for code, count in numbers.error_codes.items())
    causes = f" ({codes})" if codes else ""
    which = "the only request" if numbers.errors == 1 else f"all {numbers.errors} requests"
    reason = f"{which} failed{causes}: {numbers.first_error}".removesuffix(": ")
    return replace(batch, outcome="all_errors", reason=reason)


def _choose(batches: list[Batch]) -> list[Batch]:
    """Of several files of one level the newest usable one counts; the others are kept as repeats behind it."""
    usable = [batch for batch in batches if batch.outcome == COMPLETED]
    broken = [batch for batch in batches if batch.outcome != COMPLETED]
    if not usable:
        return [max(broken, key=lambda batch: (batch.numbers is not None, batch.modified))]
    counts = _newest(usable)
    older = sorted((b for b in usable if b is not counts), key=lambda b: (-b.modified, str(b.file)))
    counts.notes += [f"{batch.file.name if batch.file else ''}: {batch.reason}" for batch in broken]
    reason = f"the level was run again: {counts.file.name if counts.file else ''} counts"
    return [counts, *(replace(b, repeat=n, superseded=True, reason=reason) for n, b in enumerate(older, 2))]


def _newest(batches: list[Batch]) -> Batch:
    """The batch written last; where the files' times cannot tell, the slower one, which promises less."""
    last = max(batch.modified for batch in batches)
    # two runs end a second apart at least, the unit of genai-bench's clock; a file that has gone has no time
    contenders = [batch for batch in batches if not last - batch.modified >= 1.0]
    slowest = min(contenders, key=lambda b: (b.numbers.output_throughput if b.numbers else 0.0, str(b.file)))
    if len(contenders) > 1:
        names = ", ".join(sorted(batch.file.name for batch in contenders if batch.file))
        slowest.notes.append(f"the times of {names} cannot tell which is newer: the slower one is taken")
    elif len(batches) > 1:
        slowest.notes.append(f"the level was run {len(batches)} times: this is the newest")
    return slowest
