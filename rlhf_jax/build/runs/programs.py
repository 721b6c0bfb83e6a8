"""Compiled programs that several runs of one process share.

A study runs the same stages under many seeds. What differs between two seeds are
arrays (weights, keys, data), which are arguments of every compiled step; so a program
that one run has compiled serves the next, if all that it was built from is the same.
That is the key here: the values that a program closes over, never a seed.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from rlhf_jax.build.objective import arguments
from rlhf_jax.build.objective.arguments import NUMBER
from rlhf_jax.losses.preference import METHODS

T = TypeVar("T")


class Programs:
    """What has been built so far, by what it was built from."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}
        self._lock = threading.RLock()

    def reuse(self, made_of: Any, make: Callable[[], T]) -> T:
        """What was made of the same values before, or what `make` makes now.

        Args:
          made_of: plain values that determine the program.
          make: builds it.
        """
        key = json.dumps(made_of, sort_keys=True, default=repr)
        with self._lock:
            if key not in self._made:
                self._made[key] = make()
            return self._made[key]


def of_optimizers(section: Mapping[str, Any]) -> dict[str, Any]:
    """What the programs of a section with optimizers are made of.

    Learning rates are state, hence arguments; so are the decay and the bound of the
    gradient, where there are any, and the numbers of Adam.
    """
    plain = dict(section)
    for name in ("optimizer", "value_optimizer"):
        if name in section:
            plain[name] = _of_optimizer(section[name])
    return plain


def _of_optimizer(section: Mapping[str, Any]) -> dict[str, Any]:
    there = [key for key in ("weight_decay", "clip_norm") if section.get(key)]
    if section.get("name") in ("adam", "adamw"):
        there += ["b1", "b2", "eps"]
    return {**section, **dict.fromkeys(("learning_rate", *there), NUMBER)}


def of_ppo(section: Mapping[str, Any]) -> dict[str, Any]:
    """What the programs of a PPO section are made of.

    Beside the numbers of the optimizers, coefficients of the KL, weights of the terms
    and the numbers of `arguments.KEYWORDS` are state, hence arguments; of weights only
    whether they are 0 shapes the program. The temperature is an argument of its own.
    """
    plain = of_optimizers(section)
    plain = {key: value for key, value in plain.items() if key not in _HOST_ONLY}
    plain |= {"kl_coef": NUMBER, "temperature": NUMBER}
    for name in (*section["rewards"], *section["estimator"][:1], *section["terms"]):
        if name in section:
            plain[name] = arguments.masked(section[name])
    for term in section["terms"]:
        plain[term] = _weighted(plain[term])
    return plain


def of_learner(section: Mapping[str, Any]) -> dict[str, Any]:
    """What the programs of a section without rollouts are made of.

    Beside the numbers of the optimizers, weights and `arguments.OF_METHODS` of the
    preference methods that have a sub-section are state, hence arguments. Temperatures
    are those of samplers, which have programs of their own.
    """
    plain = of_optimizers(section)
    plain = {key: x for key, x in plain.items() if not key.endswith("temperature")}
    for name in METHODS:
        if name in section:
            plain[name] = _weighted(
                arguments.masked(section[name], arguments.OF_METHODS)
            )
    return plain


def _weighted(term: Mapping[str, Any]) -> dict[str, Any]:
    weight = term.get("weight")
    if isinstance(weight, int | float) and weight != 0:
        return {**term, "weight": NUMBER}
    return dict(term)


_HOST_ONLY = (
    *("policy", "reference", "reward_model"),
    *("eval_every", "eval_prompts", "eval_temperature", "shown_samples"),
)
"""Keys of a PPO section that the compiled steps of its learner do not read."""
