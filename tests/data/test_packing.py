"""Packing puts documents side by side and keeps them apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_jax import data
from rlhf_jax.data import packing, tokenizer
from rlhf_jax.errors import UserError

ENCODER = data.Encoder(tokenizer=tokenizer.symbols(64, pad_token=0, end_token=1))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 12), max_size=30))
def test_every_document_is_packed_once_and_tightly(sizes):
    rows = packing.best_fit(sizes, 12)
    assert sorted(i for row in rows for i in row) == list(range(len(sizes)))
    used = [sum(sizes[i] for i in row) for row in rows]
    assert all(total <= 12 for total in used)
    # Johnson 1973: at most 11/9 of the optimum, which is at least total / capacity.
    # No two rows could have been one.
    assert all(a + b > 12 for i, a in enumerate(used) for b in used[:i])
    assert rows == packing.best_fit(list(sizes), 12)


def test_a_known_packing():
    assert packing.best_fit([4, 8, 1, 4, 2, 1], 10) == [[1, 4], [0, 3, 2, 5]]
    with pytest.raises(UserError, match="document 1 has 11 tokens, a row 10"):
        packing.best_fit([3, 11], 10)


def documents(sizes: list[int]) -> data.Dataset:
    return data.in_memory(
        data.Demonstration(
            id=f"d{i}",
            weight=1.0 + i,
            prompt=(2 + i,),
            response=tuple(range(20, 20 + size - 1)),
        )
        for i, size in enumerate(sizes)
    )


def targets(batch) -> dict[int, set]:
    """For every target: all that a causal model that stays inside its segment may see
    of it, with positions and weight: what the loss depends on."""
    found: dict[int, set] = {}
    inputs = batch.inputs
    for row, column in zip(*np.nonzero(batch.loss_mask), strict=True):
        visible = (
            inputs.mask[row, :column]
            & (inputs.segment_ids[row, :column] == inputs.segment_ids[row, column - 1])
        )  # fmt: skip
        context = inputs.tokens[row, :column][visible].tolist()
        positions = inputs.positions[row, :column][visible].tolist()
        key = int(batch.example_id[row, column])
        value = (tuple(context), tuple(positions), int(inputs.tokens[row, column]))
        found.setdefault(key, set()).add((*value, float(batch.weight[row, column])))
    return found


def union(stream: data.Stream) -> dict[int, set]:
    merged: dict[int, set] = {}
    for batch in stream.epoch():
        for key, value in targets(batch).items():
            merged.setdefault(key, set()).update(value)
    return merged


@pytest.mark.identity("C31", "I3", "I10")
def test_packed_or_padded_the_loss_sees_the_same_targets_in_the_same_context():
    """Packing, padding and bucketing change no target, context, position or weight."""
    dataset = documents([3, 5, 2, 7, 4, 6, 2, 3])
    options = {"batch_size": 2, "seed": 0, "remainder": "pad"}
    layouts = [
        data.sequence_stream(dataset, ENCODER, lengths=(8,), **options),
        data.sequence_stream(dataset, ENCODER, lengths=(32,), **options),
        data.sequence_stream(dataset, ENCODER, lengths=(3, 5, 8), **options),
        data.sequence_stream(dataset, ENCODER, lengths=(10,), packed=True, **options),
    ]
    first, *others = [union(layout) for layout in layouts]
    assert sum(len(found) for found in first.values()) == 32 - 8
    assert all(other == first for other in others)
    rows = layouts[3].steps_per_epoch * 2
    assert rows == 4  # 32 tokens in rows of 10


def test_a_mutated_packing_is_caught(monkeypatch):
    """Loss on the first token of a document would cross from the one before it."""
    from rlhf_jax.data import batching

    dataset = documents([3, 5, 2, 7])
    options = {"batch_size": 1, "seed": 0, "lengths": (10,), "remainder": "pad"}
    apart = union(data.sequence_stream(dataset, ENCODER, **options))
    packed = data.sequence_stream(dataset, ENCODER, packed=True, **options)
    write = batching._write

    def one_segment(inputs, row, span, tokens, segment):
        write(inputs, row, span, tokens, 0)

    assert union(packed) == apart
    monkeypatch.setattr(batching, "_write", one_segment)
    assert union(packed) != apart


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 60), min_size=2, max_size=40).map(tuple), st.integers(2, 9)
)
def test_a_split_document_trains_every_token_once(text, longest):
    dataset = data.in_memory([data.Document(id="long", text=text)])
    stream = data.sequence_stream(
        dataset, ENCODER, batch_size=1, seed=3, lengths=(longest,), shuffle=False
    )
    trained = [
        token
        for batch in stream.epoch()
        for token in batch.inputs.tokens[batch.loss_mask].tolist()
    ]
    assert sorted(trained) == sorted(text[1:])
