"""No program is compiled again once every prompt bucket has been seen."""

import jax
import jax.numpy as jnp
import numpy as np
import tiny_ppo

from rlhf_jax import algorithms
from rlhf_jax.training import count_compiles


def batch(width, source):
    """Left-padded prompts of mixed lengths in a bucket of `width` columns."""
    prompts = tiny_ppo.prompts(8)
    lengths = source.integers(1, width + 1, size=8)
    mask = np.arange(width)[None, :] >= width - lengths[:, None]
    tokens = jnp.where(mask, prompts.tokens[:, :width], tiny_ppo.PAD)
    return algorithms.PPOBatch(prompts._replace(tokens=tokens, mask=jnp.asarray(mask)))


def test_fifty_iterations_of_mixed_prompt_lengths_compile_nothing():
    source = np.random.default_rng(0)
    ppo, state, frozen = tiny_ppo.build(epochs=1, minibatches=1)
    widths = (2, 4)
    with count_compiles() as first:
        for width in (*widths, *widths):
            state, _ = ppo.learner.update(state, frozen, batch(width, source))
    with count_compiles() as later:
        for width in source.choice(widths, size=50):
            state, _ = ppo.learner.update(state, frozen, batch(int(width), source))
    jax.block_until_ready(state)
    assert int(first) >= 2 * len(widths) and int(later) == 0
