"""What a search notes of each of its trials, beside what the trial's run leaves."""

from pathlib import Path
from typing import Any, Literal

import msgspec

from tuner.core import files
from tuner.core.files import decoded
from tuner.core.run_directory import SERVER_FILE, TRIAL_FILE, TrialFacts
from tuner.errors import PathError

RECORD_FILE = "search.json"
Role = Literal["baseline", "candidate", "confirmation"]
#: How a trial stands; `ended` becomes `complete`, `infeasible` or `failed` by what is on disk, whenever it is read.
COMPLETE, INFEASIBLE, FAILED, PRUNED, RUNNING, WAITING = (
    "complete",
    "infeasible",
    "failed",
    "pruned",
    "running",
    "waiting",
)
ENDED = "ended"


class TrialRecord(msgspec.Struct, kw_only=True):
    """A search's own note of one trial (`search.json`); instants are UTC with a `Z`."""

    role: Role
    parameters: dict[str, Any]
    state: str = RUNNING  # running, waiting (to be run again), ended, pruned, failed
    of: str = ""  # of a confirmation: baseline or winner
    cause: str = ""
    kind: str = ""  # of a failure, such as out_of_memory
    started_at: str = ""
    finished_at: str = ""
    seconds: float = 0.0  # that its runs took, also those that were cut off
    gpus: int = 0

    def write(self, folder: Path) -> None:
        """Keep it in a trial's folder."""
        files.write_json(folder / RECORD_FILE, msgspec.to_builtins(self))


def read_record(trial: Path) -> TrialRecord:
    """What a search noted of a trial; made from the trial itself where it noted nothing."""
    noted: TrialRecord | None = decoded(trial / RECORD_FILE, TrialRecord)
    if noted:
        return noted
    facts: TrialFacts | None = decoded(trial / TRIAL_FILE, TrialFacts)
    role: Role = "baseline" if trial.name == "0001" else "candidate"
    return TrialRecord(role=role, parameters=facts.parameters if facts else {}, state=ENDED if facts else WAITING)


def gpus_of(trial: Path) -> int:
    """How many GPUs the server of a trial had, as its record says."""
    try:
        return len(files.read_json(trial / SERVER_FILE).get("gpus", []))
    except (PathError, AttributeError, TypeError):
        return 0
