"""The chain on directories that transformers wrote, with random weights."""

import os

import pytest
import torch
import transformers
from transformers import GPTNeoXConfig, LlamaConfig

from rlhf_jax.build import experiment
from rlhf_jax.build.commands import exporting

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


def opened(stage, out):
    """What transformers makes of the export of a stage."""
    exporting.export(stage, out)
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    return model, model(torch.arange(8)[None]).logits


def test_a_llama_is_tuned_by_adapters_killed_continued_and_exported(
    tiny, continued, tmp_path
):
    path = directory(tmp_path / "llama", "llama")
    settings = {"model.path": path, "model.lora.rank": "2"}
    expected, found = continued(tiny("hf_chain.py:tiny", **settings), "ppo")
    assert found == expected
    model, logits = opened(tmp_path / "killed" / "ppo", tmp_path / "exported")
    assert isinstance(model, transformers.LlamaForCausalLM)
    first = transformers.AutoModelForCausalLM.from_pretrained(path)
    assert not torch.equal(logits, first(torch.arange(8)[None]).logits), "it learned"


def test_a_pythia_goes_through_the_chain_and_is_exported(tiny, tmp_path):
    path = directory(tmp_path / "pythia", "pythia")
    config = tiny("hf_chain.py:tiny", **{"model.path": path})
    assert experiment.run(config, tmp_path / "run") == 0
    model, logits = opened(tmp_path / "run" / "ppo", tmp_path / "exported")
    assert isinstance(model, transformers.GPTNeoXForCausalLM)
    assert bool(torch.isfinite(logits).all())


def test_a_directory_too_short_for_the_task_is_named(tiny, tmp_path):
    path = directory(tmp_path / "llama", "llama")
    settings = {"model.path": path, "task.key_lm.response_length": "40"}
    with pytest.raises(Exception, match="holds 32"):
        experiment.run(tiny("hf_chain.py:tiny", **settings), tmp_path / "run")
