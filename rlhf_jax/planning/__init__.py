"""What a compiled program will cost, on devices that need not be there.

`topology` gives devices, `compile_program` a program's memory and work per device,
`roofline` the least time that the work takes. Nothing here knows a network or a config.
"""

from rlhf_jax.planning.compiling import (
    Compiled,
    Memory,
    Time,
    compile_program,
    per_device,
    per_host,
    roofline,
)
from rlhf_jax.planning.costs import Cost, Report, Transfer, analyze
from rlhf_jax.planning.devices import DEVICES, Device
from rlhf_jax.planning.topology import Topology, quiet, topology

__all__ = [
    "DEVICES",
    "Compiled",
    "Cost",
    "Device",
    "Memory",
    "Report",
    "Time",
    "Topology",
    "Transfer",
    "analyze",
    "compile_program",
    "per_device",
    "per_host",
    "quiet",
    "roofline",
    "topology",
]
