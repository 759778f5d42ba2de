"""Servers: one that already runs, found, watched and left alone; one of ours, started, ready, watched, gone."""

import fnmatch
import glob
import ipaddress
import logging
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from tuner import engines
from tuner.core import locks, timestamps
from tuner.core.files import read_end
from tuner.core.records import READY, SERVER_FAILED, STOPPED, ServerRecord
from tuner.core.run_directory import NODE_VARIABLE, Trial
from tuner.core.secrets import redactor
from tuner.core.server_log import Failure, diagnose
from tuner.core.text import shorten, suggest
from tuner.engines.base import LOOPBACK, Engine, Placement, ServerSpec
from tuner.engines.command import api_root
from tuner.errors import ServerFailed, TunerError
from tuner.servers import gpus
from tuner.servers import http as probe
from tuner.servers.supervised import Supervised

log = logging.getLogger(__name__)

POLL = 0.1  # seconds between two questions whether it is ready
_COMES_BACK = 2.0  # seconds in which one that we never started, and that was there before, must be there again
_LOG_READ = 200_000  # bytes of log, at most, that are searched for the reason of a failure
#: whether somebody wants what goes on to end, asked for so many seconds at most; such as a threading.Event's `wait`
Wish = Callable[[float], bool]


class Server(AbstractContextManager["Server", None]):
    """A server that answers at `base_url`; this one is never started, stopped or signalled."""

    def __init__(self, engine: Engine, spec: ServerSpec, trial: Trial, stop: Wish | None = None) -> None:
        self.engine = engine
        self.spec = spec
        self.trial = trial
        self.model_name = engine.served_name(spec)
        before = trial.server.starts() if trial.server else []  # none of which goes on, whatever its record says
        self.record = ServerRecord(
            engine=spec.engine,
            model=spec.model,
            served_name=self.model_name,
            parameters=dict(spec.parameters),
            host=os.environ.get(NODE_VARIABLE) or platform.node(),
            started_at=timestamps.to_text(timestamps.now()),
            base_url=api_root(spec.base_url or ""),
            previous=[start if start.get("finished_at") else start | {"state": STOPPED} for start in before],
        )
        #: how requests are sent: vllm with `ignore_eos`, openai without
        self.api = "vllm"
        #: most tokens of a request, prompt and output together, where it says so
        self.context: int | None = None
        self._failure: Failure | None = None
        self._stop_wanted: Wish = stop or threading.Event().wait

    @property
    def base_url(self) -> str:
        """`http://host:port`, without `/v1`."""
        return self.record.base_url

    def processes(self) -> set[int]:
        """All processes of a server of ours."""
        return set()

    def client(self, **more: Any) -> httpx.Client:
        """A client that reaches it as it was asked for."""
        return probe.client(self.base_url, self.spec.api_key(), self.spec.verify, **more)

    def is_alive(self) -> bool:
        """Whether anybody serves there."""
        with self.client() as http:
            return probe.is_there(http)

    def failure(self) -> ServerFailed | None:
        """Why it died, or None while it lives or where we ended it ourselves."""
        if not self._failure and self.record.state == READY and not self.is_alive():
            self._failure = Failure("unreachable", f"{self.base_url} does not answer any more")
        return self._error(self._failure) if self._failure else None

    def forget_prompts(self) -> bool:
        """Empty the prefix cache, so that a level finds no answer of the one before; whether the engine could."""
        if not self.engine.forget_path:
            return False
        with self.client() as http:
            return probe.empty_cache(http, self.engine.forget_path)

    def start(self) -> None:
        """Wait until it is ready; ServerFailed where it does not get so."""
        self.record.write(self.trial.folder)
        self._await_ready()
        if not self.record.finished_at:
            self.record.state, self.record.ready_at = READY, timestamps.to_text(timestamps.now())
            self.record.write(self.trial.folder)
        log.info("%s is ready at %s", self, self.base_url)

    def stop(self) -> None:
        """Leave it alone from now on; a second call does nothing."""
        if not self.record.finished_at:
            self._record_end()

    def __str__(self) -> str:
        return f"server {self.spec.engine} ({self.model_name or self.base_url})"

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _await_ready(self) -> None:
        began = time.monotonic()
        was_there = self.record.previous and not self.engine.owned
        timeout = self.spec.ready_timeout or (_COMES_BACK if was_there else self.engine.ready_timeout)
        while True:
            asked = _in_background(self._find_model)
            try:
                while not wait([asked], POLL).done:
                    self._must_be_wanted(0)
                asked.result()
                break
            except probe.NotReady as reason:
                if reason.is_final or time.monotonic() - began > timeout:
                    raise self._give_up(self._not_ready(reason, timeout)) from None
            self._must_be_wanted(POLL)
        self.record.served_name = self.model_name
        with self.client() as http:
            self.record.version = probe.version(http)
        self.record.ready_seconds = round(time.monotonic() - began, 3)

    def _must_be_wanted(self, seconds: float) -> None:
        if self._stop_wanted(seconds):
            raise self._error(Failure("stopped", "it was wanted no more before it was ready"))

    def _find_model(self) -> None:
        """Settle under which name the model is asked for: as it was named, or else the first that is listed."""
        named = self.spec.served_name or ("" if self.engine.owned else self.spec.model)
        try:
            with self.client() as http:
                models, self.record.base_url = probe.models(http)
        except probe.NotReady as reason:
            if not (named and reason.has_no_list):
                raise
            log.warning("%s; asking for %s all the same", reason.about(self.base_url), named)
            models = {named: 0}
        if named and not any(fnmatch.fnmatchcase(named, name) for name in [*models, *map(glob.escape, models)]):
            raise probe.NotReady(f"serves no model {named!r}; {suggest(named, models)}", "model_not_found")
        if len(models) > 1 and not named and not self.engine.owned:
            names = shorten(", ".join(models), 200)
            log.warning("%s serves %s: the first is measured; name another with model", self.base_url, names)
        self.model_name = named or (self.model_name if self.model_name in models else next(iter(models)))
        self.context = models.get(self.model_name) or None

    def _not_ready(self, reason: probe.NotReady, timeout: float) -> Failure:
        variable, remedy = self.spec.api_key_env, ""
        if reason.kind == "unauthorized":
            remedy = f"; the key in {variable} is not accepted" if variable else "; name its variable in api_key_env"
        elif not reason.is_final:
            remedy = f", within {timeout:g} s (ready_timeout)"
        elif reason.has_no_list:
            remedy = "; name the model, with model, or correct base_url"
        return Failure(reason.kind, reason.about(self.base_url) + remedy)

    def _give_up(self, failure: Failure) -> ServerFailed:
        self._failure = failure
        return self._error(failure)

    def _error(self, failure: Failure) -> ServerFailed:
        return ServerFailed(f"{self}: {failure.kind}: {failure.detail}", kind=failure.kind)

    def _record_end(self) -> None:
        self.record.state, self.record.failure = SERVER_FAILED if self._failure else STOPPED, self._failure
        self.record.finished_at = timestamps.to_text(timestamps.now())
        self.record.write(self.trial.folder)


def _in_background(ask: Callable[[], object]) -> "Future[object]":
    """A question that may last, asked by a thread that nobody needs to wait for."""
    answer: Future[object] = Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=run, name="ask", daemon=True).start()
    return answer


class OwnServer(Server):
    """A server that we start and that ends with us."""

    def __init__(self, engine: Engine, spec: ServerSpec, trial: Trial, stop: Wish | None = None) -> None:
        super().__init__(engine, spec, trial, stop)
        self._process: Supervised | None = None
        self._stopping = False
        self._log_start = trial.server_log.stat().st_size if trial.server_log.exists() else 0
        self._oom_kills = _oom_kills()
        self._shows_gpus: dict[str, str] = {}

    def start(self) -> None:
        """Start it and wait until it is ready."""
        with ExitStack() as claimed:  # once it runs, its supervisor holds the claims on
            try:
                self._spawn(claimed)
            except TunerError as error:
                raise self._give_up(Failure(getattr(error, "kind", "crashed"), str(error))) from error
            super().start()

    def processes(self) -> set[int]:
        """All its living processes."""
        return self._process.processes() if self._process else set()

    def is_alive(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.is_alive()

    def failure(self) -> ServerFailed | None:
        """Why it died, or None while it lives or where we ended it ourselves."""
        if self._failure is None and self._process and not self._stopping and not self.is_alive():
            failure = diagnose(self.log_text(), self._process.exit_code, self.engine.patterns())
            if failure.kind == "crashed" and _oom_kills() > self._oom_kills:
                failure = Failure("out_of_memory", "the kernel killed a process as memory ran out", failure.log_tail)
            self._failure = failure
        return self._error(self._failure) if self._failure else None

    def stop(self) -> None:
        """End it, and wait until nothing of it is left; a second call does nothing."""
        self.failure()  # it may have died before we came to stop it
        self._stopping = True
        if self._process:
            self._process.stop()
        super().stop()

    def log_text(self) -> str:
        """What it printed since it was started, of a long log the end, without keys."""
        return str(redactor()(read_end(self.trial.server_log, _LOG_READ, self._log_start)))

    def _spawn(self, claimed: ExitStack) -> None:
        place, held = self._claim(claimed)
        command = self.engine.command(self.spec, place)
        self.record.base_url = f"http://{LOOPBACK}:{place.port}"
        self.record.command = command
        log.info("starting %s: %s", self, " ".join(command))
        self._process = Supervised(
            command,
            self.trial.server_log,
            env=os.environ | self.engine.environment(self.spec) | self._shows_gpus | self.spec.environment,
            grace=self.engine.grace,
            held=held,
            afterwards=self.engine.stop_command(self.spec, place),
            record=((self.trial.folder / ServerRecord.FILE).absolute(), self.record.started_at),
            on_end=self._on_end,
        )
        self.record.pid = self._process.start().pid

    def _claim(self, claimed: ExitStack) -> tuple[Placement, list[int]]:
        port = [claimed.enter_context(each) for each in locks.reserve_port(self.spec.port)]
        claim = gpus.claim(gpus_wanted(self.spec))
        for holder in claim.holders:
            claimed.enter_context(holder)
        held = [each.fileno() for each in (*port, *claim.holders)]
        self.record.gpus = [gpu.uuid for gpu in claim.gpus]
        if claim.gpus or self.spec.gpus == 0:
            self._shows_gpus = gpus.cuda_environment(claim.gpus)
        self.record.gpu_memory = {"before": {gpu.uuid: gpu.memory_used for gpu in claim.gpus}} if claim.gpus else {}
        number = int(port[0].getsockname()[1])
        return Placement(number, tuple(self.record.gpus), f"tuner-{secrets.token_hex(4)}"), held

    def _await_ready(self) -> None:
        super()._await_ready()
        listens = addresses_for_others(self.processes(), int(self.base_url.rpartition(":")[2]))
        if listens and not self.spec.expose:
            words = f"it listens on {listens}, where others can reach it: have it listen on {LOOPBACK}, or set expose"
            raise self._give_up(Failure("bad_argument", words))
        if listens:
            key = "who has its key" if self.spec.api_key_env else "without a key (api_key_env names one)"
            log.warning("%s: whoever reaches %s on %s can use it, %s", self, platform.node(), listens, key)

    def _find_model(self) -> None:
        if failure := self.failure():
            raise failure
        with self.client() as http:
            if not probe.is_healthy(http):
                raise probe.NotReady("is not healthy yet", is_final=False)
        try:
            super()._find_model()
        except probe.NotReady as reason:  # what starts may say anything, except that our key is wrong
            reason.is_final = reason.kind == "unauthorized"
            raise

    def _not_ready(self, reason: probe.NotReady, timeout: float) -> Failure:
        if reason.is_final:
            return super()._not_ready(reason, timeout)
        return Failure("timeout", f"not ready within {timeout:g} s: it {reason}", self.log_text().splitlines()[-12:])

    def _on_end(self, exit_code: int | None) -> None:
        """Called by the process's own thread when all of it is gone, whoever ended it."""
        self.failure()
        if self._process:
            self.record.pid = self._process.pid  # it may have ended before its start was noted
        self.record.exit_code = exit_code
        for uuid, size in gpus.memory_not_returned(self.record.gpu_memory.get("before", {})).items():
            message = f"GPU {uuid} did not get {size / (1 << 30):.1f} GiB back after {self}"
            log.warning("%s", message)
            self.record.warnings.append(message)
        try:
            self._record_end()
        except TunerError as error:  # the trial's folder is gone: there is nothing to record in
            log.warning("%s", error)


def launch(spec: ServerSpec, trial: Trial, stop: Wish | None = None) -> Server:
    """Start what `spec` asks for, or attach to it, and wait until it is ready; leaving the server's context ends it.

    A second launch in the same `trial` appends to `server.log` and keeps the record of the first in `server.json`.
    `stop` ends the waiting. It raises SpecError or EngineError before anything was started, and ServerFailed where it
    did not get ready, or not before `stop` (kind `stopped`): nothing of it is left.
    """
    engine = engines.find(spec.engine)
    engine.check(spec)
    spec.api_key()
    server = (OwnServer if engine.owned else Server)(engine, spec, trial, stop)
    try:
        server.start()
    except BaseException:
        server.stop()
        raise
    return server


def addresses_for_others(pids: set[int], port: int) -> str:
    """Where processes listen at `port` for others than this machine, such as 0.0.0.0:8000; empty for nowhere."""
    addresses = set()
    for pid in pids:
        with suppress(psutil.Error):
            listening = (one.laddr for one in psutil.Process(pid).net_connections("tcp") if one.status == "LISTEN")
            addresses |= {address.ip.removeprefix("::ffff:") for address in listening if address.port == port}
    open_ones = sorted(ip for ip in addresses if not ipaddress.ip_address(ip).is_loopback)
    return ", ".join(f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}" for ip in open_ones)


def preview(spec: ServerSpec, port: int) -> list[str]:
    """The command that `launch` would run on `port`, empty where it would attach; RequestError where it cannot."""
    engine = engines.find(spec.engine)
    if not engine.owned:
        return []
    if spec.engine == "llamacpp" and not spec.model:
        spec = spec.model_copy(update={"model": "the demo's model, fetched at the start"})
    return engine.command(spec, Placement(spec.port or port))


def gpus_wanted(spec: ServerSpec) -> int | list[int | str]:
    """The GPUs asked for; where nothing is said, as many as the engine takes, if there are any at all."""
    if spec.gpus is not None:
        return spec.gpus
    needed = engines.find(spec.engine).gpus(spec)
    return needed if needed and gpus.visible(gpus.gpus()) else 0


def _oom_kills() -> int:
    """How many processes the kernel has killed for want of memory since it booted (Linux)."""
    with suppress(OSError):
        counts = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
        return int(counts.get("oom_kill", 0))
    return 0
