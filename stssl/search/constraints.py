"""Constraints of a search: comparisons between a recipe's keys, such as `optimizer.lr * training.batch_labeled <= 0.1`.

The text is parsed, never evaluated as code: comparisons, `and`, `or`, `not`, arithmetic, words and numbers, `in` a list.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from stssl.errors import ConfigError, short_repr, shorten

_ORDER: dict[type, Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_EQUAL: dict[type, Callable[[Any, Any], bool]] = {
    ast.Eq: lambda a, b: _same(a, b),
    ast.NotEq: lambda a, b: not _same(a, b),
    ast.In: lambda a, b: any(_same(a, value) for value in b),
    ast.NotIn: lambda a, b: not any(_same(a, value) for value in b),
}
_ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: lambda a, b: math.pow(a, b),  # in floats: no integer grows without end
}
_HINT = (
    "write for example: optimizer.lr * training.batch_labeled <= 0.1, or: framework == 'plain' or optimizer.lr < 0.01"
)
_WORDS = {"true": True, "false": False, "null": None}  # as YAML has them


class Constraint:
    """One constraint, checked when it is made.

    Args:
        text: The expression.
        where: For messages: where it stands.

    Raises:
        ConfigError: Not an expression of this kind.

    Attributes:
        names: The keys that it compares.
    """

    def __init__(self, text: str, where: str) -> None:
        self.text, self.where, self._shown = text, where, shorten(text)
        self.names: set[str] = set()
        try:
            self._root = ast.parse(" ".join(text.splitlines()).strip(), mode="eval").body
            self._check(self._root)
        except SyntaxError as error:
            raise ConfigError(f"{where}: '{self._shown}' cannot be read: {error.msg}; {_HINT}") from None
        except (ValueError, RecursionError, MemoryError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"{where}: cannot be read: {error}; {_HINT}") from None
        self._null = any(isinstance(node, ast.Constant) and node.value is None for node in ast.walk(self._root))
        if not self.names:
            raise ConfigError(f"{where}: '{self._shown}' names no key of a recipe; {_HINT}")
        if isinstance(self._root, ast.BinOp | ast.Constant | ast.List):
            raise ConfigError(f"{where}: '{self._shown}' compares nothing; {_HINT}")

    def _check(self, node: ast.AST, listed: bool = False) -> None:
        """Walk the expression once: collect its keys, refuse what is not allowed."""
        match node:
            case ast.Compare(left, ops, values):
                self._check(left)
                for op, value in zip(ops, values, strict=True):
                    if type(op) not in _ORDER | _EQUAL:
                        raise self._refuse(node)
                    among = isinstance(op, ast.In | ast.NotIn)
                    if among and not isinstance(value, ast.List | ast.Tuple):
                        raise ConfigError(f"{self.where}: '{self._shown}': write a list after `in`, such as [1, 2]")
                    self._check(value, listed=among)
            case ast.BoolOp(values=values):
                for value in values:
                    self._check(value)
            case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
                self._check(operand)
            case ast.BinOp(left, op, right) if type(op) in _ARITHMETIC:
                self._check(left)
                self._check(right)
            case ast.List(elts=values) | ast.Tuple(elts=values) if listed:
                for value in values:
                    self._check(value)
            case ast.Constant(value=bool() | int() | float() | str() | None):
                pass
            case ast.Name() | ast.Attribute():
                name = _dotted(node)
                if name is None:
                    raise self._refuse(node)
                if name not in _WORDS:
                    self.names.add(name)
            case _:
                raise self._refuse(node)

    def _refuse(self, node: ast.AST) -> ConfigError:
        return ConfigError(f"{self.where}: '{shorten(ast.unparse(node))}' is not allowed in a constraint; {_HINT}")

    def fault(self, recipe: Mapping[str, Any]) -> str | None:
        """Why a recipe, as flat keys, does not meet it, or that it compares there what cannot be compared.

        Returns:
            None if the recipe meets it, or has not all of its keys, which are then another plugin's or null.
        """
        if any(recipe.get(name) is None for name in self.names) and not self._null:
            return None
        shown = ", ".join(f"{name} is {short_repr(recipe[name])}" for name in sorted(self.names))
        try:
            met = self._value(self._root, recipe)
            if not isinstance(met, bool):
                raise TypeError(f"it is {short_repr(met)}, neither true nor false")
        except (TypeError, ArithmeticError, ValueError) as error:
            return f"{self.where}: '{self._shown}' cannot be told where {shown}: {error}"
        return None if met else f"{self.where}: '{self._shown}' is not met: {shown}"

    def _value(self, node: ast.AST, recipe: Mapping[str, Any]) -> Any:
        def value(part: ast.AST) -> Any:
            return self._value(part, recipe)

        match node:
            case ast.BoolOp(op, values):
                stop = isinstance(op, ast.Or)
                return next((stop for part in values if _truth(value(part)) is stop), not stop)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not _truth(value(operand))
            case ast.UnaryOp(operand=operand):
                return -_number(value(operand))
            case ast.BinOp(left, op, right):
                return _ARITHMETIC[type(op)](_number(value(left)), _number(value(right)))
            case ast.Compare(left, ops, values):
                sides = [value(left), *map(value, values)]
                return all(_compare(op, a, b) for op, a, b in zip(ops, sides, sides[1:], strict=False))
            case ast.List(elts=values) | ast.Tuple(elts=values):
                return [value(part) for part in values]
            case ast.Constant(constant):
                return constant
        name = _dotted(node) or ""
        return _WORDS[name] if name in _WORDS else recipe[name]


def _dotted(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    below = _dotted(node.value) if isinstance(node, ast.Attribute) else None
    return f"{below}.{node.attr}" if below and isinstance(node, ast.Attribute) else None


def _same(a: Any, b: Any) -> bool:
    """Equal, where true is not 1."""
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{short_repr(value)} is neither true nor false")
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{short_repr(value)} is no number")
    return value


def _compare(op: ast.cmpop, a: Any, b: Any) -> bool:
    if type(op) in _EQUAL:
        return _EQUAL[type(op)](a, b)
    return _ORDER[type(op)](_number(a), _number(b))
