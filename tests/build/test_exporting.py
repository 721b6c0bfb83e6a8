"""Exports of reward models, as transformers scores with them."""

import json

import numpy as np
import pytest
from command_line import inputs

from rlhf_jax import data, networks, rng
from rlhf_jax.build.commands import exporting
from rlhf_jax.build.commands.opening import Opened
from rlhf_jax.data import tokenizer

torch = pytest.importorskip("torch")

TOKENS = np.asarray([[3, 5, 4, 1], [3, 6, 6, 1]], np.int32)
"""Two texts that end with the end token, which is 1."""


def reward_model(pad, family):
    config = getattr(networks.presets, family)(
        vocab_size=12, width=16, num_layers=1, num_heads=2, max_length=8
    )
    network = networks.scalar_model(config)
    return Opened(
        name="rm",
        network=network,
        variables=network.init(rng.root(0)),
        scalar=True,
        gain=2.5,
        bias=-0.5,
        encoder=data.Encoder(
            tokenizer=tokenizer.symbols(12, pad_token=pad, end_token=1)
        ),
        stop_tokens=(1,),
        response_length=4,
    )


def ours(opened):
    raw = opened.network.apply(opened.variables, inputs(TOKENS)).scalars
    return opened.gain * np.asarray(raw)[:, -1] + opened.bias


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
@pytest.mark.parametrize("pad", [0, 1])
def test_transformers_scores_at_the_end_token(monkeypatch, tmp_path, family, pad):
    """Also where the tokenizer pads with it, as those of Llama and Pythia do; a batch,
    of which transformers could not tell where it ends, is then refused by it."""
    from transformers import AutoModelForSequenceClassification

    opened = reward_model(pad, family)
    monkeypatch.setattr(exporting.opening, "open_stage", lambda stage: opened)
    said = exporting.export(tmp_path / "rm", tmp_path / "out")
    assert ("one sequence at a time" in said) == (pad == 1)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    bias = json.loads((tmp_path / "out" / "reward.json").read_text())["bias"]
    with torch.no_grad():
        found = [model(torch.tensor(row[None])).logits[0, 0].item() for row in TOKENS]
        np.testing.assert_allclose(np.asarray(found) + bias, ours(opened), atol=1e-5)
        if pad == 1:
            with pytest.raises(ValueError, match="padding token"):
                model(torch.tensor(TOKENS))
