"""Rules of sampling: pure functions on logits, and the draw itself.

A rule is `rule(logits float32[B V], step int32[]) -> float32[B V]`; `step` counts the
response tokens that exist already. A forbidden token gets minus infinity, so that the
softmax of what comes out is the distribution sampled from, renormalized on its support.
Rules compose in the order of `standard`: forbidden stop tokens, then temperature, then
top-k, then top-p (the order of `transformers`, whose minimum length has the same
meaning).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from rlhf_jax.errors import UserError
from rlhf_jax.ops import chunks

Rule = Callable[[Array, Array], Array]
COLDEST = 1e-6
"""Least temperature above 0: logits over a smaller one may overflow in float32, and
the token drawn from what is then not a number would mean nothing."""


Number = float | int | Array
"""A temperature: a number, or an array float32[] above 0, an argument of a program."""


def temperature(value: Number) -> Rule:
    """Divide the logits by a positive temperature."""

    def rule(logits: Array, step: Array) -> Array:
        del step
        return chunks.tempered(logits, value)

    return rule


def forbid_before(min_length: int, tokens: Sequence[int]) -> Rule:
    """Forbid (stop) tokens while fewer than `min_length` response tokens exist."""
    forbidden = jnp.asarray(tokens, jnp.int32)

    def rule(logits: Array, step: Array) -> Array:
        blocked = logits.at[:, forbidden].set(-jnp.inf)
        return jnp.where(step < min_length, blocked, logits)

    return rule


def top_k(count: int) -> Rule:
    """Keep the `count` largest logits, and whatever ties with the last of them."""

    def rule(logits: Array, step: Array) -> Array:
        del step
        kept = jax.lax.top_k(logits, min(count, logits.shape[-1]))[0]
        return jnp.where(logits >= kept[:, -1:], logits, -jnp.inf)

    return rule


def top_p(mass: float | int) -> Rule:
    """Keep the smallest set of likeliest tokens whose probability reaches `mass`.

    Nucleus sampling (Holtzman et al. 2020). A token stays if those likelier than it
    hold less than `mass`; tokens that tie with the last one stay too.
    """

    def rule(logits: Array, step: Array) -> Array:
        del step
        ordered = jnp.sort(logits, axis=-1, descending=True)
        probabilities = jax.nn.softmax(ordered, axis=-1)
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        last = jnp.sum(before < mass, axis=-1, keepdims=True) - 1
        threshold = jnp.take_along_axis(ordered, jnp.maximum(last, 0), axis=-1)
        return jnp.where(logits >= threshold, logits, -jnp.inf)

    return rule


def standard(
    *,
    sampling_temperature: Number,
    k: int | None = None,
    p: float | int | None = None,
    min_length: int = 0,
    stop_tokens: Sequence[int] = (),
) -> tuple[Rule, ...]:
    """The rules that these settings ask for, in order; none that would do nothing."""
    rules: list[Rule] = []
    if min_length > 0 and stop_tokens:
        rules.append(forbid_before(min_length, stop_tokens))
    if isinstance(sampling_temperature, Array) or sampling_temperature not in (0, 1):
        rules.append(temperature(sampling_temperature))
    if k is not None:
        rules.append(top_k(k))
    if p is not None and p < 1.0:
        rules.append(top_p(p))
    return tuple(rules)


def apply_rules(
    rules: Sequence[Rule], logits: Float[Array, "B V"], step: Int[Array, ""]
) -> Float[Array, "B V"]:
    """Apply rules from first to last."""
    for rule in rules:
        logits = rule(logits, step)
    return logits


def _inverse_cdf(uniform: Array, weights: Array) -> Array:
    """Index per row drawn in proportion to `weights[B N]`, never one of weight 0.

    A parallel prefix sum in float32 need not be monotone; the comparison is therefore
    restricted to positive weights and to the largest sum among them.
    """
    cumulative = jnp.where(weights > 0, jnp.cumsum(weights, axis=-1), 0.0)
    target = uniform * jnp.max(cumulative, axis=-1)
    return jnp.argmax(cumulative > target[:, None], axis=-1)


def draw(key: Key[Array, ""], logits: Float[Array, "B V"]) -> Int[Array, " B"]:
    """One token per row from softmax(logits), rows independent.

    Inverse distribution function in two levels (a block of about sqrt(V) tokens, then
    a token inside it): two uniform numbers a row instead of the V of the Gumbel trick,
    and prefix sums over sqrt(V) instead of V.
    """
    batch, vocab = logits.shape
    width = math.isqrt(vocab - 1) + 1
    blocks = -(-vocab // width)
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    padding = ((0, 0), (0, blocks * width - vocab))
    weights = jnp.pad(weights, padding).reshape(batch, blocks, width)
    uniform = jax.random.uniform(key, (2, batch))
    block = _inverse_cdf(uniform[0], jnp.sum(weights, axis=-1))
    inside = jnp.take_along_axis(weights, block[:, None, None], axis=1)[:, 0]
    token = block * width + _inverse_cdf(uniform[1], inside)
    return token.astype(jnp.int32)


def requires_support(k: int | None, p: float | int | None) -> bool:
    """Whether these settings cut the support of the sampled distribution."""
    return k is not None or (p is not None and p < 1.0)


def check_trainable(
    *, sampling_temperature: float | int, k: int | None, p: float | int | None
) -> None:
    """Refuse sampling whose log-probs a policy-gradient update cannot reproduce.

    The ratio pi_new / pi_old of a token needs both on the support that the token was
    drawn from. Top-k and top-p make that support depend on the old logits, which the
    update does not keep. Evaluation and best-of-n take no ratio and may use them.

    Raises:
      UserError: top-k or top-p is on, or the temperature is 0.
    """
    if requires_support(k, p):
        raise UserError(
            f"training on samples drawn with top_k={k}, top_p={p} is refused: their "
            "log-probs are renormalized on a support that the update does not store, "
            "so every ratio would be wrong; leave both off for training (evaluation "
            "and best-of-n may use them)"
        )
    if sampling_temperature <= 0:
        raise UserError(
            f"training on samples drawn at temperature={sampling_temperature} is "
            "refused: greedy responses have no log-probs to learn from; use a positive "
            "temperature (evaluation may be greedy)"
        )


def check_temperature(value: float | int) -> None:
    """Raise `UserError` for a temperature that logits cannot be divided by."""
    if value != 0 and not COLDEST <= value < math.inf:
        raise UserError(
            f"sampling: temperature={value} must be 0 (greedy) or from {COLDEST} up"
        )


def check_settings(
    *,
    max_length: int,
    min_length: int,
    sampling_temperature: Number,
    k: int | None,
    p: float | int | None,
    samples_per_prompt: int,
    tokens: Sequence[int],
    vocab_size: int,
) -> None:
    """Raise `UserError` for a setting that means nothing, with the way out.

    `tokens` are the stop tokens and the pad token, which must be in the vocabulary.
    """
    if not isinstance(sampling_temperature, Array):
        check_temperature(sampling_temperature)
    foreign = [token for token in tokens if not 0 <= token < vocab_size]
    problems = {
        f"stop or pad tokens {foreign} are not in the vocabulary of {vocab_size}; take "
        "them from this model's tokenizer": bool(foreign),
        f"max_length={max_length} must be at least 1": max_length < 1,
        f"min_length={min_length} must lie in 0..max_length={max_length}": not (
            0 <= min_length <= max_length
        ),
        f"top_k={k} must be at least 1, or None": k is not None and k < 1,
        f"top_p={p} must lie in (0, 1], or be None": p is not None and not 0 < p <= 1,
        f"samples_per_prompt={samples_per_prompt} must be at least 1": (
            samples_per_prompt < 1
        ),
    }
    for problem, present in problems.items():
        if present:
            raise UserError(f"sampling: {problem}")
