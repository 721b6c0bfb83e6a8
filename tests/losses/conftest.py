"""Builders of small random batches, one of each kind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import types


def _experience(seed: int, lengths, width: int, dtype=np.float32):
    draw = np.random.default_rng(seed)
    rows = len(lengths)
    mask = np.arange(width)[None] < np.asarray(lengths)[:, None]

    def normal(*shape, scale=1.0):
        return jnp.asarray(draw.normal(size=shape, scale=scale).astype(dtype))

    old = -jnp.abs(normal(rows, width)) - 0.5
    prompt = types.PromptBatch(
        tokens=jnp.zeros((rows, 2), jnp.int32),
        mask=jnp.ones((rows, 2), bool),
        example_id=jnp.arange(rows, dtype=jnp.int32),
        weight=jnp.ones((rows,), jnp.float32),
    )
    weight = jnp.asarray(draw.uniform(0.5, 2.0, rows).astype(dtype))
    terminal = jnp.asarray(
        mask & (np.arange(width) == np.asarray(lengths)[:, None] - 1)
    )
    truncated = jnp.zeros((rows,), bool)
    trajectory = types.Trajectory(
        mask=jnp.asarray(mask),
        logprobs=old,
        old_logprobs=old,
        ref_logprobs=old + normal(rows, width, scale=0.3),
        values=normal(rows, width + 1),
        scores=normal(rows),
        terminal=terminal,
        truncated=truncated,
        policy_version=jnp.zeros((rows,), jnp.int32),
        example_id=prompt.example_id,
        weight=weight,
    )
    rollout = types.Rollout(
        prompt, jnp.zeros((rows, width), jnp.int32), trajectory.mask, old, terminal,
        truncated,
    )  # fmt: skip
    batch = types.Experience(
        rollout,
        trajectory,
        types.Rewards(trajectory.scores, normal(rows, width)),
        types.Advantages(normal(rows, width), normal(rows, width)),
    )
    outputs = types.PolicyOutputs(
        logprobs=old + normal(rows, width, scale=0.4),
        entropy=jnp.abs(normal(rows, width)),
        logsumexp=normal(rows, width),
        kl_exact=jnp.abs(normal(rows, width)),
        values=normal(rows, width),
    )
    return outputs, batch


def _sequences(seed: int, lengths, width: int, dtype=np.float32):
    draw = np.random.default_rng(seed)
    rows = len(lengths)
    mask = np.arange(width)[None] < np.asarray(lengths)[:, None]
    inputs = types.ModelInputs(
        tokens=jnp.asarray(draw.integers(0, 9, (rows, width)), jnp.int32),
        mask=jnp.asarray(mask),
        positions=jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32), (rows, width)),
        segment_ids=jnp.zeros((rows, width), jnp.int32),
    )
    weight = np.broadcast_to(draw.uniform(0.5, 2.0, (rows, 1)), (rows, width))
    batch = types.SequenceBatch(
        inputs,
        loss_mask=jnp.asarray(mask & (np.arange(width)[None] >= 1)),
        weight=jnp.asarray(weight.astype(dtype)),
        example_id=jnp.where(jnp.asarray(mask), jnp.arange(rows)[:, None], -1),
    )
    outputs = types.PolicyOutputs(
        *(
            jnp.asarray(draw.normal(size=(rows, width - 1)).astype(dtype))
            for _ in range(3)
        )
    )
    return outputs, batch


def _ranking(seed: int, ranks, dtype=np.float32, margin=0.0):
    draw = np.random.default_rng(seed)
    ranks = jnp.asarray(ranks, jnp.int32)
    rows, responses = ranks.shape
    shape = (rows, responses, 3)
    inputs = types.ModelInputs(
        jnp.zeros(shape, jnp.int32),
        jnp.broadcast_to((ranks > 0)[..., None], shape),
        jnp.zeros(shape, jnp.int32),
        jnp.zeros(shape, jnp.int32),
    )
    batch = types.RankingBatch(
        inputs,
        ranks,
        margin=jnp.full((rows,), margin, dtype),
        example_id=jnp.arange(rows, dtype=jnp.int32),
        weight=jnp.asarray(draw.uniform(0.5, 2.0, rows).astype(dtype)),
    )
    return jnp.asarray(draw.normal(size=(rows, responses)).astype(dtype)), batch


def _rows(tree, chosen):
    return jax.tree.map(lambda x: x[jnp.asarray(chosen)], tree)


@pytest.fixture
def experience():
    """`(seed, lengths, width, dtype) -> (PolicyOutputs, Experience)`."""
    return _experience


@pytest.fixture
def sequences():
    """`(seed, lengths, width, dtype) -> (PolicyOutputs, SequenceBatch)`."""
    return _sequences


@pytest.fixture
def ranking():
    """`(seed, ranks, dtype, margin) -> (scores, RankingBatch)`."""
    return _ranking


@pytest.fixture
def rows():
    """`(tree, indices) -> tree` of these rows."""
    return _rows


@pytest.fixture
def x64():
    """Run the test in float64."""
    with jax.enable_x64(True):
        yield
