"""A server that already ran: what any server can do for a sweep, without owning a process."""

import logging
import threading
import time
from types import TracebackType
from typing import Self

from tuner.core import timestamps
from tuner.core.run_directory import Trial
from tuner.core.server_log import Failure
from tuner.core.server_record import FAILED, READY, STOPPED, ServerRecord, earlier_starts
from tuner.engines.base import Engine, ServerSpec
from tuner.errors import ServerFailed
from tuner.servers import http as probe

log = logging.getLogger(__name__)

POLL = 0.1  # seconds between two questions whether it is ready


class Server:
    """A server that answers at `base_url`; this one is never started, stopped or signalled."""

    def __init__(self, engine: Engine, spec: ServerSpec, trial: Trial, stop: threading.Event | None = None) -> None:
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
        self._stop_wanted = stop or threading.Event()

    @property
    def base_url(self) -> str:
        """`http://host:port`, without `/v1`."""
        return self.record.base_url

    @property
    def pid(self) -> int | None:
        """The main process of a server of ours."""
        return self.record.pid

    def processes(self) -> set[int]:
        """All processes of a server of ours."""
        return set()

    def api_key(self) -> str | None:
        """The API key, read from its environment variable now and kept nowhere."""
        return self.spec.api_key()

    def is_alive(self) -> bool:
        """Whether anybody serves there."""
        with probe.client(self.base_url, self.api_key()) as http:
            return probe.is_there(http)

    def failure(self) -> ServerFailed | None:
        """Why it died, or None while it lives or where we ended it ourselves."""
        if self._failure:
            return self._error(self._failure)
        if self.record.state == READY and not self.is_alive():
            return self._error(Failure("unreachable", f"{self.base_url} does not answer any more"))
        return None

    def forget_prompts(self) -> bool:
        """Empty the prefix cache, so that a level finds no answer of the one before; whether the engine could."""
        if not self.engine.forget_path:
            return False
        with probe.client(self.base_url, self.api_key()) as http:
            return probe.post(http, self.engine.forget_path)

    def start(self) -> None:
        """Wait until it is ready.

        Raises:
            ServerFailed: it is not.
        """
        self.record.write(self.trial)
        self._await_ready()
        if not self.record.finished_at:
            self._write(state=READY, ready_at=timestamps.to_text(timestamps.now()))
        log.info("%s is ready at %s", self, self.base_url)

    def stop(self) -> None:
        """Leave it alone from now on; a second call does nothing."""
        if not self.record.finished_at:
            self._record_end()

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
            if self._stop_wanted.is_set():
                raise self._error(Failure("stopped", "it was wanted no more before it was ready"))
            if time.monotonic() - began > timeout:
                raise self._give_up(self._not_ready(timeout))
            self._pause()
        self.model_name = self.model_name if self.model_name in names else names[0]
        self.record.served_name = self.model_name
        with probe.client(self.base_url, self.api_key()) as http:
            self.record.version = probe.version(http)
        self.record.ready_seconds = round(time.monotonic() - began, 3)

    def _ready_models(self) -> list[str]:
        """The models it serves, once it is ready; before, none."""
        try:
            with probe.client(self.base_url, self.api_key()) as http:
                return probe.models(http)
        except probe.Refused as answer:
            variable = self.spec.api_key_env
            remedy = f"the key in {variable} is not accepted" if variable else "name the key's variable in api_key_env"
            raise self._give_up(Failure("unauthorized", f"{self.base_url} answers {answer}; {remedy}")) from None

    def _not_ready(self, timeout: float) -> Failure:
        return Failure("unreachable", f"no server answers at {self.base_url} within {timeout:g} s")

    def _pause(self) -> None:
        time.sleep(POLL)

    def _give_up(self, failure: Failure) -> ServerFailed:
        self._failure = failure
        return self._error(failure)

    def _error(self, failure: Failure) -> ServerFailed:
        kind, detail, exit_code, tail = failure
        return ServerFailed(f"{self}: {kind}: {detail}", kind=kind, exit_code_of_server=exit_code, log_tail=tail)

    def _record_end(self) -> None:
        failure = self._failure
        told = {"kind": failure.kind, "detail": failure.detail, "log_tail": list(failure.log_tail)} if failure else None
        ended = timestamps.to_text(timestamps.now())
        self._write(state=FAILED if failure else STOPPED, finished_at=ended, failure=told)

    def _write(self, **facts: object) -> None:
        for name, value in facts.items():
            setattr(self.record, name, value)
        self.record.write(self.trial)
