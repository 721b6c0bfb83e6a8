"""One program, compiled for devices that need not be there: its memory and work."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from rlhf_jax import sharding
from rlhf_jax.planning import costs
from rlhf_jax.planning.costs import Cost
from rlhf_jax.planning.devices import Device


class Memory(NamedTuple):
    """Bytes of one device.

    Attributes:
      arguments: what the program is given.
      outputs: what it returns in buffers of its own, not in those of its arguments.
      temporaries: what it needs on top while it runs.
      code: the program itself.
      host: what of all these is in the memory of the host, and not counted above.
    """

    arguments: int
    outputs: int
    temporaries: int
    code: int
    host: int

    @property
    def peak(self) -> int:
        """All of them together that are on the device."""
        return sum(self) - self.host


class Compiled(NamedTuple):
    """What is known of a program.

    Attributes:
      memory: of a device. Where the compiler refused for want of memory, the arguments
        and what it said that it would need, with `refused`.
      report: its work per device, by phase.
      seconds: the compilation took.
      text: optimized HLO, '' where refused.
      refused: the compiler's line where it does not fit, or ''.
    """

    memory: Memory
    report: costs.Report
    seconds: float
    text: str
    refused: str


def compile_program(
    function: Any,
    arguments: tuple[Any, ...],
    *,
    phases: Sequence[str] = (),
    slices: Sequence[int] = (),
) -> Compiled:
    """Compiles a jitted function for the devices that its arguments lie on.

    Args:
      function: result of `jax.jit`.
      arguments: trees of `jax.ShapeDtypeStruct` with shardings.
      phases: see `costs.analyze`.
      slices: see `costs.analyze`.

    Raises:
      JaxRuntimeError: the compiler fails for another reason than memory.
    """
    began = time.perf_counter()
    lowered = function.lower(*arguments)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        used = _wanted(str(error))
        if used is None:
            raise
        given = per_device(arguments)
        memory = Memory(given, 0, max(0, used - given), 0, per_host(arguments))
        line = " ".join(str(error).split())[:300]
        seconds = time.perf_counter() - began
        return Compiled(memory, costs.Report({}, [], []), seconds, "", line)
    seconds = time.perf_counter() - began
    text = compiled.as_text() or ""
    found = compiled.memory_analysis()
    memory = Memory(
        arguments=found.argument_size_in_bytes,
        outputs=found.output_size_in_bytes - found.alias_size_in_bytes,
        temporaries=found.temp_size_in_bytes,
        code=found.generated_code_size_in_bytes,
        host=found.host_argument_size_in_bytes
        + found.host_output_size_in_bytes
        - found.host_alias_size_in_bytes
        + found.host_temp_size_in_bytes,
    )
    report = costs.analyze(text, phases, slices)
    return Compiled(memory, report, seconds, text, "")


_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def _wanted(message: str) -> int | None:
    """Bytes that a program would need, by the message that refuses it; else None."""
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    found = re.search(r"(?:Used|required for HLO \w+ \(?)\s*([\d.]+)([KMGT]?)", message)
    return int(float(found.group(1)) * _UNITS[found.group(2)]) if found else None


def per_device(tree: Any) -> int:
    """Bytes that the arrays of an abstract tree take on each device."""
    return sum(_share(x) for x in jax.tree.leaves(tree) if not _waits(x))


def per_host(tree: Any) -> int:
    """Bytes that they take in the memory of the host, for each of its devices."""
    return sum(_share(x) for x in jax.tree.leaves(tree) if _waits(x))


def _share(leaf: Any) -> int:
    if not hasattr(leaf, "dtype"):
        return 0
    shape = tuple(leaf.shape)
    if getattr(leaf, "sharding", None) is not None:
        shape = leaf.sharding.shard_shape(shape)
    return math.prod(shape) * leaf.dtype.itemsize


def _waits(leaf: Any) -> bool:
    """Whether an array is in the memory of the host."""
    where = getattr(leaf, "sharding", None)
    return where is not None and where.memory_kind == sharding.HOST


class Time(NamedTuple):
    """Least seconds of some work on a device, by each of its resources."""

    compute: float
    memory: float
    links: float
    network: float

    @property
    def seconds(self) -> float:
        """The slowest of the four, as if the others went on beside it."""
        return max(self)

    @property
    def limit(self) -> str:
        """Which of the four it is."""
        return max(zip(self, self._fields, strict=True))[1]


def roofline(cost: Cost, device: Device) -> Time:
    """Least seconds by compute, memory, links within and network between slices."""
    transfers = cost.collectives.values()
    return Time(
        compute=cost.flops / device.flops,
        memory=cost.bytes / device.bandwidth,
        links=sum(x.ici for x in transfers) / device.link,
        network=sum(x.dcn for x in transfers) / device.network,
    )
