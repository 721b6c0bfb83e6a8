"""Collectives of HLO: how large, among whom, and what each device sends."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from rlhf_jax.planning.hlo import Computation, Instruction

SENT = {
    "all-gather": lambda size, group: size * (group - 1) / group,
    "reduce-scatter": lambda size, group: size * (group - 1) / group,
    "all-reduce": lambda size, group: 2 * size * (group - 1) / group,
    "all-to-all": lambda size, group: size * (group - 1) / group,
    "ragged-all-to-all": lambda size, group: size * (group - 1) / group,
    "collective-permute": lambda size, group: float(size),
    "collective-broadcast": lambda size, group: float(size),
}
"""Bytes that a device sends, on a ring, for the larger of operand and result."""


def transfer(
    one: Instruction, where: Computation, slices: Sequence[int]
) -> tuple[str, float, float, float] | None:
    """Kind, bytes, and bytes sent within a slice and between slices, or None.

    Args:
      one: any instruction.
      where: its computation.
      slices: slice of each device in the order of the mesh; empty where there is one.
    """
    kind = one.opcode.removesuffix("-start")
    if kind == "send":
        return _through_hosts(one, where)
    if kind not in SENT:
        return None
    size = float(max(_given(one, where), _result(one)))
    members = groups(one)
    group = max((len(part) for part in members), default=1)
    sent = SENT[kind](size, max(group, 1)) if group > 1 else 0.0
    between = slices and any(len({slices[x] for x in part}) > 1 for part in members)
    return kind, size, 0.0 if between else sent, sent if between else 0.0


def _through_hosts(
    one: Instruction, where: Computation
) -> tuple[str, float, float, float] | None:
    """A collective between slices, or the part of one that is: for TPUs it is lowered
    to a send to the host, whose runtime exchanges it with the hosts of other slices."""
    named = re.search(r'_xla_megascale_transfer_type="(\w+)"', one.attributes)
    among = re.search(r'_xla_megascale_target="\{([\d,:]+)\}', one.attributes)
    if named is None or among is None:
        return None
    kind, size = named.group(1).lower().replace("_", "-"), float(_given(one, where))
    sent = SENT.get(kind, SENT["collective-permute"])
    return kind, size, 0.0, sent(size, _count(among.group(1)))


def _count(numbers: str) -> int:
    """How many `1,2` or `0:3` (from 0 to 3) are."""
    ends = [list(map(int, part.split(":"))) for part in numbers.split(",")]
    return sum(1 + pair[-1] - pair[0] for pair in ends)


def _given(one: Instruction, where: Computation) -> int:
    return sum(
        shape.bytes
        for name in one.operands
        for shape in where.instructions[name].shapes
        if shape.dims
    )


def _result(one: Instruction) -> int:
    sizes = [shape.bytes for shape in one.shapes]
    if one.opcode == "all-gather-start":
        # (operands, results)
        return sum(sizes[len(sizes) // 2 :])
    return 0 if one.opcode.endswith("-start") else sum(sizes)


def groups(one: Instruction) -> list[list[int]]:
    """Devices that exchange with each other, by their place in the mesh.

    XLA writes them as lists, as the rows of a reshaped and transposed range, or as axes
    of a named mesh.
    """
    listed = re.search(
        r"(?:source_target_pairs|replica_groups)=\{(\{.*?\})\}", one.attributes
    )
    if listed:
        parts = re.findall(r"\{([\d,]+)\}", listed.group(1))
        return [[int(x) for x in part.split(",")] for part in parts]
    iota = re.search(
        r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", one.attributes
    )
    if iota:
        shape, dims, order = (_numbers(iota.group(i)) for i in (1, 2, 3))
        ids = np.arange(math.prod(dims)).reshape(dims).transpose(order or None)
        return ids.reshape(shape).tolist()
    mesh = re.search(r"replica_groups=mesh\[(.*?)\]\s*\{(.*?)\}", one.attributes)
    return _of_mesh(mesh.group(1), mesh.group(2)) if mesh else []


def _of_mesh(axes: str, along: str) -> list[list[int]]:
    """Groups along axes of `'a'=4,'b'=2`; `'a':(2)2` is a part of an axis: 2 of it,
    after the first 2."""
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", axes)}
    dims, chosen = [], []
    for name, size in sizes.items():
        part = re.search(rf"'{name}'(?::\((\d+)\)(\d+))?", along)
        before, inside = 1, 1
        if part:
            before, inside = int(part.group(1) or 1), int(part.group(2) or size)
            chosen.append(len(dims) + 1)
        dims += [before, inside, size // (before * inside)]
    ids = np.arange(math.prod(dims)).reshape(dims)
    rows = np.moveaxis(ids, chosen, range(-len(chosen), 0))
    return rows.reshape(-1, math.prod(dims[axis] for axis in chosen)).tolist()


def _numbers(text: str | None) -> tuple[int, ...]:
    return tuple(map(int, text.split(","))) if text else ()
