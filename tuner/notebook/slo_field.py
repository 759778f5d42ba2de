"""The field of an SLO: a row a limit, in one tier or several, and the file that it is read from and written to."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import yaml

from tuner.core import files
from tuner.core.metrics import LATENCIES, METRICS, SHARE, STATISTICS
from tuner.errors import SpecError, TunerError
from tuner.judging.slo import SECTIONS, SLO, TIERS
from tuner.notebook.fields import Field, button, labelled
from tuner.sweep.fields import as_text
from tuner.sweep.spec import make_spec

#: sections of the SLO file, by what people call what they limit
_LIMITS = [
    (f"{'least ' if METRICS[name].more_is_better else ''}{METRICS[name].name}", one) for one, name in SECTIONS.items()
]
_HARD = (("hard", True), ("soft", False))


class _Limit:
    """A row: what is limited, by which statistic, at which threshold, and whether that is hard."""

    def __init__(self, section: str, statistic: str, content: Mapping[str, Any], changed: Callable[[], None]) -> None:
        self._rest = {name: one for name, one in content.items() if name not in ("threshold", "hard_fail")}
        threshold, hard = as_text(content.get("threshold")), content.get("hard_fail", True)
        self._section = widgets.Dropdown(options=_LIMITS, value=section, **_labelled("what is limited", 11))
        self._statistic = widgets.Dropdown(options=STATISTICS, value=statistic or "mean", **_labelled("statistic", 5))
        self._threshold = widgets.Text(threshold, continuous_update=False, **_labelled("threshold", 6))
        self._hard = widgets.Dropdown(options=_HARD, value=hard, **_labelled("hard or soft", 5))
        self._changed = changed
        self.remove = widgets.Button(icon="times", tooltip="remove this limit", layout=widgets.Layout(width="2.6em"))
        inputs = (self._section, self._statistic, self._threshold, self._hard)
        self.widget = widgets.HBox([*inputs, self.remove])
        for one in inputs:
            one.observe(lambda _: self._fit(), "value")
        self._fit()

    @property
    def place(self) -> tuple[str, str]:
        """What it limits: a section, and the statistic of a latency."""
        is_latency = SECTIONS[self._section.value] in LATENCIES
        return self._section.value, self._statistic.value if is_latency else ""

    @property
    def content(self) -> dict[str, Any]:
        """What the SLO file says of it."""
        return self._rest | {"threshold": self._threshold.value, "hard_fail": self._hard.value}

    def _fit(self) -> None:
        unit, is_latency = METRICS[SECTIONS[self._section.value]].unit, bool(self.place[1])
        self._statistic.layout.visibility = "visible" if is_latency else "hidden"
        self._threshold.placeholder = "0.01" if unit == SHARE else "500 ms" if is_latency else unit
        self._changed()


class SLOField(Field):
    """An SLO, as its file holds it."""

    def __init__(self, name: str, value: Any, meaning: str) -> None:
        self._limits: list[_Limit] = []
        self._tiers: dict[str, dict[str, Any]] = {}
        self._rest: dict[str, Any] = {}
        self._rows = widgets.VBox()
        self._tier, self._file = widgets.Dropdown(**labelled("tier")), widgets.Text("slo.yaml", **labelled("file"))
        add_limit = button("Add limit", "plus", lambda: self._lay_out([*self._limits, self._limit("ttft", "p90", {})]))
        add = [add_limit, button("Add tier", "clone", self._add_tier)]
        file = [self._file, button("Load", "folder-open", self._load), button("Save", "save", self._save)]
        parts = [self._tier, self._rows, widgets.HBox(add), widgets.HBox(file)]
        meaning = "a limit in s or ms, or a share; soft: a miss costs, but does not fail"
        super().__init__(self._tier, meaning, widgets.VBox(parts))
        self._tier.observe(lambda change: self._switch(change["old"], change["new"]), "value")
        self._fill((make_spec({name: value}).slo if value else None) or {})

    @property
    def value(self) -> dict[str, Any] | None:
        """The document; None where nothing is limited; SpecError where one limit stands twice."""
        shown = self._shown()
        if self._tiers:
            return {TIERS: self._tiers | {self._tier.value: shown}}
        return shown if self._limits else None

    def _fill(self, document: Mapping[str, Any]) -> None:
        self._tiers = dict(document.get(TIERS) or {})
        self._tier.options = list(self._tiers)
        self._tier.value = next(iter(self._tiers), None)
        self._tier.layout.display = "" if self._tiers else "none"
        self._show(next(iter(self._tiers.values()), document))

    def _show(self, document: Mapping[str, Any]) -> None:
        self._rest = {name: one for name, one in document.items() if name not in SECTIONS}
        each = ((section, document.get(section) or {}) for section in SECTIONS)
        self._lay_out([self._limit(*limit) for section, said in each for limit in _limits_of(section, said)])

    def _limit(self, section: str, statistic: str, content: Mapping[str, Any]) -> _Limit:
        limit = _Limit(section, statistic, content, lambda *_: self.changed())
        limit.remove.on_click(lambda _: self._lay_out([one for one in self._limits if one is not limit]))
        return limit

    def _lay_out(self, limits: list[_Limit]) -> None:
        self._limits = limits
        self._rows.children = tuple(limit.widget for limit in limits)
        self.changed()

    def _switch(self, before: str | None, now: str | None) -> None:
        if before in self._tiers and now in self._tiers:
            self._tiers[before] = self._shown()
            self._show(self._tiers[now])

    def _shown(self) -> dict[str, Any]:
        document: dict[str, Any] = dict(self._rest)
        places = [limit.place for limit in self._limits]
        if twice := next((place for place in places if places.count(place) > 1), None):
            raise SpecError(f"slo: {' '.join(twice).strip()} stands twice; remove one of the two")
        for (section, statistic), limit in zip(places, self._limits, strict=True):
            here = document.setdefault(section, {}) if statistic else document
            here[statistic or section] = limit.content
        return document

    def _add_tier(self) -> None:
        tiers = (self.value or {}).get(TIERS) or {"tier 1": self._shown()}
        name = f"tier {len(tiers) + 1}"
        self._fill({TIERS: tiers | {name: self._shown()}})
        self._tier.value = name

    def _load(self) -> None:
        try:
            self._fill(SLO.load(self._file.value).to_dict())
        except TunerError as error:
            self.show_problem(str(error))

    def _save(self) -> None:
        try:
            document = SLO.parse(self.value or {}).to_dict()
            files.write_atomically(Path(self._file.value).expanduser(), yaml.safe_dump(document, sort_keys=False))
        except TunerError as error:
            self.show_problem(str(error))


def _labelled(tooltip: str, em: int) -> dict[str, Any]:
    return {"tooltip": tooltip, "layout": widgets.Layout(width=f"{em}em", flex=f"1 1 {em}em", min_width="3em")}


def _limits_of(section: str, said: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(section, statistic, content) of each limit; a latency without a statistic limits the mean."""
    each = {"": said} if "threshold" in said else said
    return [(section, statistic, limit) for statistic, limit in each.items()]
