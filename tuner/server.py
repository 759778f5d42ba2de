"""A server: started, waited for until it is ready, watched, and gone when we are."""

import logging
import os
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from tuner import claims, probe, timestamps
from tuner.engines import registry
from tuner.engines.base import LOOPBACK, Engine, ServerSpec
from tuner.engines.failures import Failure, diagnose
from tuner.errors import ServerFailed, TunerError
from tuner.experiment import Trial
from tuner.server_record import FAILED, READY, STOPPED, ServerRecord, earlier_starts
from tuner.supervised import Supervised

log = logging.getLogger(__name__)

_LOG_READ = 200_000  # bytes of log, at most, that are searched for the reason of a failure
_POLL = 0.1  # seconds between two questions whether it is ready


def launch(spec: ServerSpec, trial: Trial) -> "Server":
    """Start what `spec` asks for, or attach to it, and wait until it is ready.

    A second launch in the same trial appends to `server.log` and keeps the record of the first in `server.json`.

    Args:
        spec: the configuration.
        trial: where the server's record and log go.

    Returns:
        The server, ready; a context manager that stops it.

    Raises:
        SpecError: the configuration is wrong, found before anything was started.
        EngineError: there is no such engine, or it is not installed.
        ServerFailed: it did not get ready; nothing of it is left.
    """
    engine = registry.find(spec.engine)
    engine.check(spec)
    with ExitStack() as held:  # once started, its supervisor holds what it claimed
        server = OwnedServer(engine, spec, trial, held) if engine.owned else Server(engine, spec, trial)
        try:
            server.start()
        except BaseException:
            server.stop()
            raise
        return server


class Server:
    """A server that answers at `base_url`. As it stands: one that already ran, which is never signalled."""

    def __init__(self, engine: Engine, spec: ServerSpec, trial: Trial) -> None:
        self.engine = engine
        self.spec = spec
        self.trial = trial
        self.model_name = engine.served_name(spec)
        self.record = ServerRecord(
            engine=spec.engine,
            model=spec.model,
            served_name=self.model_name,
            parameters=dict(spec.parameters),
            base_url=(spec.base_url or "").rstrip("/").removesuffix("/v1"),
            previous=earlier_starts(trial),
        )
        self._failure: Failure | None = None

    @property
    def base_url(self) -> str:
        """`http://host:port`, without `/v1`."""
        return self.record.base_url

    @property
    def pid(self) -> int | None:
        """The main process of a server of ours."""
        return self.record.pid

    def api_key(self) -> str | None:
        """The API key, read from its environment variable now and kept nowhere."""
        return self.spec.api_key()

    def is_alive(self) -> bool:
        """Whether it can be asked: our process runs, or the attached server answers."""
        return bool(self._models())

    def failure(self) -> ServerFailed | None:
        """Why it died, or None while it lives or where we stopped it ourselves."""
        if self._failure is None and self.record.state == READY and not self.is_alive():
            self._failure = Failure("unreachable", "it does not answer any more")
        return self._error(self._failure) if self._failure else None

    def start(self) -> None:
        """Wait until it is ready.

        Raises:
            ServerFailed: it is not; nothing of it is left.
        """
        self.record.write(self.trial)
        self._await_ready()
        self._write(state=READY, ready_at=_now())
        log.info("%s is ready at %s", self, self.base_url)

    def stop(self) -> None:
        """Leave it alone from now on; a second call does nothing."""
        if not self.record.finished_at:
            self._finish()

    def __str__(self) -> str:
        return f"server {self.spec.engine} ({self.model_name or self.base_url})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _await_ready(self) -> None:
        began = time.monotonic()
        timeout = self.spec.ready_timeout or self.engine.ready_timeout
        while not (names := self._ready_models()):
            if time.monotonic() - began > timeout:
                raise self._give_up(Failure(*self._not_ready(timeout)))
            self._pause()
        self.model_name = self.model_name if self.model_name in names else names[0]
        self.record.served_name = self.model_name
        self.record.ready_seconds = round(time.monotonic() - began, 3)

    def _not_ready(self, timeout: float) -> tuple[str, str]:
        return "unreachable", f"nothing answers at {self.base_url} within {timeout:g} s"

    def _ready_models(self) -> list[str]:
        return self._models()

    def _pause(self) -> None:
        time.sleep(_POLL)

    def _models(self) -> list[str]:
        try:
            with probe.client(self.base_url, self.api_key()) as http:
                return probe.models(http)
        except probe.Refused as answer:
            how = f"the key in {self.spec.api_key_env} is not accepted" if self.spec.api_key_env else "set api_key_env"
            raise self._give_up(Failure("unauthorized", f"{self.base_url} answers {answer}: {how}")) from None

    def _give_up(self, failure: Failure) -> ServerFailed:
        self._failure = failure
        return self._error(failure)

    def _error(self, failure: Failure) -> ServerFailed:
        kind, detail, exit_code, tail = failure
        return ServerFailed(f"{self}: {kind}: {detail}", kind=kind, exit_code_of_server=exit_code, log_tail=tail)

    def _finish(self) -> None:
        """Record how it ended."""
        failure = self._failure
        told = {"kind": failure.kind, "detail": failure.detail, "log_tail": list(failure.log_tail)} if failure else None
        self._write(state=FAILED if failure else STOPPED, finished_at=_now(), failure=told)

    def _write(self, **facts: object) -> None:
        for name, value in facts.items():
            setattr(self.record, name, value)
        self.record.write(self.trial)


class OwnedServer(Server):
    """A server that we start and that ends with us."""

    def __init__(self, engine: Engine, spec: ServerSpec, trial: Trial, held: ExitStack) -> None:
        super().__init__(engine, spec, trial)
        claimed = [held.enter_context(socket) for socket in claims.reserve_port(spec.port)]
        port = claims.port_of(claimed[0])
        self.record.base_url = f"http://{LOOPBACK}:{port}"
        self._stopping = False
        self._log_start = trial.server_log.stat().st_size if trial.server_log.exists() else 0
        self._process = Supervised(
            engine.command(spec, port),
            trial.server_log,
            env=os.environ | engine.environment(spec) | spec.environment,
            grace=engine.grace,
            held=[socket.fileno() for socket in claimed],
            on_end=self._ended,
        )
        self.record.command = [self._scrub(part) for part in self._process.command]

    def start(self) -> None:
        """Start it and wait until it is ready."""
        log.info("starting %s: %s", self, " ".join(self.record.command))
        self.record.pid = self._process.start().pid
        super().start()

    def is_alive(self) -> bool:
        """Whether its process runs."""
        return self._process.is_alive()

    def failure(self) -> ServerFailed | None:
        """Why it died, or None while it lives or where we stopped it ourselves."""
        if self._failure is None and not self._stopping and self.record.pid and not self.is_alive():
            self._failure = diagnose(self.log_text(), self._process.exit_code, self.engine.patterns())
        return self._error(self._failure) if self._failure else None

    def stop(self) -> None:
        """End it, and wait until nothing of it is left; a second call does nothing."""
        self.failure()  # it may have died before we came to stop it
        self._stopping = True
        self._process.stop()

    def _not_ready(self, timeout: float) -> tuple[str, str]:
        return "timeout", f"not ready within {timeout:g} s"

    def _ready_models(self) -> list[str]:
        if failure := self.failure():
            raise failure
        with probe.client(self.base_url) as http:
            return self._models() if probe.is_healthy(http) else []

    def _pause(self) -> None:
        self._process.wait(_POLL)  # its end is seen at once

    def _ended(self) -> None:
        """Called by the process's own thread, whoever ended it."""
        self.failure()
        self.record.exit_code = self._process.exit_code
        try:
            self._finish()
        except TunerError as error:  # the trial's folder is gone: there is nothing to record in
            log.warning("%s", error)

    def log_text(self) -> str:
        """What it printed since it was started, of a long log the end, without the API key."""
        with open(self.trial.server_log, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_start, size - _LOG_READ))
            return self._scrub(file.read().decode(errors="replace"))

    def _scrub(self, text: str) -> str:
        """`text` without the API key, should the server or its command repeat it."""
        key = self.api_key()
        return text.replace(key, "***") if key else text


def _now() -> str:
    return timestamps.to_text(timestamps.now())
