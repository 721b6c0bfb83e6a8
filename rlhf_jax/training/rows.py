"""Rows of metrics on the host: finishing, naming, refusing what is not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import hosts
from rlhf_jax import metrics as metrics_lib
from rlhf_jax.optimizers import optimizer_metrics
from rlhf_jax.training.progress import count_tokens
from rlhf_jax.types import TrainState


class NonFinite(Exception):
    """A loss or a gradient norm is infinite or not a number.

    Attributes:
      step: the update that computed it.
      name: the metric.
      value: what it was, as text.
    """

    def __init__(self, step: int, name: str, value: str) -> None:
        super().__init__(f"step {step}: {name} is {value}")
        self.step, self.name, self.value = step, name, value


class Pending(NamedTuple):
    """An update that has been dispatched and not yet been written.

    Attributes:
      step: its number; the state before it had this step.
      metrics: of the learner, possibly still being computed.
      held_out: of the state before the update, finished.
      batch: the host batch, to count its tokens.
      share: of the batch's rows that this process has read.
    """

    step: int
    metrics: Mapping[str, Any]
    held_out: Mapping[str, float]
    batch: Any
    share: float = 1.0

    def ready(self) -> bool:
        """Whether the update itself is done (`optim/*` are copies made after it)."""
        found = {k: v for k, v in self.metrics.items() if not k.startswith("optim/")}
        return all(
            leaf.is_ready()  # type: ignore  # jax does not declare it
            for leaf in jax.tree.leaves(found)
            if isinstance(leaf, jax.Array)
        )

    def wait(self) -> None:
        """Return when the update is done."""
        jax.block_until_ready(dict(self.metrics))

    def fetch(self) -> Pending:
        """Wait for the update and bring its metrics to the host."""
        return self._replace(metrics=hosts.fetch(dict(self.metrics)))

    def row(self) -> dict[str, float]:
        """All numbers of the step."""
        return {**finish(self.metrics), **self.held_out}

    def tokens(self) -> float:
        """Tokens read and sampled by the update."""
        return count_tokens(self.batch, self.metrics, self.share)

    def require_finite(self) -> None:
        """Raise `NonFinite` for the first loss term, else the gradient norm.

        A mean over nothing (a term that had no tokens) is no failure.
        """
        order = sorted(self.metrics, key=lambda n: (n.startswith("optim/"), n))
        for name in filter(_watched, order):
            value = self.metrics[name]
            total = getattr(value, "total", getattr(value, "value", value))
            if not np.all(np.isfinite(total)):
                raise NonFinite(self.step, name, str(float(np.asarray(total))))


def with_optimizer(metrics: Mapping[str, Any], state: TrainState) -> dict[str, Any]:
    """Add `optim/*` from the optimizer states where the learner reports none.

    One group gives `optim/lr`, several give `optim/<group>/lr`. The numbers are copied,
    since the next update may take the state's buffers.
    """
    if any(name.startswith("optim/") for name in metrics):
        return dict(metrics)
    added = {}
    for group, opt_state in state.opt_state.items():
        prefix = "optim/" if len(state.opt_state) == 1 else f"optim/{group}/"
        for name, value in optimizer_metrics(opt_state).items():
            added[prefix + name.removeprefix("optim/")] = jax.tree.map(jnp.copy, value)
    return {**metrics, **added}


def finish(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Host numbers from mergeable metrics, arrays or plain numbers."""
    mergeable = {k: v for k, v in metrics.items() if hasattr(v, "finish")}
    plain = {k: float(v) for k, v in metrics.items() if not hasattr(v, "finish")}
    return {**plain, **metrics_lib.finish(mergeable)}


def prefixed(row: Mapping[str, float], prefix: str) -> dict[str, float]:
    """Put `prefix` before the names that lack it; `time/*` stays."""
    known = (prefix, "time/")
    return {k if k.startswith(known) else prefix + k: v for k, v in row.items()}


def to_json(row: Mapping[str, float]) -> dict[str, float | None]:
    """Numbers for JSON, None where not finite."""
    return {k: v if math.isfinite(v) else None for k, v in row.items()}


def from_json(row: Mapping[str, float | None]) -> dict[str, float]:
    """The inverse of `to_json`, infinities aside."""
    return {k: math.nan if v is None else v for k, v in row.items()}


def _watched(name: str) -> bool:
    is_loss = name.split("/")[0] == "loss" or name.split("/")[-1] == "loss"
    return is_loss or name.split("/")[-1] == "grad_norm"
