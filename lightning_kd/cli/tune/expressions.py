"""Arithmetic in a search space, such as ``1 - alpha``, computed without running Python code."""

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
    """An expression of numbers, parameter names, ``+ - * / // **`` and parentheses.

    Args:
        text: The expression, such as ``(1 - alpha) / 2``, or a single parameter name, which stands for any value.

    Raises:
        ValueError: If the text contains anything else.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except SyntaxError as error:
            raise ValueError(f"{text!r} is not an arithmetic expression; write something like 1 - alpha") from error
        self.names: frozenset[str] = frozenset(self._collect_names(self._tree))

    def _collect_names(self, node: ast.expr) -> set[str]:
        if isinstance(node, ast.Name):
            return {node.id}
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return set()
        if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
            return self._collect_names(node.operand)
        if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
            return self._collect_names(node.left) | self._collect_names(node.right)
        raise ValueError(
            f"{self.text!r}: {ast.unparse(node)!r} is not a number, a parameter or one of + - * / // **; "
            "use choices for text"
        )

    def __call__(self, values: Mapping[str, Any]) -> Any:
        """Evaluate the expression.

        Args:
            values: Value of each parameter by name.

        Raises:
            ValueError: If the result is not a finite real number, for example after a division by zero.
        """
        try:
            result = self._evaluate(self._tree, values)
            if isinstance(result, complex) or (isinstance(result, float) and not math.isfinite(result)):
                raise ArithmeticError(f"{result} is not a finite real number")
        except (ArithmeticError, TypeError) as error:
            inputs = ", ".join(f"{name} = {values[name]!r}" for name in sorted(self.names))
            raise ValueError(f"{self.text!r} cannot be computed with {inputs}: {error}") from error
        return result

    def _evaluate(self, node: ast.expr, values: Mapping[str, Any]) -> Any:
        if isinstance(node, ast.Name):
            return values[node.id]
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.UnaryOp):
            return _UNARY[type(node.op)](self._evaluate(node.operand, values))
        assert isinstance(node, ast.BinOp)
        return _BINARY[type(node.op)](self._evaluate(node.left, values), self._evaluate(node.right, values))
