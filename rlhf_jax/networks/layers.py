"""The Linen modules a block is made of.

Logical axes of parameters: `layers vocab positions embed heads kv_heads mlp head_dim
lora_rank`. Of activations: `batch length activation_embed activation_heads
activation_kv_heads activation_mlp`. A rules table maps them to a mesh; without one the
annotations do nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax import placement
from rlhf_jax.networks.config import LoRA, Number, TransformerConfig
from rlhf_jax.networks.initial import start
from rlhf_jax.ops import products
from rlhf_jax.placement import constrain

KeyValue = tuple[Any, Any]
Dtype = Any
TURNED = "turned_kernel"
"""A kernel as [features, inputs], in variables that were laid out for decoding."""


class Projection(nn.Module):
    """`x W + b`, plus the low-rank path where the variables hold one.

    Attributes:
      features: size of the output.
      axes: logical names of the kernel's two axes.
      std: standard deviation of the initial kernel.
      use_bias: whether there is a bias (zero at first).
      lora: adapters of this projection, or None.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.
    """

    features: int
    axes: tuple[str, str]
    std: Number
    use_bias: bool
    lora: LoRA | None
    dtype: Dtype
    param_dtype: Dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`x[..., inputs]` to `[..., features]`."""
        inputs = x.shape[-1]
        flat = flattened(x).astype(self.dtype)
        if self.has_variable("params", TURNED):
            turned: Any = self.get_variable("params", TURNED)
            y = products.turned(flat, turned.astype(self.dtype))
        else:
            kernel: Any = self.param(
                "kernel",
                start(self.axes, std=self.std),
                (inputs, self.features),
                self.param_dtype,
            )
            y = flat @ kernel.astype(self.dtype)
        if self.lora is not None and self._has_adapter():
            y = y + self._adapter(flat, self.lora)
        if self.use_bias:
            bias: Any = self.param(
                "bias", start(self.axes[1:]), (self.features,), self.param_dtype
            )
            row = bias.reshape((1,) * (y.ndim - 1) + bias.shape)
            y = y + row.astype(self.dtype)
        return y.reshape(*x.shape[:-1], self.features)

    def _has_adapter(self) -> bool:
        return self.is_initializing() or self.has_variable("lora", "a")

    def _adapter(self, flat: Array, lora: LoRA) -> Array:
        inputs, (rows, columns) = flat.shape[-1], self.axes
        noise = start((rows, "lora_rank"), std=1 / math.sqrt(inputs))
        zero = start(("lora_rank", columns))
        a = lora_variable(self, "a", noise, (inputs, lora.rank))
        b = lora_variable(self, "b", zero, (lora.rank, self.features))
        low = flat @ a.astype(self.dtype)
        return low @ b.astype(self.dtype) * jnp.asarray(lora.scale, self.dtype)


def flattened(x: Array) -> Array:
    """`x[... D]` with one token axis, so that a product and both of its gradients are
    plain matrix products; as it is where the length lies over several devices, since
    rows and lengths that are both split cannot be one axis, and would be gathered."""
    here = placement.current()
    if here is not None and here.split("length"):
        return x
    return x.reshape(-1, x.shape[-1])


def lora_variable(
    module: Any, name: str, init: Callable[..., Any], shape: tuple[int, ...]
) -> Array:
    """A variable of the collection `lora`; `init` makes it as it makes parameters."""
    return module.variable(
        "lora", name, lambda: init(None, shape, module.param_dtype)
    ).value


class Norm(nn.Module):
    """RMS or layer norm over the last axis, computed in float32.

    Attributes:
      config: kind, epsilon and offset.
      kind: `rms` or `layer`.
      axis: logical name of the normalized axis.
      dtype: dtype of the result.
      param_dtype: dtype of the parameters.
    """

    config: TransformerConfig
    kind: str
    axis: str
    dtype: Dtype
    param_dtype: Dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalize `x[..., size]`."""
        wide = x.astype(jnp.float32)
        if self.kind == "layer":
            wide = wide - wide.mean(axis=-1, keepdims=True)
        variance = jnp.square(wide).mean(axis=-1, keepdims=True)
        normal = wide * jax.lax.rsqrt(variance + self.config.norm_eps)
        offset = self.config.norm_offset
        y = normal * (self._vector("scale", 1.0 - offset, x) + float(offset))
        if self.kind == "layer":
            y = y + self._vector("bias", 0.0, x)
        return y.astype(self.dtype)

    def _vector(self, name: str, constant: float, x: Array) -> Array:
        """A parameter of the last axis of `x`, in float32 and of the rank of `x`."""
        init = start((self.axis,), constant=constant)
        value: Any = self.param(name, init, x.shape[-1:], self.param_dtype)
        return value.astype(jnp.float32).reshape((1,) * (x.ndim - 1) + x.shape[-1:])


class MLP(nn.Module):
    """The gated or plain feed-forward part.

    Attributes:
      config: sizes, activation, biases.
      dtype: dtype of the computation.
      param_dtype: dtype of the parameters.
    """

    config: TransformerConfig
    dtype: Dtype
    param_dtype: Dtype

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """`down(activation(gate x) * up x)` or `down(activation(up x))`."""
        config = self.config
        activation = _ACTIVATIONS[config.activation]
        up = self._projection("up", config.hidden_width, ("embed", "mlp"))(x)
        if config.gated_mlp:
            gate = self._projection("gate", config.hidden_width, ("embed", "mlp"))(x)
            # The backward pass keeps gate and up and computes the rest again: reading
            # more arrays takes longer than the elementwise work.
            hidden = jax.checkpoint(lambda g, u: activation(g) * u)(gate, up)
        else:
            hidden = activation(up)
        hidden = constrain(hidden, "batch", "length", "activation_mlp")
        return self._projection("down", config.width, ("mlp", "embed"))(hidden)

    def _projection(self, name: str, features: int, axes: tuple[str, str]):
        use_bias = self.config.mlp_bias
        return projection(self, name, features, axes, use_bias=use_bias)


def projection(
    module: Any, name: str, features: int, axes: tuple[str, str], *, use_bias: bool
) -> Projection:
    """The projection called `name` of a part of a block, initialized by its role."""
    config: TransformerConfig = module.config
    inputs = {
        "output": config.num_heads * config.head_width,
        "down": config.hidden_width,
    }.get(name, config.width)
    lora = config.lora
    return Projection(
        features=features,
        axes=axes,
        std=kernel_std(config, inputs, into_stream=name in ("output", "down")),
        use_bias=use_bias,
        lora=lora if lora is not None and name in lora.targets else None,
        dtype=module.dtype,
        param_dtype=module.param_dtype,
        name=name,
    )


def kernel_std(config: TransformerConfig, inputs: int, *, into_stream: bool) -> Number:
    """Initial standard deviation of a kernel; see `TransformerConfig.init_std`."""
    if config.init_std is not None:
        return config.init_std
    depth = 2 * config.num_layers if into_stream else 1
    return 1 / math.sqrt(inputs * depth)


_ACTIVATIONS = {
    "silu": nn.silu,
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: nn.gelu(x, approximate=True),
    "relu": nn.relu,
}
