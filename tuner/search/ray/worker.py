"""A trial's own process on a node: `python -m tuner.search.ray.worker FOLDER`.

It is no worker of Ray's, since Ray kills what its workers have started together with them, our supervisors too, before
they could end a server that does not mind SIGTERM; this process is what Ray kills, and the supervisor sees it end.

Its standard input is the order, a line of JSON, and then the leash: a line asks it to end after the level that runs,
the end of the pipe to end at once. Where the trial failed, the exception is in ERROR_FILE.
"""

import json
import logging
import os
import pickle
import sys
import threading
from pathlib import Path
from typing import IO

from tuner.core import files
from tuner.core.run_directory import NODE_VARIABLE, Experiment
from tuner.errors import RequestError, SpecError
from tuner.search.ray.node import ERROR_FILE
from tuner.sweep.prepare import prepare
from tuner.sweep.quality import TrialSpec
from tuner.sweep.spec import make_spec
from tuner.sweep.sweep import StopRequest, run_trial


def main(folder: Path, leash: IO[str]) -> None:
    """Run the trial that the first line of `leash` orders, below `folder`."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    order = json.loads(leash.readline())
    experiment, stop = Experiment.at(folder), StopRequest()
    threading.Thread(target=_obey, args=(leash, stop), daemon=True).start()
    try:
        spec = _prepared(make_spec(order["spec"], TrialSpec), os.environ.get(NODE_VARIABLE, ""))
        run_trial(spec, experiment.trial(order["trial"]), stop.of(experiment))
    except Exception as error:
        files.write_atomically(folder / ERROR_FILE, pickle.dumps(error), is_text=False)


def _obey(leash: IO[str], stop: StopRequest) -> None:
    for _ in leash:
        stop.after_level.set()
    stop.at_once.set()


def _prepared(spec: TrialSpec, node: str) -> TrialSpec:
    for what in ("model", "tokenizer", "prompts"):
        name = str(getattr(spec, what) or "")
        if name.startswith(("/", "~", ".")) and not Path(name).expanduser().exists():
            raise SpecError(f"the {what} {name} is not on node {node}: put it there too, or name it by its hub id")
    try:
        return prepare(spec)
    except RequestError as error:
        raise type(error)(f"on node {node}: {error}") from None


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.stdin)
