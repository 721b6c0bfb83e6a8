"""Devices to compile for that need not be there.

`v5p:4x4x4` is asked of libtpu, whose compiler runs on any Linux machine. GPUs have no
such compiler: their programs are compiled for as many devices of the CPU, so that
operations and collectives are right and memory is an estimate.
"""

from __future__ import annotations

import glob
import importlib.metadata
import importlib.util
import math
import os
import re
import sys
from typing import Any, NamedTuple

import jax

from rlhf_jax.errors import UserError
from rlhf_jax.planning import devices as table
from rlhf_jax.planning.devices import Device


class Topology(NamedTuple):
    """What is planned for.

    Attributes:
      name: as given, e.g. `v5p:4x4x4`.
      device: peaks of one of its devices.
      devices: of JAX, compile-only ones where there are none.
      slices: how many slices the devices form.
      exact: whether the compiler is that of the device; else memory is an estimate.
    """

    name: str
    device: Device
    devices: list[Any]
    slices: int
    exact: bool


def topology(name: str, slices: int = 1) -> Topology:
    """The devices of `KIND:SHAPE`, e.g. `v5e:16x16`, `cpu:8`, `h100:8`.

    Call it before jax has looked for devices where the CPU is to show several.

    Args:
      name: kind and shape of one slice (TPUs), or kind and number of devices.
      slices: slices that are joined by the data-center network.

    Raises:
      UserError: an unknown kind, a shape that the kind does not come in, no libtpu.
    """
    kind, _, shape = name.partition(":")
    kind = table.ALIASES.get(kind, kind)
    if not re.fullmatch(r"\d+(x\d+){0,2}", shape):
        raise UserError(
            f"--topology={name}: write a kind and a shape, such as v5e:4x4, v5p:2x2x2,"
            " h100:8 or cpu:8"
        )
    if slices < 1:
        raise UserError(f"--slices={slices}: there is at least one slice")
    sides = tuple(map(int, shape.split("x")))
    count = math.prod(sides)
    if kind == "cpu":
        found = _of_cpu(count * slices)
        return Topology(name, table.cpu(count * slices), found, slices, True)
    if kind not in table.DEVICES:
        known = ", ".join(("cpu", *table.DEVICES))
        raise UserError(f"--topology={name}: kind '{kind}' is not one of {known}")
    device = table.DEVICES[kind]
    if device.platform == "gpu":
        return Topology(name, device, _of_cpu(count * slices), slices, False)
    return Topology(name, device, _of_tpu(kind, sides, slices), slices, True)


def _of_cpu(count: int) -> list[Any]:
    if count < 1:
        raise UserError("a topology has at least one device")
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:  # jax has its devices already, enough of them perhaps
        pass
    found = jax.devices("cpu")
    if len(found) < count:
        raise UserError(
            f"{count} devices are planned for and jax shows {len(found)} of the CPU;"
            f" set XLA_FLAGS=--xla_force_host_platform_device_count={count}"
        )
    return found[:count]


def _of_tpu(kind: str, sides: tuple[int, ...], slices: int) -> list[Any]:
    _require_libtpu()
    quiet()
    from jax.experimental import topologies

    options: dict[str, Any] = {}
    if kind == "v4":  # both cores of a chip as one device, as JAX shows them
        options["chip_config_name"] = "megacore"
    if slices > 1:
        options["num_slices"] = slices
    bounds = tuple(min(side, 2) for side in (*sides, 1, 1)[:2]) + (1,)
    if bounds != (2, 2, 1):
        options["chips_per_host_bounds"] = bounds
    text = "x".join(map(str, sides))
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{kind}:{text}", **options
        )
    except Exception as error:
        line = str(error).strip().splitlines()[0]
        raise UserError(f"--topology={kind}:{text} is no slice: {line}") from error
    return list(found.devices)


def _require_libtpu() -> None:
    """Raises where the TPU compiler is missing, saying which version to install."""
    if importlib.util.find_spec("libtpu") is not None:
        return
    wanted = next(
        (
            requirement.split(";")[0].strip()
            for requirement in importlib.metadata.requires("jax") or ()
            if requirement.startswith("libtpu")
        ),
        "libtpu",
    )
    raise UserError(
        "planning for TPUs needs their compiler, which is not installed; run"
        f" `{sys.executable} -m pip install '{wanted}'` (Linux, 140 MB, no TPU needed)"
    )


def quiet() -> None:
    """Keeps an installed libtpu from looking for a TPU where there is none, and from
    saying so; to be called before jax looks for devices."""
    if glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"):
        return
    for key, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_MIN_LOG_LEVEL": "3",
    }.items():
        os.environ.setdefault(key, value)
