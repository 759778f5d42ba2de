"""Constraints between parameters, such as `n_ubatch <= n_batch`: Python's grammar without all that calls or changes."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any

from tuner.errors import SpecError

#: what may stand in a constraint
_ALLOWED = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Name, ast.Load, ast.Constant),
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.And, ast.Or, ast.Not, ast.USub),
    *(ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq),
)
_GRAMMAR = "only names, numbers, texts, + - * / // %, comparisons, and, or, not are allowed"
_LONGEST = 500


class _Text(str):
    """A text that can only be compared: `'a' * 10**9` would take all memory."""

    __slots__ = ()
    __mul__ = __rmul__ = __mod__ = __add__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Relation:
    """One constraint between parameters."""

    text: str  # as it was written
    names: frozenset[str]  # the parameters it is about
    code: CodeType  # what it means

    @classmethod
    def parse(cls, text: Any) -> "Relation":
        """Read a constraint; a SpecError where it is none, or has more in it than `_GRAMMAR` says."""
        said = str(text)
        if len(said) > _LONGEST:
            raise SpecError(f"constraint {said[:40]!r}… is longer than {_LONGEST} characters")
        try:
            tree = ast.parse(said, mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise SpecError(f"constraint {text!r} cannot be read; write it as n_ubatch <= n_batch") from None
        nodes = [*ast.walk(tree)]
        if strange := next((node for node in nodes if not isinstance(node, _ALLOWED)), None):
            raise SpecError(f"constraint {text!r}: {type(strange).__name__} is not allowed; {_GRAMMAR}")
        computed = {id(term) for node in nodes if isinstance(node, ast.BinOp) for term in ast.walk(node)}
        for node in nodes:
            kinds = (int, float) if id(node) in computed else (int, float, str)
            if isinstance(node, ast.Constant) and not isinstance(node.value, kinds):
                raise SpecError(f"constraint {text!r}: nothing is computed with {node.value!r}; {_GRAMMAR}")
        match tree.body:
            case ast.Compare() | ast.BoolOp() | ast.UnaryOp(op=ast.Not()):
                names = frozenset(node.id for node in nodes if isinstance(node, ast.Name))
                return cls(said, names, compile(tree, "constraint", "eval"))
        raise SpecError(f"constraint {text!r} compares nothing; write it as n_ubatch <= n_batch")

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether `values` meet it, as they do where one is not known; a SpecError where nothing can be computed."""
        known = {name: _Text(value) if isinstance(value, str) else value for name, value in values.items()}
        if any(known.get(name) is None for name in self.names):
            return True
        try:
            return bool(eval(self.code, {"__builtins__": {}}, known))  # noqa: S307 - of nodes that call nothing
        except (TypeError, ArithmeticError, ValueError) as error:
            raise SpecError(f"constraint {self.text!r} cannot be computed: {error}") from None
