"""Policy-gradient terms: `PolicyOutputs` and `Experience` to values [B T].

Two axes are independent: the *level* of the ratio (each token's own, or one per
sequence) and the *form* of the clip (PPO's minimum, or a bound on the weight alone).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax import metrics, types
from rlhf_jax.errors import UserError
from rlhf_jax.losses.combine import LossTerm, Number, Term

Array = jax.Array

LOG_RATIO_BOUND = 20.0
"""Log-ratios are clipped to +-20 before `exp`: a ratio of 5e8 says all there is to say,
one of `exp(100)` is an infinity in float32 and a NaN one multiplication later."""

LEVELS = ("token", "sequence")

ClipEps = Number | tuple[Number, Number] | None
"""One number, (low, high) or none; float[] where it is an argument of the step."""


def policy_gradient() -> LossTerm:
    """The advantage actor-critic (REINFORCE) term, `-A_t log pi(y_t)`.

    Its gradient is that of the clipped surrogate at ratio 1 (Huang et al. 2022,
    "A2C is a special case of PPO"). The advantage is a constant. With the advantages of
    `advantages.best_of_group` it is the log-likelihood of the best responses (RAFT).
    """

    def values(
        outputs: types.PolicyOutputs, batch: types.Experience
    ) -> tuple[Array, types.Metrics]:
        advantages = _advantages(batch)
        log_ratio = _log_ratio(outputs, batch, "token")
        report = _report(batch, log_ratio, jnp.exp(log_ratio))
        return -advantages * outputs.logprobs, report

    return values


def clipped_surrogate(
    clip_eps: ClipEps = 0.2, dual_clip: Number | None = None, level: str = "token"
) -> LossTerm:
    """PPO's clipped surrogate (Schulman et al. 2017, eq. 7), as a loss.

    `-min(r_t A_t, clip(r_t, 1 - low, 1 + high) A_t)`, `r_t = exp(log pi(y_t) - log
    pi_old(y_t))`; with `dual_clip = c` at negative advantages at most `-c A_t` (Ye et
    al. 2020, eq. 5), so that one very likely bad token cannot dominate. Advantages and
    old log-probs are constants.

    With `level="sequence"` every token of a response has the ratio of the sequence, `s
    = exp(mean_t (log pi(y_t) - log pi_old(y_t)))` (GSPO, Zheng et al. 2025, 2507.18071,
    eq. 7); the published `clip_eps` is (3e-4, 4e-4).

    Reports, as masked weighted means over tokens: `policy/approx_kl`, the k3 estimate
    `r - 1 - log r` of KL(old || new), which is what most dashboards mean;
    `policy/approx_kl_k2`, `(log r)^2 / 2`, which is what the N+ paper's code and TRL
    call approxkl; `policy/clip_fraction`, tokens whose loss the clip raises;
    `policy/ratio_mean`; `policy/ratio_max`; with dual clip
    `policy/dual_clip_fraction`. The ratios are those of the level.

    Args:
      clip_eps: one number, (low, high) for "clip-higher", or None for no clip.
      dual_clip: c > 1, or None for none; float[] where it is an argument of the step.
      level: `token` or `sequence`.
    """
    low, high = _bounds(clip_eps)
    _check_level(level)
    if isinstance(dual_clip, int | float) and not dual_clip > 1:
        raise UserError(f"dual_clip={dual_clip} must be above 1, or None for none")

    def values(
        outputs: types.PolicyOutputs, batch: types.Experience
    ) -> tuple[Array, types.Metrics]:
        advantages = _advantages(batch)
        log_ratio = _log_ratio(outputs, batch, level)
        ratio = jnp.exp(log_ratio)
        free = -ratio * advantages
        clipped = -jnp.clip(ratio, low, high) * advantages
        loss = jnp.maximum(free, clipped)
        report = _report(batch, log_ratio, ratio)
        report["policy/clip_fraction"] = _token_mean(clipped > free, batch)
        if dual_clip is not None:
            cap = -dual_clip * advantages
            capped = (advantages < 0) & (loss > cap)
            loss = jnp.where(capped, cap, loss)
            report["policy/dual_clip_fraction"] = _token_mean(capped, batch)
        return loss, report

    return values


def clipped_weight(clip_eps: ClipEps = (1.0, 4.0), level: str = "token") -> LossTerm:
    """CISPO (MiniMax-M1, 2506.13585, eq. 4): the clip bounds a constant weight.

    `-stop_gradient(clip(r_t, 1 - low, 1 + high)) A_t log pi(y_t)`: no token loses its
    gradient, however far its ratio has moved. Reports what `clipped_surrogate` does;
    `policy/clip_fraction` counts the tokens whose weight is at a bound.

    Args:
      clip_eps: one number, (low, high), or None for the plain importance weight.
      level: of the ratio, `token` or `sequence`.
    """
    low, high = _bounds(clip_eps)
    _check_level(level)

    def values(
        outputs: types.PolicyOutputs, batch: types.Experience
    ) -> tuple[Array, types.Metrics]:
        advantages = _advantages(batch)
        log_ratio = jax.lax.stop_gradient(_log_ratio(outputs, batch, level))
        ratio = jnp.exp(log_ratio)
        weight = jnp.clip(ratio, low, high)
        report = _report(batch, log_ratio, ratio)
        report["policy/clip_fraction"] = _token_mean(weight != ratio, batch)
        return -weight * advantages * outputs.logprobs, report

    return values


def positive_examples(threshold: float = 0.0) -> Term:
    """`-log pi(y_t)` of the responses whose score is above `threshold`, their mean.

    The imitation term of VAPO (2504.05118, section 4.3; weight 0.1) and of ReST's
    improve step. Reports `policy/positive_fraction`, the share of such responses.

    Args:
      threshold: scores above it are positive; the scorer's, before any shaping.
    """

    def positive(batch: types.Experience) -> Array:
        return batch.trajectory.scores > threshold

    def where(batch: types.Experience) -> Array:
        return batch.trajectory.mask & positive(batch)[:, None]

    def values(
        outputs: types.PolicyOutputs, batch: types.Experience
    ) -> tuple[Array, types.Metrics]:
        share = metrics.mean(
            positive(batch).astype(jnp.float32), weight=batch.trajectory.weight
        )
        return -outputs.logprobs, {"policy/positive_fraction": share}

    return Term(values, mask=where)


def truncated_importance(term: LossTerm, cap: float) -> LossTerm:
    """Weights a term by `min(pi_old(y_t) / pi_behaviour(y_t), cap)`, a constant.

    For rollouts that an older policy or another program sampled: `old_logprobs` are
    those of the policy before this update, `logprobs` those sampled from (TIS, Yao et
    al. 2025; with `clipped_surrogate` this is decoupled PPO, Hilton et al. 2022).
    Where both are the same policy the weight is 1 up to rounding.

    Reports `policy/importance_mean` and `policy/importance_capped_fraction`.

    Args:
      term: values [B T].
      cap: the largest weight, above 0 (2 in the literature).
    """
    if not cap > 0:
        raise UserError(f"importance_cap={cap} must be above 0, or None for none")

    def values(
        outputs: types.PolicyOutputs, batch: types.Experience, *prepared: Any
    ) -> tuple[Array, types.Metrics]:
        found, report = term(outputs, batch, *prepared)
        trajectory = batch.trajectory
        gap = jnp.where(
            trajectory.mask, trajectory.old_logprobs - trajectory.logprobs, 0.0
        )
        ratio = jnp.exp(jnp.clip(gap, -LOG_RATIO_BOUND, LOG_RATIO_BOUND))
        weight = jax.lax.stop_gradient(jnp.minimum(ratio, cap))
        return weight * found, {
            **report,
            "policy/importance_mean": _token_mean(weight, batch),
            "policy/importance_capped_fraction": _token_mean(ratio > cap, batch),
        }

    return values


def complete(batch: types.Experience) -> Array:
    """bool[B T]: the tokens of responses that ended by themselves.

    DAPO's overlong filter (2503.14476, section 3.4): what was cut off by length teaches
    nothing, for its score says little. Pass it as `Term(..., mask=complete)`.
    """
    return batch.trajectory.mask & ~batch.trajectory.truncated[:, None]


def _bounds(clip_eps: ClipEps) -> tuple[Number, Number]:
    """Least and largest ratio."""
    if clip_eps is None:
        return 0.0, float("inf")
    low, high = clip_eps if isinstance(clip_eps, tuple | list) else (clip_eps, clip_eps)
    return 1.0 - low, 1.0 + high


def _check_level(level: str) -> None:
    if level not in LEVELS:
        raise UserError(f"level={level!r} must be one of {', '.join(LEVELS)}")


def _advantages(batch: types.Experience) -> Array:
    """Constants, and 0 on padding: a ratio that tokens share would carry its garbage
    into the gradients of real ones."""
    advantages = jnp.where(batch.trajectory.mask, batch.advantages.advantages, 0.0)
    return jax.lax.stop_gradient(advantages)


def _log_ratio(
    outputs: types.PolicyOutputs, batch: types.Experience, level: str
) -> Array:
    """log pi - log pi_old of each token, or the sequence's mean at each of its tokens;
    bounded."""
    old = jax.lax.stop_gradient(batch.trajectory.old_logprobs)
    gap = outputs.logprobs - old
    if level == "sequence":
        mask = batch.trajectory.mask
        count = jnp.maximum(jnp.sum(mask.astype(gap.dtype), axis=1, keepdims=True), 1.0)
        mean = jnp.sum(jnp.where(mask, gap, 0.0), axis=1, keepdims=True) / count
        gap = jnp.broadcast_to(mean, gap.shape)
    return jnp.clip(gap, -LOG_RATIO_BOUND, LOG_RATIO_BOUND)


def _token_mean(values: Array, batch: types.Experience) -> metrics.Mean:
    trajectory = batch.trajectory
    return metrics.mean(
        jax.lax.stop_gradient(values), trajectory.mask, trajectory.weight[:, None]
    )


def _report(batch: types.Experience, log_ratio: Array, ratio: Array) -> dict[str, Any]:
    counted = batch.trajectory.mask & (batch.trajectory.weight[:, None] != 0)
    return {
        "policy/approx_kl": _token_mean(jnp.expm1(log_ratio) - log_ratio, batch),
        "policy/approx_kl_k2": _token_mean(0.5 * log_ratio**2, batch),
        "policy/ratio_mean": _token_mean(ratio, batch),
        "policy/ratio_max": metrics.maximum(jax.lax.stop_gradient(ratio), counted),
    }
