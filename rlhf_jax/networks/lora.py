"""Fold adapters into the weights that they correct."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from rlhf_jax.errors import UserError
from rlhf_jax.networks.config import TransformerConfig

Variables = Any


def merge_lora(variables: Variables, config: TransformerConfig) -> Variables:
    """The variables with `W + (alpha / rank) A B` in place of `W`, without adapters.

    The product is taken in float32 and rounded once to the dtype of `W`. Variables
    without adapters come back as they are.

    Raises:
      UserError: the variables hold adapters and `config.lora` is None.
    """
    if "lora" not in variables:
        return variables
    if config.lora is None:
        raise UserError(
            "the variables hold lora adapters but the config has none; use the config "
            "of the network that was trained (network.config)"
        )
    merged = _merge(variables["params"], variables["lora"], config.lora.scale)
    rest = {k: v for k, v in variables.items() if k not in ("params", "lora")}
    return {**rest, "params": merged}


def _merge(params: Any, lora: Any, scale: float) -> Any:
    """Walk both trees; an adapter sits where its projection does."""
    if "a" in lora:
        product = jnp.matmul(_wide(lora["a"]), _wide(lora["b"])) * scale
        return {**params, "kernel": _added(params["kernel"], product)}
    if "kernel" in lora:
        return {**params, "kernel": _added(params["kernel"], _wide(lora["kernel"]))}
    changed = {name: _merge(params[name], lora[name], scale) for name in lora}
    return {**params, **changed}


def _wide(x: Any) -> Any:
    return jnp.asarray(x, jnp.float32)


def _added(kernel: Any, correction: Any) -> Any:
    return (_wide(kernel) + correction).astype(kernel.dtype)
