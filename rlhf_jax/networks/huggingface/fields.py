"""Which field of a family's config.json means what.

A field is either translated, or must have the one value that this package computes
with, or is known not to change the numbers. Any other field is refused by name.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Family(NamedTuple):
    """The table of one family.

    Attributes:
      architecture: prefix of the class names in `transformers`.
      fields: config.json's name -> name in `TransformerConfig`.
      absent: what `transformers` assumes where a field is absent.
      fixed: fields that must have one of these values if present.
      activation: name of the field that holds the activation.
      rope: whether there are rotary positions.
    """

    architecture: str
    fields: dict[str, str]
    absent: dict[str, Any]
    fixed: dict[str, tuple[Any, ...]]
    activation: str = "hidden_act"
    rope: bool = True


IGNORED = frozenset(
    """
    _attn_implementation _attn_implementation_autoset _attn_implementation_internal
    _commit_hash _name_or_path architectures attention_dropout
    attention_probs_dropout_prob attn_pdrop auto_map bad_words_ids bos_token_id
    cache_implementation chunk_size_feed_forward classifier_dropout
    decoder_start_token_id dtype embd_pdrop eos_token_id forced_bos_token_id
    forced_eos_token_id gradient_checkpointing hidden_dropout hidden_dropout_prob
    id2label initializer_range is_decoder is_encoder_decoder label2id max_length
    model_type n_ctx num_labels output_attentions output_hidden_states pad_token_id
    prefix pretraining_tp problem_type reorder_and_upcast_attn resid_pdrop return_dict
    return_dict_in_generate sep_token_id sliding_window_size summary_activation
    summary_first_dropout summary_proj_to_labels summary_type summary_use_proj
    task_specific_params tf_legacy_loss tie_encoder_decoder tokenizer_class torch_dtype
    torchscript transformers_version unsloth_version use_bfloat16 use_cache
    """.split()
)
"""Fields of no effect on the logits: token numbers, dropout (off here as it is when
`transformers` evaluates), initial values, bookkeeping, fields that no model reads."""

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
"""Names of activations there and here; the last of several is written."""

_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "width",
    "intermediate_size": "mlp_width",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "max_position_embeddings": "max_length",
    "tie_word_embeddings": "tied_embeddings",
}
_LLAMA = {
    **_SIZES,
    "num_key_value_heads": "num_kv_heads",
    "head_dim": "head_dim",
    "rms_norm_eps": "norm_eps",
}
_LLAMA_ABSENT = {
    "num_key_value_heads": None,
    "head_dim": None,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "attention_bias": False,
}
_GEMMA = {
    **_LLAMA,
    "attn_logit_softcapping": "attention_softcap",
    "final_logit_softcapping": "final_softcap",
}
_GEMMA_ABSENT = {
    "num_key_value_heads": 4,
    "head_dim": 256,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "hidden_activation": "gelu_pytorch_tanh",
    "attention_bias": False,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "max_position_embeddings": 8192,
}
_NO_BIDIRECTION = {"use_bidirectional_attention": (None, False)}

FAMILIES: dict[str, Family] = {
    "llama": Family(
        "Llama",
        {**_LLAMA, "mlp_bias": "mlp_bias"},
        {**_LLAMA_ABSENT, "mlp_bias": False, "max_position_embeddings": 2048},
        {},
    ),
    "mistral": Family(
        "Mistral",
        _LLAMA,
        {
            **_LLAMA_ABSENT,
            "num_key_value_heads": 8,
            "sliding_window": 4096,
            "max_position_embeddings": 131072,
        },
        {"attention_bias": (False,)},
    ),
    "qwen2": Family(
        "Qwen2",
        _LLAMA,
        {**_LLAMA_ABSENT, "num_key_value_heads": 32, "max_position_embeddings": 32768},
        {"attention_bias": (True,), "use_mrope": (False,)},
    ),
    "qwen3": Family(
        "Qwen3",
        _LLAMA,
        {
            **_LLAMA_ABSENT,
            "num_key_value_heads": 32,
            "head_dim": 128,
            "max_position_embeddings": 32768,
        },
        {},
    ),
    "gemma2": Family(
        "Gemma2",
        _GEMMA,
        {
            **_GEMMA_ABSENT,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        {**_NO_BIDIRECTION, "hidden_act": ("gelu_pytorch_tanh", "gelu")},
        activation="hidden_activation",
    ),
    "gemma3_text": Family(
        "Gemma3",
        _GEMMA,
        {
            **_GEMMA_ABSENT,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "max_position_embeddings": 131072,
        },
        {**_NO_BIDIRECTION, "hidden_act": ("gelu_pytorch_tanh",)},
        activation="hidden_activation",
    ),
    "gpt2": Family(
        "GPT2",
        {
            "vocab_size": "vocab_size",
            "n_embd": "width",
            "n_inner": "mlp_width",
            "n_layer": "num_layers",
            "n_head": "num_heads",
            "n_positions": "max_length",
            "layer_norm_epsilon": "norm_eps",
            "tie_word_embeddings": "tied_embeddings",
        },
        {
            "n_inner": None,
            "n_positions": 1024,
            "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": True,
            "activation_function": "gelu_new",
        },
        {
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
        },
        activation="activation_function",
        rope=False,
    ),
    "gpt_neox": Family(
        "GPTNeoX",
        {
            **_SIZES,
            "layer_norm_eps": "norm_eps",
            "use_parallel_residual": "parallel_residual",
        },
        {
            "layer_norm_eps": 1e-5,
            "use_parallel_residual": True,
            "tie_word_embeddings": False,
            "hidden_act": "gelu",
            "attention_bias": True,
            "max_position_embeddings": 2048,
        },
        {},
    ),
}
"""The tables by `model_type`."""
