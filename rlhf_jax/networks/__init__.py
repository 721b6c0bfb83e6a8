"""Networks behind `types.Network`: the only folder that imports flax.linen.

One decoder covers Llama, Mistral, Qwen, Gemma, GPT-2 and GPT-NeoX by configuration:

    config = networks.TransformerConfig(vocab_size=64, width=32, num_layers=2,
                                        num_heads=4)
    policy = networks.language_model(config)
    variables = policy.init(rng.root(0))
    outputs = policy.apply(variables, inputs)
    logits = networks.logits(policy, variables, outputs.hidden)
"""

from rlhf_jax.networks import huggingface, presets
from rlhf_jax.networks.cache import Cache, repeat_cache
from rlhf_jax.networks.config import LoRA, RopeScaling, TransformerConfig, differing
from rlhf_jax.networks.decoding import unstack_layers
from rlhf_jax.networks.lora import merge_lora
from rlhf_jax.networks.models import (
    axis_names,
    language_model,
    logical_axes,
    logits,
    normal,
    scalar_model,
    zeros,
)
from rlhf_jax.networks.transformer import REMAT
from rlhf_jax.networks.trees import initialize_from

__all__ = [
    "REMAT",
    "Cache",
    "LoRA",
    "RopeScaling",
    "TransformerConfig",
    "axis_names",
    "differing",
    "huggingface",
    "initialize_from",
    "language_model",
    "logical_axes",
    "logits",
    "merge_lora",
    "normal",
    "presets",
    "repeat_cache",
    "scalar_model",
    "unstack_layers",
    "zeros",
]
