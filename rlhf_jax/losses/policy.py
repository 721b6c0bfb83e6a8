"""Policy-gradient terms: `PolicyOutputs` and `Experience` to values [B T]."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax import metrics, types
from rlhf_jax.losses.combine import LossTerm

Array = jax.Array

LOG_RATIO_BOUND = 20.0
"""Log-ratios are clipped to +-20 before `exp`: a ratio of 5e8 says all there is to say,
one of `exp(100)` is an infinity in float32 and a NaN one multiplication later."""


def policy_gradient() -> LossTerm:
    """The advantage actor-critic (REINFORCE) term, `-A_t log pi(y_t)`.

    Its gradient is that of the clipped surrogate at ratio 1 (Huang et al. 2022,
    "A2C is a special case of PPO"). The advantage is a constant.
    """

    def values(
        outputs: types.PolicyOutputs, batch: types.Experience
    ) -> tuple[Array, types.Metrics]:
        advantages = jax.lax.stop_gradient(batch.advantages.advantages)
        return -advantages * outputs.logprobs, {}

    return values


def clipped_surrogate(
    clip_eps: float | tuple[float, float] = 0.2, dual_clip: float | None = None
) -> LossTerm:
    """PPO's clipped surrogate (Schulman et al. 2017, eq. 7), as a loss.

    `-min(r_t A_t, clip(r_t, 1 - low, 1 + high) A_t)`, `r_t = exp(log pi(y_t) - log
    pi_old(y_t))`; with `dual_clip = c` at negative advantages at most `-c A_t` (Ye et
    al. 2020, eq. 5), so that one very likely bad token cannot dominate. Advantages and
    old log-probs are constants.

    Reports, as masked weighted means over tokens: `policy/approx_kl`, the k3 estimate
    `r - 1 - log r` of KL(old || new), which is what most dashboards mean;
    `policy/approx_kl_k2`, `(log r)^2 / 2`, which is what the N+ paper's code and TRL
    call approxkl; `policy/clip_fraction`, tokens whose loss the clip raises;
    `policy/ratio_mean`; `policy/ratio_max`; with dual clip
    `policy/dual_clip_fraction`.

    Args:
      clip_eps: one number, or (low, high) for "clip-higher".
      dual_clip: c > 1, or None for none.
    """
    low, high = (clip_eps, clip_eps) if isinstance(clip_eps, float | int) else clip_eps
    if dual_clip is not None and not dual_clip > 1:
        raise ValueError(f"dual_clip must be above 1, got {dual_clip}")

    def values(
        outputs: types.PolicyOutputs, batch: types.Experience
    ) -> tuple[Array, types.Metrics]:
        advantages = jax.lax.stop_gradient(batch.advantages.advantages)
        old = jax.lax.stop_gradient(batch.trajectory.old_logprobs)
        log_ratio = outputs.logprobs - old
        log_ratio = jnp.clip(log_ratio, -LOG_RATIO_BOUND, LOG_RATIO_BOUND)
        ratio = jnp.exp(log_ratio)
        free = -ratio * advantages
        clipped = -jnp.clip(ratio, 1.0 - low, 1.0 + high) * advantages
        loss = jnp.maximum(free, clipped)
        report = _report(batch, log_ratio, ratio, clipped > free)
        if dual_clip is not None:
            cap = -dual_clip * advantages
            capped = (advantages < 0) & (loss > cap)
            loss = jnp.where(capped, cap, loss)
            report["policy/dual_clip_fraction"] = _token_mean(capped, batch)
        return loss, report

    return values


def _token_mean(values: Array, batch: types.Experience) -> metrics.Mean:
    trajectory = batch.trajectory
    return metrics.mean(
        jax.lax.stop_gradient(values), trajectory.mask, trajectory.weight[:, None]
    )


def _report(
    batch: types.Experience, log_ratio: Array, ratio: Array, clipped: Array
) -> dict[str, Any]:
    counted = batch.trajectory.mask & (batch.trajectory.weight[:, None] != 0)
    return {
        "policy/approx_kl": _token_mean(jnp.expm1(log_ratio) - log_ratio, batch),
        "policy/approx_kl_k2": _token_mean(0.5 * log_ratio**2, batch),
        "policy/clip_fraction": _token_mean(clipped, batch),
        "policy/ratio_mean": _token_mean(ratio, batch),
        "policy/ratio_max": metrics.maximum(jax.lax.stop_gradient(ratio), counted),
    }
