"""Run the levels of a sweep against one server: launch, measure, record how each level ended, go on.

A level that fails costs that level: its outcome is written down, a dead server is started again, and the sweep goes on.
What has a result is not measured again, so that the same call resumes a run that was cut off.
"""

import contextlib
import logging
import threading
from dataclasses import dataclass, field
from pathlib import Path

from tuner.core.run_directory import Experiment, Sidecar, Trial, TrialFacts
from tuner.errors import ServerFailed
from tuner.servers.server import Server, launch
from tuner.servers.telemetry import Recorder
from tuner.sweep import level as levels
from tuner.sweep.books import Stopped, check_same, only_writer, recorded
from tuner.sweep.plan import Measurement, is_saturated, planned
from tuner.sweep.prepare import prepare
from tuner.sweep.spec import SweepSpec
from tuner.traffic.genai_bench import Bench, Load

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stop:
    """How a sweep is asked to end: after the level that runs, or at once."""

    after_level: threading.Event = field(default_factory=threading.Event)
    at_once: threading.Event = field(default_factory=threading.Event)

    def __bool__(self) -> bool:
        return self.after_level.is_set() or self.at_once.is_set()


def run_sweep(spec: SweepSpec, experiment: Experiment, stop: Stop | None = None) -> None:
    """Measure every level of `spec` that has no result yet, each in its own process.

    Args:
        spec: what to measure.
        experiment: a new run directory, or one of the same spec, which is then resumed.
        stop: set from another thread to end early; the run directory's `stop_file` does the same.

    Raises:
        ServerFailed: the server did not start.
        RequestError: `spec` asks for what cannot be done here, or not in this run directory.
    """
    stop = Stop() if stop is None else stop  # an unset one is false
    with only_writer(experiment):
        spec = prepare(spec)
        check_same(spec, experiment)
        with recorded(experiment, spec):
            run_trial(spec, experiment.trial(1), Wish(stop, experiment))


@dataclass(frozen=True)
class Wish:
    """Whether somebody wants the sweep to end: by an event, or by the run directory's stop file."""

    stop: Stop
    experiment: Experiment

    def __bool__(self) -> bool:
        return bool(self.stop) or self.experiment.stop_file.exists()


def run_trial(spec: SweepSpec, trial: Trial, wish: Wish) -> None:
    """Launch the server of one trial and measure every level of it that has no result yet.

    Args:
        spec: what to measure, prepared.
        trial: where it goes.
        wish: becomes true when somebody wants it to end.

    Raises:
        ServerFailed: the server did not start.
        Stopped: the wish came true before the last level.
    """
    first = next(planned(spec, trial), None)
    if first is None:
        return
    trial.write(_facts(spec, first, trial))  # before the server: if it does not start, this was asked
    offline = Path(spec.tokenizer or "").is_dir()
    with Bench(spec.api_key() or "", offline=offline) as bench, _Servers(spec, trial, wish.stop.at_once) as servers:
        runner = _Runner(spec, trial, bench, servers, wish.stop.at_once)
        for load in planned(spec, trial):
            if wish:
                raise Stopped
            trial.write(_facts(spec, load, trial))
            runner.run(*load)
        if wish.stop.at_once.is_set():
            raise Stopped


@dataclass(frozen=True)
class _Runner:
    """What the levels of a trial have in common."""

    spec: SweepSpec
    trial: Trial
    bench: Bench
    servers: "_Servers"
    at_once: threading.Event

    def run(self, scenario: str, level: int, repeat: int) -> None:
        """Measure a level, or write down why it was not."""
        folder = self.trial.batch_folder(scenario, level, repeat)
        unrun = Sidecar(scenario=scenario, concurrency=level, repeat=repeat, outcome="skipped")
        if reason := self._spared(scenario, level):
            unrun.reason = reason
            levels.record_unrun(folder, unrun)
            return
        try:
            server, is_cold = self.servers.alive()
        except ServerFailed as failure:
            unrun.outcome, unrun.reason = "server_died", f"not started again: {failure}"
            levels.record_unrun(folder, unrun)
            return
        load = _load(self.spec, server, scenario, level, repeat)
        if is_cold or self.spec.warmup_each:
            levels.warm_up(self.bench, load, self.spec.warmup_requests, self.at_once)
        levels.run(self.bench, server, load, folder, self.at_once)

    def _spared(self, scenario: str, level: int) -> str:
        """Why a level need not be measured; empty where it must be."""
        if (lower := self._out_of_memory_below(scenario, level)) is not None:
            return f"concurrency {lower} ran out of memory"
        if is_saturated(self.spec, self.trial, scenario):
            return "saturated: throughput no longer grows, and the SLO failed twice"
        return ""

    def _out_of_memory_below(self, scenario: str, level: int) -> int | None:
        """The lowest level below `level` that ran out of memory, where that is to spare the higher ones."""
        if self.spec.on_oom == "continue":
            return None
        folders = [self.trial.batch_folder(*load) for load in self.spec.loads() if load[0] == scenario]
        known = [sidecar for folder in folders if (sidecar := levels.settled(folder))]
        out = [one.concurrency for one in known if one.outcome == "out_of_memory" and one.concurrency <= level]
        return min(out, default=None)


class _Servers:
    """The server of a trial with its telemetry, started again where it died, at most `spec.max_restarts` times."""

    def __init__(self, spec: SweepSpec, trial: Trial, at_once: threading.Event) -> None:
        self._spec, self._trial, self._at_once = spec, trial, at_once
        self._restarts_left = spec.max_restarts
        self._running = contextlib.ExitStack()
        self._server, self._is_cold = self._start(), True

    def __enter__(self) -> "_Servers":
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def alive(self) -> tuple[Server, bool]:
        """The server, in a state to be measured, and whether it has not been asked for since it was started.

        Raises:
            ServerFailed: it is dead, and was started often enough or does not start any more.
        """
        if failure := self._server.failure():
            if not self._restarts_left:
                raise failure
            self._restarts_left -= 1
            _log.warning("%s; starting it again", failure)
            self._running.close()
            self._server, self._is_cold = self._start(), True
        was_cold, self._is_cold = self._is_cold, False
        return self._server, was_cold

    def _start(self) -> Server:
        try:
            server = self._running.enter_context(launch(self._spec, self._trial, self._at_once))
        except ServerFailed as failure:
            if failure.kind == "stopped":
                raise Stopped from None
            raise
        self._running.enter_context(Recorder(server))
        return server


def _load(spec: SweepSpec, server: Server, scenario: str, level: int, repeat: int) -> Load:
    return Load(
        base_url=server.base_url,
        model_name=server.model_name,
        tokenizer=spec.tokenizer or "",
        scenario=scenario,
        concurrency=level,
        max_seconds=spec.max_seconds,
        max_requests=spec.max_requests,
        extend_to=spec.extend_to,
        enough_requests=spec.enough_requests,
        workers=spec.client_workers,
        repeat=repeat,
        request_parameters=dict(server.engine.request_parameters) | spec.request_parameters,
    )


def _facts(spec: SweepSpec, load: Measurement, trial: Trial) -> TrialFacts:
    """What is asked of the trial; a search asks for a level when it comes to it."""
    before = trial.facts
    searched = sorted({load[1], *(before.levels if before else [])})
    return TrialFacts(
        trial=trial.number,
        engine=spec.engine,
        model=spec.model or spec.base_url or "",
        parameters=spec.parameters,
        scenarios=spec.scenarios,
        levels=spec.fixed_levels or searched,
        repeats=spec.repeats,
    )
