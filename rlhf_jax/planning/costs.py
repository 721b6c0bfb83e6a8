"""Work of a compiled program per device: operations, memory traffic, collectives.

XLA's own analysis counts the body of a loop once. Here the program is walked from its
entry: a loop counts with its trips (`trips.count`), a branch with its dearest side, a
custom kernel with the estimate that it carries. Operations are those of matrix
products, two for each multiply-add, so that they compare with `2 N` per token forward
and `6 N` for a training step; elementwise work is in the traffic.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rlhf_jax.planning import collectives, products, traffic, trips
from rlhf_jax.planning.hlo import Computation, Instruction, Module, parse
from rlhf_jax.planning.trips import Value, Values


class Transfer(NamedTuple):
    """Collectives of one kind.

    Attributes:
      count: how often one runs.
      bytes: of what is gathered, reduced or moved, per device.
      ici: bytes that each device sends over the links of its slice.
      dcn: bytes that each device sends over the network between slices.
    """

    count: float = 0.0
    bytes: float = 0.0
    ici: float = 0.0
    dcn: float = 0.0

    def plus(self, other: Transfer, times: float = 1.0) -> Transfer:
        """The sum with `times` the other."""
        return Transfer(*(a + times * b for a, b in zip(self, other, strict=True)))


@dataclasses.dataclass
class Cost:
    """Work of one device.

    Attributes:
      flops: of matrix products and kernels.
      bytes: read from and written to its main memory.
      collectives: by kind.
    """

    flops: float = 0.0
    bytes: float = 0.0
    collectives: dict[str, Transfer] = dataclasses.field(default_factory=dict)

    def add(self, other: Cost, times: float = 1.0) -> None:
        """Adds `times` the other."""
        self.flops += times * other.flops
        self.bytes += times * other.bytes
        for kind, transfer in other.collectives.items():
            old = self.collectives.get(kind, Transfer())
            self.collectives[kind] = old.plus(transfer, times)


@dataclasses.dataclass
class Report:
    """What one program does.

    Attributes:
      phases: work by phase, in the order of appearance; "" for work outside of all.
      unbounded: loops whose number of trips is unknown; they count once.
      opaque: targets of custom calls that carry no estimate.
    """

    phases: dict[str, Cost]
    unbounded: list[str]
    opaque: list[str]

    @property
    def total(self) -> Cost:
        """All phases together."""
        whole = Cost()
        for cost in self.phases.values():
            whole.add(cost)
        return whole


def analyze(
    text: str, phases: Sequence[str] = (), slices: Sequence[int] = ()
) -> Report:
    """The work of a program.

    Args:
      text: `compiled.as_text()`.
      phases: names of `jax.named_scope`s to tell apart.
      slices: slice of each device in the order of the mesh; empty where there is one.
    """
    module = parse(text)
    walk = _Walk(module, tuple(phases), tuple(slices))
    entry = module.computations[module.entry]
    found = walk.computation(entry, [None] * len(entry.parameters()), "")
    return Report(found, sorted(walk.unbounded), sorted(walk.opaque))


Phases = dict[str, Cost]


class _Walk:
    """Sums the work of computations, each under the values that it is called with."""

    def __init__(self, module: Module, phases: tuple[str, ...], slices: Sequence[int]):
        self._module = module
        self._phases = phases
        self._slices = slices
        self.unbounded: set[str] = set()
        self.opaque: set[str] = set()

    def computation(
        self, where: Computation, arguments: Sequence[Value], phase: str
    ) -> Phases:
        """Work of a computation that is run, not fused."""
        values = Values(self._module, where, arguments)
        total: Phases = {}
        for one in where.instructions.values():
            self._instruction(one, where, values, self._phase(one, phase), total)
        return total

    def _phase(self, one: Instruction, outer: str) -> str:
        scopes = one.op_name.split("/")
        return next((name for name in self._phases if name in scopes), outer)

    def _instruction(
        self,
        one: Instruction,
        where: Computation,
        values: Values,
        phase: str,
        total: Phases,
    ) -> None:
        if one.opcode == "while":
            self._loop(one, values, phase, total)
        elif one.opcode == "conditional":
            self._branches(one, values, phase, total)
        elif one.opcode == "call":
            called = self._module.computations[one.called("to_apply") or ""]
            given = [values[name] for name in one.operands]
            _merge(total, self.computation(called, given, phase))
        elif one.opcode not in _FREE:
            own = total.setdefault(phase, Cost())
            own.bytes += traffic.traffic(one, where, self._module)
            own.add(self._inner(one, where))

    def _loop(
        self, one: Instruction, values: Values, phase: str, total: Phases
    ) -> None:
        start = values[one.operands[0]]
        times = trips.count(self._module, one, start)
        if times is None:
            self.unbounded.add(one.op_name or one.name)
        for name, runs in (("body", 1), ("condition", 1)):
            called = self._module.computations[one.called(name) or ""]
            inner = self.computation(called, [start], phase)
            _merge(total, inner, runs if times is None else times)

    def _branches(
        self, one: Instruction, values: Values, phase: str, total: Phases
    ) -> None:
        found = []
        for name, operand in zip(one.branches, one.operands[1:], strict=False):
            called = self._module.computations[name]
            found.append(self.computation(called, [values[operand]], phase))
        dearest = max(found, key=lambda side: sum(c.bytes for c in side.values()))
        _merge(total, dearest)

    def _inner(self, one: Instruction, where: Computation) -> Cost:
        """Products, kernels and collectives of an instruction and what it fuses."""
        cost = Cost(flops=products.flops(one, where))
        if one.opcode == "custom-call":
            estimate = _estimate(one, where)
            if estimate is None:
                self.opaque.add(one.text("custom_call_target"))
            else:
                cost.flops += estimate
        found = collectives.transfer(one, where, self._slices)
        if found is not None:
            kind, size, ici, dcn = found
            cost.collectives[kind] = Transfer(1.0, size, ici, dcn)
        for key in ("calls", "called_computations"):
            inner = self._module.computations.get(one.called(key) or "")
            if inner is not None:
                for part in inner.instructions.values():
                    cost.add(self._inner(part, inner))
        return cost


def _merge(total: Phases, more: Mapping[str, Cost], times: float = 1.0) -> None:
    for phase, cost in more.items():
        total.setdefault(phase, Cost()).add(cost, times)


_FREE = frozenset(
    "parameter constant tuple get-tuple-element bitcast after-all iota partition-id"
    " replica-id opt-barrier copy-done all-gather-done all-reduce-done async-done"
    " async-update collective-permute-done send-done recv-done domain".split()
)
"""Opcodes that move nothing, or whose work is counted where they start."""


def _estimate(one: Instruction, where: Computation) -> float | None:
    """Operations of a kernel by formula, or by what it says itself; 0 for XLA's own
    bookkeeping calls, None where nothing is known."""
    if one.text("custom_call_target") in _BOOKKEEPING:
        return 0.0
    for name, products_of in _ATTENTION.items():
        if name in one.op_name:
            shapes = (where.instructions[x].shapes[0] for x in one.operands)
            queries, keys = [x.dims for x in shapes if "f" in x.dtype][:2]
            return 2.0 * products_of * math.prod(queries) * keys[-2]
    found = re.search(r'"?cost_estimate"?:(\{[^}]*\})', one.attributes)
    if found is None:
        return None
    return float(json.loads(found.group(1)).get("flops", 0))


_ATTENTION = {"splash_mha_fwd": 2, "splash_mha_dkv": 4, "splash_mha_dq": 3}
"""Products of length x length x head that a kernel of splash attention computes; all
of them, as the plain path does, though blocks after the query are skipped."""
_BOOKKEEPING = frozenset(
    "Sharding SPMDFullToShardShape SPMDShardToFullShape AllocateBuffer"
    " AsyncCollectiveStart AsyncCollectiveDone"
    " AssumeGatherIndicesInBound TopK MoveToHost MoveToDevice ConcatBitcast"
    " GatherScatterIndicesBitpacked".split()
)
