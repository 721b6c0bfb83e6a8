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

T = TypeVar("T")

NUMBER = "(a number)"
"""Stands in keys for a number that is an argument of the program."""


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


def of_ppo(section: Mapping[str, Any]) -> dict[str, Any]:
    """What the programs of a PPO section are made of.

    Coefficients of the KL and weights of the terms are state, hence arguments; only
    whether they are 0 shapes the program.
    """
    plain = {key: value for key, value in section.items() if key not in _HOST_ONLY}
    plain["kl_coef"] = NUMBER
    for term in section["terms"]:
        weight = section[term].get("weight")
        if isinstance(weight, int | float) and weight != 0:
            plain[term] = {**section[term], "weight": NUMBER}
    return plain


_HOST_ONLY = (
    *("policy", "reference", "reward_model"),
    *("eval_every", "eval_prompts", "shown_samples"),
)
"""Keys of a PPO section that no compiled step reads."""
