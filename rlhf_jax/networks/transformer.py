"""The decoder: Linen parts over one canonical parameter tree.

    params/embedding/{tokens,positions}   params/layers/...   params/final_norm/...
    params/unembedding/kernel             params/head/kernel
    lora/layers/...                       lora/head/kernel

Arrays under `layers` are stacked, `[num_layers, ...]`. Whether the layers are scanned,
unrolled or rematerialized is decided where the tree is *applied*, by plain JAX
transformations of the pure function of one block: paths, checkpoints and initial
values cannot depend on it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlhf_jax import host_memory, rng
from rlhf_jax.errors import UserError
from rlhf_jax.networks import cache as caching
from rlhf_jax.networks import initial, kernels
from rlhf_jax.networks.attention import Block, LayerCache, LayerInputs
from rlhf_jax.networks.config import TransformerConfig
from rlhf_jax.networks.context import Context, angles, layer_context
from rlhf_jax.networks.ends import Embedding, ScalarHead, Unembedding
from rlhf_jax.networks.layers import Norm
from rlhf_jax.types import ModelInputs, NetworkOutputs

Array = jax.Array
Variables = Any

_POLICIES = jax.checkpoint_policies
REMAT: dict[str, Any] = {
    "none": None,
    "full": _POLICIES.nothing_saveable,
    "dots": _POLICIES.dots_saveable,
    "weight_dots": _POLICIES.dots_with_no_batch_dims_saveable,
}
"""What the backward pass keeps of a layer: everything, only its input, the results of
all matrix products, or only of products with weights (not of attention)."""


class Parts(NamedTuple):
    """The Linen modules of one network and how its layers are run.

    Attributes:
      config: the architecture.
      embedding: tokens to stream.
      block: one layer.
      final_norm: stream to hidden.
      unembedding: the untied language head, or None.
      head: the scalar head, or None.
      language_head: whether the network is a language model.
      dtype: dtype of the computation.
      scan_layers: scan instead of unroll (never with a cache).
      remat: key of `REMAT`.
      attention: key of `kernels.KERNELS`.
    """

    config: TransformerConfig
    embedding: Any
    block: Any
    final_norm: Any
    unembedding: Any
    head: Any
    language_head: bool
    dtype: Any
    scan_layers: bool
    remat: str
    attention: str


def build_parts(
    config: TransformerConfig,
    *,
    language_head: bool,
    head_init: Callable[..., Array] | None,
    dtype: Any,
    param_dtype: Any,
    scan_layers: bool,
    remat: str,
    attention: str,
) -> Parts:
    """The modules of a network; `head_init` None means without a scalar head."""
    if remat not in REMAT:
        raise UserError(f"remat={remat!r}: choose from {', '.join(REMAT)}")
    if attention not in kernels.KERNELS:
        known = ", ".join(kernels.KERNELS)
        raise UserError(f"attention={attention!r}: choose from {known}")
    untied = language_head and not config.tied_embeddings
    scalar = head_init is not None
    return Parts(
        config=config,
        embedding=Embedding(config, dtype, param_dtype),
        block=Block(config, dtype, param_dtype),
        final_norm=Norm(config, config.norm, "embed", dtype, param_dtype),
        unembedding=Unembedding(config, dtype, param_dtype) if untied else None,
        head=ScalarHead(config, head_init, param_dtype) if scalar else None,
        language_head=language_head,
        dtype=dtype,
        scan_layers=scan_layers,
        remat=remat,
        attention=attention,
    )


def init(parts: Parts, key: Array) -> Variables:
    """Initial variables, boxed with logical axis names.

    Every part draws from a key of its own name, so that networks which share a trunk
    and a key share the trunk's initial values.
    """
    config = parts.config
    row = jnp.zeros((1, 1), jnp.int32)
    stream = jnp.zeros((1, 1, config.width), parts.dtype)
    inputs = LayerInputs(jnp.ones((1, 1, 1), bool), angles(config, row, local=False))

    def made(module: nn.Module, name: str, *args: Any) -> Variables:
        place = rng.named(key, name)
        return _add_noise(module.init(place, *args), place)

    block = parts.block.init(key, stream, inputs)
    keys = jax.random.split(rng.named(key, "layers"), config.num_layers)
    layers = jax.lax.map(lambda place: _add_noise(block, place), keys)
    found = {
        "embedding": made(parts.embedding, "embedding", row, row),
        "layers": nn.meta.add_axis(layers, 0, {nn.PARTITION_NAME: "layers"}),
        "final_norm": made(parts.final_norm, "final_norm", stream),
    }
    if parts.unembedding is not None:
        found["unembedding"] = made(parts.unembedding, "unembedding")
    if parts.head is not None:
        found["head"] = made(parts.head, "head", stream)
    collections = ["params"] + (["lora"] if config.lora is not None else [])
    return {
        collection: {
            name: variables[collection]
            for name, variables in found.items()
            if collection in variables
        }
        for collection in collections
    }


def _add_noise(variables: Variables, key: Array) -> Variables:
    """By collection, so that a base does not depend on whether it has adapters."""
    return {
        name: initial.add_noise(tree, rng.named(key, name))
        for name, tree in variables.items()
    }


def apply(
    parts: Parts,
    variables: Variables,
    inputs: ModelInputs,
    cache: caching.Cache | None = None,
) -> NetworkOutputs:
    """Read a batch, or append a chunk to `cache`; see `types.Network.apply`."""
    config = parts.config
    if cache is not None:
        cache = caching.record(cache, inputs)
    context = layer_context(config, inputs, cache, parts.attention)
    x = parts.embedding.apply(
        part(variables, "embedding"), inputs.tokens, inputs.positions
    )
    x, cache = _run_layers(parts, part(variables, "layers"), x, context, cache)
    hidden = parts.final_norm.apply(part(variables, "final_norm"), x)
    scalars = None
    if parts.head is not None:
        scalars = parts.head.apply(part(variables, "head"), hidden)
    return NetworkOutputs(hidden, scalars, cache)


def part(variables: Variables, name: str) -> Variables:
    """The collections of one part of the network, on the devices.

    Stacked layers that wait on the host stay there: one at a time is fetched.
    """
    found = {
        collection: tree[name] for collection, tree in variables.items() if name in tree
    }
    return found if name == "layers" else host_memory.here(found)


def _run_layers(
    parts: Parts,
    layers: Variables,
    x: Array,
    context: Context,
    cache: caching.Cache | None,
) -> tuple[Array, caching.Cache | None]:
    if cache is not None:
        return _run_cached(parts, layers, x, context, cache)
    run = _layer_function(parts)
    if parts.scan_layers and not isinstance(layers["params"], tuple):
        return _run_scanned(parts, run, layers, x, context), None
    for one, local in zip(
        unstack(layers, parts.config.num_layers), parts.config.local_layers, strict=True
    ):
        x = run(one, x, context.choose(local))
    return x, None


def _layer_function(parts: Parts) -> Callable[..., Array]:
    """One block as a pure function, rematerialized as asked."""

    def run(variables: Variables, x: Array, inputs: LayerInputs) -> Array:
        return parts.block.apply(variables, x, inputs)[0]

    if parts.remat == "none":
        return run
    policy, scanned = REMAT[parts.remat], parts.scan_layers
    return jax.checkpoint(run, policy=policy, prevent_cse=not scanned)


def _run_scanned(
    parts: Parts,
    run: Callable[..., Array],
    layers: Variables,
    x: Array,
    context: Context,
) -> Array:
    """All layers in one `lax.scan`; where kinds alternate, a flag selects."""
    local = parts.config.local_layers
    mixed = len(set(local)) > 1

    def step(x: Array, xs: tuple[Variables, Array]) -> tuple[Array, None]:
        variables, flag = host_memory.here(xs[0]), xs[1]
        inputs = context.choose(local[0])
        if mixed:
            assert context.local is not None
            select = functools.partial(jnp.where, flag)
            # A kernel's window is fixed when it is built: alternating layers that
            # are scanned attend by their masks.
            pair = context.local, context.everywhere
            inputs = jax.tree.map(select, *(x._replace(kernel=None) for x in pair))
        return run(variables, x, inputs), None

    return jax.lax.scan(step, x, (layers, jnp.asarray(local)))[0]


def _run_cached(
    parts: Parts,
    layers: Variables,
    x: Array,
    context: Context,
    cache: caching.Cache,
) -> tuple[Array, caching.Cache]:
    """Unrolled, each layer updating its own keys and values."""
    keys, values = [], []
    for i, one in enumerate(unstack(layers, parts.config.num_layers)):
        held = LayerCache(cache.keys[i], cache.values[i], cache.index)
        chosen = context.choose(parts.config.local_layers[i])
        x, held = parts.block.apply(one, x, chosen, held)
        keys.append(held.keys)
        values.append(held.values)
    index = jnp.asarray(cache.index + x.shape[1], jnp.int32)
    return x, cache._replace(keys=tuple(keys), values=tuple(values), index=index)


def unstack(layers: Variables, num_layers: int) -> list[Variables]:
    """One tree per layer, of a stacked tree or of one that `unstack_layers` made.

    By `lax.split`, whose transpose is one concatenation; slicing layer by layer would
    add `num_layers` arrays of the full size in the backward pass.
    """
    if isinstance(layers["params"], tuple):
        return [
            {name: tree[i] for name, tree in layers.items()} for i in range(num_layers)
        ]
    leaves, structure = jax.tree.flatten(host_memory.here(layers))
    pieces = [jax.lax.split(jnp.asarray(leaf), (1,) * num_layers) for leaf in leaves]
    return [
        jax.tree.unflatten(structure, [piece[i][0] for piece in pieces])
        for i in range(num_layers)
    ]
