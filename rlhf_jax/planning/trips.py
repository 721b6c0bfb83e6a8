"""How often a loop runs, by running its counter.

XLA writes a loop as a condition and a body over one tuple. Here only the scalar
integers and truth values of that tuple are computed; whatever depends on data is
unknown (None), and an unknown condition goes on. So a loop that may end early counts
with its greatest length, and a loop whose counter is unknown has no count.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

from rlhf_jax.planning.hlo import Computation, Instruction, Module

LIMIT = 1 << 20
"""Iterations after which a loop is taken to have no bound."""

Value = Any
"""int, bool, a list of values (a tuple of the program), or None where unknown."""


class Values:
    """Values of one computation for given arguments, each computed once, when asked.

    Args:
      module: the program.
      computation: of it.
      arguments: values of its parameters.
    """

    def __init__(
        self, module: Module, computation: Computation, arguments: Sequence[Value]
    ):
        self._module = module
        self._computation = computation
        self._arguments = arguments
        self._known: dict[str, Value] = {}

    def __getitem__(self, name: str) -> Value:
        if name not in self._known:
            instruction = self._computation.instructions[name]
            self._known[name] = self._compute(instruction)
        return self._known[name]

    def root(self) -> Value:
        """Value of the result."""
        return self[self._computation.root.name]

    def _compute(self, one: Instruction) -> Value:
        opcode = one.opcode
        if opcode == "parameter":
            return self._arguments[int(one.operands[0])]
        if opcode == "constant":
            return _literal(one)
        if opcode == "tuple":
            return [self[name] for name in one.operands]
        if opcode == "get-tuple-element":
            values = self[one.operands[0]]
            return None if values is None else values[int(one.text("index"))]
        if len(one.shapes) == 1 and one.shapes[0].dims not in ((), (1,)):
            return None
        if opcode in ("fusion", "call"):
            name = one.called("calls") or one.called("to_apply")
            called = self._module.computations[name or ""]
            given = [self[name] for name in one.operands]
            return Values(self._module, called, given).root()
        if opcode in _OPERATIONS:
            return _applied(one, [self[name] for name in one.operands])
        return None


def count(module: Module, loop: Instruction, start: Value) -> int | None:
    """Iterations of a `while` instruction that starts from `start`, at most.

    Returns:
      The number; None where the program does not bound it.
    """
    known = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if known:
        return int(known.group(1))
    condition = module.computations[loop.called("condition") or ""]
    body = module.computations[loop.called("body") or ""]
    if start is None:
        return None
    for trips in range(LIMIT):
        if Values(module, condition, [start]).root() is False:
            return trips
        after = Values(module, body, [start]).root()
        if after == start:
            return None
        start = after
    return None


def _literal(one: Instruction) -> Value:
    text = one.operands[0].strip()
    if text in ("true", "false"):
        return text == "true"
    return int(text) if re.fullmatch(r"-?\d+", text) else None


def _applied(one: Instruction, given: list[Value]) -> Value:
    """One scalar operation; `and` and `or` may be known where an operand is not."""
    if one.opcode == "and" and False in given:
        return False
    if one.opcode == "or" and True in given:
        return True
    if any(value is None or isinstance(value, list) for value in given):
        return None
    if one.opcode == "compare":
        return _COMPARISONS[one.text("direction")](*given)
    value = _OPERATIONS[one.opcode](*given)
    if one.shapes[0].dtype[0] == "u" and isinstance(value, int):
        value %= 1 << int(one.shapes[0].dtype[1:])
    return value


_COMPARISONS = {
    "LT": operator.lt,
    "LE": operator.le,
    "GT": operator.gt,
    "GE": operator.ge,
    "EQ": operator.eq,
    "NE": operator.ne,
}
_OPERATIONS: dict[str, Callable[..., Value]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "maximum": max,
    "minimum": min,
    "and": lambda a, b: bool(a and b) if isinstance(a, bool) else a & b,
    "or": lambda a, b: bool(a or b) if isinstance(a, bool) else a | b,
    "not": lambda a: not a if isinstance(a, bool) else ~a,
    "select": lambda which, a, b: a if which else b,
    "compare": operator.eq,
    **dict.fromkeys(("convert", "copy", "bitcast", "reshape"), lambda a: a),
}
