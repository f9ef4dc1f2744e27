"""Arithmetic in a search space, such as ``1 - alpha``, computed without running Python code."""

import ast
import math
import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any

_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


class Expression:
    """An expression of numbers, parameter names, ``+ - * / // **`` and parentheses.

    Args:
        text: The expression, such as ``(1 - alpha) / 2``, or a single parameter name, which stands for any value.
        parameters: Names of all parameters.

    Raises:
        ValueError: If the text contains anything else.
    """

    def __init__(self, text: str, parameters: Collection[str]) -> None:
        self.text = text
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except SyntaxError as error:
            raise ValueError(f"{text!r} is not an arithmetic expression; write something like 1 - alpha") from error
        nodes = [node for node in ast.walk(self._tree) if isinstance(node, ast.expr)]
        for node in nodes:
            if not _is_arithmetic(node):
                raise ValueError(
                    f"{text!r}: {ast.unparse(node)!r} is not a number, a parameter or one of + - * / // **; "
                    "use choices for text"
                )
        self._names = sorted({node.id for node in nodes if isinstance(node, ast.Name)})
        if unknown := [name for name in self._names if name not in parameters]:
            known = ", ".join(map(str, parameters))
            raise ValueError(f"{text!r}: unknown parameter {unknown[0]!r}; known are {known}; use choices for text")

    def __call__(self, values: Mapping[str, Any]) -> Any:
        """Evaluate the expression.

        Args:
            values: Value of each parameter by name.

        Raises:
            ValueError: If the result is not a finite real number, for example after a division by zero.
        """
        try:
            result = _evaluate(self._tree, values)
            if isinstance(result, complex) or (isinstance(result, float) and not math.isfinite(result)):
                raise ArithmeticError(f"{result} is not a finite real number")
        except (ArithmeticError, TypeError) as error:
            inputs = ", ".join(f"{name} = {values[name]!r}" for name in self._names)
            raise ValueError(f"{self.text!r} cannot be computed with {inputs}: {error}") from error
        return result


def _is_arithmetic(node: ast.expr) -> bool:
    if isinstance(node, (ast.UnaryOp, ast.BinOp)):
        return type(node.op) in _OPERATORS
    return isinstance(node, ast.Name) or (isinstance(node, ast.Constant) and type(node.value) in (int, float))


def _evaluate(node: ast.expr, values: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        return values[node.id]
    if isinstance(node, ast.Constant):
        return node.value
    assert isinstance(node, (ast.UnaryOp, ast.BinOp))
    operands = [node.operand] if isinstance(node, ast.UnaryOp) else [node.left, node.right]
    return _OPERATORS[type(node.op)](*(_evaluate(operand, values) for operand in operands))
