"""Sizes of published models, as keys of `config.model`.

A recipe for a pod carries them, so that it can be planned where no weights are at hand;
with `config.model.path` the checkpoint's own sizes count.
"""

from __future__ import annotations

from typing import Any


def _pythia(width: int, layers: int, heads: int, vocab_size: int) -> dict[str, Any]:
    return dict(
        family="gpt_neox",
        vocab_size=vocab_size,
        width=width,
        num_layers=layers,
        num_heads=heads,
        tied_embeddings=False,
    )


PYTHIA = {
    "1b": _pythia(2048, 16, 8, 50_304),
    "2.8b": _pythia(2560, 32, 32, 50_304),
    "6.9b": _pythia(4096, 32, 32, 50_432),
}
"""Pythia deduped (Biderman et al. 2023, arXiv:2304.01373), by size."""

LLAMA_8B: dict[str, Any] = dict(
    family="llama",
    vocab_size=128_256,
    width=4096,
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    mlp_width=14_336,
    tied_embeddings=False,
)
"""Llama 3.1 8B (arXiv:2407.21783)."""

QWEN3_8B: dict[str, Any] = dict(
    family="qwen3",
    vocab_size=151_936,
    width=4096,
    num_layers=36,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    mlp_width=12_288,
    tied_embeddings=False,
)
"""Qwen3 8B (arXiv:2505.09388)."""
