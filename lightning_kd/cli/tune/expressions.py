"""Arithmetic in a search space: ``1 - alpha`` is computed, not evaluated as Python."""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}


class Expression:
    """Numbers, names of parameters, ``+ - * / // **`` and parentheses.

    Args:
        text: Such as ``(1 - alpha) / 2``, or a name alone, which stands for any value.

    Raises:
        ValueError: If there is anything else in it.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except SyntaxError as error:
            raise ValueError(f"{text!r} is no arithmetic; write something like 1 - alpha") from error
        self.names: frozenset[str] = frozenset(self._check(self._tree))

    def _check(self, node: ast.expr) -> set[str]:
        """The names below a node."""
        if isinstance(node, ast.Name):
            return {node.id}
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return set()
        if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
            return self._check(node.operand)
        if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
            return self._check(node.left) | self._check(node.right)
        raise ValueError(
            f"{self.text!r}: {ast.unparse(node)!r} is neither a number, a parameter nor one of + - * / // **; "
            "for a text use choices"
        )

    def __call__(self, values: Mapping[str, Any]) -> Any:
        """The value, with the parameters' own put in.

        Raises:
            ValueError: If it cannot be computed, as with a division by zero or the root of a negative number.
        """
        try:
            result = self._value(self._tree, values)
            if isinstance(result, complex) or (isinstance(result, float) and not math.isfinite(result)):
                raise ArithmeticError(f"{result} is no finite real number")
        except (ArithmeticError, TypeError) as error:
            given = ", ".join(f"{name} = {values[name]!r}" for name in sorted(self.names))
            raise ValueError(f"{self.text!r} cannot be computed with {given}: {error}") from error
        return result

    def _value(self, node: ast.expr, values: Mapping[str, Any]) -> Any:
        if isinstance(node, ast.Name):
            return values[node.id]
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.UnaryOp):
            return _UNARY[type(node.op)](self._value(node.operand, values))
        assert isinstance(node, ast.BinOp)
        return _BINARY[type(node.op)](self._value(node.left, values), self._value(node.right, values))
