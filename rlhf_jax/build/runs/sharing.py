"""Which rows of the training batches a process reads, and how they become global."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from rlhf_jax import hosts
from rlhf_jax.placement import Placement
from rlhf_jax.training import loop


def shares(
    batches: Any, placement: Placement
) -> tuple[loop.Batches, Callable[[Any], Any]]:
    """Batches as this process reads them, and what brings them to the devices.

    Args:
      batches: `training.Batches` that know `rows` and `shared`, as those of
        `data.Stream`. Of several processes each reads its rows alone.
      placement: of the run.
    """
    if hosts.count() == 1:
        return batches, placement.batch
    gather = functools.partial(placement.gathered, rows=batches.rows)
    return batches.shared(placement.here), gather
