"""What a person sees while a stage runs: a bar on a terminal, else a line at times."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging
from tqdm import tqdm

_SHOWN = (
    "objective/scores",
    "objective/kl",
    "loss",
    "loss/total",
    "rm/accuracy",
    "eval/gold",
)


class Progress:
    """Steps done, tokens per second and time left.

    Args:
      stage: name in front.
      first: step at which this process begins.
      steps: step at which the stage ends.
      enabled: False = say nothing.
      period: seconds between two lines where stderr is no terminal.
    """

    def __init__(
        self, stage: str, first: int, steps: int, enabled: bool, period: float = 10.0
    ) -> None:
        self._stage, self._first, self._steps = stage, first, steps
        self._period, self._enabled = period, enabled
        self._began = self._said = time.monotonic()
        self._tokens = 0.0
        self._bar: Any = None
        if enabled and sys.stderr.isatty():
            self._bar = tqdm(
                total=steps,
                initial=first,
                desc=stage,
                unit="step",
                file=sys.stderr,
                dynamic_ncols=True,
            )

    def step(self, step: int, tokens: float, row: Mapping[str, Any]) -> None:
        """Tell that update `step` is done and how many tokens it took."""
        self._tokens += tokens
        now = time.monotonic()
        rate = self._tokens / max(now - self._began, 1e-9)
        shown = {k: f"{row[k]:.3g}" for k in _SHOWN if row.get(k) is not None}
        if self._bar is not None:
            self._bar.set_postfix({"tok/s": f"{rate:,.0f}", **shown}, refresh=False)
            self._bar.update(1)
        elif self._enabled and now - self._said >= self._period:
            self._said = now
            self._line(step + 1, now, rate, shown)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()

    def _line(self, done: int, now: float, rate: float, shown: dict[str, str]) -> None:
        per_step = (now - self._began) / max(done - self._first, 1)
        left = per_step * (self._steps - done)
        extra = " ".join(f"{name}={value}" for name, value in shown.items())
        logging.info(
            "%s: step %d of %d, %.0f tokens/s, %.0f s left %s",
            self._stage,
            done,
            self._steps,
            rate,
            left,
            extra,
        )


def count_tokens(batch: Any, metrics: Mapping[str, Any], share: float = 1.0) -> float:
    """Tokens of one update: real ones of a host batch, and those sampled from it.

    Args:
      batch: nested NamedTuples; every boolean numpy array named `mask` counts.
      metrics: finished on the host; the total of `rollout/length` counts.
      share: of all rows that `batch` has.
    """
    sampled = getattr(metrics.get("rollout/length"), "total", 0.0)
    return _masks(batch) / share + float(sampled)


def _masks(tree: Any) -> float:
    if not hasattr(tree, "_fields"):
        return 0.0
    total = 0.0
    for name in tree._fields:
        value = getattr(tree, name)
        if name == "mask" and isinstance(value, np.ndarray):
            total += float(value.sum())
        else:
            total += _masks(value)
    return total
