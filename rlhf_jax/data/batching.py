"""From token ids to padded arrays. Masks are written here, next to the tokens they
describe, and never computed from ids again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax import types
from rlhf_jax.data.encode import Encoded, Ids


class Example(NamedTuple):
    """One encoded record: its row in the record table, weight and sequences (one, or
    K of a ranking); `ranks` and `margin` of rankings only."""

    example_id: int
    weight: float
    sequences: tuple[Encoded, ...]
    ranks: tuple[int, ...] = ()
    margin: float = 0.0


def prompts(
    rows: Sequence[Example], real: np.ndarray, *, length: int, pad_token: int
) -> types.PromptBatch:
    """Left-padded prompts [B P]; a row that is not real has id -1 and weight 0."""
    tokens = np.full((len(rows), length), pad_token, np.int32)
    mask = np.zeros((len(rows), length), bool)
    for row, example in enumerate(rows):
        ids: Ids = example.sequences[0].tokens
        tokens[row, length - len(ids) :] = ids
        mask[row, length - len(ids) :] = True
    arrays: list[Any] = [tokens, mask, *_identity(rows, real)]
    return types.PromptBatch(*arrays)


def sequences(
    rows: Sequence[Sequence[Example]],
    real: np.ndarray,
    *,
    length: int,
    pad_token: int,
) -> types.SequenceBatch:
    """Right-padded rows [B L], each of one or more documents.

    Every document has its own segment id and positions from 0, and its first token is
    no target, so neither attention nor loss crosses from one document into the next.
    A row that is not real keeps its tokens but has no targets, weight 0 and id -1.
    """
    shape = (len(rows), length)
    inputs = _empty(shape, pad_token)
    loss_mask, weight = np.zeros(shape, bool), np.zeros(shape, np.float32)
    example_id = np.full(shape, -1, np.int32)
    for row, documents in enumerate(rows):
        begin = 0
        for segment, example in enumerate(documents):
            sequence = example.sequences[0]
            span = slice(begin, begin + len(sequence.tokens))
            _write(inputs, (row,), span, sequence.tokens, segment)
            begin = span.stop
            if real[row]:
                loss_mask[row, span] = sequence.loss_mask
                weight[row, span] = example.weight
                example_id[row, span] = example.example_id
    arrays: list[Any] = [inputs, loss_mask, weight, example_id]
    return types.SequenceBatch(*arrays)


def rankings(
    rows: Sequence[Example],
    real: np.ndarray,
    *,
    length: int,
    pad_token: int,
    responses: int,
) -> types.RankingBatch:
    """K right-padded sequences a row, [B K L].

    A row with fewer than K responses repeats its first one with rank 0, which is not
    ranked and so never enters a loss; neither does a row that is not real.
    """
    inputs = _empty((len(rows), responses, length), pad_token)
    ranks = np.zeros((len(rows), responses), np.int32)
    margin = np.asarray([example.margin for example in rows], np.float32)
    for row, example in enumerate(rows):
        for k in range(responses):
            present = k < len(example.sequences)
            tokens = example.sequences[k if present else 0].tokens
            _write(inputs, (row, k), slice(0, len(tokens)), tokens, 0)
            ranks[row, k] = example.ranks[k] if present and real[row] else 0
    arrays: list[Any] = [inputs, ranks, margin, *_identity(rows, real)]
    return types.RankingBatch(*arrays)


def _identity(
    rows: Sequence[Example], real: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    ids = np.asarray([example.example_id for example in rows], np.int32)
    weight = np.asarray([example.weight for example in rows], np.float32)
    return np.where(real, ids, -1).astype(np.int32), np.where(real, weight, 0).astype(
        np.float32
    )


def _empty(shape: tuple[int, ...], pad_token: int) -> types.ModelInputs:
    arrays: list[Any] = [
        np.full(shape, pad_token, np.int32),
        np.zeros(shape, bool),
        np.zeros(shape, np.int32),
        np.zeros(shape, np.int32),
    ]
    return types.ModelInputs(*arrays)


def _write(
    inputs: Any, row: tuple[int, ...], span: slice, tokens: Ids, segment: int
) -> None:
    inputs.tokens[row][span] = tokens
    inputs.mask[row][span] = True
    inputs.positions[row][span] = np.arange(len(tokens))
    inputs.segment_ids[row][span] = segment
