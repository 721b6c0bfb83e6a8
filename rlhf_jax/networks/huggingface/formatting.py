"""`TransformerConfig` to config.json, refusing what the format cannot say."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from rlhf_jax.errors import UserError
from rlhf_jax.networks.config import TransformerConfig
from rlhf_jax.networks.huggingface.fields import ACTIVATIONS, FAMILIES
from rlhf_jax.networks.huggingface.parsing import (
    GEMMAS,
    GLOBAL,
    LOCAL,
    config_from_huggingface,
)


def config_to_huggingface(config: TransformerConfig) -> dict[str, Any]:
    """A config.json that `transformers` 4 and 5 read.

    Raises:
      UserError: the family has no way to say what `config` asks for; each field that
        would be lost is named.
    """
    family = FAMILIES[config.family]
    plain = _resolved(config)
    raw = {hf: plain[ours] for hf, ours in family.fields.items()}
    raw["model_type"] = config.family
    raw[family.activation] = {v: k for k, v in ACTIVATIONS.items()}[config.activation]
    if config.family == "gpt2" and config.activation == "gelu_tanh":
        raw[family.activation] = "gelu_new"
    if "attention_bias" in family.absent:
        raw["attention_bias"] = config.qkv_bias
    if config.init_std is not None:
        raw["initializer_range"] = config.init_std
    if family.rope:
        raw |= _rope_to(config)
    raw |= _windows_to(config)
    if config.family in GEMMAS:
        scalar = config.query_scale**-2
        whole = round(scalar)
        raw["query_pre_attn_scalar"] = whole if math.isclose(scalar, whole) else scalar
    _check_lossless(config, raw)
    return raw


def _rope_to(config: TransformerConfig) -> dict[str, Any]:
    raw: dict[str, Any]
    if config.family == "gpt_neox":
        raw = {"rotary_emb_base": config.rope_theta, "rotary_pct": config.rope_fraction}
    else:
        raw = {"rope_theta": config.rope_theta}
    if config.family == "gemma3_text":
        raw["rope_local_base_freq"] = config.rope_local_theta
    scaling = config.rope_scaling
    if scaling is None:
        return raw
    fields: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "llama3":
        fields["low_freq_factor"] = scaling.low_freq_factor
        fields["high_freq_factor"] = scaling.high_freq_factor
        fields["original_max_position_embeddings"] = scaling.original_max_length
    return {**raw, "rope_scaling": fields}


def _windows_to(config: TransformerConfig) -> dict[str, Any]:
    if config.family in ("llama", "gpt2", "gpt_neox"):
        return {}
    if config.family == "mistral":
        return {"sliding_window": config.window}
    kinds = [LOCAL if local else GLOBAL for local in config.local_layers]
    if config.family in GEMMAS:
        window = config.max_length if config.window is None else config.window
        return {"sliding_window": window, "layer_types": kinds}
    return {
        "use_sliding_window": config.window is not None,
        "sliding_window": config.window,
        "max_window_layers": kinds.count(GLOBAL),
        "layer_types": kinds,
    }


def _resolved(config: TransformerConfig) -> dict[str, Any]:
    """All fields that mean something for the numbers, with defaults filled in."""
    fields = dataclasses.asdict(config)
    local = any(config.local_layers)
    return fields | {
        "num_kv_heads": config.kv_heads,
        "head_dim": config.head_width,
        "mlp_width": config.hidden_width,
        "window": config.window if local else None,
        "window_layers": config.local_layers,
        "attention_scale": config.query_scale,
        "lora": None,
        "init_std": None,
    }


def _check_lossless(config: TransformerConfig, raw: dict[str, Any]) -> None:
    wanted, back = _resolved(config), _resolved(config_from_huggingface(raw))
    lost = [name for name in wanted if not _same(wanted[name], back[name])]
    if lost:
        raise UserError(
            f"a {config.family} checkpoint cannot say "
            + ", ".join(f"{name}={wanted[name]!r}" for name in lost)
            + "; choose another family"
        )


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-12)
    return a == b
