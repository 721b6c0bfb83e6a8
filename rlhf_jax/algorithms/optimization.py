"""Epochs over reshuffled minibatches: the update half of a PPO iteration."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax import metrics, rng
from rlhf_jax.algorithms import experience, forward
from rlhf_jax.algorithms.parts import Frozen, Parts
from rlhf_jax.algorithms.updates import apply_gradients
from rlhf_jax.losses import microbatch
from rlhf_jax.types import (
    Array,
    Experience,
    Metrics,
    Params,
    SequenceBatch,
    TrainState,
)


class _Progress(NamedTuple):
    """What the minibatch loop carries: groups, optimizer states, states of the loss
    terms and of the pretraining mix, early-stop flag."""

    params: dict[str, Params]
    opt_state: dict[str, Any]
    loss: Any
    pretraining: Any
    stopped: Array


def optimize(
    parts: Parts,
    state: TrainState,
    frozen: Frozen,
    collected: Experience,
    pretraining: SequenceBatch | None,
) -> tuple[TrainState, Metrics]:
    """`epochs` passes over reshuffled minibatches."""
    size = collected.trajectory.scores.shape[0]
    key = rng.named(state.key, state.step, "shuffle")
    orders = jax.vmap(lambda k: jax.random.permutation(k, size))(
        jax.random.split(key, parts.epochs)
    )
    rows = orders.reshape(parts.epochs * parts.minibatches, -1)

    def step(progress: _Progress, chosen: Array) -> tuple[_Progress, Metrics]:
        minibatch = jax.tree.map(lambda x: x[chosen], collected)
        return _step(parts, state, frozen, progress, minibatch, pretraining)

    start = _Progress(
        state.params,
        state.opt_state,
        state.extra["loss"],
        state.extra["pretraining"],
        jnp.zeros((), bool),
    )
    progress, stacked = jax.lax.scan(step, start, rows)
    measured = metrics.reduce_stacked(stacked)
    if "policy/ratio_max" in stacked:
        # 1 up to rounding, or the old log-probs are not those of this policy.
        first = metrics.Max(stacked["policy/ratio_max"].value[0])
        measured["policy/first_ratio_max"] = first
    extra = {"loss": progress.loss, "pretraining": progress.pretraining}
    state = state._replace(
        params=progress.params,
        opt_state=progress.opt_state,
        extra={**state.extra, **extra},
    )
    return state, measured


def _step(
    parts: Parts,
    state: TrainState,
    frozen: Frozen,
    progress: _Progress,
    minibatch: Experience,
    pretraining: SequenceBatch | None,
) -> tuple[_Progress, Metrics]:
    """One optimizer step on one minibatch; nothing changes after an early stop."""
    prepared, carried = parts.loss.prepare(minibatch, progress.loss)

    def objective(params: Any, part: Experience, shared: Any) -> tuple[Array, Metrics]:
        current = experience.outputs(parts, params, frozen, part.rollout, whole=False)
        return parts.loss.apply(current, part, shared, state.step)

    (_, measured), gradients = microbatch.accumulated_gradients(
        objective, progress.params, minibatch, prepared, parts.microbatches
    )
    mixed = progress.pretraining
    if parts.pretraining_loss is not None:
        extra, shown, mixed = _pretraining(parts, state, frozen, progress, pretraining)
        gradients = jax.tree.map(jnp.add, gradients, extra)
        measured = {**measured, **shown}
    params, opt_state = {}, {}
    for name, tree in progress.params.items():
        params[name], opt_state[name], norms = apply_gradients(
            parts.optimizers[name],
            gradients[name],
            progress.opt_state[name],
            tree,
            prefix="optim" if name == "policy" else f"optim/{name}",
        )
        measured = {**measured, **norms}
    moved = _Progress(params, opt_state, carried, mixed, progress.stopped)
    return _guarded(parts, state, progress, moved, measured)


def _guarded(
    parts: Parts, state: TrainState, before: _Progress, after: _Progress, measured: Any
) -> tuple[_Progress, Metrics]:
    """Applies the early stop and the critic warm-up to a step already taken."""
    stopped = before.stopped
    if parts.target_kl is not None:
        divergence = measured["policy/approx_kl"]
        mean = divergence.total / jnp.maximum(divergence.count, 1e-30)
        stopped = stopped | (mean > parts.target_kl)
        measured = {
            **measured,
            "policy/stopped": metrics.scalar(stopped.astype(jnp.float32)),
        }
    still = {name: stopped for name in before.params}
    if parts.value_warmup:
        still["policy"] = stopped | (state.step < parts.value_warmup)
    if parts.target_kl is None and not parts.value_warmup:
        return after, measured

    def chosen(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
        return {
            name: jax.tree.map(
                lambda a, b, keep=still[name]: jnp.where(keep, a, b),
                old[name],
                new[name],
            )
            for name in old
        }

    return (
        after._replace(
            params=chosen(before.params, after.params),
            opt_state=chosen(before.opt_state, after.opt_state),
            stopped=stopped,
        ),
        measured,
    )


def _pretraining(
    parts: Parts, state: TrainState, frozen: Frozen, progress: _Progress, batch: Any
) -> tuple[Params, Metrics, Any]:
    """Gradient of the pretraining mix: PPO-ptx adds gamma * grad NLL, nothing else."""
    loss = parts.pretraining_loss
    assert loss is not None
    prepared, carried = loss.prepare(batch, progress.pretraining)

    def objective(tree: Any, part: SequenceBatch, shared: Any) -> tuple[Array, Metrics]:
        variables = forward.merged(frozen.policy_base, tree["policy"])
        outputs = forward.language_outputs(parts.policy, variables, part)
        return loss.apply(outputs, part, shared, state.step)

    (_, measured), gradients = microbatch.accumulated_gradients(
        objective, progress.params, batch, prepared, parts.microbatches
    )
    return gradients, measured, carried
