"""Variables laid out for decoding: one step reads every weight for a few rows."""

from __future__ import annotations

from typing import Any

import jax

from rlhf_jax.networks import layers as modules
from rlhf_jax.networks import transformer
from rlhf_jax.networks.config import TransformerConfig
from rlhf_jax.ops import products

Variables = Any


def unstack_layers(variables: Variables, config: TransformerConfig) -> Variables:
    """Variables with a tuple of trees, one per layer, in place of the stacked tree.

    `apply` reads both, and unrolls this one. Done once before a decoding
    loop, it saves slicing the stack at every token, at the price of one copy of the
    layers. Kernels that are read faster so (`products.worth_turning`) are turned.
    """
    stacked = transformer.part(variables, "layers")
    layers = [_turned(one) for one in transformer.unstack(stacked, config.num_layers)]
    return {
        name: {**tree, "layers": tuple(layer[name] for layer in layers)}
        if "layers" in tree
        else tree
        for name, tree in variables.items()
    }


def _turned(tree: Variables) -> Variables:
    """The tree with large kernels as [features, inputs], under the name of those."""
    found = {}
    for name, leaf in tree.items():
        if isinstance(leaf, dict):
            found[name] = _turned(leaf)
        elif name == "kernel" and products.worth_turning(leaf):
            found[modules.TURNED] = jax.lax.optimization_barrier(leaf.T)
        else:
            found[name] = leaf
    return found
