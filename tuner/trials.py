"""The batches of a run directory that tuner made: each level has its own folder, with our sidecar in it."""

import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import msgspec

from tuner.experiment import (
    COMPLETED,
    OUTCOMES,
    PARTIAL,
    RUNNING,
    SIDECAR_FILE,
    TRIAL_FILE,
    Sidecar,
    Trial,
    TrialFacts,
    safe_name,
)
from tuner.plain import Metadata, json_files, read_files
from tuner.rows import Batch, Place

logger = logging.getLogger(__name__)

LEVEL_NAME = re.compile(r"concurrency-(?P<level>\d{1,9})(?:-repeat-(?P<repeat>\d{1,9}))?")
LOG_TAIL = 64 * 1024
#: Lines of a server's log that say why it ended; the sources are vLLM's, SGLang's, PyTorch's and llama.cpp's messages.
LOG_SIGNS = re.compile(
    rb"[^\n]*(?:torch\.OutOfMemoryError|CUDA out of memory|HIP out of memory|cudaErrorMemoryAllocation"
    rb"|No available memory for the cache blocks|Failed to allocate|Out of memory: Killed)[^\n]*",
    re.IGNORECASE,
)
Key = tuple[str, int, int]


class ServerFailure(msgspec.Struct):
    """What `server.json` says of a server that failed."""

    kind: str = ""
    detail: str = ""


class ServerFacts(msgspec.Struct):
    """The wanted key of `server.json`."""

    failure: ServerFailure | None = None


@dataclass(frozen=True)
class LevelFolder:
    """One folder below `batches/<scenario>/`."""

    path: Path
    scenario: str
    level: int
    repeat: int
    partial: bool
    sidecar: Sidecar | None

    @property
    def key(self) -> Key:
        """Which batch it is."""
        return self.scenario, self.level, self.repeat


def is_trial(folder: Path) -> bool:
    """Whether `folder` is a trial of a run directory."""
    return (folder / TRIAL_FILE).is_file() or (folder / "batches").is_dir()


def read_trial(folder: Path, run: Path) -> list[Batch]:
    """Every batch of one trial: those asked for, in the order asked, then those that are there besides."""
    facts = _decoded(folder / TRIAL_FILE, TrialFacts) or _facts_of_names(folder)
    place = Place(run, run.name, facts.trial, facts.engine, facts.model)
    found: dict[Key, LevelFolder] = {}
    for level in sorted(_level_folders(folder, facts), key=lambda level: not level.partial):
        found[level.key] = level  # a finished folder replaces the partial one of the same level
    asked: list[Key] = list(product(facts.scenarios, facts.levels, range(1, facts.repeats + 1)))
    keys = [*dict.fromkeys(asked), *sorted(found.keys() - set(asked))]
    failure = _server_failure(folder)
    return [
        _read_level(found[key], place, facts, failure) if key in found else _absent(key, place, facts, failure)
        for key in keys
    ]


def _facts_of_names(folder: Path) -> TrialFacts:
    """What is left to know of a trial whose `trial.json` is missing or damaged."""
    logger.warning("%s has no usable %s: nobody knows which batches were asked for", folder, TRIAL_FILE)
    number = int(folder.name) if folder.name.isdecimal() and len(folder.name) < 10 else 1
    return TrialFacts(trial=number, engine="", model="", scenarios=[], levels=[])


def _decoded(path: Path, kind: Any) -> Any:
    """The JSON file `path` as a `kind`; None where it is missing or damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        logger.warning("%s is damaged: %s", path, error)
        return None


def _level_folders(folder: Path, facts: TrialFacts) -> Iterator[LevelFolder]:
    scenarios = {safe_name(scenario): scenario for scenario in facts.scenarios}
    for of_scenario in subfolders(folder / "batches"):
        for path in subfolders(of_scenario):
            match = LEVEL_NAME.fullmatch(path.name.removesuffix(PARTIAL))
            if match is None:
                logger.warning("skipped: %s is no folder of a level", path)
                continue
            scenario = scenarios.get(of_scenario.name, of_scenario.name)
            yield _level_folder(path, scenario, int(match["level"]), int(match["repeat"] or 1))


def _level_folder(path: Path, scenario: str, level: int, repeat: int) -> LevelFolder:
    sidecar: Sidecar | None = _decoded(path / SIDECAR_FILE, Sidecar)
    if sidecar:
        scenario, level, repeat = sidecar.scenario, sidecar.concurrency, sidecar.repeat
    return LevelFolder(path, scenario, level, repeat, path.name.endswith(PARTIAL), sidecar)


def subfolders(folder: Path) -> list[Path]:
    """The real folders in `folder`, sorted; links are not followed, hidden ones left alone."""
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith(".")]
    except FileNotFoundError:
        return []
    except OSError as error:
        logger.warning("cannot read the folder %s: %s", folder, error.strerror)
        return []
    return [folder / name for name in sorted(names)]


def _read_level(level: LevelFolder, place: Place, facts: TrialFacts, failure: ServerFailure | None) -> Batch:
    """The one batch of a level's folder: genai-bench's file for the numbers, the sidecar for how it ended."""
    asked = Metadata(traffic_scenario=[level.scenario], iteration_type=facts.iteration_type)
    files = read_files(json_files(level.path), place, asked)
    fallback = Batch(place, level.scenario, level.level, outcome="missing", reason="genai-bench left no file")
    batch = next((found for found in files if found.level == level.level), files[0] if files else fallback)
    batch = replace(
        batch,
        scenario=level.scenario,
        level=level.level,
        repeat=level.repeat,
        iteration_type=facts.iteration_type,
        sidecar=level.sidecar,
    )
    outcome, reason = _ending(level, failure)
    if outcome == COMPLETED:
        return batch
    return replace(batch, outcome=outcome, reason=reason or batch.reason)


def _ending(level: LevelFolder, failure: ServerFailure | None) -> tuple[str, str]:
    """How a level ended by its folder and sidecar: `completed` where they leave it to genai-bench's file."""
    said = level.sidecar.outcome if level.sidecar else ""
    reason = level.sidecar.reason if level.sidecar else ""
    if said in OUTCOMES and said != COMPLETED:
        return said, reason
    if level.partial or said == RUNNING:
        return _cut_short(failure)
    if said not in ("", COMPLETED):
        return "client_failed", f"{SIDECAR_FILE} says {said!r}, which is no outcome: {reason}".rstrip(": ")
    return COMPLETED, ""


def _cut_short(failure: ServerFailure | None) -> tuple[str, str]:
    if failure:
        return _outcome_of(failure), _reason_of(failure)
    return "interrupted", "the level was running, or was cut short"


def _absent(key: Key, place: Place, facts: TrialFacts, failure: ServerFailure | None) -> Batch:
    scenario, level, repeat = key
    outcome = _outcome_of(failure) if failure else "missing"
    reason = _reason_of(failure) if failure else "it was asked for, but not run"
    return Batch(place, scenario, level, facts.iteration_type, repeat, outcome, reason)


def _outcome_of(failure: ServerFailure) -> str:
    return "out_of_memory" if failure.kind == "out_of_memory" else "server_died"


def _reason_of(failure: ServerFailure) -> str:
    return f"the server failed ({failure.kind}): {failure.detail}".rstrip(": ")


def _server_failure(folder: Path) -> ServerFailure | None:
    """Why the trial's server failed, as `server.json` says or else its log; None where neither does."""
    trial = Trial(folder)
    facts: ServerFacts | None = _decoded(trial.server_file, ServerFacts)
    if facts and facts.failure:
        return facts.failure
    line = LOG_SIGNS.search(_tail(trial.server_log))
    return ServerFailure("out_of_memory", line[0].decode(errors="replace").strip()[:300]) if line else None


def _tail(path: Path) -> bytes:
    """The last `LOG_TAIL` bytes of a log; nothing where there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_TAIL))
            return file.read(LOG_TAIL)
    except OSError:
        return b""
