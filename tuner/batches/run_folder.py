"""A run directory that tuner made: its trials, its levels, and how they ended."""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path

from tuner.batches._cache import Cache
from tuner.batches.batch import Batch, Place, client
from tuner.batches.genai_bench_folder import Metadata, read_files, result_files
from tuner.batches.result_file import MOST, iteration_type
from tuner.core.files import is_regular, read_end, subfolders
from tuner.core.run_directory import (
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
from tuner.core.server_log import OUT_OF_MEMORY, diagnose
from tuner.core.text import one_line
from tuner.core.timestamps import read as read_time

#: Bytes at the end of a server's log that are searched.
LOG_READ = 64 * 1024
#: Share of one core above which the load generator, and not the server, may be what was measured.
CLIENT_BUSY = 0.9
#: Seconds by which the wall clock and the monotonic clock may differ over one level.
CLOCK_DRIFT = 2.0


def doubts(sidecar: Sidecar | None) -> list[str]:
    """What the sidecar gives cause to doubt."""
    busy, drift = client(sidecar, "client_cpu_share"), _drift(sidecar)
    notes = [f"the load generator used {busy:.0%} of a core: it may be what was measured"] if busy > CLIENT_BUSY else []
    if abs(drift) > CLOCK_DRIFT:
        notes.append(f"the clock was set during the level: its start and end are {drift:+.1f} s off")
    return notes


def _drift(sidecar: Sidecar | None) -> float:
    """Seconds between the recorded times beyond what the monotonic clock counted; 0 where nobody knows."""
    if sidecar is None or sidecar.duration is None:
        return 0.0
    try:
        (start, _), (end, _) = (read_time(text) for text in (sidecar.started_at, sidecar.finished_at))
    except ValueError:
        return 0.0
    return (end - start).total_seconds() - sidecar.duration


logger = logging.getLogger(__name__)

LEVEL_NAME = re.compile(r"concurrency-(?P<level>\d{1,9})(?:-repeat-(?P<repeat>\d{1,9}))?")
#: More repeats than this nobody asks for; a file that says so is damaged.
MOST_REPEATS = 1000
Key = tuple[str, int, int]


@dataclass(frozen=True)
class LevelFolder:
    """One folder below `batches/<scenario>/`."""

    path: Path
    scenario: str
    level: int
    repeat: int
    sidecar: Sidecar | None

    @property
    def partial(self) -> bool:
        """Whether the level was still running when it was last heard of."""
        return self.path.name.endswith(PARTIAL)

    @property
    def key(self) -> Key:
        """Which batch it is."""
        return self.scenario, self.level, self.repeat


def is_trial(folder: Path) -> bool:
    """Whether `folder` is a trial of a run directory."""
    return is_regular(folder / TRIAL_FILE)


def read_trial(folder: Path, run: Path, cache: Cache) -> list[Batch]:
    """Every batch of one trial: those asked for, in the order asked, then those that are there besides."""
    return list(_TrialReader(folder, run, cache).batches())


@dataclass(frozen=True)
class _TrialReader:
    """One trial's folder, and what its files say that more than one batch needs."""

    folder: Path
    run: Path
    cache: Cache

    @cached_property
    def facts(self) -> TrialFacts:
        """What was asked for; only what the folder's name tells where `trial.json` is missing or damaged."""
        facts = Trial(self.folder).facts
        if facts and 0 < facts.trial < MOST:
            return facts
        logger.warning("%s: missing or damaged, so nobody knows what was asked for", self.folder / TRIAL_FILE)
        number = int(self.folder.name) if re.fullmatch(r"[0-9]{1,9}", self.folder.name) else 1
        return TrialFacts(trial=number, engine="", model="", scenarios=[], levels=[])

    @cached_property
    def place(self) -> Place:
        return Place(self.run, self.run.resolve().name, self.facts.trial, self.facts.engine, self.facts.model)

    @property
    def iteration_type(self) -> str:
        return iteration_type(self.facts.iteration_type)

    @cached_property
    def failure(self) -> tuple[str, str] | None:
        """What the server's failure makes of a batch that was not run for it, and why; None where nothing tells of one.

        The trial's `server.json` says it, or else the end of its log.
        """
        trial = Trial(self.folder)
        recorded = server.failure if (server := trial.server) else None
        failure = recorded or diagnose(read_end(trial.server_log, LOG_READ), None, [OUT_OF_MEMORY])
        is_memory = failure.kind == OUT_OF_MEMORY.kind
        if not (recorded or is_memory):
            return None
        reason = f"the server failed ({failure.kind}): {one_line(failure.detail)}".removesuffix(": ")
        return failure.kind if is_memory else "server_died", reason

    @property
    def plan(self) -> list[Key]:
        levels = [level for level in self.facts.levels if 0 < level < MOST]
        repeats = range(1, min(self.facts.repeats, MOST_REPEATS) + 1)
        return list(dict.fromkeys(product(self.facts.scenarios, levels, repeats)))

    def batches(self) -> Iterator[Batch]:
        found: dict[Key, LevelFolder] = {}
        for level in sorted(self.levels(), key=lambda level: not level.partial):
            found[level.key] = level  # a finished folder replaces the partial one of the same level
        for key in dict.fromkeys([*self.plan, *sorted(found)]):
            yield self.read(found[key]) if key in found else self.absent(key)

    def levels(self) -> Iterator[LevelFolder]:
        """The folders of levels that are there, finished or not."""
        scenarios = {safe_name(scenario): scenario for scenario in self.facts.scenarios}
        for of_scenario in subfolders(self.folder / "batches"):
            for path in subfolders(of_scenario):
                match = LEVEL_NAME.fullmatch(path.name.removesuffix(PARTIAL))
                if match is None:
                    logger.warning("skipped: %s is no folder of a level", path)
                    continue
                scenario = scenarios.get(of_scenario.name, of_scenario.name)
                yield _level_folder(path, (scenario, int(match["level"]), int(match["repeat"] or 1)))

    def read(self, level: LevelFolder) -> Batch:
        """The one batch of a level's folder: genai-bench's file for the numbers, the sidecar for how it ended."""
        batch = replace(
            self.numbers(level),
            scenario=level.scenario,
            level=level.level,
            repeat=level.repeat,
            iteration_type=self.iteration_type,
            folder=level.path,
            sidecar=level.sidecar,
        )
        batch.notes += doubts(level.sidecar)
        outcome, reason = self.ending(level)
        return batch if outcome == COMPLETED else replace(batch, outcome=outcome, reason=reason or batch.reason)

    def numbers(self, level: LevelFolder) -> Batch:
        asked = Metadata(traffic_scenario=[level.scenario], iteration_type=self.iteration_type)
        files = read_files(result_files(level.path), self.place, asked, self.cache)
        none = Batch(self.place, level.scenario, level.level, outcome="missing", reason="genai-bench left no file")
        return next((found for found in files if found.level == level.level), files[0] if files else none)

    def ending(self, level: LevelFolder) -> tuple[str, str]:
        """How a level ended by its folder and sidecar: `completed` where they leave it to genai-bench's file."""
        said = level.sidecar.outcome if level.sidecar else COMPLETED
        reason = one_line(level.sidecar.reason) if level.sidecar else ""
        if said in OUTCOMES and said != COMPLETED:
            return said, reason
        if level.partial or said == RUNNING:
            return self.failure or ("interrupted", "the level was running, or was cut short")
        if said != COMPLETED:
            return "client_failed", f"{SIDECAR_FILE} names no known outcome: {one_line(said)!r}"
        return COMPLETED, ""

    def absent(self, key: Key) -> Batch:
        """The row of a level that was asked for and left nothing."""
        scenario, level, repeat = key
        outcome, reason = self.failure or ("missing", "it was asked for, but not run")
        return Batch(self.place, scenario, level, self.iteration_type, repeat, outcome, reason)


def _level_folder(path: Path, named: Key) -> LevelFolder:
    """A level's folder under what its sidecar says it is, or else its name."""
    sidecar = Sidecar.read(path)
    if sidecar and sidecar.scenario and 0 < sidecar.concurrency < MOST and 0 < sidecar.repeat < MOST:
        named = (sidecar.scenario, sidecar.concurrency, sidecar.repeat)
    return LevelFolder(path, *named, sidecar)
