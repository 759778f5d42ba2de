"""Constraints between parameters, such as `n_ubatch <= n_batch`: read as Python's grammar has them, never executed."""

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tuner.errors import SpecError

_OPERATIONS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Not: operator.not_,
    ast.USub: operator.neg,
    ast.And: all,
    ast.Or: any,
}
#: what may stand in a constraint
_NODES = (ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Name, ast.Load, ast.Constant)
_LONGEST = 500


@dataclass(frozen=True)
class Relation:
    """One constraint between parameters."""

    text: str  # as it was written
    tree: ast.expr  # what it means

    @classmethod
    def parse(cls, text: Any) -> "Relation":
        """Read a constraint; a SpecError refuses all but names, numbers, texts, arithmetic, comparisons and logic."""
        try:
            tree = ast.parse(str(text)[: _LONGEST + 1], mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise SpecError(f"constraint {text!r} cannot be read; write it as n_ubatch <= n_batch") from None
        if len(str(text)) > _LONGEST:
            raise SpecError(f"constraint {str(text)[:40]!r}… is longer than {_LONGEST} characters")
        for node in ast.walk(tree):
            _check_node(node, str(text))
        body = tree.body
        is_negation = isinstance(body, ast.UnaryOp) and isinstance(body.op, ast.Not)
        if not is_negation and not isinstance(body, (ast.Compare, ast.BoolOp)):
            raise SpecError(f"constraint {text!r} compares nothing; write it as n_ubatch <= n_batch")
        return cls(str(text), body)

    @property
    def names(self) -> set[str]:
        """The parameters it is about."""
        return {node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name)}

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether `values` meet it; a parameter whose value nobody knows makes it say nothing.

        A SpecError says what cannot be computed, or compared with, such as a text with a number.
        """
        if any(values.get(name) is None for name in self.names):
            return True
        try:
            return bool(_value(self.tree, values))
        except (TypeError, ArithmeticError, ValueError) as error:
            raise SpecError(f"constraint {self.text!r} cannot be computed: {error}") from None


def _check_node(node: ast.AST, text: str) -> None:
    if not isinstance(node, (*_NODES, *_OPERATIONS)):
        raise SpecError(
            f"constraint {text!r}: {type(node).__name__} is not allowed; only names, numbers, texts, + - * / // %, "
            "comparisons, and, or, not are"
        )
    if isinstance(node, ast.Constant) and not isinstance(node.value, (int, float, str)):
        raise SpecError(f"constraint {text!r}: {node.value!r} is neither a number nor a text")


def _value(node: ast.expr, values: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return values[name]
        case ast.UnaryOp(op=sign, operand=operand):
            return _OPERATIONS[type(sign)](_value(operand, values))
        case ast.BinOp(left=left, op=operation, right=right):
            terms = [_value(left, values), _value(right, values)]
            if any(isinstance(term, str) for term in terms):  # 'a' * 10**9 would take all memory
                raise TypeError("a text is no number")
            return _OPERATIONS[type(operation)](*terms)
        case ast.BoolOp(op=operation, values=parts):  # a generator: what decides nothing is not computed
            return _OPERATIONS[type(operation)](_value(part, values) for part in parts)
        case ast.Compare():
            terms = [_value(term, values) for term in (node.left, *node.comparators)]
            pairs = zip(node.ops, terms, terms[1:], strict=False)  # `a < b < c` is `a < b` and `b < c`
            return all(_OPERATIONS[type(operation)](left, right) for operation, left, right in pairs)
    raise TypeError(f"{type(node).__name__} has no value")
