"""What the families have in common with themselves: one function each.

Every function takes the sizes as keywords and passes any further keyword on to
`TransformerConfig`, overriding the family's own value.
"""

from __future__ import annotations

import math
from typing import Any

from rlhf_jax.networks.config import Number, TransformerConfig


def llama(**fields: Any) -> TransformerConfig:
    """Llama 2 and 3: RMS norm, rotary positions, gated SiLU, no biases."""
    return _config("llama", fields, tied_embeddings=False)


def mistral(**fields: Any) -> TransformerConfig:
    """Mistral: Llama with a sliding window in every layer."""
    return _config("mistral", fields, tied_embeddings=False, window=4096)


def qwen2(**fields: Any) -> TransformerConfig:
    """Qwen 2 and 2.5: Llama with biases on query, key and value."""
    defaults = dict(tied_embeddings=False, qkv_bias=True, norm_eps=1e-6)
    return _config("qwen2", fields, **defaults)


def qwen3(**fields: Any) -> TransformerConfig:
    """Qwen 3: Llama with normalized queries and keys."""
    defaults = dict(tied_embeddings=False, qk_norm=True, norm_eps=1e-6)
    return _config("qwen3", fields, head_dim=128, **defaults)


def gemma2(**fields: Any) -> TransformerConfig:
    """Gemma 2: norms on both sides, soft caps, every other layer local (first is)."""
    local = alternating_layers(fields["num_layers"], 2)
    caps = dict(attention_softcap=50.0, final_softcap=30.0)
    return _config("gemma2", fields, **_GEMMA, **caps, window_layers=local)


def gemma3(**fields: Any) -> TransformerConfig:
    """Gemma 3 (text): five local layers to one global, each kind its own rope base."""
    local = alternating_layers(fields["num_layers"], 6)
    rope = dict(rope_theta=1_000_000.0, rope_local_theta=10_000.0, qk_norm=True)
    return _config("gemma3_text", fields, **_GEMMA, **rope, window_layers=local)


def gpt2(**fields: Any) -> TransformerConfig:
    """GPT-2: layer norm, learned positions, biases everywhere."""
    return _config(
        "gpt2", fields, **_BIASED, activation="gelu_tanh", positions="learned"
    )


def gpt_neox(**fields: Any) -> TransformerConfig:
    """GPT-NeoX and Pythia: partial rotary positions, parallel residual, biases."""
    own = dict(rope_fraction=0.25, parallel_residual=True, tied_embeddings=False)
    return _config("gpt_neox", fields, **_BIASED, activation="gelu", **own)


PRESETS = {
    "llama": llama,
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "gemma2": gemma2,
    "gemma3_text": gemma3,
    "gpt2": gpt2,
    "gpt_neox": gpt_neox,
}
"""The functions by family."""


def alternating_layers(num_layers: int, period: int) -> tuple[bool, ...]:
    """True for local layers where every `period`-th layer is global."""
    return tuple((i + 1) % period != 0 for i in range(num_layers))


def gemma_scale(query_pre_attn_scalar: Number) -> float:
    """Gemma's factor of the attention scores."""
    return 1 / math.sqrt(query_pre_attn_scalar)


_GEMMA: dict[str, Any] = dict(
    norm_eps=1e-6,
    norm_offset=True,
    post_norms=True,
    activation="gelu_tanh",
    embedding_scale=True,
    head_dim=256,
    window=4096,
    attention_scale=gemma_scale(256),
)
_BIASED: dict[str, Any] = dict(
    norm="layer", gated_mlp=False, qkv_bias=True, output_bias=True, mlp_bias=True
)


def _config(family: str, fields: Any, **defaults: Any) -> TransformerConfig:
    return TransformerConfig(**{"family": family, **defaults, **fields})
