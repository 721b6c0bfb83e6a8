"""Simulated annotators whose preferences are known in closed form.

An annotator compares two responses by a *margin* and turns it into probabilities by a
*link*:

    margin(a, b) = score_a - score_b + length_bias * (length_a - length_b)
                   + cycle * rps(kind_a, kind_b)

    Bradley-Terry   P(a) = sigmoid(margin / temperature), no ties; flips as given
    Davidson        P(a) : P(tie) : P(b) = e^(m/2) : nu : e^(-m/2), m = margin / temp.
    Rao-Kupper      P(a) = sigmoid((margin - threshold) / temperature), likewise P(b)

rps is 1 where a's kind beats b's as rock beats scissors, -1 where it loses: with
`cycle` no scores explain the preferences. A mixture is several annotators of whom one,
drawn by weight, does the labelling.

Sources: Bradley and Terry 1952; Davidson 1970 (ties from the geometric mean); Rao and
Kupper 1967 (ties from a threshold of what is noticed); Luce 1959 and Plackett 1975 for
rankings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from rlhf_jax.errors import UserError

Link = Callable[[Array], Array]
"""Margins float32[...] -> probabilities float32[... 3]: first better, tie, second
better."""

CYCLE = ((0.0, -1.0, 1.0), (1.0, 0.0, -1.0), (-1.0, 1.0, 0.0))
"""rps(kind, other kind) for the kinds rock, paper and scissors."""


class Items(NamedTuple):
    """What an annotator sees of responses; all of one shape.

    Attributes:
      score: float[...], the gold reward.
      length: number[...], tokens; needed by a length bias.
      kind: int[...], 0 .. 2; needed by a cycle.
    """

    score: Array
    length: Array | None = None
    kind: Array | None = None


class Annotator(NamedTuple):
    """Annotators of whom one, drawn by weight, gives each label.

    Attributes:
      weights: float of each, summing to 1.
      members: `(first, second) -> float32[... 3]` of each.
    """

    weights: tuple[float, ...]
    members: tuple[Callable[[Items, Items], Array], ...]

    def probabilities(self, first: Items, second: Items) -> Array:
        """P(first better), P(tie), P(second better), float32[... 3]."""
        found = [
            weight * member(first, second)
            for weight, member in zip(self.weights, self.members, strict=True)
        ]
        return jnp.sum(jnp.stack(found), axis=0)


def bradley_terry(temperature: float | int = 1.0, flip: float | int = 0.0) -> Link:
    """`(1 - flip) sigmoid(m / T) + flip sigmoid(-m / T)`, no ties.

    Args:
      temperature: noise of a comparison; 0 always takes the better (a coin for equals).
      flip: probability that the label is turned round.

    Raises:
      UserError: a setting is out of its range.
    """
    _check(temperature=temperature, flip=flip)

    def link(margin: Array) -> Array:
        if temperature == 0:
            clean = 0.5 * (1.0 + jnp.sign(margin))
        else:
            clean = jax.nn.sigmoid(margin / temperature)
        win = (1.0 - 2.0 * flip) * clean + flip
        return jnp.stack([win, jnp.zeros_like(win), 1.0 - win], axis=-1)

    return link


def davidson(nu: float | int, temperature: float | int = 1.0) -> Link:
    """Ties in proportion to `nu` times the geometric mean of both strengths.

    Equal responses tie with probability `nu / (2 + nu)`.
    """
    _check(nu=nu, temperature=temperature)
    if temperature == 0:
        raise UserError("davidson needs a positive temperature; use rao_kupper for 0")

    def link(margin: Array) -> Array:
        half = 0.5 * margin / temperature
        tie = jnp.full_like(half, jnp.log(nu) if nu > 0 else -jnp.inf)
        return jax.nn.softmax(jnp.stack([half, tie, -half], axis=-1), axis=-1)

    return link


def rao_kupper(threshold: float | int, temperature: float | int = 1.0) -> Link:
    """Ties where the noisy margin does not reach the threshold.

    With temperature 0: ties exactly where `|margin| <= threshold`.
    """
    _check(threshold=threshold, temperature=temperature)

    def link(margin: Array) -> Array:
        if temperature == 0:
            first = (margin > threshold).astype(jnp.float32)
            second = (margin < -threshold).astype(jnp.float32)
        else:
            first = jax.nn.sigmoid((margin - threshold) / temperature)
            second = jax.nn.sigmoid((-margin - threshold) / temperature)
        return jnp.stack([first, 1.0 - first - second, second], axis=-1)

    return link


def _check(**settings: float | int) -> None:
    for name, value in settings.items():
        if value < 0 or (name == "flip" and value > 0.5):
            raise UserError(
                f"annotator: {name}={value} must not be negative, and a flip rate must"
                " be at most 0.5"
            )


def annotator(
    link: Link, *, length_bias: float | int = 0.0, cycle: float | int = 0.0
) -> Annotator:
    """One annotator.

    Args:
      link: from margins to probabilities.
      length_bias: what a token more is worth, in units of score.
      cycle: what beating the other's kind is worth, in units of score.
    """

    def probabilities(first: Items, second: Items) -> Array:
        return link(margin(first, second, length_bias=length_bias, cycle=cycle))

    return Annotator((1.0,), (probabilities,))


def margin(
    first: Items,
    second: Items,
    *,
    length_bias: float | int = 0.0,
    cycle: float | int = 0.0,
) -> Array:
    """What speaks for the first response (module docstring), float32[...].

    Raises:
      UserError: lengths or kinds are needed and missing.
    """
    found = jnp.asarray(first.score - second.score, jnp.float32)
    if length_bias:
        if first.length is None or second.length is None:
            raise UserError("a length bias needs Items.length; give the token counts")
        longer = jnp.asarray(first.length - second.length, jnp.float32)
        found = found + length_bias * longer
    if cycle:
        if first.kind is None or second.kind is None:
            raise UserError("a cycle needs Items.kind; give 0, 1 or 2 per response")
        found = found + cycle * jnp.asarray(CYCLE)[first.kind, second.kind]
    return found


def mixture(
    annotators: Sequence[Annotator], weights: Sequence[float | int]
) -> Annotator:
    """Several annotators; each label (or whole ranking) is by one of them.

    Raises:
      UserError: the numbers differ, a weight is negative, or they do not sum to 1.
    """
    if len(annotators) != len(weights) or abs(sum(weights) - 1.0) > 1e-6:
        raise UserError(
            f"a mixture of {len(annotators)} annotators needs as many weights that sum"
            f" to 1, got {list(weights)}"
        )
    _check(**{f"weight {i}": weight for i, weight in enumerate(weights)})
    pairs = [
        (float(weight) * inner, member)
        for weight, one in zip(weights, annotators, strict=True)
        for inner, member in zip(one.weights, one.members, strict=True)
    ]
    return Annotator(tuple(w for w, _ in pairs), tuple(m for _, m in pairs))


def label(
    annotator: Annotator, key: Key[Array, ""], first: Items, second: Items
) -> Int[Array, "..."]:
    """Draws labels: 1 the first is better, 0 a tie, -1 the second is better."""
    chances = annotator.probabilities(first, second)
    drawn = jax.random.categorical(key, jnp.log(jnp.maximum(chances, 1e-38)))
    return 1 - drawn.astype(jnp.int32)


def rank(annotator: Annotator, key: Key[Array, ""], items: Items) -> Int[Array, "B K"]:
    """Ranks of K responses by a tournament: every pair is compared once, by one
    annotator per row, and wins are counted (a tie counts half).

    For K = 2 these are the probabilities of `label`. With a cycle all may tie.

    Args:
      annotator: who judges.
      key: of all draws.
      items: arrays [B K].

    Returns:
      int32[B K], 1 is best, equal numbers tie.
    """
    person, games = jax.random.split(key)
    rows, count = items.score.shape
    weights = jnp.asarray(annotator.weights)
    members = jax.random.categorical(person, jnp.log(weights), shape=(rows,))

    every = (rows, count, count)
    first = jax.tree.map(lambda x: jnp.broadcast_to(x[:, :, None], every), items)
    second = jax.tree.map(lambda x: jnp.broadcast_to(x[:, None, :], every), items)
    chances = jnp.stack([member(first, second) for member in annotator.members])
    chances = jnp.maximum(chances[members, jnp.arange(rows)], 1e-38)
    drawn = 1 - jax.random.categorical(games, jnp.log(chances)).astype(jnp.int32)
    above = jnp.triu(drawn, 1)
    points = jnp.sum(above - jnp.swapaxes(above, 1, 2), axis=2)
    better = points[:, None, :] > points[:, :, None]
    return 1 + jnp.sum(better, axis=2, dtype=jnp.int32)


def plackett_luce_rank(
    key: Key[Array, ""],
    scores: Float[Array, "B K"],
    *,
    temperature: float | int = 1.0,
    flip: float | int = 0.0,
) -> Int[Array, "B K"]:
    """Rankings without ties by the Plackett-Luce model (Gumbel noise on the scores).

    P(order) = prod_k exp(s_k / T) / sum_{j >= k} exp(s_j / T); two responses make it
    Bradley-Terry. With probability `flip` a whole ranking is turned round.

    Returns:
      int32[B K], 1 is best.
    """
    _check(temperature=temperature, flip=flip)
    noise, turned = jax.random.split(key)
    utility = scores + temperature * jax.random.gumbel(noise, scores.shape)
    turn = jax.random.bernoulli(turned, flip, scores.shape[:1])
    utility = jnp.where(turn[:, None], -utility, utility)
    order = jnp.argsort(-utility, axis=1)
    return 1 + jnp.argsort(order, axis=1).astype(jnp.int32)


def ceiling(probabilities: Float[Array, "*shape 3"]) -> Float[Array, ""]:
    """The largest accuracy that a predictor of the labels can have: mean max(p, 1 - p)
    over labels that are no ties."""
    first, second = probabilities[..., 0], probabilities[..., 2]
    return jnp.sum(jnp.maximum(first, second)) / jnp.sum(first + second)
