"""What every panel has: a form, the same as a command and a file, buttons, a status, and what it shows below."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Generic

import ipywidgets as widgets
from IPython.display import HTML, DisplayHandle, display

from tuner import figures
from tuner.core.files import read_end
from tuner.core.secrets import hide_secrets
from tuner.errors import TunerError
from tuner.notebook.fields import button, words
from tuner.notebook.form import Form
from tuner.report.static import escaped
from tuner.sweep.spec import Spec

_STYLE = Path(__file__).with_name("panel.css")
_NOT_STARTED = words("Not started: see the message in red above.", error=True)
_NEEDS_KERNEL = "The panel of this cell is shown once the cells have been run."
#: what stands in a saved notebook; where the panel itself is shown, its style hides this
_KEPT = '<div class="tuner-kept">{}</div>'
_LOG_READ, _LOG_SOUGHT, _LOG_LINES = 50_000, 5_000_000, 200  # bytes at its end, bytes that are searched, lines


def log_html(path: Path, sought: str = "", most: int = _LOG_LINES) -> str:
    """The last lines of a log that hold `sought`, in any case, without what looks like a key; scrolled to the last."""
    lines = hide_secrets(read_end(path, _LOG_SOUGHT if sought else _LOG_READ)).splitlines()
    end = "\n".join([line for line in lines if sought.lower() in line.lower()][-most:])
    return f'<div class="tuner-log"><pre>{escaped(end) or "no such line"}</pre></div>'


async def draw(output: widgets.Output, figure: Any) -> None:
    """Show a figure in place of the last one; made in a thread, so that no button waits for it."""
    data = await asyncio.to_thread(lambda: figures.notebook_bundle(figure()))
    output.outputs = ({"output_type": "display_data", "data": data, "metadata": {}},)


class Panel(Generic[Spec]):
    """A form, what it comes to, a button that starts something and one that stops it, a status, and results."""

    _newest: ClassVar[dict[type, "Panel[Any]"]] = {}  # of each kind the one that was shown or used last

    def __init__(self, form: Form[Spec], starts: str, beside: list[widgets.Widget], results: widgets.Widget) -> None:
        self.task: asyncio.Task[None] | None = None
        self._kept: DisplayHandle | None = None
        self._form = form
        self._go = button(starts, "play", self.start, button_style="primary")
        self._halt = button("Stop", "stop", self.stop, disabled=True)
        self._command, self._status = widgets.HTML(), widgets.HTML()
        self._same = widgets.Accordion([self._command], titles=["The same as a command and as a file"])
        buttons = widgets.HBox([self._go, self._halt, *beside]).add_class("tuner-buttons")
        style = widgets.HTML(f"<style>{_STYLE.read_text('utf-8')}</style>", layout=widgets.Layout(display="none"))
        parts = [style, form.widget, self._same, buttons, self._status, results]
        self.widget = widgets.VBox(parts).add_class("tuner-panel")
        form.changed = self._preview
        self._preview()

    def show(self) -> None:
        """Display the panel, and what goes on or was the last."""
        display(self.widget._repr_mimebundle_() | {"text/plain": _NEEDS_KERNEL}, raw=True)
        self._kept = display(HTML(_KEPT.format(_NEEDS_KERNEL)), display_id=True)
        self._spawn(self._find())

    def _keep(self, content: str) -> None:
        """Leave HTML in the notebook, for readers without a kernel."""
        if self._kept:
            self._kept.update(HTML(_KEPT.format(content)))

    def start(self) -> None:
        """Start what is filled in; while something goes on this does nothing."""
        if self._is_idle:
            self._spawn(self._begin())

    @property
    def _is_idle(self) -> bool:
        return self.task is None or self.task.done()

    def stop(self) -> None:
        """End what goes on."""

    async def _find(self) -> None:
        """Show what goes on, or was the last."""

    async def _begin(self) -> None:
        """Carry out what is filled in."""

    def _described(self) -> str:
        """What is filled in, as HTML to copy; raises TunerError where something is wrong with it."""
        raise NotImplementedError

    def _preview(self) -> None:
        if self._status.value == _NOT_STARTED:
            self._say("")
        self._command.value = ""
        with suppress(TunerError):
            self._command.value = self._described()

    @property
    def _is_replaced(self) -> bool:
        """Whether another panel was shown or used later, so that nobody looks at this one any more."""
        return self._newest.get(type(self)) is not self

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._newest[type(self)] = self
        self.task = asyncio.get_running_loop().create_task(self._guard(work))

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work`; whatever goes wrong is shown here, since a task's traceback would only reach Lab's log console."""
        try:
            await work
        except TunerError as error:
            self._status.value = _NOT_STARTED if self._form.blame(error) else words(str(error), error=True)
        except Exception as error:
            self._say(f"{type(error).__name__}: {error}", error=True)
        finally:
            self._set_busy(False)

    def _set_busy(self, busy: bool) -> None:
        self._go.disabled, self._halt.disabled = busy, not busy

    def _say(self, text: str, *, error: bool = False) -> None:
        self._status.value = words(text, error=error)
