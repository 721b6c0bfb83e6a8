"""Bytes of main memory that an instruction of a compiled program moves."""

from __future__ import annotations

from rlhf_jax.planning.hlo import Computation, Instruction, Module


def traffic(one: Instruction, where: Computation, module: Module) -> float:
    """Bytes of main memory that an instruction reads and writes."""
    fused = module.computations.get(one.called("calls") or "")
    if fused is not None:
        return _written(one, fused) + sum(
            _read(module, where, name, fused, number)
            for number, name in enumerate(one.operands)
        )
    written = _size(one)
    if one.opcode in _SLICING:
        return 2.0 * written
    if one.opcode == "dynamic-update-slice":
        return 2.0 * _size(where.instructions[one.operands[1]])
    if one.opcode.endswith("-start"):
        # The result repeats the operands: destination, source, context.
        return 2.0 * sum(_size(where.instructions[name]) for name in one.operands)
    return written + sum(_size(where.instructions[name]) for name in one.operands)


def _size(one: Instruction) -> float:
    return float(sum(shape.bytes for shape in one.shapes if shape.space == 0))


_SLICING = ("dynamic-slice", "slice", "gather")


def _read(
    module: Module, where: Computation, name: str, fused: Computation, number: int
) -> float:
    """What a fusion reads of an operand: the slices alone, where it only slices it."""
    whole = _size(where.instructions[name])
    parameter = fused.parameters().get(number)
    if parameter is None or not whole:
        return whole
    return min(whole, _used(module, fused, parameter.name, whole))


def _used(module: Module, where: Computation, name: str, whole: float) -> float:
    """Bytes that the users of a value read of it, in fusions within fusions as well.

    A TPU decodes with the slices of stacked layers inside of the fusions that multiply
    with them: the stack is their operand, a layer is what they read.
    """
    if where.root.name == name:
        return whole
    total = 0.0
    for user in where.users(name):
        inner = module.computations.get(user.called("calls") or "")
        first = user.operands[0] == name
        if user.opcode in _SLICING and first:
            total += sum(float(shape.bytes) for shape in user.shapes)
        elif user.opcode == "bitcast":
            total += _used(module, where, user.name, whole)
        elif inner is not None:
            places = [n for n, other in enumerate(user.operands) if other == name]
            parameters = inner.parameters()
            total += sum(
                _used(module, inner, parameters[n].name, whole) for n in places
            )
        elif user.opcode != "dynamic-update-slice" or not first:
            return whole
    return total


def _written(one: Instruction, fused: Computation) -> float:
    """What a fusion writes: the update alone, where it updates in place."""
    root = fused.root
    while root.opcode in ("bitcast", "copy") and root.operands[0] in fused.instructions:
        root = fused.instructions[root.operands[0]]
    if root.opcode != "dynamic-update-slice":
        return _size(one)
    update = fused.instructions[root.operands[1]]
    return min(_size(one), float(sum(shape.bytes for shape in update.shapes)))
