"""A server of ours: started, waited for until it is ready, watched, and gone when we are."""

import logging
import os
import secrets
import time
from contextlib import ExitStack
from pathlib import Path

from tuner import claims, gpus, probe
from tuner.attached_server import POLL, Server
from tuner.engines import registry
from tuner.engines.base import LOOPBACK, Engine, Place, ServerSpec
from tuner.engines.failures import Failure, diagnose
from tuner.errors import ServerFailed, TunerError
from tuner.experiment import Trial
from tuner.supervised import Supervised

__all__ = ["Server", "launch"]

log = logging.getLogger(__name__)

_LOG_READ = 200_000  # bytes of log, at most, that are searched for the reason of a failure
_GIVEN_BACK = 256 << 20  # bytes more than before that a GPU may hold without a warning
_GIVE_BACK_WAIT = 5.0  # seconds in which the driver takes memory back


def launch(spec: ServerSpec, trial: Trial) -> Server:
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
    spec.api_key()
    with ExitStack() as claimed:  # once started, its supervisor holds the claims on
        server = OwnServer(engine, spec, trial, claimed) if engine.owned else Server(engine, spec, trial)
        try:
            server.start()
        except BaseException:
            server.stop()
            raise
        return server


class OwnServer(Server):
    """A server that we start and that ends with us."""

    def __init__(self, engine: Engine, spec: ServerSpec, trial: Trial, claimed: ExitStack) -> None:
        super().__init__(engine, spec, trial)
        port = claims.reserve_port(spec.port)
        held = [claimed.enter_context(holder) for holder in port]
        taken = _claim_gpus(engine, spec)
        held += [claimed.enter_context(holder) for holder in taken.holders] if taken else []
        place = Place(claims.port_of(port[0]), _uuids(taken), f"tuner-{secrets.token_hex(4)}")
        visible = {} if taken is None else {"CUDA_VISIBLE_DEVICES": ",".join(place.gpus)}
        self._stopping = False
        self._log_start = trial.server_log.stat().st_size if trial.server_log.exists() else 0
        self._oom_kills = _oom_kills()
        self._process = Supervised(
            engine.command(spec, place),
            trial.server_log,
            env=os.environ | engine.environment(spec) | visible | spec.environment,
            grace=engine.grace,
            held=[holder.fileno() for holder in held],
            afterwards=engine.stop_command(spec, place),
            on_end=self._ended,
        )
        self.record.base_url = f"http://{LOOPBACK}:{place.port}"
        self.record.command = [self._scrub(part) for part in self._process.command]
        self.record.gpus = list(place.gpus)
        self._note_gpu_memory("before")

    def start(self) -> None:
        """Start it and wait until it is ready."""
        log.info("starting %s: %s", self, " ".join(self.record.command))
        self.record.pid = self._process.start().pid
        super().start()

    def processes(self) -> set[int]:
        """All its processes, the main one first started."""
        return self._process.processes()

    def is_alive(self) -> bool:
        """Whether its process runs."""
        return self._process.is_alive()

    def failure(self) -> ServerFailed | None:
        """Why it died, or None while it lives or where we ended it ourselves."""
        if self._failure is None and not self._stopping and self.record.pid and not self.is_alive():
            self._failure = self._diagnosis()
        return self._error(self._failure) if self._failure else None

    def stop(self) -> None:
        """End it, and wait until nothing of it is left; a second call does nothing."""
        self.failure()  # it may have died before we came to stop it
        self._stopping = True
        self._process.stop()

    def log_text(self) -> str:
        """What it printed since it was started, of a long log the end, without the API key."""
        with open(self.trial.server_log, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_start, size - _LOG_READ))
            return self._scrub(file.read().decode(errors="replace"))

    def _ready_models(self) -> list[str]:
        if failure := self.failure():
            raise failure
        with probe.client(self.base_url) as http:
            return super()._ready_models() if probe.is_healthy(http) else []

    def _not_ready(self, timeout: float) -> Failure:
        last = self.log_text().splitlines()[-12:]
        return Failure("timeout", f"not ready within {timeout:g} s", None, tuple(last))

    def _pause(self) -> None:
        self._process.wait(POLL)  # its end is seen at once

    def _diagnosis(self) -> Failure:
        found = diagnose(self.log_text(), self._process.exit_code, self.engine.patterns())
        if found.kind == "crashed" and _oom_kills() > self._oom_kills:
            return found._replace(kind="out_of_memory", detail="the kernel killed a process as memory ran out")
        return found

    def _ended(self) -> None:
        """Called by the process's own thread when all of it is gone, whoever ended it."""
        self.failure()
        self.record.exit_code = self._process.exit_code
        self._check_gpu_memory()
        try:
            self._record_end()
        except TunerError as error:  # the trial's folder is gone: there is nothing to record in
            log.warning("%s", error)

    def _scrub(self, text: str) -> str:
        """`text` without the API key, should the server or its command repeat it."""
        key = os.environ.get(self.spec.api_key_env or "")
        return text.replace(key, "***") if key else text

    def _note_gpu_memory(self, when: str) -> dict[str, int]:
        if not self.record.gpus:
            return {}
        self.record.gpu_memory[when] = gpus.memory_used(self.record.gpus)
        return self.record.gpu_memory[when]

    def _check_gpu_memory(self) -> None:
        """Warn of a GPU whose memory was not given back."""
        deadline = time.monotonic() + _GIVE_BACK_WAIT
        while kept := self._kept():
            if time.monotonic() > deadline:
                for uuid, size in kept.items():
                    self._warn(f"GPU {uuid} did not get {size / (1 << 30):.1f} GiB back after {self}")
                return
            time.sleep(POLL)

    def _kept(self) -> dict[str, int]:
        before = self.record.gpu_memory.get("before", {})
        more = {uuid: used - before.get(uuid, used) for uuid, used in self._note_gpu_memory("after").items()}
        return {uuid: size for uuid, size in more.items() if size > _GIVEN_BACK}

    def _warn(self, message: str) -> None:
        log.warning("%s", message)
        self.record.warnings.append(message)


def _claim_gpus(engine: Engine, spec: ServerSpec) -> gpus.Claim | None:
    """The GPUs asked for; or as many as the engine takes, where there are any; or no word about GPUs."""
    if spec.gpus is not None:
        return gpus.claim(spec.gpus)
    needed = engine.gpus(spec)
    return gpus.claim(needed) if needed and gpus.visible(gpus.gpus()) else None


def _uuids(claim: gpus.Claim | None) -> tuple[str, ...]:
    return tuple(gpu.uuid for gpu in claim.gpus) if claim else ()


def _oom_kills() -> int:
    """How many processes the kernel has killed for want of memory since it booted (Linux)."""
    try:
        fields = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    except OSError:
        return 0
    return int(fields.get("oom_kill", 0))
