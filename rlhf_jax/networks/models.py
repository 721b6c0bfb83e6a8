"""Networks as pairs of pure functions: language models and scalar models."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import Array, Float

from rlhf_jax import placement, rng
from rlhf_jax.errors import UserError
from rlhf_jax.networks import cache as caching
from rlhf_jax.networks import decoding, initial, transformer
from rlhf_jax.networks.config import TransformerConfig
from rlhf_jax.ops import products
from rlhf_jax.types import Network

Initializer = Callable[..., Array]


def zeros() -> Initializer:
    """A head that starts at zero: every value or score is 0 at first."""
    return nn.initializers.zeros


def normal(std: float | None = None) -> Initializer:
    """A normal head; `std` None = `1 / sqrt(width + 1)`.

    Stiennon et al. 2020 (arXiv:2009.01325) for reward models, with the `+ 1` that
    stands for the bias which the head does not have.
    """

    def init(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        scale = 1 / math.sqrt(shape[0] + 1) if std is None else std
        return scale * jax.random.normal(key, shape, dtype)

    return init


def language_model(
    config: TransformerConfig,
    *,
    value_head: bool = False,
    head_init: Initializer | float | None = None,
    dtype: Any = jnp.float32,
    param_dtype: Any = jnp.float32,
    scan_layers: bool = False,
    remat: str = "none",
    attention: str = "plain",
) -> Network:
    """A policy: `hidden` for the language head, `scalars` with `value_head`.

    Args:
      config: the architecture.
      value_head: add a bias-free scalar head on the trunk.
      head_init: of that head: an initializer or a standard deviation; None = zeros.
      dtype: dtype of the computation (softmax, norms and scalars stay float32).
      param_dtype: dtype of the parameters.
      scan_layers: one `lax.scan` over the layers instead of unrolling: compile time
        does not grow with depth. Decoding always unrolls, and without this also reads
        a copy of the layers that it need not slice at every token.
      remat: what the backward pass keeps, a key of `transformer.REMAT`.
      attention: key of `kernels.KERNELS`; what a kernel cannot do is left to `plain`.
    """
    head = _initializer(zeros() if head_init is None else head_init)
    return _network(
        transformer.build_parts(
            config,
            language_head=True,
            head_init=head if value_head else None,
            dtype=dtype,
            param_dtype=param_dtype,
            scan_layers=scan_layers,
            remat=remat,
            attention=attention,
        )
    )


def scalar_model(
    config: TransformerConfig,
    *,
    head_init: Initializer | float | None = None,
    dtype: Any = jnp.float32,
    param_dtype: Any = jnp.float32,
    scan_layers: bool = False,
    remat: str = "none",
    attention: str = "plain",
) -> Network:
    """A reward model or value function: `scalars` float32[B L], no language head.

    Args:
      config: the architecture.
      head_init: an initializer or a standard deviation; None = `normal()`.
      dtype: as for `language_model`.
      param_dtype: as for `language_model`.
      scan_layers: as for `language_model`.
      remat: as for `language_model`.
      attention: as for `language_model`.
    """
    head = _initializer(normal() if head_init is None else head_init)
    return _network(
        transformer.build_parts(
            config,
            language_head=False,
            head_init=head,
            dtype=dtype,
            param_dtype=param_dtype,
            scan_layers=scan_layers,
            remat=remat,
            attention=attention,
        )
    )


def logits(
    network: Network, variables: Any, hidden: Float[Array, "*batch D"]
) -> Float[Array, "*batch V"]:
    """Logits of `hidden` in float32, soft-capped as the family has it.

    For a few columns at a time (sampling, tests); training goes through
    `ops.logprobs`, which never holds the whole matrix.
    """
    matrix = network.unembedding(variables)
    flat = hidden.reshape(-1, hidden.shape[-1])
    product = products.turned(flat, matrix, jnp.float32)
    cap = network.config.final_softcap
    if cap is not None:
        product = cap * jnp.tanh(product / cap)
    return product.reshape(*hidden.shape[:-1], -1)


def logical_axes(network: Network) -> Any:
    """The tree of the network's variables with a tuple of axis names at each array.

    The names are those of `networks.layers`; arrays under `layers` lead with `layers`.
    """
    init: Any = network.init
    boxed = jax.eval_shape(functools.partial(init, boxed=True), rng.root(0))
    return jax.tree.map(lambda box: box.names, boxed, is_leaf=initial.is_box)


def axis_names(*networks: Network) -> placement.Names:
    """Path of every variable of some networks -> logical names of its axes.

    What a `placement.Placement` knows arrays by.
    """
    found: dict[Any, Any] = {}
    for network in networks:
        found |= traverse_util.flatten_dict(logical_axes(network))
    return found


def _matrices(variables: Any, dtype: Any) -> Any:
    """Variables whose matrices are of the dtype that their products are taken in;
    scales and biases of norms, and scalar heads, are read in float32."""

    def cast(path: Any, leaf: Array) -> Array:
        names = [str(entry.key) for entry in path]
        product = names[-1] in ("kernel", "tokens", "positions", "a", "b")
        return leaf.astype(dtype) if product and "head" not in names else leaf

    return jax.tree_util.tree_map_with_path(cast, variables)


def _initializer(init: Initializer | float) -> Initializer:
    return normal(init) if isinstance(init, int | float) else init


def _network(parts: transformer.Parts) -> Network:
    config = parts.config

    @functools.partial(jax.jit, static_argnames="boxed")
    def init(key: Array, *, boxed: bool = False) -> Any:
        variables = transformer.init(parts, key)
        return variables if boxed else placement.pinned(nn.meta.unbox(variables))

    def init_cache(batch_size: int, length: int) -> caching.Cache:
        return caching.empty_cache(config, batch_size, length, parts.dtype)

    def unembedding(variables: Any) -> Array:
        if parts.unembedding is not None:
            return parts.unembedding.apply(transformer.part(variables, "unembedding"))
        if not parts.language_head:
            raise UserError(
                "a scalar model has no language head; build a language_model"
            )
        found = transformer.part(variables, "embedding")
        return found["params"]["tokens"].astype(parts.dtype)

    def for_decoding(variables: Any) -> Any:
        here = placement.current()
        if here is not None:
            # Cast first: what is moved between devices is what the products read.
            variables = _matrices(variables, parts.dtype)
            where = here.for_rollout().shardings(variables)
            variables = jax.lax.with_sharding_constraint(variables, where)
        if parts.scan_layers:
            return variables
        return decoding.unstack_layers(variables, config)

    return Network(
        init=init,
        apply=functools.partial(transformer.apply, parts),
        init_cache=init_cache,
        unembedding=unembedding,
        config=config,
        for_decoding=for_decoding,
    )
