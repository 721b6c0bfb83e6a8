"""Worlds small enough to sum over: every sequence, its gold and its probability.

A world has V content tokens and responses of exactly T of them, so N = V**T responses
to one empty prompt. With the gold reward r and the reference policy known for each, all
that reinforcement learning from human feedback is about has a value in float64:

    J(pi)   = E_pi r - beta KL(pi || pi_ref)
    pi*     = pi_ref exp(r / beta) / Z,  max J = beta log Z   (the tilt, check C1)
    J(pi*) - J(pi) = beta KL(pi || pi*)                       (check C2)

`prefixes` says how sequences and their prefixes are ordered.

All functions run on the host in float64, except `gold`, which scorers compile.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.errors import UserError
from rlhf_jax.worlds.prefixes import Vector as Vector
from rlhf_jax.worlds.prefixes import conditionals as conditionals
from rlhf_jax.worlds.prefixes import contents as contents
from rlhf_jax.worlds.prefixes import distribution as distribution
from rlhf_jax.worlds.prefixes import log_softmax, prefix_count
from rlhf_jax.worlds.prefixes import rows as rows
from rlhf_jax.worlds.prefixes import token_logprobs as token_logprobs

PAD, BOS, FIRST = 0, 1, 2
"""Token ids: padding, the one token of the prompt, the first content token."""

GOLD_DEFINITION = (
    "a table over all responses, mean 0 and standard deviation 1 under the reference"
)


class World(NamedTuple):
    """One enumerable world.

    Attributes:
      vocab: V, content tokens.
      length: T, tokens of every response.
      gold: float64[N], reward of each sequence.
      reference: float64[N], log-probability of each sequence under the reference.
    """

    vocab: int
    length: int
    gold: np.ndarray
    reference: np.ndarray

    @property
    def size(self) -> int:
        """N, the number of sequences."""
        return self.vocab**self.length

    @property
    def prefixes(self) -> int:
        """R, the number of prefixes that a token follows."""
        return prefix_count(self.vocab, self.length)

    @property
    def vocab_size(self) -> int:
        """Token ids, padding and the prompt's token included."""
        return FIRST + self.vocab


def e64(seed: int) -> World:
    """V = 4, T = 3: a first-order reference, an unrelated gold for each sequence."""
    rng = np.random.default_rng(seed)
    reference = _first_order(rng, 4, 3)
    return standardized(World(4, 3, rng.normal(size=64), reference))


def e32k(seed: int) -> World:
    """V = 8, T = 5: gold = sum_t a[t, y_t] + sum_t B[t, y_t, y_t+1]."""
    rng = np.random.default_rng(seed)
    vocab, length = 8, 5
    reference = _first_order(rng, vocab, length)
    single = rng.normal(size=(length, vocab))
    double = rng.normal(size=(length - 1, vocab, vocab))
    y = contents(vocab, length)
    gold = sum(single[t, y[:, t]] for t in range(length)) + sum(
        double[t, y[:, t], y[:, t + 1]] for t in range(length - 1)
    )
    return standardized(World(vocab, length, np.asarray(gold), reference))


def uniform(size: int) -> World:
    """One token of `size` equally likely kinds, gold rising from kind to kind.

    The world of best-of-n: `size` atoms without ties. Gold has mean 0 and standard
    deviation 1.
    """
    if size < 2:
        raise UserError(f"a uniform world needs at least 2 atoms, not {size}")
    reference = np.full(size, -math.log(size))
    return standardized(World(size, 1, np.arange(size, dtype=np.float64), reference))


def standardized(world: World) -> World:
    """Gold shifted and scaled to mean 0 and standard deviation 1 under the reference.

    Raises:
      UserError: gold is the same for all sequences.
    """
    weight = np.exp(world.reference)
    centered = world.gold - weight @ world.gold
    spread = math.sqrt(weight @ centered**2)
    if spread <= 1e-12:
        raise UserError("the gold reward of this world is constant: nothing to learn")
    return world._replace(gold=centered / spread)


def _first_order(rng: np.random.Generator, vocab: int, length: int) -> np.ndarray:
    """Log-probs of a random Markov chain: logits N(0, 1) of start and transitions."""
    start, step = rng.normal(size=vocab), rng.normal(size=(vocab, vocab))
    start, step = log_softmax(start), log_softmax(step)
    y = contents(vocab, length)
    later = sum(step[y[:, t], y[:, t + 1]] for t in range(length - 1))
    return start[y[:, 0]] + later


def reference(world: World) -> Vector:
    """Probability of each sequence under the reference."""
    return np.exp(world.reference)


def sequences(world: World) -> np.ndarray:
    """All responses as token ids of the networks, int32[N T]."""
    return FIRST + contents(world.vocab, world.length)


def kl(p: Vector, q: Vector) -> float:
    """KL(p || q) in nats; infinite where p has mass that q has not."""
    real = p > 0
    if np.any(q[real] <= 0):
        return math.inf
    return float(np.sum(p[real] * (np.log(p[real]) - np.log(q[real]))))


def total_variation(p: Vector, q: Vector) -> float:
    """Half the sum of absolute differences, in [0, 1]."""
    return float(0.5 * np.sum(np.abs(p - q)))


def _log_tilt(world: World, beta: float, score: Any) -> tuple[np.ndarray, float]:
    """(log of pi_ref exp(score / beta), log Z)."""
    if beta <= 0:
        raise UserError(
            f"beta={beta}: the tilt needs a positive beta; at 0 all mass is on the"
            " best sequence"
        )
    reward = world.gold if score is None else np.asarray(score, np.float64)
    logits = world.reference + reward / beta
    top = float(logits.max())
    return logits, top + math.log(float(np.exp(logits - top).sum()))


def tilt(world: World, beta: float, score: Any = None) -> Vector:
    """pi_ref exp(score / beta) / Z, the optimum of `objective`.

    Args:
      world: the world.
      beta: weight of the KL, positive.
      score: float[N] in the place of gold (a reward model's), or None.
    """
    logits, log_z = _log_tilt(world, beta, score)
    return np.exp(logits - log_z)


def best_objective(world: World, beta: float) -> float:
    """max_pi J(pi) = beta log Z."""
    return beta * _log_tilt(world, beta, None)[1]


def objective(world: World, pi: Vector, beta: float) -> float:
    """J(pi) = E_pi gold - beta KL(pi || pi_ref)."""
    return float(pi @ world.gold) - beta * kl(pi, np.exp(world.reference))


def argmax(world: World) -> Vector:
    """All mass on the best sequences, shared by ties as the reference has it."""
    best = np.where(world.gold == world.gold.max(), np.exp(world.reference), 0.0)
    return best / best.sum()


def frontier(world: World, divergence: float, score: Any = None) -> float:
    """The largest E score that any policy at KL(pi || pi_ref) = `divergence` reaches.

    The tilts of all beta trace it out (check C36); beta is found by bisection.

    Args:
      world: the world.
      divergence: nats, not negative.
      score: float[N] in the place of gold, or None.
    """
    reward = world.gold if score is None else np.asarray(score, np.float64)
    reference = np.exp(world.reference)
    low, high = 1e-4 * np.ptp(reward), 1e6 * np.ptp(reward)
    for _ in range(200):
        middle = math.sqrt(low * high)
        above = kl(tilt(world, middle, reward), reference) > divergence
        low, high = (middle, high) if above else (low, middle)
    return float(tilt(world, math.sqrt(low * high), reward) @ reward)


def draw(world: World, pi: Vector, seed: int, count: int) -> np.ndarray:
    """Responses drawn from a distribution, token ids int32[count T]."""
    rng = np.random.default_rng(seed)
    return sequences(world)[rng.choice(world.size, size=count, p=pi / pi.sum())]


def gold(
    world: World,
    prompt: Int[Array, "B P"],
    prompt_mask: Bool[Array, "B P"],
    response: Int[Array, "B T"],
    response_mask: Bool[Array, "B T"],
) -> Float[Array, " B"]:
    """The gold reward of each response, float32; compiles inside a scorer.

    What is not a response of this world (another length, a token that is no content)
    gets 1 less than the worst of the responses.
    """
    del prompt, prompt_mask
    number, real = jnp.zeros(response.shape[0], jnp.int32), response_mask
    for t in range(min(world.length, response.shape[1])):
        number = number * world.vocab + response[:, t] - FIRST
    content = (response >= FIRST) & (response < FIRST + world.vocab)
    right_length = jnp.sum(real, axis=1) == world.length
    valid = right_length & jnp.all(content | ~real, axis=1)
    table = jnp.asarray(world.gold, jnp.float32)
    found = table[jnp.where(valid, number, 0)]
    return jnp.where(valid, found, float(world.gold.min()) - 1.0)


def names(world: World) -> list[str]:
    """Spelling of every token: `a b c d` for four content tokens."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    spelled = letters if world.vocab <= len(letters) else ()
    plain = [spelled[i] if spelled else f"w{i}" for i in range(world.vocab)]
    return ["<pad>", "<bos>", *plain]
