"""Batches that other tools than genai-bench measured: which trial each belongs to, and which repeat it is.

Their files name neither trial nor repeat. Here each tool and model is a trial of its own, since two tools at one level
are no repeats of each other; what one of them measured twice at one level is, in the order of time.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from tuner.batches.batch import Batch, Place
from tuner.batches.cache import Reading
from tuner.batches.measure import Measured
from tuner.batches.other_tools.found import DATASET
from tuner.batches.results import Damage, Origin
from tuner.core.files import split_part
from tuner.core.run_directory import Sidecar

Found = tuple[Path, Reading | Damage]


def is_theirs(reading: Reading | Damage) -> bool:
    """Whether another tool than genai-bench wrote what was read."""
    return bool(reading.tool if isinstance(reading, Damage) else reading.batch.origin)


def of_tools(found: list[Found], place: Place) -> list[Batch]:
    """One batch for each of `found`, all of which are theirs."""
    trials: dict[tuple[str, str], int] = {}
    batches = [_batch(path, reading, place, trials) for path, reading in found]
    return _repeats(
        sorted(batches, key=lambda batch: (batch.place.trial, batch.scenario, batch.level or 0, _when(batch)))
    )


def _batch(path: Path, reading: Reading | Damage, place: Place, trials: dict[tuple[str, str], int]) -> Batch:
    if isinstance(reading, Damage):
        trial = next((number for (tool, _), number in trials.items() if tool == reading.tool), len(trials) + 1)
        place = replace(place, trial=trials.setdefault((reading.tool, ""), trial))
        return Batch(place, DATASET, None, file=path, outcome=reading.outcome, reason=reading.reason)
    origin, numbers = reading.batch.origin or Origin(""), reading.batch
    trial = trials.setdefault((origin.tool, origin.model), max(trials.values(), default=0) + 1)
    place = replace(place, trial=trial, engine=origin.engine, model=origin.model)
    return Batch(place, numbers.scenario, numbers.level, file=path, numbers=numbers, sidecar=_sidecar(origin, numbers))


def _sidecar(origin: Origin, numbers: Measured) -> Sidecar:
    return Sidecar(
        scenario=numbers.scenario,
        concurrency=numbers.level or 0,
        started_at=origin.started_at,
        finished_at=origin.finished_at,
    )


def _when(batch: Batch) -> tuple[object, ...]:
    """What orders repeats: when they were measured, or else where they stand."""
    return (batch.sidecar.started_at if batch.sidecar else ""), *split_part(batch.file or Path())


def _repeats(batches: list[Batch]) -> list[Batch]:
    seen: Counter[object] = Counter()
    for batch in batches:
        same = (batch.place.trial, batch.scenario, batch.level)
        seen[same] += 1
        batch.repeat = seen[same]
    return batches
