"""A sweep: launch, level after level, restart, resume; and the one writer of its run directory."""

import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tuner import engines
from tuner.batches.load import load_batches
from tuner.core.level import Level, Rate, level_title
from tuner.core.records import SWEEP, Sidecar
from tuner.core.request_log import WHOLE
from tuner.core.run_directory import Experiment, Trial, environment
from tuner.core.timestamps import now, to_text
from tuner.errors import EngineError, PathError, ServerFailed, SpecError, Stopped
from tuner.judging.slo import SLO
from tuner.judging.verdicts import judge
from tuner.servers import gpus, http
from tuner.servers.server import Server, launch
from tuner.servers.telemetry import Recorder
from tuner.sweep import level, quality
from tuner.sweep.fields import IN_FLIGHT
from tuner.sweep.level import Levels, Measurement, judged_level
from tuner.sweep.limit import LimitSearch, excess, is_saturated
from tuner.sweep.prepare import fingerprint, must_fit, prepare, workload_of
from tuner.sweep.progress import LOADING, WARMING_UP, phase
from tuner.sweep.proposals import write_proposals
from tuner.sweep.spec import SweepSpec
from tuner.sweep.trust import signed
from tuner.traffic import calibration
from tuner.traffic.course import Limits
from tuner.traffic.genai_bench import Bench, Benches, Load
from tuner.traffic.prompt_file import Request
from tuner.traffic.tokenizer import is_at_hand
from tuner.traffic.workload import Workload

_log = logging.getLogger(__name__)
#: what may differ when a run is resumed: where it lies, and how a server is reached
MAY_DIFFER = (
    *("runs", "name", "port", "ready_timeout", "verify", "max_restarts", "target_rate", "target_users"),
    *("trials", "patience", "max_minutes", "max_cost", "price_per_gpu_hour", "parallel", "on", "confirm", "quality"),
)


def check_kind(kind: str, experiment: Experiment) -> Experiment:
    """The run; a SpecError where another command made it, as a sweep where a search is asked for."""
    made_by = experiment.record.kind or kind
    if made_by != kind:
        raise SpecError(f"{experiment.folder} is no run of tuner {kind}: tuner {made_by} --resume goes on with it")
    return experiment


def recorded_spec(experiment: Experiment) -> dict[str, Any]:
    """What was asked of a run; earlier versions knew no window, and judged whole levels."""
    return {"window": WHOLE} | experiment.record.spec


def check_same(spec: SweepSpec, experiment: Experiment) -> None:
    """Refuse to go on with a run that was made with another configuration; the SpecError names the first difference."""
    if experiment.is_new:
        return
    defaults = {name: part.default for name, part in type(spec).model_fields.items()}  # of what came in later
    before, request = recorded_spec(experiment), spec.model_dump(mode="json", exclude_none=True)
    for name in sorted({*before, *request} - {*MAY_DIFFER}):
        old, new = (values.get(name, defaults.get(name)) for values in (before, request))
        if old != new:
            difference = f"{experiment.folder} was made with {name} {old!r}, now {new!r} is asked"
            raise SpecError(f"{difference}: start a new run, or leave that out")


def machine() -> dict[str, Any]:
    """What a run is measured on and with: versions, host, GPUs."""
    return environment() | {"gpus": [gpu.name for gpu in gpus.gpus()]}


@contextlib.contextmanager
def recorded(experiment: Experiment, spec: SweepSpec, kind: str = SWEEP, **facts: Any) -> Iterator[None]:
    """Keep in `experiment.json` what was asked, and how it ended whatever happens; `kind` is sweep or tune."""
    is_new, state = experiment.is_new, "failed"
    request = {"kind": kind, "name": spec.name, **signed(spec), **facts} if is_new else {}
    request["started_at" if is_new else "resumed_at"] = to_text(now())
    experiment.describe(**request, **machine(), state="running")
    try:
        yield
        state = "done"
    except (KeyboardInterrupt, Stopped) as end:
        state = "interrupted"
        if not isinstance(end, Stopped):
            raise
    except (SpecError, EngineError, ServerFailed) as refusal:
        is_refused = not isinstance(refusal, ServerFailed) or not engines.find(spec.engine).owned
        if is_new and is_refused and not any(Trial(folder).batches.exists() for folder in experiment.trial_folders):
            experiment.forget()
        raise
    finally:
        try:
            if not experiment.is_new:
                experiment.describe(state=state, finished_at=to_text(now()))
        except PathError as error:
            if state == "done":
                raise
            _log.warning("%s", error)  # what ended the run is what matters


def _planned(spec: SweepSpec, levels: Levels) -> Iterator[Measurement]:
    """What is to be measured, one after the other; each is on disk before the next is asked for."""
    if not spec.is_auto:
        yield from (load for load in spec.loads() if not levels.settled(load))
        return
    for scenario in spec.scenarios:
        search, slo = limit_search(spec), SLO.parse(spec.slo or {})
        while (number := search.next_level()) is not None:
            level = int(number) if spec.rates is None else Rate(number)
            runs = [(scenario, level, n + 1) for n in range(len(search.excesses.get(number, [])) + 1)]
            if not levels.settled(runs[-1]):
                yield runs[-1]
            search.tell(number, excess(judged_level([levels.folder(run) for run in runs], slo), slo))


def limit_search(spec: SweepSpec) -> LimitSearch:
    """The search for the highest level that meets the SLO; of rates from one at which a window has 10 requests on."""
    if spec.rates is None:
        return LimitSearch(highest=spec.highest)
    least = float(f"{10 / (spec.extend_to or spec.max_seconds):.2g}")
    return LimitSearch(highest=spec.highest, least=least, first=max(least, 1.0), step=0)


@dataclass(frozen=True)
class StopRequest:
    """How a sweep is asked to end: after the level that runs, by an event or by a file; or at once."""

    after_level: threading.Event = field(default_factory=threading.Event)
    at_once: threading.Event = field(default_factory=threading.Event)
    file: Path | None = None

    def is_set(self) -> bool:
        """Whether somebody wants the sweep to end."""
        return self.after_level.is_set() or self.at_once.is_set() or (self.file is not None and self.file.exists())

    def wait(self, timeout: float) -> bool:
        """Whether somebody wants the sweep to end, after so many seconds or as soon as it shall be at once."""
        return self.at_once.wait(timeout) or self.is_set()

    def of(self, experiment: Experiment) -> "StopRequest":
        """The same request, which the run directory's stop file makes too."""
        return replace(self, file=experiment.stop_file)


def run_sweep(spec: SweepSpec, experiment: Experiment, stop: StopRequest | None = None) -> None:
    """Measure every level of `spec` that `experiment`, which may be new, has no result of yet.

    `stop`, set from another thread, ends it early; so does the run directory's `stop_file`. It raises ServerFailed
    where the server did not start, RequestError for what cannot be done here, or not in this run directory.
    """
    stop = (stop or StopRequest()).of(experiment)
    with experiment.only_writer():
        spec = prepare(spec)
        check_same(spec, experiment)
        with recorded(experiment, spec, workload=fingerprint(spec)):
            run_trial(spec, experiment.trial(1), stop)
            write_proposals(spec, experiment)


def run_trial(spec: SweepSpec, trial: Trial, stop: StopRequest, benches: Benches | None = None) -> None:
    """Launch the server of one trial and measure every level of it that has no result yet, as a prepared `spec` asks.

    Of a search's trials those that could win are then asked for answers, to be compared with the baseline's; its trials
    share `benches`. It raises ServerFailed where the server did not start, Stopped before the last level.
    """
    levels = Levels(trial)
    first = next(_planned(spec, levels), None)
    if first is not None:
        levels.ask_for(first, spec)  # before the server: if it does not start, this was asked
    elif not quality.is_wanted(spec, trial):
        return
    offline, workload = is_at_hand(spec.tokenizer or ""), workload_of(spec)
    network = http.environment(spec.verify)
    with contextlib.ExitStack() as stack:
        benches = benches or stack.enter_context(Benches())
        bench = stack.enter_context(benches.bench(spec.api_key() or "", offline=offline, network=network))
        next(workload.draw(spec.scenarios[0], 1, 1))  # a tokenizer that nobody can read costs no server
        servers = stack.enter_context(_Servers(spec, trial, stop))
        if not engines.find(spec.engine).owned:
            must_fit(spec, spec.scenarios, servers.server.context, f"the server at {spec.base_url}")
        runner = _Runner(spec, levels, bench, servers, workload, stop.at_once)
        for load in _planned(spec, levels):
            if stop.is_set():
                raise Stopped
            levels.ask_for(load, spec)
            try:
                levels.add(load, runner.run(load))
            except OSError as error:  # a full disk, for one
                raise PathError(f"cannot write the files of a level: {error}") from error
        if stop.at_once.is_set():
            raise Stopped
        if quality.is_wanted(spec, trial):
            servers.ask(spec, workload.requests)


@dataclass(frozen=True)
class _Runner:
    spec: SweepSpec
    levels: Levels
    bench: Bench
    servers: "_Servers"
    workload: Workload
    at_once: threading.Event

    def run(self, measurement: Measurement) -> Sidecar:
        folder = self.levels.folder(measurement)
        if reason := self._reason_to_skip(*measurement[:2]):
            return level.record_unrun(measurement, folder, "skipped", reason)
        try:
            server, is_cold = self.servers.alive()
        except ServerFailed as failure:
            if engines.find(self.spec.engine).owned:
                return level.record_unrun(measurement, folder, "server_died", f"not started again: {failure}")
            level.record_unrun(measurement, folder, "interrupted", f"not run: {failure}")
            _log.warning("%s: what is left is not measured", failure)
            raise Stopped from None
        warmups = self.spec.warmup_requests if is_cold or self.spec.warmup_each else 0
        if not self.bench.is_ready:
            with phase(self.servers.trial, LOADING):
                self.bench.wait_ready(self.at_once)
        with phase(self.servers.trial, WARMING_UP):
            load = self._load(server, *measurement)
            words = level.warm_up(self.bench, load, warmups, self.at_once)
            if self._leaves_out_what_is_refused(server, words):
                level.warm_up(self.bench, self._load(server, *measurement), warmups, self.at_once)
        while True:
            load = self._load(server, *measurement)
            sidecar = level.run(self.bench, self.servers.recorder, load, folder, self.at_once)
            if sidecar.outcome != level.ALL_ERRORS or not self._leaves_out_what_is_refused(server, sidecar.reason):
                return sidecar

    def _leaves_out_what_is_refused(self, server: Server, words: str) -> bool:
        """Whether the server refused `ignore_eos`, and is asked without it from now on."""
        if self.spec.api or server.api == "openai" or "ignore_eos" not in words:
            return False
        server.api = "openai"
        _log.warning("%s refuses ignore_eos (%s): it is left out, and answers can end early", server, words)
        return True

    def _load(self, server: Server, scenario: str, level: Level, repeat: int) -> Load:
        spec, users, arrivals = self.spec, int(level), None
        if isinstance(level, Rate):
            users = spec.max_in_flight or IN_FLIGHT
            arrivals = spec.arrivals_at(level, f"{spec.seed} {scenario} {level} {repeat} arrivals")
        ends = spec.max_seconds, spec.max_requests, spec.extend_to, spec.enough_requests, spec.window
        workers = spec.client_workers or calibration.processes_for(level)
        engines_own = {} if self.workload.keeps_cache else server.engine.request_parameters
        return Load(
            *(server.base_url, server.model_name, scenario, self.workload, Limits(users, *ends, arrivals), workers),
            repeat=repeat,
            api_backend=spec.api or server.api,
            request_parameters={**engines_own, **spec.request_parameters},
        )

    def _reason_to_skip(self, scenario: str, level: Level) -> str:
        loads = (load for load in self.spec.loads() if load[0] == scenario)
        settled = {load: end for load in loads if (end := self.levels.settled(load))}
        exhausted = [load[1] for load, end in settled.items() if end.outcome == "out_of_memory" and load[1] <= level]
        if exhausted and self.spec.on_oom == "skip_higher":
            return f"{level_title(min(exhausted))} ran out of memory"
        if settled and self.spec.stop_when_saturated and self.spec.slo:
            batches = load_batches(*map(self.levels.folder, settled))
            if is_saturated(judge(batches, self.spec.slo)):
                return "saturated: throughput no longer grows, and the SLO failed twice"
        return ""


class _Servers(contextlib.ExitStack):
    """The server of a trial with its telemetry, started again where it died, at most `spec.max_restarts` times."""

    def __init__(self, spec: SweepSpec, trial: Trial, stop: StopRequest) -> None:
        super().__init__()
        self._spec, self.trial, self._stop = spec, trial, stop
        self._restarts_left, self._is_cold = spec.max_restarts, True
        self._start()

    def alive(self) -> tuple[Server, bool]:
        """The server, and whether nobody asked for it since it was started; raises its failure where it stays dead."""
        if failure := self.server.failure():
            if not self._restarts_left:
                raise failure
            self._restarts_left -= 1
            _log.warning("%s; trying it again", failure)
            self.close()
            self._start()
        was_cold, self._is_cold = self._is_cold, False
        return self.server, was_cold

    def ask(self, spec: quality.TrialSpec, requests: Sequence[Request]) -> None:
        """Keep what it answers to some prompts; where it is dead, that is for its next level to say."""
        try:
            with phase(self.trial, quality.COMPARING):
                quality.ask(spec, self.trial, self.alive()[0], requests, self._stop.wait)
        except ServerFailed as failure:
            _log.warning("its answers are not compared: %s", failure)

    def _start(self) -> None:
        try:
            self.server = self.enter_context(launch(self._spec, self.trial, self._stop.wait))
        except ServerFailed as failure:
            if failure.kind == "stopped":
                raise Stopped from None
            raise
        self.recorder, self._is_cold = self.enter_context(Recorder(self.server)), True
