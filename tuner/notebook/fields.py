"""The fields of a form: an input for each kind of value, and below it what it means, or what is wrong with it."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import ipywidgets as widgets

from tuner.core import documents
from tuner.engines.base import Engine
from tuner.engines.parameters import Parameter
from tuner.errors import SpecError
from tuner.report.static import escaped
from tuner.servers import gpus
from tuner.sweep.fields import as_lines, as_text

_LABEL_WIDTH = "var(--tuner-label)"  # as wide as what stands below it begins: see panel.css


def words(text: str, *, error: bool = False) -> str:
    """Words of anybody as HTML."""
    return f'<div class="tuner-words{" tuner-error" if error else ""}">{escaped(text)}</div>'


def labelled(name: str, **more: Any) -> dict[str, Any]:
    """What an input says and how wide it is; a layout for each, since one that is shared dies with its first widget."""
    wide = widgets.Layout(width="auto", min_width="0", flex="1 1 auto")
    return {"description": name.replace("_", " "), "style": {"description_width": _LABEL_WIDTH}, "layout": wide, **more}


def button(name: str, icon: str, act: Callable[[], None], **more: Any) -> widgets.Button:
    """A button as wide as its words."""
    made = widgets.Button(description=name, icon=icon, layout=widgets.Layout(width="auto", flex="0 0 auto"), **more)
    made.on_click(lambda _: act())
    return made


class Field:
    """One parameter: its input, and below it what it means, or what is wrong with it."""

    def __init__(self, entry: widgets.Widget, meaning: str = "", shown: widgets.Widget | None = None) -> None:
        self._entry, self._meaning, self._note = entry, meaning, widgets.HTML().add_class("tuner-note")
        self.changed: Callable[[], None] = lambda: None  # called after each change
        self.widget = widgets.VBox([shown or entry, self._note]).add_class("tuner-field")
        self.show_problem("")
        self._hear(entry)

    @property
    def value(self) -> Any:
        """What is filled in, as the spec takes it; empty for nothing."""
        return self._entry.value

    def show_problem(self, problem: str) -> None:
        """Say what is wrong; empty for nothing."""
        meaning = f'<span class="tuner-help">{escaped(self._meaning)}</span>' if self._meaning else ""
        self._note.value = words(problem, error=True) if problem else meaning
        self._note.layout.display = "" if self._note.value else "none"

    def offer(self, engine: Engine) -> None:
        """Fit what is offered to another engine."""

    def _hear(self, *inputs: widgets.Widget) -> None:
        for one in inputs:
            one.observe(lambda _: self.changed(), "value")


def text_field(name: str, value: Any, meaning: str, **more: Any) -> Field:
    """Text of one line, with `options` to choose from or without; with `rows`, lines of YAML."""
    kind = widgets.Textarea if "rows" in more else widgets.Combobox if "options" in more else widgets.Text
    text = (as_lines if "rows" in more else as_text)(value)
    return Field(kind(value=text, continuous_update=False, **labelled(name), **more), meaning)


def choice_field(name: str, value: Any, meaning: str, choices: Iterable[str], none: str = "") -> Field:
    """One of some values; where there may be none, `none` says what that means."""
    offered = [*([(none, "")] if none else []), *((one, one) for one in choices)]
    return Field(widgets.Dropdown(options=offered, value=value or "", **labelled(name)), meaning)


class SpaceField(Field):
    """What a search may try: lines of YAML, which one of the engine's presets can fill in."""

    def __init__(self, name: str, value: Any, meaning: str) -> None:
        area = widgets.Textarea(as_lines(value), rows=6, continuous_update=False, **labelled(name))
        self._preset = widgets.Dropdown(**labelled("fill in a preset"))

        def fill(change: Mapping[str, str]) -> None:
            area.value = change["new"] or area.value

        self._preset.observe(fill, "value")
        super().__init__(area, meaning, widgets.VBox([area, self._preset]))

    def offer(self, engine: Engine) -> None:
        """Offer the engine's presets."""
        self._preset.options = [("", ""), *((name, as_lines(preset)) for name, preset in engine.spaces.items())]


class GPUsField(Field):
    """Which GPUs, ticked; or how many, where none is ticked."""

    def __init__(self, name: str, value: Any, meaning: str) -> None:
        ticked = value if isinstance(value, list) else []
        self._number = widgets.Text("" if ticked else as_text(value), continuous_update=False, **labelled(name))
        self._ticks = {
            gpu.index: widgets.Checkbox(
                value=gpu.index in ticked,
                **labelled(f"GPU {gpu.index} {gpu.name}: {'free' if gpu.is_free else gpu.use}", style={}),
            )
            for gpu in gpus.gpus()
        }
        shown = widgets.VBox([self._number, *self._ticks.values()])
        super().__init__(self._number, meaning if self._ticks else f"{meaning}; {gpus.why_none()[0]}", shown)
        self._hear(*self._ticks.values())

    @property
    def value(self) -> Any:
        """The indices that are ticked, or else the number as text."""
        return [index for index, tick in self._ticks.items() if tick.value] or self._number.value


class ParametersField(Field):
    """An engine's parameters: an input for each that it is known to take, and one for all others."""

    def __init__(self, name: str, values: Mapping[str, Any], meaning: str) -> None:
        self._values = dict(values)
        self._inputs: dict[str, widgets.Widget] = {}
        self._known: Mapping[str, Parameter] = {}
        hint = "name: value, name: value"
        self._others = widgets.Text(continuous_update=False, placeholder=hint, **labelled("others"))
        self._grid = widgets.Box().add_class("tuner-two")
        self._fold = widgets.Accordion([widgets.VBox([self._grid, self._others])], titles=[f"Engine {name}"])
        super().__init__(self._others, meaning, self._fold)

    def offer(self, engine: Engine) -> None:
        """Show inputs for the parameters that the engine knows; what is filled in stays."""
        with suppress(SpecError):  # which is said beside the field
            self._values = self.value if self._known else self._values
        self._known = engine.tunables
        self._inputs = {name: self._input(name, parameter) for name, parameter in self._known.items()}
        self._hear(*self._inputs.values())
        self._grid.children = tuple(self._inputs.values())
        self._others.value = as_text({name: one for name, one in self._values.items() if name not in self._known})
        self._others.layout.display = "none" if engine.complete and not self._others.value else ""
        self._fold.selected_index = 0 if self._values else None

    @property
    def value(self) -> dict[str, Any]:
        """The parameters that are set; SpecError where the others are no mapping."""
        text = self._others.value.strip().removeprefix("{").removesuffix("}")
        try:
            others = dict(documents.parse_yaml(f"{{{text}}}"))
        except ValueError:
            raise SpecError(f"parameters: write the others as name: value, name: value; got {text!r}") from None
        values = {name: one.value for name, one in self._inputs.items() if str(one.value).strip()}
        return {name: _typed(one, self._known[name].kind) for name, one in values.items()} | others

    def show_problem(self, problem: str) -> None:
        """Say what is wrong, and unfold where it can be mended."""
        super().show_problem(problem)
        if problem:
            self._fold.selected_index = 0

    def _input(self, name: str, parameter: Parameter) -> widgets.Widget:
        value = self._values.get(name, "")
        choices = [False, True] if parameter.kind is bool else list(parameter.choices)
        default = "default" if parameter.default is None else f"default: {as_text(parameter.default)}"
        more = labelled(name, tooltip=parameter.help)
        if choices and value in ("", *choices):
            offered = [(default, ""), *((as_text(one), one) for one in choices)]
            return widgets.Dropdown(options=offered, value=value, **more)
        return widgets.Text(as_text(value), continuous_update=False, placeholder=default, **more)


def _typed(value: Any, kind: type[Any]) -> Any:
    with suppress(ValueError):  # the engine says what is wrong with it
        return kind(value) if isinstance(value, str) else value
    return value
