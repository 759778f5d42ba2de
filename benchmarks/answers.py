"""What configurations of llama.cpp do to a model's answers, and how often the same server is called another one.

Run it by hand: `python benchmarks/answers.py [--model FILE.gguf] [--other FILE.gguf …] [--again 20]`; a minute a line.
The baseline is the engine's defaults. Each `--other` file, such as the same weights quantised, is compared with it, and
the server of the baseline itself, asked `--again` times.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from tuner.core.records import Answers, Role, TrialRecord
from tuner.core.run_directory import Experiment
from tuner.engines.gguf import demo_model
from tuner.judging.answers import CHANGED, Sameness, compare_answers
from tuner.search.spec import TuneSpec
from tuner.servers.server import launch
from tuner.sweep import quality
from tuner.sweep.spec import make_spec
from tuner.sweep.sweep import StopRequest

CONFIGURATIONS = (
    {"n_parallel": 8, "n_batch": 128, "n_ubatch": 64},
    {"flash_attn": "off"},
    {"cache_type_k": "q8_0"},
    {"cache_type_k": "q4_0"},
    {"cache_type_k": "q4_0", "cache_type_v": "q4_0", "flash_attn": "on"},
)


def answers_of(model: Path, parameters: dict[str, Any], times: int = 1) -> list[Answers]:
    """All answers of one server, which is asked so many times."""
    spec = make_spec({"model": str(model), "parameters": parameters}, TuneSpec)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        trial = Experiment.at(Path(folder)).trial(1)
        role: Role = "baseline"
        TrialRecord(role=role, parameters=parameters).write(trial.folder)
        with launch(spec, trial) as server:
            for _ in range(times):
                quality.ask(spec, trial, server, (), StopRequest().wait)
                found += [answers] if (answers := Answers.read(trial.folder)) else []
    return found


def say(what: str, found: Sameness) -> None:
    print(f"{what:60} {found.verdict}: {found.evidence}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path)
    parser.add_argument("--other", type=Path, action="append", default=[])
    parser.add_argument("--again", type=int, default=20)
    asked = parser.parse_args()
    model = asked.model or demo_model(lambda share: None)
    baseline, *again = answers_of(model, {}, 1 + asked.again)
    trials = [msgspec.structs.replace(one, first=one.again) for one in again]  # the noisier side: several at once
    for parameters in CONFIGURATIONS:
        say(str(parameters), compare_answers(baseline, *answers_of(model, parameters)))
    for other in asked.other:
        say(other.name, compare_answers(baseline, *answers_of(other, {})))
    alarms = sum(compare_answers(baseline, own).verdict == CHANGED for own in [*again, *trials])
    print(f"false alarms: {alarms} of {2 * len(again)}, half of them asked one by one and half several at once")


if __name__ == "__main__":
    main()
