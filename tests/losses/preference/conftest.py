"""Random preference batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.losses import preference


def _device(tree):
    return jax.tree.map(jnp.asarray, tree)


@pytest.fixture
def preferences():
    """`(seed, ranks, dtype) -> (PreferenceOutputs, PreferenceBatch)`."""

    def make(seed, ranks, dtype=np.float32):
        draw = np.random.default_rng(seed)
        ranks = np.asarray(ranks, np.int32)
        policy = -draw.gamma(4.0, 5.0, ranks.shape).astype(dtype)
        drift = np.random.default_rng(seed + 1).gamma(1.0, 1.0, ranks.shape)
        batch = preference.PreferenceBatch(
            ranks=ranks,
            ref_logprobs=(policy + draw.normal(0, 3, ranks.shape)).astype(dtype),
            lengths=draw.integers(1, 30, ranks.shape).astype(np.int32),
            policy_logprobs=policy,
            example_id=np.arange(len(ranks), dtype=np.int32),
            weight=draw.uniform(0.5, 2.0, len(ranks)).astype(dtype),
            mismatched_logprobs=policy[::-1],
            mismatched_ref_logprobs=(policy[::-1] - drift).astype(dtype),
            win_probability=draw.random(ranks.shape).astype(dtype),
        )
        return _device((preference.PreferenceOutputs(policy), batch))

    return make


@pytest.fixture
def labels():
    """`(seed, rows, dtype) -> (PreferenceOutputs, LabelBatch)`; the last row is
    padding."""

    def make(seed, rows, dtype=np.float32):
        draw = np.random.default_rng(seed)
        policy, mismatched = (-draw.gamma(4.0, 5.0, rows).astype(dtype) for _ in "ab")
        batch = preference.LabelBatch(
            labels=draw.random(rows) < 0.5,
            mask=np.arange(rows) < rows - 1,
            ref_logprobs=(policy + draw.normal(0, 3, rows)).astype(dtype),
            lengths=draw.integers(1, 30, rows).astype(np.int32),
            policy_logprobs=policy,
            mismatched_logprobs=mismatched,
            mismatched_ref_logprobs=(mismatched - draw.gamma(1.0, 1.0, rows)).astype(
                dtype
            ),
            example_id=np.arange(rows, dtype=np.int32),
            weight=draw.uniform(0.5, 2.0, rows).astype(dtype),
        )
        return _device((preference.PreferenceOutputs(policy), batch))

    return make
