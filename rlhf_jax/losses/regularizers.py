"""Terms that hold a policy back: entropy, KL to the reference, z-loss; values [B T].

They read `PolicyOutputs` and work on any batch whose support has that shape.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax import metrics, types
from rlhf_jax.errors import UserError
from rlhf_jax.losses.combine import LossTerm
from rlhf_jax.losses.reduction import support
from rlhf_jax.ops import kl

Array = jax.Array

ESTIMATORS: dict[str, kl.Estimator] = {"k1": kl.k1, "k2": kl.k2, "k3": kl.k3}


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


def kl_to_reference(estimator: str | kl.Estimator = "exact") -> LossTerm:
    """KL(policy || reference) per token as a term of the loss.

    This is not the KL *penalty* of PPO, which is part of the rewards
    (`rewards.kl_penalty`); use one of the two. `exact` sums over the vocabulary
    (`PolicyOutputs.kl_exact`) and has the gradient of the per-token KL at the sampled
    prefixes. The estimators use the sampled tokens only, and as losses differ from
    their values (check B31): on-policy, k2 has the gradient of KL(policy || reference),
    k3 (GRPO's choice) that of KL(reference || policy), and k1 none in expectation.

    Reports `policy/kl_to_reference` (nats per token).

    Args:
      estimator: `exact`, `k1`, `k2`, `k3`, or a function of `(logprobs, ref_logprobs)`.

    Raises:
      UserError: unknown name; or `exact` where the outputs carry no `kl_exact`.
    """
    if isinstance(estimator, str) and estimator not in (*ESTIMATORS, "exact"):
        raise UserError(
            f"unknown KL estimator '{estimator}'; use one of exact, "
            + ", ".join(ESTIMATORS)
        )
    function = ESTIMATORS.get(estimator) if isinstance(estimator, str) else estimator

    def values(
        outputs: types.PolicyOutputs, batch: types.Experience
    ) -> tuple[Array, types.Metrics]:
        if function is None:
            divergence = outputs.kl_exact
            if divergence is None:
                raise UserError(
                    "kl_to_reference('exact') needs PolicyOutputs.kl_exact, got None; "
                    "compute it (ops.logprobs.exact_kl) or choose k1, k2 or k3"
                )
        else:
            reference = jax.lax.stop_gradient(batch.trajectory.ref_logprobs)
            divergence = function(outputs.logprobs, reference)
        return divergence, {"policy/kl_to_reference": _mean(divergence, batch)}

    return values


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
