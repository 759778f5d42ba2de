"""What a search may try: engines, models and parameters, conditions, and the constraints between them."""

import contextlib
import graphlib
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from tuner import engines
from tuner.core.text import suggest
from tuner.engines.base import Engine, spelt
from tuner.errors import SpecError
from tuner.search.dimension import KEYS, Dimension, Scalar, engine_word
from tuner.search.expressions import Relation
from tuner.sweep.spec import SERVER_FIELDS

Point = dict[str, Scalar]
DEFAULT, ENGINE = "default", "engine"
GPUS = "gpus"  # the number of GPUs that a search has, as constraints name it
MOST_GPUS = 8  # as many as one machine has at most, where nobody said how many there are


class Served(NamedTuple):
    """One engine of a space: what is known of it."""

    # its own, None where nobody knows them, and `gpus`: for parameters that a configuration does not name
    defaults: Mapping[str, Any]
    conditions: tuple[Relation, ...]  # between its parameters, without which it does not start

    @classmethod
    def of(cls, engine: Engine, names: Collection[str], gpus: int | None) -> "Served":
        """What is known of an engine of which parameters of these names are given."""
        defaults = {name: parameter.default for name, parameter in engine.tunables.items()} | {GPUS: gpus or MOST_GPUS}
        other_names = {*names} & {*getattr(engine, "sizes", ())} - {*engine.tunables}  # of the same sizes
        return cls(defaults, () if other_names else tuple(map(Relation.parse, engine.conditions)))


@dataclass(frozen=True)
class SearchSpace:
    """Every configuration that may be tried."""

    dimensions: tuple[Dimension, ...]  # what is searched, each after those that it is conditional on
    constraints: tuple[Relation, ...]  # what must hold between parameters
    fixed: Mapping[str, Any]  # what the baseline has; every trial of its engine does, unless it is searched
    engine: str  # the baseline's
    served: Mapping[str, Served]  # all engines, by name

    @classmethod
    def parse(
        cls,
        document: Any,
        engine: Engine,
        fixed: Mapping[str, Any],
        constraints: list[str] | tuple[str, ...] = (),
        gpus: int | None = None,
    ) -> "SearchSpace":
        """Read and check a search's `space`: parameters with their values, or a preset's name.

        The baseline has this engine, and what is `fixed`: its parameters, and its SERVER_FIELDS, which may be searched
        too. Constraints may name how many `gpus` there are; None stands for `MOST_GPUS`. A SpecError or EngineError
        names the place, what is wrong and what would be right.
        """
        mapping = _preset(document, engine) if isinstance(document, str) else document
        if not isinstance(mapping, Mapping) or not mapping:
            raise SpecError("space: give parameters with their values, such as {max_num_seqs: [64, 128, 256]}")
        documents = _with_engines({spelt(str(name)): values for name, values in mapping.items()})
        every = _engines(documents, engine)
        dimensions = {name: _dimension(name, values, every) for name, values in documents.items()}
        parameters = [dimension.parameter for dimension in dimensions.values()]
        fixed = {name: value for name, value in fixed.items() if name not in SERVER_FIELDS or name in parameters}
        served = {name: Served.of(one, [*parameters, *fixed], gpus) for name, one in every.items()}
        space = cls(_in_order(dimensions, fixed), tuple(map(Relation.parse, constraints)), fixed, engine.name, served)
        space._check_relations([*parameters, *fixed, *itertools.chain(*(one.defaults for one in served.values()))])
        return space

    @cached_property
    def known_values(self) -> Mapping[str, Any]:
        """What dimensions, by name, and fixed parameters are that a point does not name, as far as we know it."""
        own = {**self.served[self.engine].defaults, **self.fixed}
        every = {name: one.defaults for name, one in self.served.items()} | {self.engine: own}
        of = {d.name: str(d.when.get(ENGINE, [self.engine])[0]) for d in self.dimensions}
        return own | {d.name: every[of[d.name]].get(d.parameter) for d in self.dimensions}

    def allows(self, point: Mapping[str, Any]) -> bool:
        """Whether every constraint holds for a point of the space; one that cannot be computed there does not."""
        with contextlib.suppress(SpecError):  # such as a division by zero: it costs this point, not the search
            return self._meets(point)
        return False

    def _meets(self, point: Mapping[str, Any]) -> bool:
        served = self.served[point.get(ENGINE, self.engine)]
        values = {**served.defaults, **self.parameters(point)}
        return all(constraint.holds(values) for constraint in (*self.constraints, *served.conditions))

    def active(self, point: Mapping[str, Any]) -> Point:
        """`point` without the parameters whose condition does not hold."""
        active: Point = {}
        for dimension in self.dimensions:
            if dimension.name in point and self._is_active(dimension, active):
                active[dimension.name] = point[dimension.name]
        return active

    def _is_active(self, dimension: Dimension, before: Mapping[str, Any]) -> bool:
        values = {**self.known_values, **before}
        return all(values.get(other) in allowed for other, allowed in dimension.when.items())

    def parameters(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """What is asked for at a point: its values, over those that the baseline's engine has in every trial."""
        fixed = self.fixed if point.get(ENGINE, self.engine) == self.engine else {}
        return {**fixed, **{d.parameter: point[d.name] for d in self.dimensions if d.name in point}}

    def point_of(self, parameters: Mapping[str, Any]) -> Point:
        """The point of what a trial was asked for; what lies outside of the space is left out."""
        if parameters == self.fixed and (baseline := self.baseline()):
            return baseline
        inside = [d for d in self.dimensions if d.contains(parameters.get(d.parameter))]
        return self.active({d.name: parameters[d.parameter] for d in inside})

    def baseline(self) -> Point | None:
        """The point of the defaults; None where they lie outside of the space, or nobody knows them."""
        point = self.active({d.name: self.known_values.get(d.name) for d in self.dimensions})
        return point if all(d.contains(point[d.name]) for d in self.dimensions if d.name in point) else None

    def values_in_force(self, point: Mapping[str, Any]) -> Mapping[str, Scalar | None]:
        """`point` with what it leaves to the engine where the engine's default stands, as near as the space has it."""
        defaults = {d.name: d.stand_in(self.known_values.get(d.name)) for d in self.dimensions}
        return self.active(defaults | {**point})

    def grid(self) -> Iterator[Point]:
        """Every point that is allowed, once; wide ranges by a few values each."""
        return filter(self.allows, self._below({}, self.dimensions))

    def _below(self, point: Point, dimensions: Sequence[Dimension]) -> Iterator[Point]:
        if not dimensions:
            yield point
        elif self._is_active(dimensions[0], point):
            for value in dimensions[0].values():
                yield from self._below({**point, dimensions[0].name: value}, dimensions[1:])
        else:
            yield from self._below(point, dimensions[1:])

    def strange(self, parameters: Mapping[str, Any]) -> str:
        """Which of SERVER_FIELDS has a value here that neither the baseline nor the space names; empty for none."""
        named = [(one.parameter, value) for one in self.dimensions for value in one.choices] + [*self.fixed.items()]
        given = [(name, parameters[name]) for name in SERVER_FIELDS if name in parameters]
        return next((name for name, value in given if (name, value) not in named), "")

    def at(self, shares: list[float]) -> Point:
        """The point at these shares of the way (0 to 1) through each dimension."""
        return self.active({d.name: d.at(share) for d, share in zip(self.dimensions, shares, strict=True)})

    def servers(self) -> Iterator["SearchSpace"]:
        """The parts of it with one engine, model, executable and command each."""
        several = [dimension for dimension in self.dimensions if dimension.parameter in SERVER_FIELDS]
        for values in itertools.product(*(dimension.choices for dimension in several)):
            chosen = {one.name: replace(one, choices=(value,)) for one, value in zip(several, values, strict=True)}
            yield replace(self, dimensions=tuple(chosen.get(one.name, one) for one in self.dimensions))

    def _check_relations(self, names: Collection[str]) -> None:
        """Refuse constraints about other names, and those that leave nothing of the grid."""
        relations = [*self.constraints, *itertools.chain(*(one.conditions for one in self.served.values()))]
        for relation in relations:
            _check_names(relation.names, names, f"constraint {relation.text!r} has")
        if relations and next(self.grid(), None) is None:
            self._meets(self.at([0.0] * len(self.dimensions)))  # says it where one cannot be computed
            texts = " and ".join(relation.text for relation in relations)
            raise SpecError(f"constraints: no configuration of the space meets {texts}")


def key_of(point: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What makes two configurations the same."""
    return tuple(sorted((name, repr(value)) for name, value in point.items()))


def _check_names(names: Iterable[str], allowed: Collection[str], message: str) -> None:
    if wrong := sorted({*names} - {*allowed}):
        raise SpecError(f"{message} {wrong[0]!r}; {suggest(wrong[0], allowed)}")


def _preset(name: str, engine: Engine) -> Mapping[str, Any]:
    if name in engine.spaces:
        return engine.spaces[name]
    advice = suggest(name, engine.spaces) if engine.spaces else f"engine {engine.name} has no presets; give parameters"
    raise SpecError(f"space: there is no preset {name!r}; {advice}")


def _with_engines(documents: dict[str, Any]) -> dict[str, Any]:
    """`engine: {NAME: {parameter: values, …}, …}` as a list of engines and `NAME.parameter` for each of these."""
    each = documents.get(ENGINE)
    if not isinstance(each, Mapping) or {*each} & {*KEYS}:
        return documents
    own: dict[str, Any] = {}
    for name, given in each.items():
        parameters = _preset(given, engines.find(name)) if isinstance(given, str) else given or {}
        if not isinstance(parameters, Mapping):
            raise SpecError(f"space: {name}: give its parameters, such as {{n: [1, 2]}}, or a preset's name")
        own_names = {spelt(str(parameter)): values for parameter, values in parameters.items()}
        own |= {f"{name}.{parameter}": _of_engine(name, values, own_names) for parameter, values in own_names.items()}
    return documents | {ENGINE: [*map(str, each)]} | own


def _of_engine(name: str, values: Any, own: Collection[str]) -> dict[str, Any]:
    """What is said of a parameter of one engine, beside its `own`, as `Dimension.parse` reads it."""
    choices = values if isinstance(values, list) else [values]  # one value is fixed
    document = dict(values) if isinstance(values, Mapping) else {"choices": choices}
    when = document.get("when", {})
    if isinstance(when, Mapping):
        others = {(f"{name}.{other}" if spelt(str(other)) in own else other): value for other, value in when.items()}
        document["when"] = {ENGINE: name, **others}
    return document


def _engines(documents: Mapping[str, Any], engine: Engine) -> dict[str, Engine]:
    said = Dimension.parse(ENGINE, documents.get(ENGINE, [engine.name]), None)
    if not said.choices:
        raise SpecError("space: engine: give names, as in [vllm, sglang], or each with parameters of its own")
    return {engine.name: engine} | {str(name): engines.find(str(name)) for name in said.choices if name != engine.name}


def _dimension(name: str, document: Any, every: Mapping[str, Engine]) -> Dimension:
    first, _, rest = name.partition(".")
    parameter = rest if rest and first in every else name
    said = Dimension.parse(name, document, None)
    of = [one for one in every.values() if said.is_of(one.name) and parameter not in SERVER_FIELDS]
    for engine in of:
        if engine.complete:
            _check_names([parameter], engine.tunables, f"space: {engine.name} has no parameter")
    known = next((engine.tunables[parameter] for engine in of if parameter in engine.tunables), None)
    return replace(Dimension.parse(name, document, known), parameter=parameter)


def _in_order(dimensions: dict[str, Dimension], fixed: Mapping[str, Any]) -> tuple[Dimension, ...]:
    named = {name: _with_conditions(dimension, dimensions, fixed) for name, dimension in dimensions.items()}
    sorter = graphlib.TopologicalSorter({name: {*one.when} & {*named} for name, one in named.items()})
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        raise SpecError(f"space: {error.args[1][0]}: its condition leads back to itself") from None
    order: list[str] = []
    while ready := sorter.get_ready():
        order += sorted(ready, key=[*named].index)  # as they were written: a seed draws the same again
        sorter.done(*ready)
    return tuple(named[name] for name in order)


def _with_conditions(dimension: Dimension, dimensions: Mapping[str, Dimension], fixed: Mapping[str, Any]) -> Dimension:
    """`dimension` with its condition checked and spelt as the engine has it."""
    place = f"space: {dimension.name}: when"
    _check_names(dimension.when, [*dimensions, *fixed], f"{place} names no searched or fixed parameter:")
    when = {}
    for other, values in dimension.when.items():
        choices = dimensions[other].choices if other in dimensions else [fixed[other]]
        when[other] = tuple(engine_word(value, choices) for value in values)
        if other in dimensions and (never := [value for value in when[other] if not dimensions[other].contains(value)]):
            raise SpecError(f"{place}: {other} never is {never[0]!r}")
    return replace(dimension, when=when)
