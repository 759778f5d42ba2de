"""A form made from a spec: its parameters in sections, those that the engine takes, each error at its field."""

import re
from collections.abc import Callable, Container, Mapping
from functools import partial
from itertools import chain, combinations
from typing import Any, Generic, Literal, get_args, get_origin

import ipywidgets as widgets

from tuner import engines
from tuner.engines.base import Engine
from tuner.errors import TunerError
from tuner.judging.scores import Objective
from tuner.notebook import fields
from tuner.notebook.fields import Field, GPUsField, ParametersField, SpaceField
from tuner.notebook.slo_field import SLOField
from tuner.sweep.spec import SECTIONS, Spec, make_spec

_OF_OURS = ("parameters", "gpus", "environment", "port", "ready_timeout", "served_name")
#: parameters that not every engine takes, and which do
_TAKES: Mapping[str, Callable[[Engine], bool]] = {
    **dict.fromkeys(("base_url", "verify"), lambda engine: not engine.owned),
    **dict.fromkeys(("command", "stop_command"), lambda engine: engine.name == "command"),
    **dict.fromkeys(_OF_OURS, lambda engine: engine.owned),
    "executable": lambda engine: bool(engine.install),
}
_GOALS = get_args(Objective)
#: what is often wanted, of parameters that take any text
_OFFERS = {
    "levels": ["auto", "1 2 4 8", "1 2 4 8 16 32 64", "1 4 16 64 256"],
    "rates": ["auto", "1 2 4 8", "1 4 16 64"],
    "scenarios": ["D(100,32)", "D(512,128)", "D(2000,200)", "N(480,240)/(300,150)", "U(50,100)/(200,250)"],
    "objective": [*_GOALS, *(f"{first} {second}" for first, second in combinations(_GOALS, 2))],
}
#: fields of their own kind: name, value and meaning in, field out
_FIELDS: Mapping[str, Callable[[str, Any, str], Field]] = {
    "engine": lambda name, value, _: fields.choice_field(name, value, "", engines.names()),
    "parameters": ParametersField,
    "gpus": GPUsField,
    "space": SpaceField,
    "constraints": partial(fields.text_field, rows=5),
    "slo": SLOField,
    **{name: partial(fields.text_field, options=offers) for name, offers in _OFFERS.items()},
}
#: what is left out where the first is filled in, since it stands there by itself
_INSTEAD = {"rates": "levels", "prompts": "scenarios"}


class Form(Generic[Spec]):
    """Fields for a spec's parameters, in cards; by SECTIONS; all others are folded away below."""

    def __init__(self, kind: type[Spec], initial: Mapping[str, Any]) -> None:
        self._kind, self._initial = kind, dict(initial)
        self.changed: Callable[[], None] = lambda: None  # called after each change
        self._fields = {name: self._field(name) for name in kind.model_fields}
        for name, field in self._fields.items():
            field.changed = self._fit if name == "engine" else lambda *_: self.changed()
        sections = {title: [name for name in names if name in self._fields] for title, names in SECTIONS.items()}
        cards = []
        for title, names in sections.items():
            inside = [widgets.HTML(f"<h4>{title}</h4>"), *(self._fields[name].widget for name in names)]
            cards += [widgets.VBox(inside).add_class("tuner-card")] if names else []
        self._folded = [name for name in self._fields if name not in chain(*sections.values())]
        folded = widgets.Box([self._fields[name].widget for name in self._folded]).add_class("tuner-cards")
        self._more = widgets.Accordion([folded], titles=["More settings"])
        self.widget = widgets.VBox([widgets.Box(cards).add_class("tuner-cards"), self._more])
        self._fit()

    def values(self, without: Container[str] = ()) -> dict[str, Any]:
        """What is filled in, of what the engine takes, but for `without`; SpecError where a field cannot be read."""
        engine, fields = engines.find(self._fields["engine"].value), self._fields.items()
        values = {name: field.value for name, field in fields if _takes(engine, name) and name not in without}
        # an empty space would be the default one, which is half an hour of trials
        filled = {name: value for name, value in values.items() if value not in ("", [], {}, None) or name == "space"}
        instead = {other for name, other in _INSTEAD.items() if name in filled}
        return {name: value for name, value in filled.items() if name not in instead}

    def value_of(self, name: str) -> Any:
        """What one field holds, or its default where it is empty, whatever is wrong in another."""
        return self._fields[name].value or self._default(name)

    def spec(self) -> Spec:
        """The spec that is filled in, as far as its engine can check it; what is wrong is said at its fields."""
        self.show_nothing_wrong()
        wrong: dict[str, TunerError] = {}
        spec = None
        while spec is None:  # else an engine has found something, perhaps that what was wrong is missing now
            try:
                spec = make_spec(self.values(without=wrong), self._kind)
                spec.api_key()
                if spec.model or spec.engine != "llamacpp":  # which serves the demo's model then
                    engines.find(spec.engine).check(spec)
            except TunerError as error:
                name = self._field_in(str(error))
                if name in wrong:
                    break
                wrong[name] = error
                self.blame(error)
        if wrong or not spec:
            raise next(iter(wrong.values()))
        return spec

    def show_nothing_wrong(self) -> None:
        """Take back what was said at the fields."""
        for field in self._fields.values():
            field.show_problem("")

    def blame(self, error: TunerError) -> bool:
        """Show `error` at the field that it is about; False where it is about none."""
        if name := self._field_in(str(error)):
            self._fields[name].show_problem(str(error))
            if name in self._folded:
                self._more.selected_index = 0
        return bool(name)

    def _field_in(self, message: str) -> str:
        """The field that a message names first; the engine where it is not there, or only its own name stands in it."""
        known = engines.find(self._fields["engine"].value).tunables
        for word in re.findall(r"\w+", "" if "is not installed" in message else message):
            name = "parameters" if word in known else word if word in self._fields else f"{word}s"
            if name in self._fields and name != "engine":
                return name
        return "engine" if "engine" in message else ""

    def _field(self, name: str) -> Field:
        about = self._kind.model_fields[name]
        value, meaning = self._initial.get(name, self._default(name)), about.description or ""
        if name in _FIELDS:
            return _FIELDS[name](name, value, meaning)
        choices = _choices(about.annotation)
        if len(choices) > 1:
            none = "" if get_origin(about.annotation) is Literal else "default"
            return fields.choice_field(name, value, meaning, choices, none)
        if about.annotation is bool:
            return Field(widgets.Checkbox(value=bool(value), **fields.labelled(name)), meaning)
        return fields.text_field(name, value, meaning)

    def _default(self, name: str) -> Any:
        return self._kind.model_fields[name].get_default(call_default_factory=True)

    def _fit(self) -> None:
        engine = engines.find(self._fields["engine"].value)
        for name, field in self._fields.items():
            field.widget.layout.display = "" if _takes(engine, name) else "none"
            field.offer(engine)
        self.changed()


def _takes(engine: Engine, name: str) -> bool:
    return name not in _TAKES or _TAKES[name](engine)


def _choices(annotation: Any) -> list[str]:
    parts = get_args(annotation)
    return [*parts] if get_origin(annotation) is Literal else [one for part in parts for one in _choices(part)]
