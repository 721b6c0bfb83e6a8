"""The architecture as data: what is refused, and what None stands for."""

import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.networks import LoRA, TransformerConfig, presets


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(num_heads=3), "not a multiple of num_heads=3"),
        (dict(num_kv_heads=3), "not a multiple of num_kv_heads=3"),
        (dict(head_dim=5), "even number"),
        (dict(family="bert"), "family='bert'"),
        (dict(norm="batch"), "norm='batch'"),
        (dict(activation="tanh"), "activation='tanh'"),
        (dict(num_layers=0), "num_layers must be at least 1"),
        (dict(window=4, window_layers=(True,)), "names 1 layers"),
        (dict(window_layers=(True, False)), "without a window"),
    ],
)
def test_impossible_architecture_is_refused(fields, message):
    sizes = dict(vocab_size=8, width=16, num_layers=2, num_heads=4)
    with pytest.raises(UserError, match=message):
        TransformerConfig(**{**sizes, **fields})


def test_none_is_resolved_by_properties():
    config = TransformerConfig(vocab_size=8, width=16, num_layers=2, num_heads=4)
    assert (config.kv_heads, config.head_width, config.hidden_width) == (4, 4, 64)
    assert config.query_scale == 0.5
    assert config.local_layers == (False, False)


def test_lora_targets_are_checked():
    with pytest.raises(UserError, match="q_proj"):
        LoRA(targets=("q_proj",))
    with pytest.raises(UserError, match="rank"):
        LoRA(rank=0)


def test_gemma_alternates_as_published():
    sizes = dict(vocab_size=8, width=16, num_heads=4)
    gemma2 = presets.gemma2(num_layers=4, **sizes)
    assert gemma2.local_layers == (True, False, True, False)
    gemma3 = presets.gemma3(num_layers=7, **sizes)
    assert gemma3.local_layers == (True,) * 5 + (False, True)
