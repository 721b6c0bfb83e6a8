"""Every response of E64 with its probability, and exact gradients to compare with.

Gold is rounded to 1/1024, which float32 holds exactly.
"""

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.rollout import scoring
from rlhf_jax.types import (
    Advantages,
    Experience,
    PromptBatch,
    Rewards,
    Rollout,
    Trajectory,
)
from rlhf_jax.worlds import enumerable, expected, tabular

WORLD = enumerable.e64(0)
GOLD = np.round(WORLD.gold * 1024) / 1024
TABLE = np.random.default_rng(5).normal(size=(21, 4))
PI = enumerable.distribution(TABLE)
LENGTHS = np.where(enumerable.contents(4, 3)[:, 0] == 0, 1, 3)
"""Ragged: a response that begins with token 0 ends there."""


def exact(reward=GOLD):
    """Gradient of E r by autodiff in float64."""

    def objective(table):
        logprobs = jax.nn.log_softmax(table, axis=1)
        at = enumerable.rows(4, 3), enumerable.contents(4, 3)
        return jnp.sum(jnp.exp(jnp.sum(logprobs[at], axis=1)) * reward)

    with jax.enable_x64(True):
        return np.asarray(jax.grad(objective)(jnp.asarray(TABLE)))


def trajectory(scores, mask=None, values=None, weight=None):
    """Rows of E64 with the mathematical fields that estimators read."""
    count = len(scores)
    mask = np.ones((count, 3), bool) if mask is None else mask
    zeros = jnp.zeros((count, 3), jnp.float32)
    last = mask & (np.arange(3)[None, :] == mask.sum(1, keepdims=True) - 1)
    return Trajectory(
        mask=jnp.asarray(mask),
        logprobs=zeros,
        old_logprobs=zeros,
        ref_logprobs=zeros,
        values=values,
        scores=jnp.asarray(scores, jnp.float32),
        terminal=jnp.asarray(last),
        truncated=jnp.zeros(count, bool),
        policy_version=jnp.zeros(count, jnp.int32),
        example_id=jnp.zeros(count, jnp.int32),
        weight=jnp.ones(count) if weight is None else jnp.asarray(weight, jnp.float32),
    )


def rewards(found):
    """The score on the last token."""
    tokens = jnp.where(found.terminal, found.scores[:, None], 0.0)
    return Rewards(found.scores, tokens)


def gradient(coefficients):
    return expected.expected_gradient(TABLE, coefficients)


def cosine(a, b):
    return np.sum(a * b) / np.sqrt(np.sum(a**2) * np.sum(b**2))


def same(found, wanted, tolerance=1e-8):
    np.testing.assert_allclose(found, wanted, atol=tolerance)


def ragged_mask():
    return np.arange(3)[None, :] < LENGTHS[:, None]


def batch(mask, weight, sequence_advantages):
    """All 64 responses as a minibatch at ratio 1."""
    variables = {"params": {"table": jnp.asarray(TABLE, jnp.float32)}}
    real = jnp.asarray(mask)
    prompt = PromptBatch(
        tokens=jnp.ones((64, 1), jnp.int32),
        mask=jnp.ones((64, 1), bool),
        example_id=jnp.zeros(64, jnp.int32),
        weight=jnp.asarray(weight, jnp.float32),
    )
    found = trajectory(GOLD, mask, weight=weight)
    rollout = Rollout(
        prompt=prompt,
        tokens=jnp.asarray(enumerable.sequences(WORLD)),
        mask=real,
        logprobs=jnp.zeros((64, 3), jnp.float32),
        terminal=found.terminal,
        truncated=found.truncated,
    )
    network = tabular.policy(WORLD)
    old = scoring.response_logprobs(network, variables, rollout).logprobs
    found = found._replace(old_logprobs=old, logprobs=old)
    spread = jnp.where(real, jnp.asarray(sequence_advantages, jnp.float32)[:, None], 0)
    experience = Experience(rollout, found, rewards(found), Advantages(spread, spread))
    return network, variables, experience
