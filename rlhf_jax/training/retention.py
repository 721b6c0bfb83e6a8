"""Which checkpoints are kept: rules as one pure function over what is on disk."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from rlhf_jax.errors import UserError

_TRAINED_ON = ("proxy", "objective")
"""Parts of metric names that always tell of what the policy is trained on."""


_BETTER_LOWER = ("loss", "perplexity", "kl", "truncated", "repetition")


class Retention(NamedTuple):
    """Rules that add up: a checkpoint stays if any rule keeps it.

    Attributes:
      last: keep this many of the latest (at least 1).
      every: keep steps divisible by this; 0 = none.
      best: keep the best by this held-out metric (`eval/...`); None = no such rule.
      mode: whether the metric is to be `max` or `min`; see `mode_of`.
    """

    last: int = 1
    every: int = 0
    best: str | None = None
    mode: Literal["max", "min"] = "max"


class Saved(NamedTuple):
    """What retention knows of a checkpoint.

    Attributes:
      step: its step.
      scheduled: False for one made on a signal, which makes way for the next.
      metrics: the held-out metrics of that very state; empty if not evaluated.
    """

    step: int
    scheduled: bool
    metrics: Mapping[str, float | None]


def validate(rules: Retention) -> None:
    """Refuse rules that keep nothing, or that choose by the training reward.

    A policy is optimised against the training reward model, so the checkpoint that
    this model likes best is the most over-optimised one (Gao et al. 2022).

    Raises:
      UserError: naming the rule.
    """
    if rules.last < 1:
        raise UserError(f"retention keeps last={rules.last} checkpoints; use 1 or more")
    if rules.mode not in ("max", "min"):
        raise UserError(f"retention mode is {rules.mode!r}; known: max, min")
    if rules.best is None:
        return
    parts = rules.best.split("/")
    named = any(name in part.split("_") for part in parts for name in _TRAINED_ON)
    if parts[0] != "eval" or named:
        raise UserError(
            f"checkpoints cannot be chosen by {rules.best!r}: choose by a held-out "
            "metric that is not trained on, such as eval/gold or eval/loss "
            "(the training reward model likes best what over-optimises it)"
        )


def mode_of(name: str) -> Literal["max", "min"]:
    """`min` for a held-out metric that is better where it is lower."""
    return "min" if name.split("/")[-1] in _BETTER_LOWER else "max"


def best_step(saved: Iterable[Saved], name: str, mode: str = "max") -> int | None:
    """Step with the best finite `name` (the earliest of equals), or None."""
    values = [
        (float(value), s.step)
        for s in saved
        if (value := s.metrics.get(name)) is not None and math.isfinite(value)
    ]
    if not values:
        return None
    sign = -1.0 if mode == "max" else 1.0
    return min(values, key=lambda item: (sign * item[0], item[1]))[1]


def kept(saved: Iterable[Saved], rules: Retention) -> set[int]:
    """Steps that stay.

    Checkpoints made on a signal count for nothing once a later one exists, so an
    interrupted run ends with the checkpoints of an undisturbed one.
    """
    ordered = sorted(saved, key=lambda s: s.step)
    if not ordered:
        return set()
    scheduled = [s for s in ordered if s.scheduled]
    keep = {s.step for s in scheduled[-rules.last :]} | {ordered[-1].step}
    if rules.every:
        keep |= {s.step for s in scheduled if s.step % rules.every == 0}
    if rules.best is not None:
        best = best_step(scheduled, rules.best, rules.mode)
        keep |= set() if best is None else {best}
    return keep
