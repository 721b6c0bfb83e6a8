"""What devices can do: peaks from their makers' pages, not what is reached.

An entry is one device as JAX counts them: a chip, or half of one (v2, v3, tpu7x). The
memory of a TPU is what its compiler lets a program use, a little less than what is
built in. `link` is what a device sends on a ring within its slice or node (two links of
a TPU, one each way), `network` its share of the host's interfaces to other slices.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

import numpy as np

GIB, GB, TERA = 1 << 30, 1e9, 1e12


class Device(NamedTuple):
    """Peaks of one device.

    Attributes:
      name: as in `--topology=NAME:SHAPE`.
      platform: `tpu`, `gpu` or `cpu`.
      memory: bytes that a program may use.
      flops: of bf16 products per second, two for each multiply-add.
      bandwidth: bytes of main memory per second.
      link: bytes sent per second within a slice or node.
      network: bytes sent per second to other slices or nodes.
      source: where the numbers come from.
    """

    name: str
    platform: str
    memory: int
    flops: float
    bandwidth: float
    link: float
    network: float
    source: str


def _tpu(
    name: str, gib: float, tera: float, bandwidth: float, link: float, network: float
) -> Device:
    page = f"docs.cloud.google.com/tpu/docs/{name}; memory by the compiler of libtpu"
    rates = (tera * TERA, bandwidth * GB, link * GB, network * GB)
    return Device(name, "tpu", int(gib * GIB), *rates, page)


def _gpu(
    name: str, gib: float, tera: float, bandwidth: float, link: float, network: float
) -> Device:
    page = f"data sheet of NVIDIA {name.upper()} SXM, dense bf16, one NIC per GPU"
    rates = (tera * TERA, bandwidth * GB, link * GB, network * GB)
    return Device(name, "gpu", int(gib * GIB), *rates, page)


DEVICES = {
    device.name: device
    for device in (
        _tpu("v2", 7.48, 23, 350, 124, 1.6),
        _tpu("v3", 15.48, 61.5, 450, 140, 1.6),
        _tpu("v4", 30.75, 275, 1228, 90, 6.25),
        _tpu("v5e", 15.75, 197, 819, 90, 3.125),
        _tpu("v5p", 95.74, 459, 2765, 180, 6.25),
        _tpu("v6e", 31.25, 918, 1640, 180, 12.5),
        _tpu("tpu7x", 94.75, 1153, 3690, 180, 6.25),
        _gpu("a100", 79.0, 312, 2039, 300, 25),
        _gpu("h100", 79.0, 989, 3350, 450, 50),
        _gpu("h200", 140.0, 989, 4800, 450, 50),
    )
}
ALIASES = {"v7x": "tpu7x", "v5lite": "v5e", "v5litepod": "v5e", "v6": "v6e"}
"""Other names that people write."""


def cpu(count: int) -> Device:
    """This machine cut into `count` devices, its rates measured for a moment."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    size = 1024
    square, long = np.ones((size, size), np.float32), np.ones(1 << 24, np.float32)
    product = min(_seconds(lambda: square @ square) for _ in range(3))
    copy = min(_seconds(long.copy) for _ in range(3))
    bandwidth = 2 * long.nbytes / copy / count
    return Device(
        name="cpu",
        platform="cpu",
        memory=pages // count,
        flops=2 * size**3 / product / count,
        bandwidth=bandwidth,
        link=bandwidth,
        network=bandwidth,
        source="measured on this machine, float32",
    )


def _seconds(function) -> float:  # noqa: ANN001
    began = time.perf_counter()
    function()
    return time.perf_counter() - began
