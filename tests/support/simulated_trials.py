"""An executor whose trials take no time: each level's throughput is a function of parameters and level."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Self

from support import result_files
from tuner.core.records import TrialFacts
from tuner.core.run_directory import Trial
from tuner.sweep.spec import SweepSpec
from tuner.sweep.sweep import StopRequest

#: trial number, parameters, level → output tokens/s; raising is the trial's failure, None a level out of memory
Curve = Callable[[int, dict[str, Any], int], float | None]


class SimulatedExecutor:
    """Runs trials at once, in the thread that submits them."""

    slots = 1

    def __init__(self, curve: Curve) -> None:
        self._curve = curve

    def submit(self, spec: SweepSpec, trial: Trial, stop: StopRequest) -> "Future[None]":
        """Write what a server as fast as the curve would have left."""
        done: Future[None] = Future()
        try:
            self._run(spec, trial)
            done.set_result(None)
        except Exception as error:
            done.set_exception(error)
        return done

    def _run(self, spec: SweepSpec, trial: Trial) -> None:
        asked = {"scenarios": ["D(100,100)"], "levels": spec.fixed_levels, "parameters": spec.parameters}
        TrialFacts(trial=trial.number, engine=spec.engine, model="m", **asked).write(trial.folder)
        for level in spec.fixed_levels:
            if (trial.batch_folder("D(100,100)", level) / "batch.json").exists():
                continue
            speed = self._curve(trial.number, spec.parameters, level)
            if speed is None:
                result_files.add_level(trial, level, outcome="out_of_memory", reason="out of memory")
            else:
                requests = [result_files.request(ttft=level / speed, tpot=level / speed)] * 60
                result_files.add_level(trial, level, result_files.result(requests, level=level))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...
