"""What of a method decides where it ends: the part that its KL plays."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from rlhf_jax.errors import UserError

Place = Literal["reward", "loss", "none"]
Estimator = Literal["k1", "k2", "k3", "k3_with_k2_gradient", "exact"]
Level = Literal["token", "sequence"]

PLACES = ("reward", "loss", "none")
ESTIMATORS = ("k1", "k2", "k3", "k3_with_k2_gradient", "exact")
LEVELS = ("token", "sequence")


NAMES = (
    "reward/k1",
    "loss/sequence/k2",
    "loss/token/k2",
    "loss/token/k3_with_k2_gradient",
    "loss/token/exact",
    "loss/token/k3",
    "loss/sequence/k3",
    "loss/token/k1",
    "none",
)
"""Relatives that end somewhere, those that end at the tilt first."""


class Relative(NamedTuple):
    """What of a method decides where it ends.

    Attributes:
      place: where the KL stands: `reward`, `loss` or `none`.
      estimator: `k1`, `k2`, `k3`; in the loss also `k3_with_k2_gradient` and `exact`,
        over the vocabulary. (k1 and k3 with an importance weight that has a gradient
        move as k2 does.)
      level: one estimate per `token`, or one per `sequence`.
      beta: weight of the KL.
      group: None: advantages are centered exactly. A number G: they are centered and
        divided by the standard deviation in groups of G; `math.inf`: the limit of
        large groups.
    """

    place: Place = "reward"
    estimator: Estimator = "k1"
    level: Level = "token"
    beta: float = 0.0
    group: float | None = None


def relative(name: str, beta: float, group: float | None = None) -> Relative:
    """A relative by name: `none`, `reward/k1`, `loss/token/k3`, `loss/sequence/k2` ...

    Args:
      name: place, level and estimator, in this order; a reward may leave its level out.
      beta: weight of the KL.
      group: as in `Relative`.

    Raises:
      UserError: there is no such relative.
    """
    place, *rest = name.split("/")
    if place == "none" and not rest:
        return check(Relative("none", beta=beta, group=group))
    if place == "reward" and len(rest) == 1:
        rest = ["token", *rest]
    if len(rest) != 2:
        raise UserError(
            f"'{name}' names no relative; write 'none', 'reward/k1' or"
            " 'loss/token/k3' (loss/LEVEL/ESTIMATOR)"
        )
    level, estimator = rest
    return check(Relative(place, estimator, level, beta, group))  # type: ignore


def check(found: Relative) -> Relative:
    """The relative, if it makes sense.

    Raises:
      UserError: an unknown part, or one that does not go with the others.
    """
    for what, value, known in (
        ("place", found.place, PLACES),
        ("estimator", found.estimator, ESTIMATORS),
        ("level", found.level, LEVELS),
    ):
        if value not in known:
            raise UserError(f"KL {what} '{value}' is not one of {', '.join(known)}")
    if found.place == "reward" and found.estimator in ("k3_with_k2_gradient", "exact"):
        raise UserError(
            f"'{found.estimator}' is about the gradient of a KL *loss*; in the reward"
            " use k1, k2 or k3"
        )
    if found.beta < 0 or (found.group is not None and found.group < 2):
        raise UserError(
            f"beta={found.beta} must not be negative, group={found.group} at least 2"
        )
    return found


def described(found: Relative) -> str:
    """The relative in words, for tables."""
    if found.place == "none" or found.beta == 0:
        text = "no KL"
    elif found.place == "reward":
        text = f"{found.estimator} in the reward, beta {found.beta:g}"
    else:
        text = f"{found.level}-level {found.estimator} loss, beta {found.beta:g}"
    if found.group is None:
        return text
    size = "large groups" if math.isinf(found.group) else f"groups of {found.group:g}"
    return f"{text}, divided by the deviation of {size}"
