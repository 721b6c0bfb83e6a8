"""Which tensor of a checkpoint is which array of ours, by family.

One line per tensor: its name, our path or paths, and how it is laid out. Names of
layers hold `{i}`; our arrays of layers are stacked, these functions see one layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rlhf_jax.networks.config import TransformerConfig

Arrays = tuple[np.ndarray, ...]


class Tensor(NamedTuple):
    """One tensor of a checkpoint (of every layer, where the name holds `{i}`).

    Attributes:
      name: as `transformers` writes it.
      paths: ours under `params`, joined by `/`.
      shape: of the tensor in the checkpoint.
      split: the tensor to our arrays.
      join: our arrays to the tensor.
    """

    name: str
    paths: tuple[str, ...]
    shape: tuple[int, ...]
    split: Callable[[np.ndarray], Arrays]
    join: Callable[[Arrays], np.ndarray]


def tensors(config: TransformerConfig, *, scalar: bool) -> list[Tensor]:
    """All tensors of a language model, or of a scalar model (`score.weight`)."""
    if config.family == "gpt2":
        names, layers = _GPT2, _gpt2_layer(config)
    elif config.family == "gpt_neox":
        names, layers = _GPT_NEOX, _neox_layer(config)
    else:
        names, layers = _LLAMA, _llama_layer(config)
    width, table = config.width, (config.vocab_size, config.width)
    found = [_same(names.tokens, "embedding/tokens", *table), *layers]
    if config.positions == "learned":
        positions = (config.max_length, width)
        found.append(_same(names.positions, "embedding/positions", *positions))
    found += _norm(config, names.norm, "final_norm")
    if scalar:
        found.append(_score(width))
    elif not config.tied_embeddings:
        found.append(_same(names.unembedding, "unembedding/kernel", *table))
    return found


def layer_names(tensor: Tensor, num_layers: int) -> list[str]:
    """The names of one line of the table: itself, or one per layer."""
    if "{i}" not in tensor.name:
        return [tensor.name]
    return [tensor.name.replace("{i}", str(i)) for i in range(num_layers)]


class _Names(NamedTuple):
    """Names outside of the layers."""

    tokens: str
    positions: str
    norm: str
    unembedding: str


_LLAMA = _Names("model.embed_tokens.weight", "", "model.norm", "lm_head.weight")
_GPT2 = _Names(
    "transformer.wte.weight",
    "transformer.wpe.weight",
    "transformer.ln_f",
    "lm_head.weight",
)
_GPT_NEOX = _Names(
    "gpt_neox.embed_in.weight", "", "gpt_neox.final_layer_norm", "embed_out.weight"
)
PREFIXES = {"gpt2": "transformer.", "gpt_neox": "gpt_neox."}
"""What checkpoints of the bare trunk leave out; `model.` in the other families."""

ALIASES = {"gpt_neox": {"lm_head.weight": "embed_out.weight"}}
"""Other names that a tensor has gone by."""

BUFFERS = {
    "gpt2": r"attn\.(masked_)?bias$",
    "gpt_neox": r"(attention\.(masked_)?bias|rotary_emb\.inv_freq)$",
}
"""Constants that old checkpoints hold beside the weights."""

ANY_BUFFER = r"rotary_emb\.inv_freq$"


def _llama_layer(config: TransformerConfig) -> list[Tensor]:
    start, width = "model.layers.{i}.", config.width
    queries = config.num_heads * config.head_width
    keys = config.kv_heads * config.head_width
    hidden = config.hidden_width
    table = [
        ("self_attn.q_proj", "attention/query", width, queries, config.qkv_bias),
        ("self_attn.k_proj", "attention/key", width, keys, config.qkv_bias),
        ("self_attn.v_proj", "attention/value", width, keys, config.qkv_bias),
        ("self_attn.o_proj", "attention/output", queries, width, config.output_bias),
        ("mlp.gate_proj", "mlp/gate", width, hidden, config.mlp_bias),
        ("mlp.up_proj", "mlp/up", width, hidden, config.mlp_bias),
        ("mlp.down_proj", "mlp/down", hidden, width, config.mlp_bias),
    ]
    found = []
    for name, path, inputs, outputs, bias in table:
        found += _linear(start + name, path, inputs, outputs, bias)
    norms = {"input_layernorm": "attention_norm"}
    if config.post_norms:
        norms["post_attention_layernorm"] = "attention_post_norm"
        norms["pre_feedforward_layernorm"] = "mlp_norm"
        norms["post_feedforward_layernorm"] = "mlp_post_norm"
    else:
        norms["post_attention_layernorm"] = "mlp_norm"
    for name, path in norms.items():
        found += _norm(config, start + name, "layers/" + path)
    if config.qk_norm:
        for name, path in (("q_norm", "query_norm"), ("k_norm", "key_norm")):
            full = f"{start}self_attn.{name}.weight"
            path = f"layers/attention/{path}/scale"
            found.append(_same(full, path, config.head_width))
    return found


def _gpt2_layer(config: TransformerConfig) -> list[Tensor]:
    start, width, hidden = "transformer.h.{i}.", config.width, config.hidden_width
    queries = config.num_heads * config.head_width
    found = [_gpt2_qkv(start, width, queries)]
    biases = tuple(f"layers/attention/{n}/bias" for n in ("query", "key", "value"))
    found.append(
        Tensor(
            start + "attn.c_attn.bias",
            biases,
            (3 * queries,),
            lambda x: tuple(np.split(x, 3)),
            np.concatenate,
        )
    )
    for name, path, inputs, outputs in (
        ("attn.c_proj", "attention/output", queries, width),
        ("mlp.c_fc", "mlp/up", width, hidden),
        ("mlp.c_proj", "mlp/down", hidden, width),
    ):
        path = f"layers/{path}/"
        found.append(_same(f"{start}{name}.weight", path + "kernel", inputs, outputs))
        found.append(_same(f"{start}{name}.bias", path + "bias", outputs))
    found += _norm(config, start + "ln_1", "layers/attention_norm")
    return found + _norm(config, start + "ln_2", "layers/mlp_norm")


def _gpt2_qkv(start: str, width: int, queries: int) -> Tensor:
    """GPT-2 stores `[inputs, outputs]` (Conv1D), the three side by side."""
    return Tensor(
        start + "attn.c_attn.weight",
        tuple(f"layers/attention/{name}/kernel" for name in ("query", "key", "value")),
        (width, 3 * queries),
        lambda x: tuple(np.split(x, 3, axis=1)),
        lambda parts: np.concatenate(parts, axis=1),
    )


def _neox_layer(config: TransformerConfig) -> list[Tensor]:
    start, width, hidden = "gpt_neox.layers.{i}.", config.width, config.hidden_width
    queries = config.num_heads * config.head_width
    found = _neox_qkv(config, start)
    for name, path, inputs, outputs, bias in (
        ("attention.dense", "attention/output", queries, width, config.output_bias),
        ("mlp.dense_h_to_4h", "mlp/up", width, hidden, config.mlp_bias),
        ("mlp.dense_4h_to_h", "mlp/down", hidden, width, config.mlp_bias),
    ):
        found += _linear(start + name, path, inputs, outputs, bias)
    found += _norm(config, start + "input_layernorm", "layers/attention_norm")
    return found + _norm(config, start + "post_attention_layernorm", "layers/mlp_norm")


def _neox_qkv(config: TransformerConfig, start: str) -> list[Tensor]:
    """GPT-NeoX interleaves by head: rows are `[heads, (query, key, value), size]`."""
    heads, size, width = config.num_heads, config.head_width, config.width
    names = ("query", "key", "value")

    def split(x: np.ndarray) -> Arrays:
        by_head = x.reshape(heads, 3, size, *x.shape[1:])
        return tuple(
            by_head[:, part].reshape(heads * size, *x.shape[1:]).T for part in range(3)
        )

    def join(parts: Arrays) -> np.ndarray:
        by_head = [part.T.reshape(heads, size, *part.shape[:-1]) for part in parts]
        stacked = np.stack(by_head, axis=1)
        return stacked.reshape(3 * heads * size, *stacked.shape[3:])

    name, rows = start + "attention.query_key_value.", 3 * heads * size
    paths = {
        leaf: tuple(f"layers/attention/{part}/{leaf}" for part in names)
        for leaf in ("kernel", "bias")
    }
    found = [Tensor(name + "weight", paths["kernel"], (rows, width), split, join)]
    if config.qkv_bias:
        found.append(Tensor(name + "bias", paths["bias"], (rows,), split, join))
    return found


def _linear(
    name: str, path: str, inputs: int, outputs: int, bias: bool
) -> list[Tensor]:
    """A torch linear layer, `[outputs, inputs]`, of a layer."""
    kernel = Tensor(
        f"{name}.weight",
        (f"layers/{path}/kernel",),
        (outputs, inputs),
        lambda x: (x.T,),
        lambda parts: parts[0].T,
    )
    if not bias:
        return [kernel]
    return [kernel, _same(f"{name}.bias", f"layers/{path}/bias", outputs)]


def _norm(config: TransformerConfig, name: str, path: str) -> list[Tensor]:
    found = [_same(f"{name}.weight", f"{path}/scale", config.width)]
    if config.norm == "layer":
        found.append(_same(f"{name}.bias", f"{path}/bias", config.width))
    return found


def _same(name: str, path: str, *shape: int) -> Tensor:
    """A tensor that is laid out as ours."""
    return Tensor(name, (path,), shape, lambda x: (x,), lambda parts: parts[0])


def _score(width: int) -> Tensor:
    """The scalar head: one row of `AutoModelForSequenceClassification`'s `score`."""
    return Tensor(
        "score.weight",
        ("head/kernel",),
        (1, width),
        lambda x: (x[0],),
        lambda parts: parts[0][None],
    )
