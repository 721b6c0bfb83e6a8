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
        return draw.normal(size=shape, scale=scale).astype(dtype)

    old = -np.abs(normal(rows, width)) - np.asarray(0.5, dtype)
    prompt = types.PromptBatch(
        tokens=np.zeros((rows, 2), np.int32),
        mask=np.ones((rows, 2), bool),
        example_id=np.arange(rows, dtype=np.int32),
        weight=np.ones(rows, np.float32),
    )
    terminal = mask & (np.arange(width) == np.asarray(lengths)[:, None] - 1)
    trajectory = types.Trajectory(
        mask=mask,
        logprobs=old,
        old_logprobs=old,
        ref_logprobs=old + normal(rows, width, scale=0.3),
        values=normal(rows, width + 1),
        scores=normal(rows),
        terminal=terminal,
        truncated=np.zeros(rows, bool),
        policy_version=np.zeros(rows, np.int32),
        example_id=prompt.example_id,
        weight=draw.uniform(0.5, 2.0, rows).astype(dtype),
    )
    tokens = np.zeros((rows, width), np.int32)
    batch = types.Experience(
        types.Rollout(prompt, tokens, mask, old, terminal, trajectory.truncated),
        trajectory,
        types.Rewards(trajectory.scores, normal(rows, width)),
        types.Advantages(normal(rows, width), normal(rows, width)),
    )
    outputs = types.PolicyOutputs(
        logprobs=old + normal(rows, width, scale=0.4),
        entropy=np.abs(normal(rows, width)),
        logsumexp=normal(rows, width),
        kl_exact=np.abs(normal(rows, width)),
        values=normal(rows, width),
    )
    return on_device((outputs, batch))


def _sequences(seed: int, lengths, width: int, dtype=np.float32):
    draw = np.random.default_rng(seed)
    rows = len(lengths)
    mask = np.arange(width)[None] < np.asarray(lengths)[:, None]
    inputs = types.ModelInputs(
        tokens=draw.integers(0, 9, (rows, width)).astype(np.int32),
        mask=mask,
        positions=np.tile(np.arange(width, dtype=np.int32), (rows, 1)),
        segment_ids=np.zeros((rows, width), np.int32),
    )
    batch = types.SequenceBatch(
        inputs,
        loss_mask=mask & (np.arange(width)[None] >= 1),
        weight=np.tile(draw.uniform(0.5, 2.0, (rows, 1)), width).astype(dtype),
        example_id=np.where(mask, np.arange(rows)[:, None], -1).astype(np.int32),
    )
    shape = (rows, width - 1)
    outputs = types.PolicyOutputs(
        *(draw.normal(size=shape).astype(dtype) for _ in range(3))
    )
    return on_device((outputs, batch))


def _ranking(seed: int, ranks, dtype=np.float32, margin=0.0):
    draw = np.random.default_rng(seed)
    ranks = np.asarray(ranks, np.int32)
    rows, responses = ranks.shape
    shape = (rows, responses, 3)
    inputs = types.ModelInputs(
        np.zeros(shape, np.int32),
        np.tile((ranks > 0)[..., None], 3),
        np.zeros(shape, np.int32),
        np.zeros(shape, np.int32),
    )
    batch = types.RankingBatch(
        inputs,
        ranks,
        margin=np.full(rows, margin, dtype),
        example_id=np.arange(rows, dtype=np.int32),
        weight=draw.uniform(0.5, 2.0, rows).astype(dtype),
    )
    return on_device((draw.normal(size=(rows, responses)).astype(dtype), batch))


def on_device(tree):
    """NumPy to jax arrays: batches are built without compiling a single operation."""
    return jax.tree.map(jnp.asarray, tree)


def _rows(tree, chosen):
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[np.asarray(chosen)]), tree)


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
