"""Small networks and inputs that the tests of this folder share."""

from __future__ import annotations

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import networks, rng
from rlhf_jax.types import ModelInputs

SMALL = dict(vocab_size=23, width=16, num_layers=3, num_heads=4, mlp_width=24)


def llama(**fields):
    """Grouped queries, rotary positions."""
    return networks.presets.llama(**{**SMALL, "num_kv_heads": 2, **fields})


def gemma3(**fields):
    """Local and global layers with two rope bases, q/k norm, post norms."""
    own = dict(num_kv_heads=1, head_dim=6, window=3, window_layers=(True, False, True))
    return networks.presets.gemma3(**{**SMALL, **own, **fields})


def gpt2(**fields):
    """Learned positions, layer norm, biases."""
    return networks.presets.gpt2(**{**SMALL, "max_length": 32, **fields})


def make_inputs(tokens, mask=None, segments=None) -> ModelInputs:
    """Inputs with positions counted inside each document."""
    tokens = np.asarray(tokens, np.int32)
    mask = np.ones(tokens.shape, bool) if mask is None else np.asarray(mask, bool)
    segments = np.zeros_like(tokens) if segments is None else np.asarray(segments)
    positions = np.zeros_like(tokens)
    for row in range(tokens.shape[0]):
        for segment in np.unique(segments[row]):
            inside = mask[row] & (segments[row] == segment)
            positions[row, inside] = np.arange(inside.sum())
    arrays = (tokens, mask, positions, segments.astype(np.int32))
    return ModelInputs(*map(jnp.asarray, arrays))


def random_variables(network, seed: int = 0):
    """Initial variables with every array disturbed: no zeros, no ones to hide behind."""
    variables = network.init(rng.root(seed))
    leaves, structure = jax.tree.flatten(variables)
    source = np.random.default_rng(seed)
    noise = [0.2 * source.standard_normal(leaf.shape) for leaf in leaves]
    return jax.tree.unflatten(
        structure,
        [leaf + jnp.asarray(x, leaf.dtype) for leaf, x in zip(leaves, noise)],
    )


def compute_logits(network, variables, inputs) -> np.ndarray:
    """Logits of a full forward pass, compiled."""

    @jax.jit
    def forward(variables, inputs):
        hidden = network.apply(variables, inputs).hidden
        return networks.logits(network, variables, hidden)

    return np.asarray(forward(variables, inputs))


@pytest.fixture
def zoo():
    """The helpers above."""
    return types.SimpleNamespace(
        small=SMALL,
        llama=llama,
        gemma3=gemma3,
        gpt2=gpt2,
        families={"llama": llama, "gemma3": gemma3, "gpt2": gpt2},
        inputs=make_inputs,
        variables=random_variables,
        logits=compute_logits,
    )
