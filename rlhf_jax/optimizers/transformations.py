"""Optimizers from optax parts.

`optimizer(...)` returns an ordinary `optax.GradientTransformation` whose last link
remembers the gradient norm and the learning rate of the step just made, so that
metrics can be read from the optimizer state and no schedule is evaluated twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlhf_jax import metrics
from rlhf_jax.errors import UserError
from rlhf_jax.optimizers import adam, schedules
from rlhf_jax.optimizers.adam import MOMENTS
from rlhf_jax.optimizers.averages import average_params, find_state

Array = jax.Array


class RecordedState(NamedTuple):
    """What the last update did.

    Attributes:
      count: int32[], optimizer steps made.
      grad_norm: float32[], global norm of the raw gradients, before clipping.
      learning_rate: float32[], the rate that was applied.
      inner: state of the wrapped transformation.
      numbers: float32[] each, those of `learning_rate`, `weight_decay` and `clip_norm`
        that are numbers, and those of Adam (`adam.numbers`). As state they are
        arguments of a compiled step: runs that differ in them share one program.
    """

    count: Array
    grad_norm: Array
    learning_rate: Array
    inner: Any
    numbers: dict[str, Array]


def optimizer(
    name: str = "adamw",
    learning_rate: float | schedules.Schedule = 3e-4,
    *,
    factor: schedules.Schedule = schedules.constant(1.0),  # noqa: B008
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float | None = None,
    eps_form: str = "optax",
    moment_dtype: str = "float32",
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    ema_decay: float | None = None,
    decay_mask: Callable[[Any], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Build an optimizer.

    Args:
      name: `adamw`, `adam` (the same without weight decay), `adafactor` or `sgd`.
      learning_rate: a number or a schedule over optimizer steps.
      factor: a schedule that multiplies it; a number times a schedule, unlike a
        schedule with the number in it, leaves the number out of the program.
      b1: decay of the first moment (Adam).
      b2: decay of the second moment (Adam).
      eps: added to the root of the second moment (Adam, default 1e-8), or to the
        squared gradients (Adafactor, default 1e-30).
      eps_form: where Adam's epsilon stands, see `scale_by_adam`.
      moment_dtype: `float32`, or `bfloat16` for half the bytes of Adam's moments.
      weight_decay: decoupled, multiplied by the learning rate (Loshchilov and Hutter
        2019); biases and norm scales are left alone.
      clip_norm: bound on the global norm of the gradients of one group.
      ema_decay: keep a moving average of the parameters, read with `ema_params`.
      decay_mask: `mask(params) -> tree of bool`, overrides which leaves decay.

    Returns:
      A transformation whose state is a `RecordedState`.

    Raises:
      UserError: an unknown name, epsilon form or dtype, weight decay with `adam`, or
        another dtype without Adam.
    """
    if name == "adam" and weight_decay:
        raise UserError(
            f"optimizer adam does not decay weights, got weight_decay={weight_decay}; "
            "use adamw, or weight_decay=0"
        )
    given = {
        "learning_rate": None if callable(learning_rate) else learning_rate,
        "weight_decay": weight_decay or None,
        "clip_norm": clip_norm,
    }
    numbers = {key: float(x) for key, x in given.items() if x is not None}
    _check(name, eps_form, moment_dtype)
    if name in ("adam", "adamw"):
        numbers |= adam.numbers(b1, b2, 1e-8 if eps is None else eps)

    def chain(numbers: Mapping[str, Any]) -> optax.GradientTransformationExtraArgs:
        links = [_direction(name, numbers, eps, eps_form, moment_dtype)]
        if "clip_norm" in numbers:
            links.insert(0, optax.clip_by_global_norm(numbers["clip_norm"]))
        if "weight_decay" in numbers:
            mask = decay_mask or decayed
            links.append(optax.add_decayed_weights(numbers["weight_decay"], mask))
        return optax.chain(*links)

    def rate(numbers: Mapping[str, Any], count: Array) -> Array:
        peak = learning_rate(count) if callable(learning_rate) else None
        return (numbers["learning_rate"] if peak is None else peak) * factor(count)

    after = [] if ema_decay is None else [average_params(ema_decay)]
    return _recorded(numbers, chain, rate, optax.chain(optax.identity(), *after))


def apply_updates(
    transformation: optax.GradientTransformation,
    params: Any,
    opt_state: Any,
    grads: Any,
) -> tuple[Any, Any, dict[str, metrics.Mean]]:
    """One optimizer step, usable inside jit.

    Args:
      transformation: what `optimizer` returned.
      params: parameters of one group.
      opt_state: its state.
      grads: gradients, like `params`.

    Returns:
      New parameters, new state, and `optim/grad_norm` (before clipping), `optim/lr`.
    """
    updates, opt_state = transformation.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    return params, opt_state, optimizer_metrics(opt_state)


def optimizer_metrics(opt_state: Any) -> dict[str, metrics.Mean]:
    """`optim/grad_norm` and `optim/lr` of the step that made `opt_state`.

    Works on the state of one group; empty for a foreign optimizer.
    """
    found = find_state(opt_state, RecordedState)
    if found is None:
        return {}
    return {
        "optim/grad_norm": metrics.scalar(found.grad_norm),
        "optim/lr": metrics.scalar(found.learning_rate),
    }


def decayed(params: Any) -> Any:
    """True for the leaves that weight decay touches: all but biases and norm scales.

    Told by name, since scanned layers give a bias two dimensions.
    """

    def keep(path: tuple[Any, ...], _: Any) -> bool:
        last = path[-1] if path else None
        return str(getattr(last, "key", last)) not in ("bias", "scale")

    return jax.tree_util.tree_map_with_path(keep, params)


def _direction(
    name: str,
    numbers: Mapping[str, Any],
    eps: float | None,
    eps_form: str,
    moment_dtype: str,
) -> optax.GradientTransformation:
    if name == "adafactor":
        # optax ends its adafactor with a change of sign; ours comes with the rate.
        floor = 1e-30 if eps is None else eps
        return optax.chain(optax.adafactor(None, eps=floor), optax.scale(-1.0))
    if name == "sgd":
        return optax.identity()
    return adam.adam_of(numbers, eps_form, moment_dtype)


def _check(name: str, eps_form: str, moment_dtype: str) -> None:
    if eps_form not in ("optax", "tensorflow"):
        raise UserError(f"eps_form is {eps_form!r}; known: optax, tensorflow")
    if name not in ("adafactor", "adam", "adamw", "sgd"):
        raise UserError(f"optimizer {name!r}; known: adafactor, adam, adamw, sgd")
    if moment_dtype not in MOMENTS:
        raise UserError(
            f"moment_dtype is {moment_dtype!r}; known: {', '.join(MOMENTS)}"
        )
    if moment_dtype != "float32" and name in ("adafactor", "sgd"):
        raise UserError(
            f"optimizer {name} keeps no moments of Adam, got"
            f" moment_dtype={moment_dtype!r}; use adamw or adam, or float32"
        )


def _recorded(
    numbers: Mapping[str, float],
    chain: Callable[[Mapping[str, Any]], optax.GradientTransformationExtraArgs],
    rate: Callable[[Mapping[str, Any], Array], Array],
    after: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """Apply `chain`, the learning rate and `after`, and remember norm and rate.

    `chain` and `rate` are given the numbers that the state holds.
    """
    zero = jnp.zeros

    def init(params: Any) -> RecordedState:
        state = (chain(numbers).init(params), after.init(params))
        held = {key: jnp.asarray(x, jnp.float32) for key, x in numbers.items()}
        return RecordedState(zero((), jnp.int32), zero(()), zero(()), state, held)

    def update(
        updates: Any, state: Any, params: Any = None, **extra: Any
    ) -> tuple[Any, RecordedState]:
        held, (first, second) = state.numbers, state.inner
        norm = _global_norm(updates)
        step = jnp.asarray(rate(held, state.count), jnp.float32)
        updates, first = chain(held).update(updates, first, params, **extra)
        updates = jax.tree.map(lambda u: -step * u, updates)
        updates, second = after.update(updates, second, params)
        inner = first, second
        return updates, RecordedState(state.count + 1, norm, step, inner, held)

    return optax.GradientTransformationExtraArgs(init, update)


def _global_norm(tree: Any) -> Array:
    squares = [
        jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(tree)
    ]
    return jnp.sqrt(sum(squares, jnp.zeros(())))
