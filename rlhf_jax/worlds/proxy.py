"""Reward models of enumerable worlds: small networks that learn from comparisons.

A model sees a response as one-hot tokens and has one hidden layer,

    score(y) = w . tanh(sum_t W[t, y_t] + b) + c,

so it can neither represent the gold of E32k exactly nor see all of its responses: what
it says beyond its data is wrong in its own way, which is what over-optimization feeds
on. Many models (sizes of data, noises, seeds of an ensemble) train in one program.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from rlhf_jax.worlds import annotators, enumerable
from rlhf_jax.worlds.enumerable import World

Loss = Callable[[Array], Array]
"""Scores float32[B K], the best response first, to a loss for each ranking float32[B].
"""


class Proxy(NamedTuple):
    """Weights of M models; every field has a leading axis M.

    Attributes:
      inward: float32[M T*V H], of the one-hot tokens.
      bias: float32[M H].
      outward: float32[M H].
    """

    inward: Array
    bias: Array
    outward: Array


def features(world: World) -> Float[np.ndarray, "N F"]:
    """One-hot tokens of every response, float32[N T*V]."""
    tokens = enumerable.contents(world.vocab, world.length)
    hot = np.eye(world.vocab, dtype=np.float32)[tokens]
    return hot.reshape(world.size, world.length * world.vocab)


def compared(
    world: World,
    key: Key[Array, ""],
    count: int,
    *,
    policy: Float[np.ndarray, " N"] | None = None,
    responses: int = 2,
    sharpness: float | int = 1.0,
    flip: float | int = 0.0,
) -> Int[Array, "C K"]:
    """Rankings by gold of responses of a policy, as numbers of responses, best first.

    Labels are Plackett-Luce in `sharpness * gold`; for pairs that is Bradley-Terry.

    Args:
      world: the world.
      key: of responses and labels.
      count: C, rankings.
      policy: whom responses are drawn from; None for the reference.
      responses: K.
      sharpness: how surely the annotator sees a difference of gold.
      flip: probability that a ranking is turned round.

    Returns:
      int32[C K].
    """
    of_responses, of_labels = jax.random.split(key)
    mass = enumerable.reference(world) if policy is None else policy
    logits = jnp.log(jnp.maximum(jnp.asarray(mass, jnp.float32), 1e-38))
    drawn = _draw(of_responses, logits, (count, responses))
    gold = jnp.asarray(world.gold, jnp.float32)[drawn]
    ranks = annotators.plackett_luce_rank(of_labels, sharpness * gold, flip=flip)
    return jnp.take_along_axis(drawn, jnp.argsort(ranks, axis=1), axis=1)


def _draw(key: Array, logits: Array, shape: tuple[int, ...]) -> Array:
    """Numbers of responses by inversion of the distribution function."""
    upper = jnp.cumsum(jax.nn.softmax(logits))
    uniform = jax.random.uniform(key, shape)
    found = jnp.searchsorted(upper / upper[-1], uniform, side="right")
    return jnp.minimum(found, len(upper) - 1).astype(jnp.int32)


def initial(key: Key[Array, ""], models: int, inputs: int, width: int) -> Proxy:
    """M models with normal weights scaled by the number of active inputs."""
    inward, outward = jax.random.split(key)
    return Proxy(
        0.5 * jax.random.normal(inward, (models, inputs, width)),
        jnp.zeros((models, width)),
        jax.random.normal(outward, (models, width)) / width**0.5,
    )


def scores(proxy: Proxy, hot: Float[Array, "*B F"]) -> Float[Array, "*B"]:
    """Scores of one model, whose fields have no leading axis."""
    inward = hot @ proxy.inward
    hidden = jnp.tanh(inward + jnp.broadcast_to(proxy.bias, inward.shape))
    return hidden @ proxy.outward


@functools.partial(
    jax.jit, static_argnames=("loss", "steps", "batch_size", "learning_rate")
)
def train(
    start: Proxy,
    hot: Float[Array, "N F"],
    rankings: Int[Array, "M C K"],
    counts: Int[Array, " M"],
    key: Key[Array, ""],
    *,
    loss: Loss,
    steps: int,
    batch_size: int = 128,
    learning_rate: float = 0.01,
) -> Proxy:
    """Adam on random minibatches of each model's rankings, rate falling to 0.

    Args:
      start: M models.
      hot: `features`.
      rankings: of each model, as `compared` gives them.
      counts: how many of them each model has; the rest is padding.
      key: of the minibatches; each model has its own.
      loss: of a minibatch's scores.
      steps: updates.
      batch_size: rankings of an update, drawn with replacement.
      learning_rate: at the start.
    """
    schedule = optax.cosine_decay_schedule(learning_rate, steps)
    optimizer = optax.adam(schedule)

    def total(proxy: Proxy, batch: Array) -> Array:
        return jnp.mean(loss(scores(proxy, hot[batch])))

    def one(proxy: Proxy, own: Array, count: Array, key: Array) -> Proxy:
        def step(carry: tuple, key: Array) -> tuple[tuple, None]:
            proxy, state = carry
            rows = jax.random.randint(key, (batch_size,), 0, count)
            gradient = jax.grad(total)(proxy, own[rows])
            update, state = optimizer.update(gradient, state)
            return (optax.apply_updates(proxy, update), state), None

        carry = (proxy, optimizer.init(proxy))
        return jax.lax.scan(step, carry, jax.random.split(key, steps))[0][0]

    return jax.vmap(one)(start, rankings, counts, jax.random.split(key, len(counts)))


def bradley_terry(scores: Float[Array, "B 2"]) -> Float[Array, " B"]:
    """Loss of pairs, the better response first: softplus of its disadvantage."""
    return jax.nn.softplus(scores[:, 1] - scores[:, 0])


def learned(
    world: World,
    key: Key[Array, ""],
    rankings: Int[Array, "M C K"],
    counts: Sequence[int],
    *,
    width: int = 8,
    steps: int = 1500,
    loss: Loss = bradley_terry,
) -> Float[np.ndarray, "M N"]:
    """Standardized scores of every response by models trained from scratch.

    Args:
      world: the world.
      key: of starts and minibatches; models of equal data differ in these.
      rankings: of each model, see `train`.
      counts: how many of them each model has.
      width: H, hidden units.
      steps: of Adam.
      loss: of the rankings.
    """
    hot = jnp.asarray(features(world))
    of_start, of_batches = jax.random.split(key)
    start = initial(of_start, rankings.shape[0], hot.shape[1], width)
    given = jnp.asarray(tuple(counts))
    trained = train(start, hot, rankings, given, of_batches, loss=loss, steps=steps)
    return tables(trained, world, hot)


def tables(
    proxy: Proxy, world: World, hot: Float[Array, "N F"]
) -> Float[np.ndarray, "M N"]:
    """Score of every response by every model, mean 0 and deviation 1 under the
    reference, float64."""
    raw = np.asarray(jax.lax.map(lambda one: scores(one, hot), proxy), np.float64)
    weight = enumerable.reference(world)
    centered = raw - (raw @ weight)[:, None]
    return centered / np.sqrt((centered**2) @ weight)[:, None]


def ensemble(
    members: Float[np.ndarray, "M N"], kind: str, penalty: float = 0.5
) -> Float[np.ndarray, " N"]:
    """One score from those of several models (Coste et al. 2024, section 3.3).

    Args:
      members: standardized scores.
      kind: `mean`; `wco`, the worst; or `uwo`, the mean less `penalty` variances.
      penalty: of `uwo`.
    """
    if kind == "wco":
        return members.min(axis=0)
    spread = members.var(axis=0) if kind == "uwo" else 0.0
    return members.mean(axis=0) - penalty * spread
