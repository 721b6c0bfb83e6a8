"""Optimized HLO text as data: computations, instructions, shapes.

`compiled.as_text()` is the one form of a compiled program that every backend of XLA
gives. Only what costs need is read: names, opcodes, operands, shapes with their memory
space, called computations and a few attributes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

BITS = {
    **dict.fromkeys(("s4", "u4", "f4e2m1fn", "s2", "u2", "s1", "u1"), 4),
    **dict.fromkeys(("s16", "u16", "f16", "bf16"), 16),
    **dict.fromkeys(("s32", "u32", "f32"), 32),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 64),
    "c128": 128,
    "token": 0,
    "opaque": 0,
}
"""Bits of an element; 8 for every other type (pred, s8, f8...)."""


class Shape(NamedTuple):
    """One array of a (tuple) shape.

    Attributes:
      dtype: as XLA writes it, e.g. `bf16`.
      dims: sizes.
      space: memory space: 0 the device's main memory, 1 on-chip memory, 5 host.
    """

    dtype: str
    dims: tuple[int, ...]
    space: int

    @property
    def bytes(self) -> int:
        """Bytes, without the padding of tiles."""
        return math.prod(self.dims) * BITS.get(self.dtype, 8) // 8


class Instruction(NamedTuple):
    """One line of a computation.

    Attributes:
      name: without `%`.
      opcode: e.g. `fusion`.
      shapes: arrays of the result, flattened.
      operands: names; for `parameter` its number, for `constant` its literal.
      attributes: the rest of the line.
      root: whether it is the result of its computation.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    attributes: str
    root: bool

    def called(self, key: str) -> str | None:
        """Name of the computation under an attribute such as `body`, or None."""
        found = re.search(rf"\b{key}=%?([\w.\-]+)", self.attributes)
        return found.group(1) if found else None

    def numbers(self, key: str) -> tuple[int, ...]:
        """Whole numbers of an attribute such as `lhs_contracting_dims={1}`."""
        found = re.search(rf"\b{key}=\{{([\d,]*)\}}", self.attributes)
        return tuple(map(int, found.group(1).split(","))) if found and found[1] else ()

    def text(self, key: str) -> str:
        """An attribute's value up to the next blank or comma, '' where absent."""
        found = re.search(rf'\b{key}="?([^\s,"]+)', self.attributes)
        return found.group(1) if found else ""

    @property
    def branches(self) -> tuple[str, ...]:
        """Computations of a `conditional`."""
        found = re.search(r"branch_computations=\{([^}]*)\}", self.attributes)
        if found:
            return tuple(x.strip(" %") for x in found.group(1).split(","))
        names = (self.called("true_computation"), self.called("false_computation"))
        return tuple(name for name in names if name)

    @property
    def op_name(self) -> str:
        """Where in the traced program it comes from, '' where unknown."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found.group(1) if found else ""


class Computation(NamedTuple):
    """Instructions by name, in order; `root` is the result."""

    name: str
    instructions: dict[str, Instruction]

    @property
    def root(self) -> Instruction:
        """The result."""
        return next(x for x in self.instructions.values() if x.root)

    def parameters(self) -> dict[int, Instruction]:
        """Parameters by their number."""
        found = (x for x in self.instructions.values() if x.opcode == "parameter")
        return {int(x.operands[0]): x for x in found}

    def users(self, name: str) -> list[Instruction]:
        """Instructions that read `name`."""
        return [x for x in self.instructions.values() if name in x.operands]


class Module(NamedTuple):
    """A compiled program: its computations, and which one is run."""

    computations: dict[str, Computation]
    entry: str


def parse(text: str) -> Module:
    """Reads what `compiled.as_text()` gives."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in _joined(text):
        if current is None:
            header = _HEADER.match(line)
            if header:
                current = Computation(header.group(2), {})
                entry = header.group(2) if header.group(1) else entry
        elif line == "}":
            computations[current.name], current = current, None
        else:
            instruction = _instruction(line)
            current.instructions[instruction.name] = instruction
    return Module(computations, entry)


def _joined(text: str) -> Iterator[str]:
    """Lines; attributes that go on below their instruction are added to its line."""
    line = ""
    for more in text.splitlines():
        if line.startswith("  ") and more != "}" and not more.startswith("  "):
            line += more
            continue
        yield line
        line = more
    yield line


_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](\{[^}]*\})?")
_COMMENT = re.compile(r"/\*.*?\*/")


def _instruction(line: str) -> Instruction:
    head, rest = _COMMENT.sub("", line).strip().split(" = ", 1)
    end = _closing(rest, 0) + 1 if rest[0] == "(" else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    start = rest.index("(")
    end = _closing(rest, start)
    inner = rest[start + 1 : end]
    opcode = rest[:start]
    if opcode in ("constant", "parameter"):
        operands: tuple[str, ...] = (inner,)
    else:
        operands = tuple(x.split("%")[-1].strip() for x in _split(inner))
    name = head.removeprefix("ROOT ").strip(" %")
    return Instruction(
        name, opcode, shapes(shape), operands, rest[end + 1 :], head[:5] == "ROOT "
    )


def shapes(text: str) -> tuple[Shape, ...]:
    """All arrays of a shape as XLA writes it, e.g. `(f32[2,3]{1,0}, s32[])`."""

    def one(match: re.Match[str]) -> Shape:
        dims = tuple(int(x.lstrip("<=")) for x in match.group(2).split(",") if x)
        space = re.search(r"S\((\d+)\)", match.group(3) or "")
        return Shape(match.group(1), dims, int(space.group(1)) if space else 0)

    return tuple(one(match) for match in _ARRAY.finditer(text))


def _closing(text: str, start: int) -> int:
    """Index of the bracket that closes the one at `start`."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] in "({") - (text[index] in ")}")
        if depth == 0:
            return index
    raise ValueError(f"unbalanced brackets in HLO: {text[:80]}")


def _split(text: str) -> Iterator[str]:
    """Parts between the commas that stand outside of brackets."""
    depth, begin = 0, 0
    for index, letter in enumerate(text):
        depth += (letter in "({[") - (letter in ")}]")
        if letter == "," and depth == 0:
            yield text[begin:index]
            begin = index + 1
    if text[begin:].strip():
        yield text[begin:]
