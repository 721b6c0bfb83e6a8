"""How a config names several scorers as one: `mean:a,b`, `mean_minus_std(0.5):a,b`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from rlhf_jax import rollout
from rlhf_jax.build.configs.section import nearest
from rlhf_jax.errors import UserError
from rlhf_jax.types import Scorer

Made = Callable[[list[Scorer]], Scorer]

PLAIN: dict[str, Made] = {
    "sum": lambda found: rollout.sum_of(found, [1.0] * len(found)),
    "mean": lambda found: rollout.ensemble(found, rollout.mean),
    "minimum": lambda found: rollout.ensemble(found, rollout.minimum),
}
WITH_K = {
    "mean_minus_std": rollout.mean_minus_std,
    "mean_minus_variance": rollout.mean_minus_variance,
}
"""Those that take a number, `name(k):a,b`."""
_NAME = re.compile(r"([a-z_]+)(?:\(([^()]*)\))?:(.*)", re.DOTALL)


class Several(NamedTuple):
    """Several scorers as one.

    Attributes:
      name: of the aggregate.
      members: what the members are called.
      make: the scorer from those of the members.
    """

    name: str
    members: tuple[str, ...]
    make: Made


def parse(source: str) -> Several | None:
    """What a name of several scorers says; None for the name of a single one.

    Raises:
      UserError: a number is missing, not needed, or none.
    """
    found = _NAME.fullmatch(source)
    if not found or found[1] not in (*PLAIN, *WITH_K):
        if found and found[2] is not None:
            known = [*PLAIN, *(f"{name}(k)" for name in WITH_K)]
            raise UserError(f"'{source}' names no aggregate{nearest(found[1], known)}")
        return None
    name, number, members = found.groups()
    names = tuple(members.split(","))
    if name in PLAIN:
        if number is not None:
            raise UserError(f"'{source}': '{name}' takes no number")
        return Several(name, names, PLAIN[name])
    k = _number(source, name, number)
    return Several(name, names, lambda s: rollout.ensemble(s, WITH_K[name](k)))


def disagreement(members: list[Scorer]) -> Scorer:
    """How far the members are apart: their standard deviation at each response."""
    return rollout.ensemble(members, lambda scores: jnp.std(scores, axis=0))


def _number(source: str, name: str, text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UserError(f"'{source}': write {name}(k):a,b with a number k from 0")
    return value
