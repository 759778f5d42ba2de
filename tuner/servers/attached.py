"""A server that already runs: found, watched, left alone; what one of ours can do too."""

import fnmatch
import glob
import logging
import os
import platform
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager
from typing import Any, Protocol

import httpx

from tuner.core import timestamps
from tuner.core.records import READY, SERVER_FAILED, STOPPED, ServerRecord
from tuner.core.run_directory import NODE_VARIABLE, Trial
from tuner.core.server_log import Failure
from tuner.core.text import suggest
from tuner.engines.base import Engine, ServerSpec
from tuner.engines.command import api_root
from tuner.errors import ServerFailed
from tuner.servers import http as probe

log = logging.getLogger(__name__)

POLL = 0.1  # seconds between two questions whether it is ready


class Wish(Protocol):
    """Somebody's wish that what goes on shall end, such as a threading.Event."""

    def wait(self, timeout: float) -> bool:
        """Whether it is there, after so many seconds at most."""


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

    def client(self, **more: Any) -> httpx.Client:
        """A client that reaches it as it was asked for."""
        return probe.client(self.base_url, self.api_key(), self.spec.verify, **more)

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
            self._write(state=READY, ready_at=timestamps.to_text(timestamps.now()))
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
        timeout = self.spec.ready_timeout or self.engine.ready_timeout
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
        if self._stop_wanted.wait(seconds):
            raise self._error(Failure("stopped", "it was wanted no more before it was ready"))

    def _find_model(self) -> None:
        """Settle under which name the model is asked for: as it was named, or else the first that is listed."""
        named, contexts = self.engine.named_model(self.spec), dict[str, int]()
        try:
            with self.client() as http:
                names, self.record.base_url, contexts = probe.models(http)
        except probe.NotReady as reason:
            if not (named and reason.has_no_list):
                raise
            log.warning("%s; asking for %s all the same", reason.about(self.base_url), named)
            names = [named]
        if named and not any(fnmatch.fnmatchcase(named, name) for name in [*names, *map(glob.escape, names)]):
            raise probe.NotReady(f"serves no model {named!r}; {suggest(named, names)}", "model_not_found")
        self.model_name = named or (self.model_name if self.model_name in names else names[0])
        self.context = contexts.get(self.model_name)

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
        state = SERVER_FAILED if self._failure else STOPPED
        self._write(state=state, finished_at=timestamps.to_text(timestamps.now()), failure=self._failure)

    def _write(self, **facts: object) -> None:
        for name, value in facts.items():
            setattr(self.record, name, value)
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
