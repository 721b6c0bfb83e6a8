"""Numbers of parts as their state, and with it arguments of compiled steps.

A number that enters nothing but the arithmetic of a part (a clip range, a discount, a
penalty) need not be a constant of the program. Here the part keeps it in its state and
is made again inside of the step from what the state holds, so that runs which differ in
the number share one program, as those that differ in a KL coefficient, a term's weight
or a learning rate do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from rlhf_jax import losses
from rlhf_jax.types import AdvantageEstimator, RewardTransformation

KEYWORDS = ("clip_eps", "coef", "discount", "dual_clip", "lam", "penalty", "value_lam")
"""Keywords that are arguments, in every part that has them."""
OF_METHODS = ("beta", "label_smoothing", "tau")
"""Keywords that are arguments, in every method of learning from preferences."""
CONTROLLED = ("init_coef", "target", "horizon", "rate")
"""Keywords of KL controllers, which hold them in a state of their own."""

NUMBER = "(a number)"
"""Stands for an argument where a program is described by what it is made of."""


def masked(
    keywords: Mapping[str, Any], names: tuple[str, ...] = (*KEYWORDS, *CONTROLLED)
) -> dict[str, Any]:
    """The keywords with `NUMBER` in place of their arguments.

    None and a number, or a number and a pair, make different parts, and stay apart.
    """
    rest, numbers = _split(keywords, names)
    marks = {
        key: [NUMBER] * len(value) if isinstance(value, tuple) else NUMBER
        for key, value in numbers.items()
    }
    return rest | marks


def _split(
    keywords: Mapping[str, Any], names: tuple[str, ...] = KEYWORDS
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(what stays as it is, arguments: numbers and tuples of these)."""
    rest, numbers = {}, {}
    for key, value in keywords.items():
        several = tuple(value) if isinstance(value, tuple | list) else (value,)
        if key in names and all(map(_is_number, several)):
            numbers[key] = several if isinstance(value, tuple | list) else value
        else:
            rest[key] = value
    return rest, numbers


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _arrays(numbers: Mapping[str, Any]) -> dict[str, Any]:
    def array(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(array, value))
        return jnp.asarray(value, jnp.result_type(float))

    return {key: array(value) for key, value in numbers.items()}


def link(
    factory: Callable[..., RewardTransformation], keywords: Mapping[str, Any]
) -> RewardTransformation:
    """A link of a shaping chain; its state is (arguments, the link's own)."""
    made, (rest, numbers) = factory(**keywords), _split(keywords)
    if not numbers:
        return made

    def update(rewards: Any, state: Any, trajectory: Any):
        held, own = state
        one = factory(**rest, **held)
        rewards, own, logged = one.update(rewards, own, trajectory)
        return rewards, (held, own), logged

    return RewardTransformation(lambda: (_arrays(numbers), made.init()), update)


def estimator(
    factory: Callable[..., AdvantageEstimator], keywords: Mapping[str, Any]
) -> AdvantageEstimator:
    """An advantage estimator; its state is (arguments, the estimator's own)."""
    made, (rest, numbers) = factory(**keywords), _split(keywords)
    if not numbers:
        return made

    def update(rewards: Any, state: Any, trajectory: Any):
        held, own = state
        found, own = factory(**rest, **held).update(rewards, own, trajectory)
        return found, (held, own)

    return AdvantageEstimator(lambda: (_arrays(numbers), made.init()), update)


def term(
    factory: Callable[..., losses.LossTerm | losses.Term], keywords: Mapping[str, Any]
) -> losses.Term:
    """A term of a loss, of weight 1; its state holds the arguments."""
    made, (rest, numbers) = factory(**keywords), _split(keywords)
    if isinstance(made, losses.Term):
        assert not numbers, f"{factory.__name__}: {list(numbers)} cannot be arguments"
        return made
    if not numbers:
        return losses.Term(made)

    def values(outputs: Any, batch: Any, held: Mapping[str, Any]):
        return factory(**rest, **held)(outputs, batch)  # type: ignore

    kept = losses.Preparation(
        lambda: _arrays(numbers), lambda batch, held: (held, held)
    )
    return losses.Term(values, prepare=kept)


def method(
    factory: Callable[..., losses.Term], keywords: Mapping[str, Any]
) -> losses.Term:
    """A term with its preparation, as `losses.preference.term` makes them; its state
    is (arguments, that of the preparation)."""
    made, (rest, numbers) = factory(**keywords), _split(keywords, OF_METHODS)
    if not numbers:
        return made

    def init() -> Any:
        own = made.prepare
        held = _arrays(numbers)
        return held, own.init() if isinstance(own, losses.Preparation) else None

    def prepare(batch: Any, state: Any):
        held, own = state
        one = factory(**rest, **held).prepare
        if isinstance(one, losses.Preparation):
            extra, own = one.update(batch, own)
        else:
            extra = None if one is None else one(batch)
        return (held, extra), (held, own)

    def values(outputs: Any, batch: Any, prepared: Any):
        held, extra = prepared
        one = factory(**rest, **held)
        further = () if one.prepare is None else (extra,)
        return one.values(outputs, batch, *further)

    return made._replace(values=values, prepare=losses.Preparation(init, prepare))
