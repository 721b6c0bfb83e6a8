"""Layouts of the same data give a network the same loss and gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import data, networks, rng
from rlhf_jax.data import batching, tokenizer

ENCODER = data.Encoder(tokenizer=tokenizer.symbols(24, pad_token=1, end_token=1))
NETWORK = networks.language_model(
    networks.TransformerConfig(vocab_size=24, width=16, num_layers=1, num_heads=2)
)
VARIABLES = NETWORK.init(rng.root(0))


def dataset() -> data.Dataset:
    sizes = (3, 6, 2, 8, 5, 4, 7)
    random = np.random.default_rng(0)
    return data.in_memory(
        data.Demonstration(
            id=f"d{i}",
            weight=1.0 + i / 4,
            prompt=tuple(random.integers(2, 24, 2).tolist()),
            response=(*random.integers(2, 24, size - 1).tolist(), 1),
        )
        for i, size in enumerate(sizes)
    )


def loss(variables, batch):
    """Weighted sum of the cross-entropy of the targets."""
    hidden = NETWORK.apply(variables, batch.inputs).hidden
    logprobs = jax.nn.log_softmax(networks.logits(NETWORK, variables, hidden))
    targets = batch.inputs.tokens[:, 1:, None]
    chosen = jnp.take_along_axis(logprobs[:, :-1], targets, axis=-1)[..., 0]
    scale = jnp.where(batch.loss_mask, batch.weight, 0.0)[:, 1:]
    return -jnp.sum(scale * chosen)


VALUE_AND_GRAD = jax.jit(jax.value_and_grad(loss))


def total(batches):
    """Loss and gradient summed over an epoch."""
    parts = [VALUE_AND_GRAD(VARIABLES, batch) for batch in batches]
    return jax.tree.map(lambda *values: np.sum(values, axis=0), *parts)


def epoch(**options):
    options = {"batch_size": 4, "seed": 0, "lengths": (10,), "remainder": "pad"} | (
        options
    )
    return list(data.sequence_stream(dataset(), ENCODER, **options).epoch())


def close(one, two) -> None:
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), one, two
    )


@pytest.mark.identity("C31", "I3", "I10")
def test_no_layout_changes_loss_or_gradient(monkeypatch):
    """Padding, batch order, batch size and packing: one loss, one gradient."""
    expected = total(epoch())
    packed = {"packed": True, "batch_size": 2, "lengths": (24,)}
    layouts = {
        "order": {"seed": 5},
        "padding and batch size": {"batch_size": 2, "lengths": (24,)},
        "packing": packed,
    }
    for layout in layouts.values():
        close(total(epoch(**layout)), expected)

    write = batching._write
    monkeypatch.setattr(
        batching,
        "_write",
        lambda inputs, row, span, tokens, segment: write(inputs, row, span, tokens, 0),
    )
    with pytest.raises(AssertionError):  # the bug: attention across documents
        close(total(epoch(**packed)), expected)


@pytest.mark.identity("B5", "I9")
def test_the_end_token_gets_a_gradient_though_it_is_the_pad_token():
    """With pad == end the model still learns to stop: its logit has a gradient."""

    def largest_gradient(mask_of) -> float:
        def only_ends(batch):
            mask = mask_of(batch) & (batch.inputs.tokens == 1)
            return batch._replace(loss_mask=mask)

        _, gradient = total(only_ends(batch) for batch in epoch())
        return max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(gradient))

    assert largest_gradient(lambda batch: batch.loss_mask) > 0.1
    guessed = largest_gradient(lambda b: b.loss_mask & (b.inputs.tokens != 1))
    assert guessed == 0.0  # the bug: targets from ids != pad
