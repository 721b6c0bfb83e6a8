"""Where a relative of PPO really ends, by summing over all responses.

On-policy, the expected update of a policy-gradient method on a table of logits is

    F(s, a) = E_{y ~ pi} sum_t w_t(y) d log pi(y_t | s_t) / d logits(s, a)

with coefficients w_t(y) that are constants to the gradient. For a method with centered
advantages and a KL to the reference of weight beta, with d_t = log pi / pi_ref of token
t, d = sum_t d_t and r the gold reward:

    place    level     w_t(y)
    reward   any       r(y) - beta k(d)          k1: d, k2: d^2/2, k3: exp(-d) - 1 + d
    loss     token     r(y) - beta k'(d_t)       k1: 1, k2: d_t, k3: 1 - exp(-d_t)
    loss     sequence  r(y) - beta k'(d)
    none               r(y)

(At `level="token"` a reward has sum_t k(d_t).) Where F vanishes the method stops. That
is the tilt pi_ref exp(r / beta) / Z for k1 in the reward and for the sequence-level k2
loss. A token-level loss has no gradient through the prefixes that earlier tokens lead
to, so it ends elsewhere; k1 in the loss has no gradient at all, so all mass goes to the
best response, as with beta = 0. "k3 with the gradient of k2" moves as k2 does, and so
does the exact KL over the vocabulary.

Dividing by the standard deviation of a group (GRPO) puts `groups.normalized` in the
place of r, but leaves the KL in the loss as it is. For large groups the method ends as
with beta * std(r) in the place of beta, std being that of the end point itself; groups
of 8 are still far from that limit.

Everything runs on the host in float64.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from rlhf_jax.errors import UserError
from rlhf_jax.worlds import enumerable, expected, groups, prefixes
from rlhf_jax.worlds.enumerable import Vector, World
from rlhf_jax.worlds.relatives import NAMES, Relative, check, described
from rlhf_jax.worlds.relatives import relative as relative

SAMPLED_TOLERANCE = 1e-4
"""Of `solve`, where the others of a group are drawn rather than enumerated."""

_LARGEST_EXPONENT = 80.0
_LEAST_DAMPING = 0.05


def coefficients(
    world: World, logits: Float[np.ndarray, "R V"], found: Relative
) -> Float[np.ndarray, "N T"]:
    """w_t(y) of a relative (module docstring), advantages included."""
    ratio = _log_ratio(world, logits)
    reward = world.gold
    if found.place == "reward":
        reward = reward - found.beta * _values(found, ratio)
    reward = groups.normalized(reward, enumerable.distribution(logits), found.group)
    result = np.repeat(reward[:, None], world.length, axis=1)
    if found.place == "loss":
        result = result - found.beta * _slopes(found, ratio)
    return result


def _log_ratio(world: World, logits: np.ndarray) -> np.ndarray:
    """log pi / pi_ref of every token, [N T]."""
    reference = enumerable.conditionals(np.exp(world.reference), world.vocab)
    return enumerable.token_logprobs(logits) - enumerable.token_logprobs(reference)


def _values(found: Relative, ratio: np.ndarray) -> np.ndarray:
    """The estimate of a response, [N]."""
    d = ratio if found.level == "token" else ratio.sum(axis=1, keepdims=True)
    kinds = {
        "k1": lambda: d,
        "k2": lambda: 0.5 * d**2,
        "k3": lambda: _inverse(d) - 1.0 + d,
    }
    return kinds[found.estimator]().sum(axis=1)


def _slopes(found: Relative, ratio: np.ndarray) -> np.ndarray:
    """k' of every token, [N T] (`exact`: the same in expectation as k2)."""
    d = ratio
    if found.level == "sequence":
        d = np.repeat(ratio.sum(axis=1, keepdims=True), ratio.shape[1], axis=1)
    if found.estimator == "k1":
        return np.ones_like(d)
    return 1.0 - _inverse(d) if found.estimator == "k3" else d


def _inverse(d: np.ndarray) -> np.ndarray:
    """pi_ref / pi, held finite as in `ops.kl.k3`."""
    return np.exp(np.minimum(-d, _LARGEST_EXPONENT))


def field(
    world: World, logits: Float[np.ndarray, "R V"], found: Relative
) -> Float[np.ndarray, "R V"]:
    """The expected update of a relative (ascent), before any optimizer."""
    return expected.expected_gradient(logits, coefficients(world, logits, check(found)))


class Row(NamedTuple):
    """One line of `table`.

    Attributes:
      name: of the relative, see `relatives.relative`.
      tv_to_tilt: total variation of its fixed point to the tilt.
      gold: expected gold there.
      kl: KL to the reference there, nats.
      j_gap: what J lacks to its maximum there.
    """

    name: str
    tv_to_tilt: float
    gold: float
    kl: float
    j_gap: float


def table(world: World, beta: float, group: float | None = None) -> list[Row]:
    """Every relative of `relatives.NAMES` and the fixed point that it really has.

    Args:
      world: the world.
      beta: weight of the KL, positive.
      group: as in `Relative`.
    """
    star, reference = enumerable.tilt(world, beta), enumerable.reference(world)
    best, rows = enumerable.best_objective(world, beta), []
    for name in NAMES:
        pi = solve(world, relative(name, beta, group))
        rows.append(
            Row(
                name=name,
                tv_to_tilt=enumerable.total_variation(pi, star),
                gold=float(pi @ world.gold),
                kl=enumerable.kl(pi, reference),
                j_gap=best - enumerable.objective(world, pi, beta),
            )
        )
    return rows


def solve(
    world: World, found: Relative, *, steps: int = 5000, tolerance: float = 1e-12
) -> Vector:
    """Follows the expected update from the reference until it vanishes.

    The steps are natural-gradient ones: the update of a logit over the probability of
    its token, over beta. That changes no fixed point; where the KL is k1 or k2 it is
    soft policy iteration, done after T steps. With k1 in the reward, advantages vanish
    in groups where they vanish without; the end of the sequence-level k3 loss is the
    root of one number.

    Args:
      world: the world.
      found: the relative.
      steps: most steps.
      tolerance: largest entry of `field` that counts as 0.

    Returns:
      float64[N], the distribution where the method stops.

    Raises:
      UserError: it does not stop, or only by losing responses (k2 or k3 as reward).
    """
    check(found)
    if found.place == "reward" and found.beta > 0:
        if found.estimator != "k1":
            raise UserError(
                f"{described(found)}: no fixed point to hold a run to. The penalty also"
                " grows where a response is *less* likely than under the reference,"
                " which makes it still less likely; use k1 in the reward"
            )
        found = found._replace(group=None)
    if found[:3] == ("loss", "k3", "sequence") and found.beta and found.group is None:
        return _sequence_k3(world, found.beta)
    if groups.sampled(world.size, found.group):
        tolerance = max(tolerance, SAMPLED_TOLERANCE)
    logits = _follow(world, found, steps, tolerance)
    return enumerable.distribution(logits)


def _follow(world: World, found: Relative, steps: int, tolerance: float) -> np.ndarray:
    """Logits at the end; steps get shorter where the update grows."""
    logits = enumerable.conditionals(np.exp(world.reference), world.vocab)
    damping, size, before = 1.0, math.inf, math.inf
    for step in range(steps + 1):
        direction = expected.advantages(logits, coefficients(world, logits, found))
        update = (
            expected.reached(logits)[:, None]
            * np.exp(prefixes.log_softmax(logits))
            * direction
        )
        size = float(np.abs(update).max())
        if size <= tolerance and step > world.length:
            return logits
        if not math.isfinite(size):
            break
        if not _greedy(found):
            slower = max(0.7 * damping, _LEAST_DAMPING)
            damping = slower if size > before else min(1.02 * damping, 1.0)
        before = size
        step_size = damping * _step_size(world, logits, found)
        logits = prefixes.log_softmax(logits + step_size * direction)
    raise UserError(
        f"{described(found)}: no fixed point in {steps} steps (the last update has"
        f" {size:.1e})"
    )


def _greedy(found: Relative) -> bool:
    """Whether no KL holds the policy back in expectation."""
    vanishes = found.place == "loss" and found.estimator == "k1"
    return found.beta == 0 or found.place == "none" or vanishes


def _step_size(world: World, logits: np.ndarray, found: Relative) -> np.ndarray | float:
    """About one over the slope of the update in each logit."""
    if _greedy(found):
        return 10.0
    if found.place == "loss" and found.estimator == "k3":
        slopes = 1.0 - _slopes(found, _log_ratio(world, logits))
        return 1.0 / (
            found.beta * np.maximum(1.0, expected.after_token(logits, slopes))
        )
    return 1.0 / found.beta


def _sequence_k3(world: World, beta: float) -> Vector:
    """pi = beta pi_ref / (c - r), with c above all r and such that pi sums to 1."""
    reference = np.exp(world.reference)
    top = float(world.gold.max())
    low, high = 0.0, beta + float(np.ptp(world.gold))
    for _ in range(200):
        middle = 0.5 * (low + high)
        total = float(np.sum(beta * reference / (top + middle - world.gold)))
        low, high = (middle, high) if total > 1.0 else (low, middle)
    pi = beta * reference / (top + high - world.gold)
    return pi / pi.sum()
