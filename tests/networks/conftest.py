"""Small networks and inputs that the tests of this folder share."""

from __future__ import annotations

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import networks, rng
from rlhf_jax.types import ModelInputs

SMALL = dict(vocab_size=23, width=16, num_layers=2, num_heads=4, mlp_width=24)


def llama(**fields):
    """Grouped queries, rotary positions."""
    return networks.presets.llama(**{**SMALL, "num_kv_heads": 2, **fields})


def gemma3(**fields):
    """Local and global layers with two rope bases, q/k norm, post norms."""
    own = dict(num_kv_heads=1, head_dim=6, window=3, window_layers=(True, False))
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
    """Random arrays of the network's shapes: no zeros, no ones to hide behind."""
    source = np.random.default_rng(seed)

    def draw(path, leaf):
        offset = path[-1].key == "scale" and not network.config.norm_offset
        noise = 0.3 * source.standard_normal(leaf.shape) + float(offset)
        return jnp.asarray(noise, leaf.dtype)

    shapes = jax.eval_shape(network.init, rng.root(0))
    return jax.tree_util.tree_map_with_path(draw, shapes)


# Tiny programs run once or twice: compile fast rather than well.
jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": "0"}
)


@functools.partial(jit, static_argnums=0)
def _forward(network, variables, inputs):
    hidden = network.apply(variables, inputs).hidden
    return networks.logits(network, variables, hidden)


def compute_logits(network, variables, inputs) -> np.ndarray:
    """Logits of a full forward pass, compiled once per network and shape."""
    return np.asarray(_forward(network, variables, inputs))


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
        jit=jit,
    )
