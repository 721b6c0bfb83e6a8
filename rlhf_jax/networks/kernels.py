"""Attention by kernels of kept libraries, with `attention.attend` as their reference.

`splash` is JAX's own kernel for TPUs, with its backward pass; `cudnn` is NVIDIA's,
through `jax.nn`. Both read whole rows, so they serve training, scoring and prefill;
a decoding step, one query over a cache, is better off without them. What a kernel
cannot do falls back to the plain path in one place, `choose`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax import placement
from rlhf_jax.errors import UserError
from rlhf_jax.networks.config import Number, TransformerConfig
from rlhf_jax.types import ModelInputs

KERNELS = ("plain", "splash", "splash_interpreted", "cudnn")
"""`splash_interpreted` runs the TPU's kernel on any device, slowly, for tests."""

CHOICES = ("auto", "plain", "splash", "cudnn")
"""What a config may ask for; `for_platform` says what it means."""

LANES = 128
"""Splash attention works on rows of a multiple of this many columns."""


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("query_segments", "key_segments"),
    meta_fields=("name", "window"),
)
@dataclasses.dataclass(frozen=True)
class Kernel:
    """Which kernel attends, and what it needs in place of a mask.

    Attributes:
      name: key of `KERNELS` other than `plain`.
      window: sliding window, tokens including the present one, or None.
      query_segments: int32[B L], document of each query.
      key_segments: int32[B L], document of each key, -1 for padding.
    """

    name: str
    window: int | None
    query_segments: Array
    key_segments: Array


def for_platform(name: str, platform: str, dtype: Any) -> str:
    """The kernel that `name` means on a platform; `auto` takes the platform's own.

    Args:
      name: key of `CHOICES`.
      platform: `tpu`, `gpu` or `cpu`.
      dtype: of the computation; cuDNN has no float32.

    Raises:
      UserError: a kernel that the platform cannot run.
    """
    own = {"tpu": "splash", "gpu": "cudnn"}.get(platform, "plain")
    if own == "cudnn" and dtype == jnp.float32:
        own = "plain"
    if name in ("plain", own):
        return name
    if name == "auto":
        return own
    raise UserError(
        f"attention='{name}' does not run on {platform} devices in"
        f" {jnp.dtype(dtype).name}; use 'auto' or 'plain'"
    )


def choose(
    name: str, config: TransformerConfig, inputs: ModelInputs, *, local: bool
) -> Kernel | None:
    """The kernel for whole rows, or None where the plain path has to do it.

    The plain path has soft caps where cuDNN has none, rows shorter than the lanes of a
    TPU, rows that do not divide over the devices, a length that is laid over several
    of them, and heads that are split where their keys and values are not.
    """
    rows, length = inputs.tokens.shape
    short = name.startswith("splash") and length < LANES
    capped = name == "cudnn" and config.attention_softcap is not None
    if name == "plain" or short or capped or not _local(rows):
        return None
    return Kernel(
        name=name,
        window=config.window if local else None,
        query_segments=inputs.segment_ids,
        key_segments=jnp.where(inputs.mask, inputs.segment_ids, -1),
    )


def _local(rows: int) -> bool:
    """Whether every device has whole rows, with the keys of its own queries."""
    here = placement.current()
    if here is None:
        return True
    heads = [here.parts(f"activation_{name}") for name in ("heads", "kv_heads")]
    whole = here.parts("length") == 1
    return whole and rows % here.row_shards == 0 and heads[0] == heads[1]


def attend(
    kernel: Kernel,
    queries: Float[Array, "B L H E"],
    keys: Float[Array, "B K L E"],
    values: Float[Array, "B K L E"],
    mask: Bool[Array, "B L L"],
    *,
    scale: Number,
    softcap: Number | None,
) -> Float[Array, "B L H E"]:
    """As `attention.attend`; rows without any key that they may see are undefined."""
    if kernel.name == "cudnn":
        return cudnn(queries, keys, values, mask, scale=scale)
    local = functools.partial(
        splash,
        scale=scale,
        softcap=softcap,
        window=kernel.window,
        interpret=kernel.name == "splash_interpreted",
    )
    given = (
        queries.swapaxes(1, 2),
        keys,
        values,
        kernel.query_segments,
        kernel.key_segments,
    )
    return _on_each_device(local, *given).swapaxes(1, 2)


def cudnn(
    queries: Float[Array, "B L H E"],
    keys: Float[Array, "B K S E"],
    values: Float[Array, "B K S E"],
    mask: Bool[Array, "B L S"],
    *,
    scale: Number,
    implementation: Any = "cudnn",
) -> Float[Array, "B L H E"]:
    """`jax.nn.dot_product_attention`, by cuDNN where not said otherwise."""
    return jax.nn.dot_product_attention(
        queries,
        keys.swapaxes(1, 2),
        values.swapaxes(1, 2),
        mask=mask[:, None],
        scale=scale,
        implementation=implementation,
    )


def splash(
    queries: Float[Array, "B H L E"],
    keys: Float[Array, "B K L E"],
    values: Float[Array, "B K L E"],
    query_segments: Int[Array, "B L"],
    key_segments: Int[Array, "B L"],
    *,
    scale: Number,
    softcap: Number | None,
    window: int | None,
    interpret: bool,
) -> Float[Array, "B H L E"]:
    """Splash attention of one device, rows padded to whole blocks.

    The window is counted in columns, which are positions as long as the padding of a
    row stands at its ends.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as library

    heads, length = queries.shape[1:3]
    padded = math.ceil(length / LANES) * LANES
    size = LANES * max(d for d in range(1, 9) if padded // LANES % d == 0)
    shape = (padded, padded)
    mask = library.CausalMask(shape)
    if window is not None:
        mask = library.LocalMask(shape, (window - 1, 0), 0)
    blocks: dict[str, Any] = {f"block_{name}": size for name in _BLOCKS}
    run = library.make_splash_mha(
        mask=library.MultiHeadMask([mask] * heads),
        block_sizes=library.BlockSizes(**blocks),
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=softcap,
        interpret=interpret,
    )

    def pad(x: Array, axis: int, value: int = 0) -> Array:
        widths = [(0, 0)] * x.ndim
        widths[axis] = (0, padded - length)
        return jnp.pad(x, widths, constant_values=value)

    segments = library.SegmentIds(pad(query_segments, 1, -2), pad(key_segments, 1, -2))
    scaled = (queries * scale).astype(queries.dtype)
    mixed: Any = jax.vmap(run)(pad(scaled, 2), pad(keys, 2), pad(values, 2), segments)
    return mixed[:, :, :length].astype(values.dtype)


_BLOCKS = "q kv q_dkv kv_dkv q_dq kv_dq kv_compute kv_dkv_compute".split()


def _on_each_device(function: Any, queries: Array, keys: Array, *rest: Array) -> Array:
    """Runs a kernel on each device's rows and heads: the compiler cannot split it."""
    values, query_segments, key_segments = rest
    here = placement.current()
    if here is None:
        return function(queries, keys, values, query_segments, key_segments)
    heads = here.spec("batch", "activation_heads", None, None)
    groups = here.spec("batch", "activation_kv_heads", None, None)
    rows = here.spec("batch", None)
    return jax.shard_map(
        function,
        mesh=here.mesh,
        in_specs=(heads, groups, groups, rows, rows),
        out_specs=heads,
        check_vma=False,
    )(queries, keys, values, query_segments, key_segments)
