"""The launch panel: a server chosen, its exact command seen before it runs, started, watched, stopped or handed on."""

import asyncio
import os
import shlex
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import pandas as pd
import yaml

from tuner import figures
from tuner.batches.batch import to_frame
from tuner.core import files, locks, timestamps
from tuner.core.run_directory import READY, SERVER_FILE, STARTING, ServerRecord, Trial
from tuner.errors import PathError, TunerError
from tuner.notebook.fields import button, copyable, words
from tuner.notebook.form import Form
from tuner.notebook.panel import Panel, draw, log_end
from tuner.servers import gpus, telemetry
from tuner.servers.server import Server, launch, preview
from tuner.sweep.spec import ServeSpec
from tuner.sweep.sweep import tokenizer_of, with_model

#: where the server's record and log go, a folder a start
SERVERS = Path("servers")
#: what the sweep notebook, or `tuner sweep`, takes a server over from
HANDOVER = "handover.yaml"
_STOP = "stop"
_POLL_SECONDS, _DRAW_SECONDS, _LOG_LINES = 0.5, 3.0, 15


class ServerPanel(Panel[ServeSpec]):
    """A form, the exact command, Start and Stop, the log's end, and what the server uses.

    A server belongs to the kernel that started it and ends with it. A panel that is shown anew finds it by its folder.
    """

    def __init__(self, parameters: dict[str, Any]) -> None:
        self._folder: Path | None = None
        self._port = locks.free_port()
        self._hand_on = button("Hand over to sweep", "share", self.hand_over, disabled=True)
        self._use, self._log = widgets.Output(), widgets.HTML()
        self._drawn: float | None = None
        log = widgets.Accordion([self._log], titles=["Server log"])
        log.selected_index = 0
        here = widgets.HTML(words(_gpus_here()))
        form = Form(ServeSpec, parameters)
        super().__init__(form, "Start server", [self._hand_on], widgets.VBox([here, log, self._use]))
        self._same.titles = ["The command"]
        self._same.selected_index = 0

    @property
    def base_url(self) -> str | None:
        """Where the server that is shown answers; None while none is ready."""
        record = Trial(self._folder).server if self._folder else None
        return record.base_url if record and record.state == READY else None

    def stop(self) -> None:
        """End the server, whichever panel of this kernel started it."""
        if self._folder:
            (self._folder / _STOP).touch()
            self._say("stopping")

    def hand_over(self) -> None:
        """Write down where the server is, for the sweep notebook and for `tuner sweep`."""
        if self._folder:
            record = Trial(self._folder).server or ServerRecord()
            values = handover(record, self._form.value_of("api_key_env"))
            files.write_atomically(Path(HANDOVER), yaml.safe_dump(values))
            self._say(f"handed over: open sweep.ipynb, its form is filled in; or run: tuner sweep {HANDOVER}")

    def _spec(self) -> ServeSpec:
        spec = self._form.spec()
        return spec if spec.port or not preview(spec, self._port) else spec.model_copy(update={"port": self._port})

    def _preview(self) -> None:
        """The exact command, before anything runs."""
        self._command.value = ""
        try:
            spec = self._spec()
        except TunerError:
            return
        command = preview(spec, self._port)
        attaches = words(f"attaches to {spec.base_url}; nothing is started")
        self._command.value = copyable(shlex.join(command)) if command else attaches

    def _set_busy(self, busy: bool) -> None:
        super()._set_busy(busy)
        self._hand_on.disabled = True

    async def _find(self) -> None:
        """Follow the server that an earlier panel of this kernel has started, if it still runs."""
        for file in sorted(SERVERS.glob(f"*/{SERVER_FILE}"), reverse=True):
            record = Trial(file.parent).server
            if record and record.state in (STARTING, READY) and _is_ours(record.pid):
                self._folder = file.parent
                await self._follow(None)
                return

    async def _begin(self) -> None:
        spec = self._spec()
        self._go.disabled = True
        self._say("starting")
        spec = await asyncio.to_thread(with_model, spec)
        folder = SERVERS / f"{timestamps.to_stamp(timestamps.now())}-{spec.engine}"
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        with ExitStack() as running:
            launching = asyncio.create_task(asyncio.to_thread(launch, spec, Trial(folder)))
            while not launching.done():
                await asyncio.wait({launching}, timeout=_POLL_SECONDS)
                self._show_log(folder)
            server = await launching
            running.callback(server.stop)
            running.enter_context(telemetry.Recorder(server))
            await self._follow(server)
            await asyncio.to_thread(running.close)
        self._port = locks.free_port()
        self._preview()
        self._say("stopped")

    async def _follow(self, server: Server | None) -> None:
        """Show what the server does until it ends, or somebody wants it to."""
        folder = self._folder or Path()
        self._set_busy(True)
        while record := Trial(folder).server:
            ready = record.state == READY
            self._hand_on.disabled = not ready
            self._show_log(folder)
            await self._draw_use(folder)
            if server is not None and (failure := await asyncio.to_thread(server.failure)):
                raise failure
            stopping = (folder / _STOP).exists()
            if (server is not None and stopping) or (server is None and record.state not in (STARTING, READY)):
                return
            if ready and not stopping and not self._status.value.count("handed over"):
                self._say(f"ready: {record.served_name} at {record.base_url}/v1; it ends with this kernel")
            await asyncio.sleep(_POLL_SECONDS)

    def _show_log(self, folder: Path) -> None:
        self._log.value = words("\n".join(log_end(Trial(folder).server_log)[-_LOG_LINES:]))

    async def _draw_use(self, folder: Path) -> None:
        """What the server uses, drawn anew where there are new samples, and seldom: a figure takes a second of CPU."""
        now = time.monotonic()
        if self._drawn is None or now - self._drawn > _DRAW_SECONDS:
            with suppress(PathError, ValueError):
                samples = await asyncio.to_thread(telemetry.load, folder)
                if len(samples) > 1:
                    await draw(self._use, lambda: figures.timeline(to_frame([]), pd.DataFrame(samples.tail(300))))
            self._drawn = time.monotonic()


def handover(record: ServerRecord, key: str | None) -> dict[str, Any]:
    """The parameters of a sweep that attaches to a server which runs; `key` names the variable with its API key."""
    tokenizer = tokenizer_of(record.engine, record.model) if record.model else ""
    values = {"engine": "attach", "model": record.served_name, "base_url": record.base_url, "tokenizer": tokenizer}
    return values | ({"api_key_env": key} if key else {})


def _is_ours(pid: int | None) -> bool:
    """Whether the process runs, and was started by this kernel's user."""
    if pid is None:
        return False
    with suppress(OSError):
        os.kill(pid, 0)
        return True
    return False


def _gpus_here() -> str:
    here = gpus.gpus()
    if not here:
        return f"no GPU here: {gpus.why_none()[0]}"
    return "\n".join(f"GPU {gpu.index} {gpu.name}: {'free' if gpu.is_free else gpu.use}" for gpu in here)
