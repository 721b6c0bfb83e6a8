"""Random-access streams: order, position, shards, shapes."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_jax import data
from rlhf_jax.data import tokenizer
from rlhf_jax.errors import UserError

TOKENIZER = tokenizer.symbols(64, pad_token=0, end_token=1)
ENCODER = data.Encoder(tokenizer=TOKENIZER)


def demonstrations(count: int) -> data.Dataset:
    return data.in_memory(
        [
            data.Demonstration(
                id=f"d{i}", prompt=tuple(range(2, 3 + i % 5)), response=(5 + i, 1)
            )
            for i in range(count)
        ]
    )


def seen_in_epoch(stream: data.Stream, epoch: int) -> list[int]:
    return [int(i) for batch in stream.epoch(epoch) for i in batch.example_id]


@pytest.mark.identity("I16")
def test_every_epoch_is_a_new_permutation():
    """The dataset is reshuffled each epoch, and each epoch visits every example once."""
    stream = data.prompt_stream(
        demonstrations(24), ENCODER, batch_size=4, seed=0, lengths=(8,)
    )
    epochs = [seen_in_epoch(stream, epoch) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(24)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_a_batch_depends_on_seed_and_step_alone():
    def make(seed: int) -> data.Stream:
        return data.sequence_stream(
            demonstrations(30), ENCODER, batch_size=4, seed=seed, lengths=(5, 8)
        )

    forward, backward = make(0), make(0)
    ahead = [forward.batch(step) for step in range(20)]
    behind = [backward.batch(step) for step in reversed(range(20))][::-1]
    for one, two in zip(ahead, behind, strict=True):
        np.testing.assert_equal(one, two)
    other = [make(1).batch(step) for step in range(5)]
    assert any(
        not np.array_equal(one.example_id, two.example_id)
        for one, two in zip(ahead, other, strict=False)
    )


def test_too_few_examples_for_a_batch_is_an_error():
    with pytest.raises(UserError, match="make no batch of 8"):
        data.prompt_stream(
            demonstrations(3), ENCODER, batch_size=8, seed=0, lengths=(8,)
        )
