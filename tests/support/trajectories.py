"""Random trajectories with ragged rows, and garbage on their padding."""

import jax.numpy as jnp
import numpy as np

from rlhf_jax import types


def make(lengths=(5, 3, 1, 4), width=5, finished=(0, 1, 1, 1), seed=0, weight=None):
    """A trajectory whose row i has lengths[i] tokens; unfinished rows are truncated."""
    draw = np.random.default_rng(seed)
    rows, lengths = len(lengths), np.asarray(lengths)
    mask = np.arange(width)[None] < lengths[:, None]
    last = np.arange(width)[None] == lengths[:, None] - 1
    terminal = last & np.asarray(finished, bool)[:, None]

    def logprobs():
        drawn = -draw.exponential(size=(rows, width)) - 0.05
        return jnp.asarray(np.where(mask, drawn, 0.0), jnp.float32)

    old = logprobs()
    return types.Trajectory(
        mask=jnp.asarray(mask),
        logprobs=old,
        old_logprobs=old,
        ref_logprobs=logprobs(),
        values=jnp.asarray(draw.normal(size=(rows, width + 1)), jnp.float32),
        scores=jnp.asarray(draw.normal(size=rows) + 0.5, jnp.float32),
        terminal=jnp.asarray(terminal),
        truncated=jnp.asarray(~terminal.any(axis=1)),
        policy_version=jnp.zeros(rows, jnp.int32),
        example_id=jnp.arange(rows, dtype=jnp.int32),
        weight=jnp.ones(rows) if weight is None else jnp.asarray(weight, jnp.float32),
    )


def token_rewards(trajectory, seed=1):
    """Rewards with random real tokens, and the trajectory's scores."""
    shape = trajectory.mask.shape
    drawn = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    tokens = jnp.where(trajectory.mask, jnp.asarray(drawn), 0.0)
    return types.Rewards(trajectory.scores, tokens)


def poison(x, mask, garbage):
    """`x` with garbage wherever no real token (nor the state after it) stands."""
    mask = np.asarray(mask)
    if x.shape[1] == mask.shape[1] + 1:
        mask = np.concatenate([np.ones_like(mask[:, :1]), mask], axis=1)
    return jnp.where(jnp.asarray(mask), x, garbage)


def poisoned(trajectory, garbage):
    """The trajectory with garbage on the padding of every per-token number."""
    names = ("logprobs", "old_logprobs", "ref_logprobs", "values")
    return trajectory._replace(
        **{n: poison(getattr(trajectory, n), trajectory.mask, garbage) for n in names}
    )
