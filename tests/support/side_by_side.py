"""Trials that run at once: what is asked of them, and what they have written down so far."""

import json
import sys

from support import BYTE_TOKENIZER, FAULTY_SERVER
from tuner.sweep.sweep import StopRequest

FAULTY = FAULTY_SERVER


def faulty(*knobs, **asked):
    """What to ask for where the server shall be a faulty one."""
    command = [sys.executable, str(FAULTY), "--port", "{port}", *knobs]
    return {"engine": "command", "command": command, "model": "faulty", "tokenizer": str(BYTE_TOKENIZER), **asked}


def stop_request(experiment):
    """A request to stop of a trial's own."""
    return StopRequest().of(experiment)


def record(trial):
    """What the trial's `server.json` says; nothing where there is none."""
    return json.loads((trial.folder / "server.json").read_text()) if (trial.folder / "server.json").exists() else {}


def started(trials):
    """Those whose server has been started."""
    return [trial for trial in trials if record(trial).get("pid")]
