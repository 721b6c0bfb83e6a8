"""The chain on directories that transformers wrote, with random weights."""

import os

import pytest
import transformers
from transformers import GPTNeoXConfig, LlamaConfig

from rlhf_jax.build import experiment

SHAPE = dict(
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=32,
)


def directory(folder, family):
    """A directory as `save_pretrained` of a random model writes it: no tokenizer."""
    transformers.set_seed(0)
    if family == "llama":
        config = LlamaConfig(vocab_size=101, num_key_value_heads=1, **SHAPE)
        model = transformers.LlamaForCausalLM(config)
    else:
        config = GPTNeoXConfig(vocab_size=30, **SHAPE)
        model = transformers.GPTNeoXForCausalLM(config)
    model.save_pretrained(folder)
    assert "tokenizer.json" not in os.listdir(folder)
    return str(folder)


@pytest.mark.parametrize("family, rank", [("llama", 2), ("neox", 0)])
def test_a_directory_goes_through_the_chain(family, rank, tiny, continued, tmp_path):
    settings = {
        "model.path": directory(tmp_path / family, family),
        "model.lora.rank": str(rank),
    }
    config = tiny("hf_chain.py:tiny", **settings)
    expected, found = continued(config, "ppo")
    assert found == expected


def test_a_directory_too_short_for_the_task_is_named(tiny, tmp_path):
    path = directory(tmp_path / "llama", "llama")
    settings = {"model.path": path, "task.key_lm.response_length": "40"}
    with pytest.raises(Exception, match="holds 32"):
        experiment.run(tiny("hf_chain.py:tiny", **settings), tmp_path / "run")
