"""Optimizers from optax parts, with the two forms of Adam's epsilon.

`optimizer(...)` returns an ordinary `optax.GradientTransformation` whose last link
remembers the gradient norm and the learning rate of the step just made, so that
metrics can be read from the optimizer state and no schedule is evaluated twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlhf_jax import metrics
from rlhf_jax.errors import UserError
from rlhf_jax.optimizers import schedules
from rlhf_jax.optimizers.averages import average_params, find_state

Array = jax.Array


class RecordedState(NamedTuple):
    """What the last update did.

    Attributes:
      count: int32[], optimizer steps made.
      grad_norm: float32[], global norm of the raw gradients, before clipping.
      learning_rate: float32[], `schedule(count - 1)`, the rate that was applied.
      inner: state of the wrapped transformation.
    """

    count: Array
    grad_norm: Array
    learning_rate: Array
    inner: Any


def optimizer(
    name: str = "adamw",
    learning_rate: float | schedules.Schedule = 3e-4,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float | None = None,
    eps_form: str = "optax",
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    ema_decay: float | None = None,
    decay_mask: Callable[[Any], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Build an optimizer.

    Args:
      name: `adamw`, `adam` (the same without weight decay), `adafactor` or `sgd`.
      learning_rate: a number or a schedule over optimizer steps.
      b1: decay of the first moment (Adam).
      b2: decay of the second moment (Adam).
      eps: added to the root of the second moment (Adam, default 1e-8), or to the
        squared gradients (Adafactor, default 1e-30).
      eps_form: where Adam's epsilon stands, see `scale_by_adam`.
      weight_decay: decoupled, multiplied by the learning rate (Loshchilov and Hutter
        2019); biases and norm scales are left alone.
      clip_norm: bound on the global norm of the gradients of one group.
      ema_decay: keep a moving average of the parameters, read with `ema_params`.
      decay_mask: `mask(params) -> tree of bool`, overrides which leaves decay.

    Returns:
      A transformation whose state is a `RecordedState`.

    Raises:
      UserError: an unknown name or epsilon form, or weight decay with `adam`.
    """
    links = [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
    links.append(_direction(name, b1, b2, eps, eps_form))
    if name == "adam" and weight_decay:
        raise UserError(
            f"optimizer adam does not decay weights, got weight_decay={weight_decay}; "
            "use adamw, or weight_decay=0"
        )
    if weight_decay:
        mask = decay_mask or decayed
        links.append(optax.add_decayed_weights(weight_decay, mask))
    schedule = (
        learning_rate
        if callable(learning_rate)
        else schedules.constant(float(learning_rate))
    )
    after = [] if ema_decay is None else [average_params(ema_decay)]
    return _recorded(
        optax.chain(*links), schedule, optax.chain(optax.identity(), *after)
    )


def scale_by_adam(
    b1: float, b2: float, eps: float, eps_form: str = "optax"
) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015) with either place for epsilon, moments in float32.

    With bias-corrected `mhat = m / (1 - b1^t)` and `vhat = v / (1 - b2^t)`:

    - `optax` (also PyTorch; the paper's algorithm 1): `mhat / (sqrt(vhat) + eps)`
    - `tensorflow` (the paper's remark before section 2.1, TF1, and the original
      RLHF code): `sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps)`, that is
      `mhat / (sqrt(vhat) + eps / sqrt(1 - b2^t))`: a larger epsilon early on
      (Huang et al. 2024, implementation detail on Adam).
    """

    def init(params: Any) -> optax.ScaleByAdamState:
        def zeros() -> Any:  # buffers of their own: both moments are donated
            return jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)

        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros(), zeros())

    def update(
        updates: Any, state: Any, params: Any = None
    ) -> tuple[Any, optax.ScaleByAdamState]:
        grads = jax.tree.map(lambda g: g.astype(jnp.float32), updates)
        count = state.count + 1
        mu = jax.tree.map(lambda g, m: b1 * m + (1 - b1) * g, grads, state.mu)
        nu = jax.tree.map(lambda g, v: b2 * v + (1 - b2) * g * g, grads, state.nu)
        first = 1 - jnp.power(b1, count.astype(jnp.float32))
        second = jnp.sqrt(1 - jnp.power(b2, count.astype(jnp.float32)))
        if eps_form == "optax":
            move = lambda m, v: (m / first) / (jnp.sqrt(v) / second + eps)  # noqa: E731
        else:
            move = lambda m, v: second / first * m / (jnp.sqrt(v) + eps)  # noqa: E731
        return jax.tree.map(move, mu, nu), optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


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
    name: str, b1: float, b2: float, eps: float | None, eps_form: str
) -> optax.GradientTransformation:
    if eps_form not in ("optax", "tensorflow"):
        raise UserError(f"eps_form is {eps_form!r}; known: optax, tensorflow")
    if name in ("adam", "adamw"):
        return scale_by_adam(b1, b2, 1e-8 if eps is None else eps, eps_form)
    if name == "adafactor":
        # optax ends its adafactor with a change of sign; ours comes with the rate.
        floor = 1e-30 if eps is None else eps
        return optax.chain(optax.adafactor(None, eps=floor), optax.scale(-1.0))
    if name == "sgd":
        return optax.identity()
    raise UserError(f"optimizer {name!r}; known: adafactor, adam, adamw, sgd")


def _recorded(
    inner: optax.GradientTransformationExtraArgs,
    schedule: schedules.Schedule,
    after: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """Apply `inner`, the learning rate and `after`, and remember norm and rate."""
    zero = jnp.zeros

    def init(params: Any) -> RecordedState:
        state = (inner.init(params), after.init(params))
        return RecordedState(zero((), jnp.int32), zero(()), zero(()), state)

    def update(
        updates: Any, state: Any, params: Any = None, **extra: Any
    ) -> tuple[Any, RecordedState]:
        norm = _global_norm(updates)
        rate = jnp.asarray(schedule(state.count), jnp.float32)
        first, second = state.inner
        updates, first = inner.update(updates, first, params, **extra)
        updates = jax.tree.map(lambda u: -rate * u, updates)
        updates, second = after.update(updates, second, params)
        return updates, RecordedState(state.count + 1, norm, rate, (first, second))

    return optax.GradientTransformationExtraArgs(init, update)


def _global_norm(tree: Any) -> Array:
    squares = [
        jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(tree)
    ]
    return jnp.sqrt(sum(squares, jnp.zeros(())))
