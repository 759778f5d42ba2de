"""Run the levels of a sweep against one server: launch, measure, record how each level ended, go on.

A level that fails costs that level: its outcome is written down, a dead server is started again, and the sweep goes on.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tuner import levels, tokenizer, weights
from tuner.bench import Bench, Load
from tuner.engines import registry
from tuner.errors import ServerFailed, SpecError
from tuner.experiment import Experiment, Trial, TrialFacts
from tuner.server import Server, launch
from tuner.spec import Spec, SweepSpec
from tuner.telemetry import Recorder
from tuner.timestamps import now, to_text
from tuner.versions import environment

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stop:
    """How a sweep is asked to end: after the level that runs, or at once."""

    after_level: threading.Event = field(default_factory=threading.Event)
    at_once: threading.Event = field(default_factory=threading.Event)

    def __bool__(self) -> bool:
        return self.after_level.is_set() or self.at_once.is_set()


def with_model(spec: Spec, progress: weights.Progress = lambda share: None) -> Spec:
    """`spec` with the demo's weights where llamacpp is asked to serve nothing in particular, checked by its engine.

    Args:
        spec: what is asked for.
        progress: told how much of the weights has arrived, 0 to 1.

    Raises:
        RequestError: the engine cannot do what is asked, or something that is needed is missing.
        ModelUnavailable: the demo's weights cannot be fetched.
    """
    engine = registry.find(spec.engine)
    if spec.engine == "llamacpp" and not spec.model:
        spec = spec.model_copy(update={"model": str(weights.demo_model(progress))})
    spec.api_key()
    engine.check(spec)
    return spec


def prepare(spec: SweepSpec, progress: weights.Progress = lambda share: None) -> SweepSpec:
    """`spec` with everything resolved that can be before a server starts: `with_model`, and the tokenizer."""
    spec = with_model(spec, progress)
    return spec if spec.tokenizer else spec.model_copy(update={"tokenizer": _tokenizer_of(spec)})


def _tokenizer_of(spec: SweepSpec) -> str:
    """The tokenizer that sizes the prompts: made from a GGUF, or the one that the model's folder or hub id has."""
    if spec.engine == "llamacpp":
        return str(tokenizer.tokenizer_folder(Path(spec.model)))
    if not spec.model:
        raise SpecError("tokenizer: missing; give a tokenizer folder or a hub id, so that prompts can be sized")
    return spec.model


def run_sweep(spec: SweepSpec, experiment: Experiment, stop: Stop | None = None) -> None:
    """Measure every level of `spec`, each in its own process; the run directory holds the results.

    Args:
        spec: what to measure.
        experiment: a new run directory.
        stop: set from another thread to end early.

    Raises:
        ServerFailed: the server did not start; nothing was measured.
        RequestError: `spec` asks for what cannot be done here.
    """
    with _recorded(experiment, spec):
        spec = prepare(spec)
        trial = experiment.trial(1)
        trial.write(_facts(spec))
        _run_trial(spec, trial, stop or Stop())


def _run_trial(spec: SweepSpec, trial: Trial, stop: Stop) -> None:
    offline = Path(spec.tokenizer or "").is_dir()
    with Bench(spec.api_key() or "", offline=offline) as bench, _Servers(spec, trial) as servers:
        for scenario, level in spec.loads():
            if stop:
                break
            folder = trial.batch_folder(scenario, level)
            try:
                server = servers.alive()
            except ServerFailed as failure:
                levels.record_unrun(folder, scenario, level, "server_died", f"not started again: {failure}")
                continue
            levels.run(bench, server, _load(spec, server, scenario, level), folder, stop.at_once)


class _Servers:
    """The server of a trial with its telemetry, started again where it died, at most `spec.max_restarts` times."""

    def __init__(self, spec: SweepSpec, trial: Trial) -> None:
        self._spec, self._trial = spec, trial
        self._restarts_left = spec.max_restarts
        self._running = contextlib.ExitStack()
        self._server = self._start()

    def __enter__(self) -> "_Servers":
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def alive(self) -> Server:
        """The server, in a state to be measured.

        Raises:
            ServerFailed: it is dead, and was started often enough or does not start any more.
        """
        if failure := self._server.failure():
            if not self._restarts_left:
                raise failure
            self._restarts_left -= 1
            _log.warning("%s; starting it again", failure)
            self._running.close()
            self._server = self._start()
        return self._server

    def _start(self) -> Server:
        server = self._running.enter_context(launch(self._spec, self._trial))
        self._running.enter_context(Recorder(server))
        return server


def _load(spec: SweepSpec, server: Server, scenario: str, level: int) -> Load:
    return Load(
        base_url=server.base_url,
        model_name=server.model_name,
        tokenizer=spec.tokenizer or "",
        scenario=scenario,
        concurrency=level,
        max_seconds=spec.max_seconds,
        max_requests=spec.max_requests,
        request_parameters=spec.request_parameters,
    )


def _facts(spec: SweepSpec) -> TrialFacts:
    return TrialFacts(
        trial=1,
        engine=spec.engine,
        model=spec.model or spec.base_url or "",
        parameters=spec.parameters,
        scenarios=spec.scenarios,
        levels=spec.levels,
    )


@contextlib.contextmanager
def _recorded(experiment: Experiment, spec: SweepSpec) -> Iterator[None]:
    """Keep in `experiment.json` what was asked, and how it ended whatever happens."""
    asked = spec.model_dump(mode="json", exclude_none=True)
    experiment.describe(kind="sweep", name=spec.name, spec=asked, started_at=to_text(now()), **environment())
    experiment.describe(state="running")
    state = "failed"
    try:
        yield
        state = "done"
    except KeyboardInterrupt:
        state = "interrupted"
        raise
    finally:
        experiment.describe(state=state, finished_at=to_text(now()))
