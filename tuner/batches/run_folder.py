"""A run directory that tuner made: its trials, its levels, and how they ended."""

import contextlib
import logging
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path

import msgspec

from tuner.batches.batch import Batch, Place, client
from tuner.batches.genai_bench_folder import read_files, result_files
from tuner.batches.result_file import MOST, iteration_type
from tuner.core.bottleneck import CLIENT_BUSY
from tuner.core.files import is_regular, read_end
from tuner.core.level import RATE, Rate
from tuner.core.records import COMPLETED, OUTCOMES, RUNNING, SIDECAR_FILE, TRIAL_FILE, Sidecar, TrialFacts
from tuner.core.run_directory import LEVEL_NAME, PARTIAL, Trial, safe_name
from tuner.core.server_log import OUT_OF_MEMORY, diagnose
from tuner.core.text import one_line
from tuner.core.timestamps import read as read_time

logger = logging.getLogger(__name__)


def doubts(sidecar: Sidecar) -> list[str]:
    """What the sidecar gives cause to doubt."""
    busy, drift = client(sidecar, "client_cpu_share"), 0.0
    notes = [f"the load generator used {busy:.0%} of a core: it may be what was measured"] if busy > CLIENT_BUSY else []
    if sidecar.client.get("api") == "openai":
        notes.append("requests were sent without ignore_eos (api: openai): answers can end before their length")
    with contextlib.suppress(ValueError, TypeError):  # no time, or none on the monotonic clock
        (start, _), (end, _) = (read_time(text) for text in (sidecar.started_at, sidecar.finished_at))
        drift = (end - start).total_seconds() - float(sidecar.duration or math.nan)
    if abs(drift) > 2.0:
        notes.append(f"the clock was set during the level: its start and end are {drift:+.1f} s off")
    return notes


def is_trial(folder: Path) -> bool:
    """Whether `folder` is a trial of a run directory."""
    return is_regular(folder / TRIAL_FILE)


def read_trial(folder: Path) -> list[Batch]:
    """Every batch of one trial: those asked for, in the order asked, then those that are there besides."""
    return list(_TrialReader(Trial(folder)).batches())


@dataclass(frozen=True)
class _TrialReader:
    """One trial, and what its files say that more than one batch needs."""

    trial: Trial

    @cached_property
    def facts(self) -> TrialFacts:
        """What was asked for; only what the folder's name tells where `trial.json` is missing or damaged."""
        facts, name = self.trial.facts, self.trial.folder.name
        number = int(name) if re.fullmatch(r"[0-9]{1,9}", name) else 1
        if facts and 0 < facts.trial < MOST:
            number = number if self.trial.run != self.trial.folder else facts.trial
            kind = iteration_type(facts.iteration_type)
            return msgspec.structs.replace(facts, trial=number, iteration_type=kind)
        logger.warning("%s: missing or damaged, so nobody knows what was asked for", self.trial.folder / TRIAL_FILE)
        return TrialFacts(trial=number, engine="", model="", scenarios=[], levels=[])

    @cached_property
    def place(self) -> Place:
        run, facts = self.trial.run, self.facts
        return Place(run, run.resolve().name, facts.trial, facts.engine, facts.model)

    @cached_property
    def failure(self) -> tuple[str, str] | None:
        """What the server's failure makes of a batch that was not run for it, and why; None where nothing tells of one.

        The trial's `server.json` says it, or else the end of its log.
        """
        recorded = server.failure if (server := self.trial.server) else None
        failure = recorded or diagnose(read_end(self.trial.server_log, 64 * 1024), None, [OUT_OF_MEMORY])
        is_memory = failure.kind == OUT_OF_MEMORY.kind
        if not (recorded or is_memory):
            return None
        reason = f"the server failed ({failure.kind}): {one_line(failure.detail)}".removesuffix(": ")
        return failure.kind if is_memory else "server_died", reason

    def batches(self) -> Iterator[Batch]:
        facts = self.facts
        found = {level.key: level for level in self.levels()}  # a finished folder behind the partial one of its level
        levels = [level for level in facts.every_level if 0 < level < MOST]
        asked = product(facts.scenarios, [facts.iteration_type], levels, facts.every_repeat)
        for key in dict.fromkeys([*asked, *sorted(found)]):
            scenario, kind, number, repeat = key
            ending = () if key in found else self.failure or ("missing", "it was asked for, but not run")
            yield self.read(found[key]) if key in found else Batch(self.place, scenario, number, kind, repeat, *ending)

    def levels(self) -> Iterator[Batch]:
        """The levels of which there is a folder, finished or not, as its sidecar names them, or else its own name."""
        scenarios = {safe_name(scenario): scenario for scenario in self.facts.scenarios}
        for folder in (*self.trial.level_folders(partial=True), *self.trial.level_folders()):
            match = LEVEL_NAME.fullmatch(folder.name.removesuffix(PARTIAL))
            if match is None:
                logger.warning("skipped: %s is no folder of a level", folder)
                continue
            scenario = scenarios.get(folder.parent.name, folder.parent.name)
            level = Rate(match["level"]) if match["rate"] else int(match["level"])
            repeat, sidecar = int(match["repeat"] or 1), Sidecar.read(folder)
            recorded = sidecar and (sidecar.request_rate if match["rate"] else sidecar.concurrency)
            if sidecar and sidecar.scenario and recorded and 0 < recorded < MOST and 0 < sidecar.repeat < MOST:
                scenario, level, repeat = sidecar.scenario, type(level)(recorded), sidecar.repeat
            kind = RATE if match["rate"] else self.facts.iteration_type
            yield Batch(self.place, scenario, level, kind, repeat, folder=folder, sidecar=sidecar)

    def read(self, level: Batch) -> Batch:
        """The one batch of a level's folder: genai-bench's file for the numbers, the sidecar for how it ended."""
        file = self.of_file(level)
        outcome, reason = self.ending(level) or (file.outcome, file.reason)
        level.outcome, level.reason, level.file, level.reading = outcome, reason or file.reason, file.file, file.reading
        level.notes = [*file.notes, *(doubts(level.sidecar) if level.sidecar else [])]
        return level

    def of_file(self, level: Batch) -> Batch:
        asked = [level.scenario], level.iteration_type
        batches = read_files(result_files(level.folder), self.place, *asked) if level.folder else []
        none = replace(level, outcome="missing", reason="genai-bench left no file")
        return next((batch for batch in batches if batch.level == level.level), batches[0] if batches else none)

    def ending(self, level: Batch) -> tuple[str, str] | None:
        """How a level ended by its folder and sidecar, and why; None where they leave it to genai-bench's file."""
        said = level.sidecar.outcome if level.sidecar else COMPLETED
        reason = one_line(level.sidecar.reason) if level.sidecar else ""
        if said in OUTCOMES and said != COMPLETED:
            return said, reason
        if str(level.folder).endswith(PARTIAL) or said == RUNNING:
            return self.failure or ("interrupted", "the level was running, or was cut short")
        if said != COMPLETED:
            return "client_failed", f"{SIDECAR_FILE} names no known outcome: {one_line(said)!r}"
        return None
