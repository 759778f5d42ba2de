"""A process that runs two trials at once, to be killed: `trials_owner.py ON FOLDER SPEC-JSON`."""

import json
import sys
from concurrent.futures import wait
from pathlib import Path

from tuner.core.run_directory import Experiment
from tuner.search import executors
from tuner.sweep.spec import make_spec
from tuner.sweep.sweep import StopRequest


def main(on, folder, spec):
    spec, experiment = make_spec(json.loads(spec)), Experiment.at(Path(folder))
    with executors.make(on, 2, spec) as executor:
        wait([executor.submit(spec, experiment.trial(number), StopRequest().of(experiment)) for number in (1, 2)])


if __name__ == "__main__":
    main(*sys.argv[1:])
