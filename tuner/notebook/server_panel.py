"""The launch panel: a server chosen, its exact command seen before it runs, started, watched, stopped or handed on."""

import asyncio
import shlex
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import psutil

from tuner import figures
from tuner.batches.batch import to_frame
from tuner.core import locks, timestamps
from tuner.core.records import READY, SERVER_FILE, STARTING, ServerRecord
from tuner.core.run_directory import Trial
from tuner.errors import PathError
from tuner.notebook.fields import button, words
from tuner.notebook.form import Form
from tuner.notebook.panel import Panel, draw, log_html
from tuner.report.static import copyable
from tuner.servers import telemetry
from tuner.servers.server import Server, launch, preview
from tuner.sweep import handover
from tuner.sweep.prepare import with_model
from tuner.sweep.spec import ServeSpec

#: where the server's record and log go, a folder a start
SERVERS = Path("servers")
_STOP = "stop"
_POLL_SECONDS, _WATCH_SECONDS, _LOG_LINES, _SAMPLES = 0.2, 2.0, 15, 300


class ServerPanel(Panel[ServeSpec]):
    """A form, the exact command, Start and Stop, the log's end, what the server uses; it ends with this kernel."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        self._folder: Path | None = None
        self._port = locks.free_port()
        self._hand_on = button("Hand over to sweep", "share", self.hand_over, disabled=True)
        self._use, self._log = widgets.Output(), widgets.HTML()
        log = widgets.Accordion([self._log], titles=["Server log"], selected_index=0)
        super().__init__(Form(ServeSpec, parameters), "Start server", [self._hand_on], widgets.VBox([log, self._use]))
        self._same.titles, self._same.selected_index = ["The command"], 0

    @property
    def base_url(self) -> str | None:
        """Where the server that is shown answers; None while none is ready."""
        record = Trial(self._folder).server if self._folder else None
        return record.base_url if record and record.state == READY else None

    def stop(self) -> None:
        """End the server, whichever panel of this kernel started it."""
        if self._folder:
            (self._folder / _STOP).touch()
            self._say("stopping the server")

    def hand_over(self) -> None:
        """Write down where the server is, for the sweep notebook and for `tuner sweep`."""
        if self._folder:
            handover.write(Trial(self._folder).server or ServerRecord(), self._form.value_of("api_key_env"))
            self._say(f"handed over: open sweep.ipynb, its form is filled in; or run: tuner sweep {handover.FILE}")

    def _spec(self) -> ServeSpec:
        spec = self._form.spec()
        return spec if spec.port or not preview(spec, self._port) else spec.model_copy(update={"port": self._port})

    def _described(self) -> str:
        spec = self._spec()
        command = preview(spec, self._port)
        return copyable(shlex.join(command)) if command else words(f"attaches to {spec.base_url}; starts nothing")

    def _set_busy(self, busy: bool) -> None:
        super()._set_busy(busy)
        self._hand_on.disabled = True

    async def _find(self) -> None:
        """Follow the server that an earlier panel of this kernel has started."""
        for file in sorted(SERVERS.glob(f"*/{SERVER_FILE}"), reverse=True):
            record = Trial(file.parent).server
            if record and record.state in (STARTING, READY) and psutil.pid_exists(record.pid or 0):
                await self._follow(file.parent, None)
                self._say("stopped")
                return

    async def _begin(self) -> None:
        spec = self._spec()
        self._go.disabled = True
        self._say("starting the server")
        spec = await asyncio.to_thread(with_model, spec)
        folder = SERVERS / f"{timestamps.to_stamp(timestamps.now())}-{spec.engine}"
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as running:
            launching = asyncio.create_task(asyncio.to_thread(launch, spec, Trial(folder)))
            while not (await asyncio.wait({launching}, timeout=_POLL_SECONDS))[0]:
                self._show_log(folder)
            server = launching.result()
            running.callback(server.stop)
            running.enter_context(telemetry.Recorder(server))
            await self._follow(folder, server)
            await asyncio.to_thread(running.close)
        self._port = locks.free_port()
        self._preview()
        self._say("stopped")

    async def _follow(self, folder: Path, server: Server | None) -> None:
        """Show what the server does until it ends, or somebody wants it to; no drawing keeps it from ending."""
        self._folder = folder
        self._set_busy(True)
        watching = asyncio.create_task(self._watch(folder))
        try:
            while not await asyncio.to_thread(_is_over, folder, server):
                await asyncio.sleep(_POLL_SECONDS)
        finally:
            watching.cancel()

    async def _watch(self, folder: Path) -> None:
        announced = False
        while (record := Trial(folder).server) and not self._is_replaced:
            ready = record.state == READY and not (folder / _STOP).exists()
            self._hand_on.disabled = not ready
            self._show_log(folder)
            if ready and not announced:
                self._say(f"ready: {record.served_name} at {record.base_url}/v1; it ends with this kernel")
                announced = True
            with suppress(PathError, ValueError):
                await draw(self._use, lambda: figures.timeline(to_frame([]), telemetry.load(folder).tail(_SAMPLES)))
            await asyncio.sleep(_WATCH_SECONDS)

    def _show_log(self, folder: Path) -> None:
        self._log.value = log_html(Trial(folder).server_log, most=_LOG_LINES)


def _is_over(folder: Path, server: Server | None) -> bool:
    """Whether a server of this panel's is to end, or one of another panel's has; raises what ended it by itself."""
    if server is None:
        record = Trial(folder).server
        return record is None or record.state not in (STARTING, READY)
    if failure := server.failure():
        raise failure
    return (folder / _STOP).exists()
