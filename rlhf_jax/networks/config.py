"""The architecture of a decoder, as data: what a family of checkpoints differs in."""

from __future__ import annotations

import dataclasses

from rlhf_jax.errors import UserError

Number = float | int

FAMILIES = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "gpt2",
    "gpt_neox",
)
"""Families by the name that Hugging Face gives them (`model_type`)."""

PROJECTIONS = ("query", "key", "value", "output", "gate", "up", "down")
"""The projections of a layer, by the names that they have in the parameter tree."""

ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies are stretched for contexts longer than the trained one.

    Attributes:
      kind: `linear` divides every frequency by `factor`; `llama3` divides the low ones
        and interpolates between the two bands (Llama 3.1).
      factor: the stretch, > 0.
      low_freq_factor: `llama3`: wavelengths above `original_max_length / this` are
        divided by `factor`.
      high_freq_factor: `llama3`: wavelengths below `original_max_length / this` stay.
      original_max_length: `llama3`: context length of the pre-training, tokens.
    """

    kind: str
    factor: Number
    low_freq_factor: Number = 1.0
    high_freq_factor: Number = 4.0
    original_max_length: int = 8192

    def __post_init__(self):
        if self.kind not in ("linear", "llama3"):
            raise UserError(
                f"rope scaling {self.kind!r} is not supported; use 'linear' or "
                "'llama3', or a checkpoint without rope scaling"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRA:
    """Low-rank adapters `W + (alpha / rank) A B` (Hu et al. 2021, arXiv:2106.09685).

    `A` starts normal with standard deviation `1 / sqrt(inputs)`, `B` at zero, so the
    adapted network starts equal to the base. A scalar head, having no low rank to
    speak of, gets a full correction that also starts at zero.

    Attributes:
      rank: columns of `A`.
      alpha: the numerator of the scale.
      targets: projections that get adapters, of `PROJECTIONS`.
    """

    rank: int = 8
    alpha: Number = 16.0
    targets: tuple[str, ...] = ("query", "key", "value", "output")

    def __post_init__(self):
        unknown = [name for name in self.targets if name not in PROJECTIONS]
        if unknown or not self.targets:
            raise UserError(
                f"lora targets {self.targets!r}: choose from {', '.join(PROJECTIONS)}"
            )
        if self.rank < 1:
            raise UserError(f"lora rank must be at least 1, not {self.rank}")

    @property
    def scale(self) -> Number:
        """What the product of the adapters is multiplied with."""
        return self.alpha / self.rank


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """A decoder-only transformer. The defaults are a small Llama.

    Attributes:
      family: one of `FAMILIES`; names the Hugging Face format for `huggingface.save`.
      vocab_size: rows of the embedding, V.
      width: size of the residual stream, D.
      num_layers: number of blocks.
      num_heads: query heads.
      num_kv_heads: key-value heads (grouped-query attention), None = `num_heads`.
      head_dim: size of a head, None = `width // num_heads`.
      mlp_width: hidden size of the MLP, None = `4 * width`.
      max_length: context length, tokens; size of the table of learned positions.
      norm: `rms` or `layer`.
      norm_eps: added to the variance.
      norm_offset: the RMS norm multiplies with `1 + scale` (Gemma).
      post_norms: also normalize what attention and MLP return (Gemma).
      qk_norm: RMS-normalize queries and keys over the head (Qwen3, Gemma 3).
      activation: one of `silu gelu gelu_tanh relu`; `gelu` is the exact one.
      gated_mlp: `down(activation(gate(x)) * up(x))` instead of
        `down(activation(up(x)))`.
      parallel_residual: attention and MLP read the same stream (GPT-NeoX).
      qkv_bias: bias of the query, key and value projections.
      output_bias: bias of attention's output projection.
      mlp_bias: biases of the MLP.
      positions: `rope` or `learned`.
      rope_theta: base of the rotary frequencies.
      rope_local_theta: base in layers with a window, None = `rope_theta`; such layers
        are then not scaled (Gemma 3).
      rope_fraction: share of the head that is rotated (GPT-NeoX).
      rope_scaling: context extension, or None.
      window: sliding window, tokens including the present one, or None.
      window_layers: which layers use the window, None = all (if `window` is set).
      attention_scale: factor of `q k`, None = `head_dim ** -0.5`.
      attention_softcap: `cap * tanh(scores / cap)` before the mask, or None (Gemma 2).
      final_softcap: the same on the logits (applied by `networks.logits` and by
        `ops.logprobs`, not in `hidden`).
      embedding_scale: multiply embeddings with `sqrt(width)` (Gemma).
      tied_embeddings: the embedding is the unembedding too.
      init_std: standard deviation of kernels and embeddings; None = `1 / sqrt(inputs)`
        for kernels (projections back into the stream by a further
        `1 / sqrt(2 num_layers)`) and `1 / sqrt(width)` for embeddings.
      lora: adapters, or None.
    """

    vocab_size: int
    width: int
    num_layers: int
    num_heads: int
    family: str = "llama"
    num_kv_heads: int | None = None
    head_dim: int | None = None
    mlp_width: int | None = None
    max_length: int = 2048
    norm: str = "rms"
    norm_eps: Number = 1e-5
    norm_offset: bool = False
    post_norms: bool = False
    qk_norm: bool = False
    activation: str = "silu"
    gated_mlp: bool = True
    parallel_residual: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    positions: str = "rope"
    rope_theta: Number = 10_000.0
    rope_local_theta: Number | None = None
    rope_fraction: Number = 1.0
    rope_scaling: RopeScaling | None = None
    window: int | None = None
    window_layers: tuple[bool, ...] | None = None
    attention_scale: Number | None = None
    attention_softcap: Number | None = None
    final_softcap: Number | None = None
    embedding_scale: bool = False
    tied_embeddings: bool = True
    init_std: Number | None = None
    lora: LoRA | None = None

    def __post_init__(self):
        _require_choice("family", self.family, FAMILIES)
        _require_choice("norm", self.norm, ("rms", "layer"))
        _require_choice("activation", self.activation, ACTIVATIONS)
        _require_choice("positions", self.positions, ("rope", "learned"))
        for name in ("vocab_size", "width", "num_layers", "num_heads", "max_length"):
            _require_positive(name, vars(self)[name])
        for name in ("num_kv_heads", "head_dim", "mlp_width", "window"):
            if vars(self)[name] is not None:
                _require_positive(name, vars(self)[name])
        if self.num_heads % self.kv_heads:
            raise UserError(
                f"num_heads={self.num_heads} is not a multiple of "
                f"num_kv_heads={self.kv_heads}"
            )
        if self.head_dim is None and self.width % self.num_heads:
            raise UserError(
                f"width={self.width} is not a multiple of num_heads={self.num_heads}; "
                "give head_dim"
            )
        if self.positions == "rope" and self.rotary_dim % 2:
            raise UserError(
                f"rotary positions need an even number of dimensions, got "
                f"{self.rotary_dim} (head {self.head_width}, rope_fraction "
                f"{self.rope_fraction})"
            )
        if self.window_layers is not None:
            self._check_window_layers(self.window_layers)

    def _check_window_layers(self, window_layers: tuple[bool, ...]) -> None:
        if len(window_layers) != self.num_layers:
            raise UserError(
                f"window_layers names {len(window_layers)} layers, the model has "
                f"{self.num_layers}"
            )
        if any(window_layers) and self.window is None:
            raise UserError("window_layers is given without a window; set window")

    @property
    def kv_heads(self) -> int:
        """Key-value heads, resolved."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def head_width(self) -> int:
        """Size of a head, resolved."""
        return self.width // self.num_heads if self.head_dim is None else self.head_dim

    @property
    def hidden_width(self) -> int:
        """Hidden size of the MLP, resolved."""
        return 4 * self.width if self.mlp_width is None else self.mlp_width

    @property
    def rotary_dim(self) -> int:
        """Dimensions of a head that are rotated."""
        return int(self.head_width * self.rope_fraction)

    @property
    def query_scale(self) -> Number:
        """Factor of the attention scores, resolved."""
        if self.attention_scale is None:
            return self.head_width**-0.5
        return self.attention_scale

    @property
    def local_layers(self) -> tuple[bool, ...]:
        """For each layer, whether it looks through the sliding window."""
        if self.window is None:
            return (False,) * self.num_layers
        if self.window_layers is None:
            return (True,) * self.num_layers
        return self.window_layers


def differing(one: TransformerConfig, other: TransformerConfig) -> dict[str, str]:
    """Fields by which two networks compute something else, as `8 and not 4`.

    What stands for its default is equal to it; how weights start, adapters and the
    format's name make no difference, nor does the context length where no table of
    positions has its size.
    """
    a, b = _resolved(one), _resolved(other)
    return {name: f"{a[name]} and not {b[name]}" for name in a if a[name] != b[name]}


def _resolved(config: TransformerConfig) -> dict[str, object]:
    local = any(config.local_layers)
    theta = config.rope_local_theta
    values = vars(config) | {
        "num_kv_heads": config.kv_heads,
        "head_dim": config.head_width,
        "mlp_width": config.hidden_width,
        "attention_scale": config.query_scale,
        "window": config.window if local else None,
        "window_layers": config.local_layers,
        "rope_local_theta": (config.rope_theta if theta is None else theta)
        if local
        else None,
    }
    without = {"family", "init_std", "lora"}
    if config.positions == "rope":
        without.add("max_length")
    return {name: value for name, value in values.items() if name not in without}


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{name}={value!r}: choose from {', '.join(choices)}")


def _require_positive(name: str, value: int) -> None:
    if value < 1:
        raise UserError(f"{name} must be at least 1, not {value}")
