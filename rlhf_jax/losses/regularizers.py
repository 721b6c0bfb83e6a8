"""Terms that hold a policy back: entropy, KL to the reference, z-loss; values [B T].

They read `PolicyOutputs` and work on any batch whose support has that shape.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax import metrics, types
from rlhf_jax.errors import UserError
from rlhf_jax.losses.combine import LossTerm, Preparation, Term
from rlhf_jax.losses.policy import LOG_RATIO_BOUND
from rlhf_jax.losses.reduction import support
from rlhf_jax.ops import controllers, kl

Array = jax.Array


def _mean(values: Array, batch: Any) -> metrics.Mean:
    where = support(batch)
    return metrics.mean(jax.lax.stop_gradient(values), where.mask, where.weight)


def entropy_bonus() -> LossTerm:
    """`-H(pi(. | s_t))`: a positive weight rewards entropy.

    Reports `policy/entropy` (nats per token).
    """

    def values(outputs: types.PolicyOutputs, batch: Any) -> tuple[Array, types.Metrics]:
        return -outputs.entropy, {"policy/entropy": _mean(outputs.entropy, batch)}

    return values


def kl_to_reference(
    estimator: str | kl.Estimator = "exact",
    level: str = "token",
    importance_weighted: bool = False,
) -> LossTerm:
    """KL(policy || reference) as a term of the loss.

    This is not the KL *penalty* of PPO, which is part of the rewards
    (`rewards.kl_penalty`); use one of the two. `exact` sums over the vocabulary
    (`PolicyOutputs.kl_exact`) and has the gradient of the per-token KL at the sampled
    prefixes. The estimators use the sampled tokens only, and as losses differ from
    their values (check B31): on-policy, k2 has the gradient of KL(policy || reference),
    k3 (GRPO's choice) that of KL(reference || policy), and k1 none in expectation.

    At token level each token's divergence pulls on that token alone; that a token
    changes which prefixes follow is left out, so the fixed point is not the tilt
    `pi_ref exp(r / beta)` (`worlds.fixed_points`). At sequence level the estimator is
    applied to the log-ratio of the whole response, whose gradient reaches all tokens;
    with k2 the fixed point is the tilt.

    Reports `policy/kl_to_reference` (nats per token).

    Args:
      estimator: `exact`, a name or function of `ops.kl`.
      level: `token`, or `sequence`: the divergence of a response is spread evenly over
        its tokens, so that their sum is the sequence's.
      importance_weighted: multiplies by the ratio to the policy that sampled, gradient
        included. The value is then right off the policy too, and the gradient is that
        of KL(policy || reference) for k1 and k3 (DeepSeek-V3.2).

    Raises:
      UserError: unknown name; `exact` at sequence level; or `exact` where the outputs
        carry no `kl_exact`.
    """
    _check_divergence(estimator, level)

    def values(
        outputs: types.PolicyOutputs, batch: types.Experience
    ) -> tuple[Array, types.Metrics]:
        if estimator == "exact":
            divergence = _exact(outputs)
        else:
            function = kl.named(estimator)
            divergence = _sampled(
                function, outputs, batch, level == "sequence", importance_weighted
            )
        return divergence, {"policy/kl_to_reference": _mean(divergence, batch)}

    return values


def adaptive_kl_to_reference(
    init_coef: float,
    target: float,
    horizon: float,
    estimator: str | kl.Estimator = "exact",
    level: str = "token",
    importance_weighted: bool = False,
) -> Term:
    """`kl_to_reference` times Ziegler's coefficient, `controllers.proportional`.

    The controller sees the minibatch's KL (k3, summed over each response, by the policy
    before the update) and takes one step per minibatch. Reports `policy/kl_coef` too.
    """
    controller = controllers.proportional(init_coef, target, horizon)
    return _controlled(
        controller, kl_to_reference(estimator, level, importance_weighted)
    )


def lagrangian_kl_to_reference(
    init_coef: float,
    target: float,
    rate: float,
    estimator: str | kl.Estimator = "exact",
    level: str = "token",
    importance_weighted: bool = False,
) -> Term:
    """`kl_to_reference` times the multiplier of `KL <= target`,
    `controllers.lagrangian`; see `adaptive_kl_to_reference`."""
    controller = controllers.lagrangian(init_coef, target, rate)
    return _controlled(
        controller, kl_to_reference(estimator, level, importance_weighted)
    )


def _controlled(controller: controllers.Controller, term: LossTerm) -> Term:
    def update(batch: types.Experience, state: Any) -> tuple[Array, Any]:
        trajectory = batch.trajectory
        mask, weight = trajectory.mask, trajectory.weight.astype(jnp.float32)
        policy = jnp.where(mask, trajectory.old_logprobs, 0.0)
        reference = jnp.where(mask, trajectory.ref_logprobs, 0.0)
        rows = jnp.sum(jnp.where(mask, kl.k3(policy, reference), 0.0), axis=1)
        total = jnp.sum(jnp.where(weight > 0, rows, 0.0) * weight)
        mean = total / jnp.maximum(jnp.sum(weight), 1e-30)
        episodes = jnp.sum((weight > 0).astype(jnp.float32))
        return controller.coef(state), controller.update(state, mean, episodes)

    def values(
        outputs: types.PolicyOutputs, batch: types.Experience, coef: Array
    ) -> tuple[Array, types.Metrics]:
        found, report = term(outputs, batch)
        return coef * found, {**report, "policy/kl_coef": metrics.scalar(coef)}

    return Term(values, prepare=Preparation(controller.init, update))


def _check_divergence(estimator: str | kl.Estimator, level: str) -> None:
    if level not in ("token", "sequence"):
        raise UserError(f"level={level!r} must be one of token, sequence")
    if estimator == "exact":
        if level == "sequence":
            raise UserError(
                "kl_to_reference('exact') sums over the vocabulary of each token; over"
                " all sequences there is no such sum: choose k2 at level='sequence'"
            )
    elif isinstance(estimator, str) and estimator not in kl.ESTIMATORS:
        raise UserError(
            f"unknown KL estimator '{estimator}'; use one of exact, "
            + ", ".join(kl.ESTIMATORS)
        )


def _exact(outputs: types.PolicyOutputs) -> Array:
    if outputs.kl_exact is None:
        raise UserError(
            "kl_to_reference('exact') needs PolicyOutputs.kl_exact, got None; "
            "compute it (ops.exact_kl) or choose k1, k2 or k3"
        )
    return outputs.kl_exact


def _sampled(
    function: kl.Estimator,
    outputs: types.PolicyOutputs,
    batch: types.Experience,
    whole: bool,
    importance_weighted: bool,
) -> Array:
    """The estimate per token, or the whole response's divided among its tokens."""
    mask = batch.trajectory.mask
    count = jnp.sum(mask.astype(outputs.logprobs.dtype), axis=1, keepdims=True)

    def level(x: Array) -> Array:
        x = jnp.where(mask, x, 0.0)
        return jnp.sum(x, axis=1, keepdims=True) if whole else x

    policy = level(outputs.logprobs)
    reference = level(jax.lax.stop_gradient(batch.trajectory.ref_logprobs))
    divergence = function(policy, reference)
    if importance_weighted:
        old = level(jax.lax.stop_gradient(batch.trajectory.old_logprobs))
        gap = jnp.clip(policy - old, -LOG_RATIO_BOUND, LOG_RATIO_BOUND)
        divergence = jnp.exp(gap) * divergence
    if whole:
        divergence = jnp.where(mask, divergence / jnp.maximum(count, 1.0), 0.0)
    return divergence


def z_loss() -> LossTerm:
    """`(log Z_t)^2`, Z the softmax normalizer: keeps logits from drifting.

    Mesh TensorFlow, PaLM (Chowdhery et al. 2022, section 5; weight 1e-4). For language
    batches (`types.SequenceBatch`) and policy batches alike. Reports
    `language/logsumexp`, the mean of log Z.
    """

    def values(outputs: types.PolicyOutputs, batch: Any) -> tuple[Array, types.Metrics]:
        squared = jnp.square(outputs.logsumexp)
        return squared, {"language/logsumexp": _mean(outputs.logsumexp, batch)}

    return values
