"""config.json: both spellings, published files, and refusals by name."""

import dataclasses

import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.networks import RopeScaling, TransformerConfig, huggingface, presets
from rlhf_jax.networks.config import FAMILIES

parse = huggingface.config_from_huggingface

# As published with Llama 3.1 8B, Pythia 1B and Gemma 3 1B (transformers 4 spelling).
LLAMA31 = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.0.dev0",
    "use_cache": True,
    "vocab_size": 128256,
}
PYTHIA = {
    "architectures": ["GPTNeoXForCausalLM"],
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_act": "gelu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 2048,
    "model_type": "gpt_neox",
    "num_attention_heads": 8,
    "num_hidden_layers": 16,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.25,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.24.0",
    "use_cache": True,
    "use_parallel_residual": True,
    "vocab_size": 50304,
}
GEMMA3 = {
    "architectures": ["Gemma3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "bos_token_id": 2,
    "cache_implementation": "hybrid",
    "eos_token_id": [1, 106],
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 1152,
    "initializer_range": 0.02,
    "intermediate_size": 6912,
    "max_position_embeddings": 32768,
    "model_type": "gemma3_text",
    "num_attention_heads": 4,
    "num_hidden_layers": 26,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.50.0.dev0",
    "use_cache": True,
    "vocab_size": 262144,
}


def test_published_llama():
    config = parse(LLAMA31)
    assert config == presets.llama(
        vocab_size=128256,
        width=4096,
        num_layers=32,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        mlp_width=14336,
        max_length=131072,
        rope_theta=500000.0,
        rope_scaling=RopeScaling(kind="llama3", factor=8.0, original_max_length=8192),
    )


def test_published_pythia():
    config = parse(PYTHIA)
    assert config.rotary_dim == 64 and config.parallel_residual
    assert config.qkv_bias and config.output_bias and config.mlp_bias
    assert not config.tied_embeddings and config.activation == "gelu"


def test_published_gemma():
    config = parse(GEMMA3)
    assert config.local_layers == tuple((i + 1) % 6 != 0 for i in range(26))
    assert (config.rope_theta, config.rope_local_theta) == (1e6, 1e4)
    assert config.tied_embeddings and config.qk_norm and config.norm_offset
    assert config.query_scale == 1 / 16


@pytest.mark.parametrize("raw", [LLAMA31, PYTHIA, GEMMA3])
def test_both_spellings_of_rope_mean_the_same(raw):
    """transformers 5 writes `rope_parameters`, 4 wrote fields beside each other."""
    new = {k: v for k, v in raw.items() if "rope" not in k and "rotary" not in k}
    if raw is LLAMA31:
        new["rope_parameters"] = {**raw["rope_scaling"], "rope_theta": 500000.0}
    elif raw is PYTHIA:
        own = {"rope_type": "default", "partial_rotary_factor": 0.25}
        new["rope_parameters"] = {**own, "rope_theta": 10000}
    else:
        new["rope_parameters"] = {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
        }
    assert parse(new) == parse(raw)


@pytest.mark.parametrize("family", FAMILIES)
def test_written_configs_are_read_back(family):
    sizes = dict(vocab_size=13, width=8, num_layers=3, num_heads=2, mlp_width=6)
    own = {} if family.startswith("gpt") else {"head_dim": 6, "num_kv_heads": 1}
    own |= {"rope_fraction": 0.5} if family == "gpt_neox" else {}
    config = presets.PRESETS[family](**sizes, **own)
    back = parse(huggingface.config_to_huggingface(config))
    filled = dataclasses.replace(
        config, num_kv_heads=config.kv_heads, head_dim=config.head_width
    )
    assert back.local_layers == filled.local_layers
    assert dataclasses.replace(back, window_layers=filled.window_layers) == filled


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba"}, "model_type='mamba'.*llama, mistral"),
        ({"model_type": "gemma3"}, "only text models"),
        ({"hidden_act": "relu6"}, "hidden_act='relu6'"),
        ({"quantization_config": {"bits": 4}}, "'quantization_config'"),
        ({"sliding_window": 512}, "'sliding_window'=512"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "'yarn'"),
        ({"rope_scaling": {"type": "linear"}}, "lacks 'factor'"),
        ({"rope_scaling": {"type": "linear", "factor": 2, "x": 1}}, "'x'"),
        ({"partial_rotary_factor": 0.5}, "'partial_rotary_factor'"),
        ({"vocab_size": None}, "vocab_size=None is not of type int"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings=1 is not of type bool"),
    ],
)
def test_what_would_change_numbers_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        parse({**LLAMA31, **changes})


def test_fixed_fields_of_other_values_are_refused():
    raw = {
        "model_type": "gpt2",
        "vocab_size": 9,
        "n_embd": 8,
        "n_layer": 1,
        "n_head": 2,
    }
    assert parse(raw).head_width == 4
    with pytest.raises(UserError, match="scale_attn_by_inverse_layer_idx=True"):
        parse({**raw, "scale_attn_by_inverse_layer_idx": True})
    with pytest.raises(UserError, match="no field 'n_layer'"):
        parse({k: v for k, v in raw.items() if k != "n_layer"})


def test_unknown_field_may_be_passed_by_name():
    raw = {**LLAMA31, "favorite_color": "green"}
    with pytest.raises(UserError, match="ignore_fields=\\('favorite_color',\\)"):
        parse(raw)
    assert parse(raw, ignore_fields=("favorite_color",)) == parse(LLAMA31)


def test_qwen_windows_start_at_a_layer():
    raw = huggingface.config_to_huggingface(
        presets.qwen2(vocab_size=9, width=8, num_layers=4, num_heads=2)
    )
    raw |= {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 3}
    del raw["layer_types"]
    assert parse(raw).local_layers == (False, False, False, True)
    assert parse({**raw, "use_sliding_window": False}).window is None


def test_format_that_cannot_say_it_refuses():
    sizes = dict(vocab_size=9, width=8, num_layers=2, num_heads=2)
    with pytest.raises(UserError, match="llama .* cannot say.*qk_norm=True"):
        huggingface.config_to_huggingface(TransformerConfig(**sizes, qk_norm=True))
    with pytest.raises(UserError, match="gpt2 .* cannot say.*num_kv_heads=1"):
        huggingface.config_to_huggingface(presets.gpt2(**sizes, num_kv_heads=1))
