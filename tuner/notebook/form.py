"""Forms made from specs, a field for each parameter; and what every panel with such a form has."""

import asyncio
import html
import re
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Generic

import ipywidgets as widgets
from IPython.display import display

from tuner import engines, figures
from tuner.core.files import read_end
from tuner.core.secrets import hide_secrets
from tuner.errors import TunerError
from tuner.sweep.spec import Spec, as_lines, as_text, make_spec

WIDE = widgets.Layout(flex="0 0 32em", width="32em")
LABEL = {"description_width": "9em"}
_LOG_READ, _LOG_SHOWN = 20_000, 15  # bytes, lines


def text(words: str, *, error: bool = False) -> str:
    """Words of anybody as HTML."""
    colour = "#b03a00" if error else "inherit"
    return f'<pre style="color:{colour};white-space:pre-wrap;margin:0">{html.escape(words)}</pre>'


def copyable(words: str) -> str:
    """A command as HTML; one click selects all of it."""
    style = "user-select:all;white-space:pre-wrap;background:#f6f8fa;color:#1c2733;padding:.4em .7em;margin:.3em 0"
    return f'<pre title="a click selects it all" style="{style}">{html.escape(words)}</pre>'


def log_tail(path: Path) -> str:
    """The last lines of a log as HTML, without what looks like a key; empty where there is none."""
    last = read_end(path, _LOG_READ).splitlines()[-_LOG_SHOWN:]
    return text(hide_secrets("\n".join(last))) if last else ""


def draw(output: widgets.Output, figure: Any) -> None:
    """Show a figure in place of the last one; a display handle's update would not redraw it in JupyterLab."""
    data = figures.notebook_bundle(figure)
    output.outputs = ({"output_type": "display_data", "data": data, "metadata": {}},)


#: the fields that hold several lines of YAML
AREAS = ("space", "constraints")
_HELP = '<div style="color:#566575;line-height:1.3;padding:.35em .5em">{}</div>'


class Form(Generic[Spec]):
    """Fields for the parameters `names` of a spec; the others keep the values that they were given in `initial`."""

    def __init__(self, kind: type[Spec], names: Sequence[str], initial: dict[str, Any]) -> None:
        self._kind, self._initial = kind, initial
        self._fields = {name: self._field(name) for name in names}
        self._notes = {name: widgets.HTML(self._help(name)) for name in names}
        rows = [widgets.HBox([self._fields[name], self._notes[name]]) for name in names]
        self.widget = widgets.VBox(rows)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each change, and now."""
        for field in self._fields.values():
            field.observe(lambda _: listener(), "value")
        listener()

    def values(self) -> dict[str, Any]:
        """What is filled in, and what was given besides."""
        others = {name: value for name, value in self._initial.items() if name not in self._fields}
        return others | {name: field.value for name, field in self._fields.items() if str(field.value).strip()}

    def spec(self) -> Spec:
        """The spec that is filled in; what is wrong stands beside its field from now on.

        Raises:
            SpecError: something is wrong.
        """
        for name, note in self._notes.items():
            note.value = self._help(name)
        try:
            return make_spec(self.values(), self._kind)
        except TunerError as error:
            self.blame(error)
            raise

    def blame(self, error: TunerError) -> bool:
        """Show `error` beside the field that it names; False where it names none."""
        word = next(iter(re.findall(r"\w+", str(error))), "")
        name = word if word in self._notes else f"{word}s"  # of several, one may be named
        if name in self._notes:
            self._notes[name].value = text(str(error), error=True)
        return name in self._notes

    def _field(self, name: str) -> widgets.Widget:
        field = self._kind.model_fields[name]
        value = self._initial.get(name, field.get_default(call_default_factory=True))
        same = {"description": name.replace("_", " "), "layout": WIDE, "style": LABEL}
        if name == "engine":
            return widgets.Dropdown(options=engines.names(), value=value, **same)
        if name in AREAS:
            return widgets.Textarea(as_lines(value), rows=5, continuous_update=False, **same)
        return widgets.Text(as_text(value), tooltip=field.description or "", continuous_update=False, **same)

    def _help(self, name: str) -> str:
        return _HELP.format(self._kind.model_fields[name].description or "")


class Panel(Generic[Spec]):
    """A form, the command, a button that starts something and one that stops it, a status, a log's end, and results."""

    def __init__(self, form: Form[Spec], starts: str, beside: widgets.Widget, results: widgets.Widget) -> None:
        self.task: asyncio.Task[None] | None = None
        self._form = form
        self._go = widgets.Button(description=starts, button_style="primary", icon="play")
        self._halt = widgets.Button(description="Stop", icon="stop", disabled=True)
        self._command, self._status, self._log = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self._go.on_click(lambda _: self.start())
        self._halt.on_click(lambda _: self.stop())
        self._logs = widgets.Accordion([self._log], titles=["server log"])
        buttons = widgets.HBox([self._go, self._halt, beside])
        self.widget = widgets.VBox([form.widget, self._command, buttons, self._status, self._logs, results])
        form.on_change(self._preview)

    def show(self) -> None:
        """Display the panel, and what goes on or was the last."""
        display(self.widget)
        self._spawn(self._find())

    def start(self) -> None:
        """Start what is filled in; while something goes on this does nothing."""
        if self.task is None or self.task.done():
            self._spawn(self._begin())

    def stop(self) -> None:
        """End what goes on."""
        raise NotImplementedError

    async def _find(self) -> None:
        """Show what goes on, or was the last."""
        raise NotImplementedError

    async def _begin(self) -> None:
        """Carry out what is filled in."""
        raise NotImplementedError

    def _preview(self) -> None:
        """Show the command."""
        raise NotImplementedError

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.task = asyncio.get_running_loop().create_task(self._guard(work))

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work`; whatever goes wrong is shown here, since a task's traceback would only reach Lab's log console."""
        try:
            await work
        except TunerError as error:
            marked = self._form.blame(error)
            self._say("mend the field that is marked" if marked else str(error), error=True)
        except Exception as error:
            self._say(f"{type(error).__name__}: {error}", error=True)
        finally:
            self._set_busy(False)

    def _set_busy(self, busy: bool) -> None:
        self._go.disabled, self._halt.disabled = busy, not busy

    def _say(self, words: str, *, error: bool = False) -> None:
        self._status.value = text(words, error=error)
