"""The three streams that training reads: prompts, sequences, rankings.

All examples are encoded when a stream is made, so a bad one stops before training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypedDict, Unpack

import numpy as np

from rlhf_jax import types
from rlhf_jax.data import batching, packing, stream
from rlhf_jax.data.batching import Example
from rlhf_jax.data.encode import Encoded, Encoder, TooLong, pieces
from rlhf_jax.data.records import (
    Conversation,
    Demonstration,
    Document,
    Prompt,
    Ranking,
    Record,
)
from rlhf_jax.data.sources import Dataset
from rlhf_jax.data.stream import Stream
from rlhf_jax.errors import UserError


class Required(TypedDict):
    """What every stream must be told.

    Attributes:
      batch_size: rows of a batch, over all processes.
      seed: data seed.
      lengths: the few padded lengths that batches may have; one compilation each. The
        longest must hold every example.
    """

    batch_size: int
    seed: int
    lengths: Sequence[int]


class Settings(Required, total=False):
    """What a stream may be told.

    Attributes:
      shuffle: reshuffled every epoch (default); False keeps the order of the table.
      remainder: what becomes of the short last batch of an epoch: `drop` (default),
        `wrap` or `pad`; see `order.Order`.
    """

    shuffle: bool
    remainder: str


def prompt_stream(
    dataset: Dataset, encoder: Encoder, **settings: Unpack[Settings]
) -> Stream[types.PromptBatch]:
    """Left-padded prompts to sample from.

    Args:
      dataset: records with a prompt (demonstrations and rankings serve too).
      encoder: how text becomes ids.
      **settings: see `Settings`; `lengths` are the prompt lengths `P`.

    Raises:
      UserError: an example is too long or has no prompt; batches cannot be formed.
    """

    def encode(record: Record) -> list[Example]:
        if not isinstance(record, Prompt | Demonstration | Ranking):
            raise UserError(f"'{record.id}' is a {record.kind}, which has no prompt")
        ids = encoder.prompt(record.prompt, record.id)
        return [_example((Encoded(ids, np.zeros(len(ids), bool)),))]

    examples, skipped = _encode_all(
        dataset, encoder, encode, _longest(settings["lengths"])
    )
    pad = encoder.tokenizer.pad_token

    def build(rows: np.ndarray, real: np.ndarray, length: int) -> types.PromptBatch:
        chosen = [examples[i] for i in rows]
        return batching.prompts(chosen, real, length=length, pad_token=pad)

    sizes = [_size(example) for example in examples]
    content = ("prompt", encoder.fingerprint)
    return stream.make(dataset, examples, skipped, build, sizes, content, **settings)


def sequence_stream(
    dataset: Dataset,
    encoder: Encoder,
    *,
    packed: bool = False,
    **settings: Unpack[Settings],
) -> Stream[types.SequenceBatch]:
    """Sequences for next-token prediction.

    Args:
      dataset: demonstrations, documents or conversations. A document longer than a
        row is split, every token of it being a target once.
      encoder: how text becomes ids.
      packed: put several examples into each row of `max(lengths)` tokens, without
        attention or loss across; `batch_size` then counts rows, and rows are shuffled.
      **settings: see `Settings`; `lengths` are the row lengths `L`.

    Raises:
      UserError: an example is too long or of another kind; no token of any example is
        a target; batches cannot be formed.
    """

    longest = _longest(settings["lengths"])

    def encode(record: Record) -> list[Example]:
        if not isinstance(record, Demonstration | Document | Conversation):
            raise UserError(f"'{record.id}' is a {record.kind}: nothing to imitate")
        sequence = encoder.sequence(record)
        if isinstance(record, Document):
            return [_example((piece,)) for piece in pieces(sequence, longest)]
        return [_example((sequence,))]

    examples, skipped = _encode_all(dataset, encoder, encode, longest)
    _require_targets(dataset, examples)
    sizes = [_size(example) for example in examples]
    rows_of = [[i] for i in range(len(examples))]
    if packed:
        rows_of = packing.best_fit(sizes, longest)
        settings["lengths"] = (longest,)
    pad = encoder.tokenizer.pad_token

    def build(rows: np.ndarray, real: np.ndarray, length: int) -> types.SequenceBatch:
        chosen = [[examples[i] for i in rows_of[row]] for row in rows]
        return batching.sequences(chosen, real, length=length, pad_token=pad)

    sizes = [sum(sizes[i] for i in row) for row in rows_of]
    content = ("sequence", encoder.fingerprint, packed)
    return stream.make(dataset, examples, skipped, build, sizes, content, **settings)


def ranking_stream(
    dataset: Dataset,
    encoder: Encoder,
    *,
    responses: int | None = None,
    **settings: Unpack[Settings],
) -> Stream[types.RankingBatch]:
    """K-wise rankings; the K responses to a prompt always share a batch.

    Args:
      dataset: rankings (pairs are rankings of two).
      encoder: how text becomes ids.
      responses: K of the batches; None takes the largest ranking. Smaller rankings
        are filled with copies that are not ranked.
      **settings: see `Settings`; `lengths` are those of prompt and response together.

    Raises:
      UserError: an example is too long, not a ranking, or has more than K responses.
    """
    most = responses or max(
        (len(r.responses) for r in dataset.records if isinstance(r, Ranking)), default=2
    )

    def encode(record: Record) -> list[Example]:
        if not isinstance(record, Ranking):
            raise UserError(f"'{record.id}' is a {record.kind}, not a ranking")
        if len(record.responses) > most:
            raise UserError(
                f"'{record.id}' ranks {len(record.responses)} responses, batches hold"
                f" {most}; raise `responses`"
            )
        return [_example(encoder.ranking(record), record.ranks, record.margin)]

    examples, skipped = _encode_all(
        dataset, encoder, encode, _longest(settings["lengths"])
    )
    pad = encoder.tokenizer.pad_token

    def build(rows: np.ndarray, real: np.ndarray, length: int) -> types.RankingBatch:
        chosen = [examples[i] for i in rows]
        return batching.rankings(
            chosen, real, length=length, pad_token=pad, responses=most
        )

    sizes = [_size(example) for example in examples]
    content = ("ranking", encoder.fingerprint, most)
    return stream.make(dataset, examples, skipped, build, sizes, content, **settings)


def _example(
    sequences: tuple[Encoded, ...], ranks: tuple[int, ...] = (), margin: float = 0.0
) -> Example:
    return Example(-1, 1.0, sequences, ranks, margin)


def _longest(lengths: Sequence[int]) -> int:
    if not lengths or min(lengths) < 1:
        raise UserError(f"bucket lengths {tuple(lengths)}: give one or more, from 1 up")
    return max(lengths)


def _size(example: Example) -> int:
    return max(len(sequence.tokens) for sequence in example.sequences)


def _encode_all(
    dataset: Dataset,
    encoder: Encoder,
    encode: Callable[[Record], list[Example]],
    longest: int,
) -> tuple[list[Example], list[str]]:
    """Encode every record; too long is an error, or counted under the rule `skip`."""
    examples: list[Example] = []
    skipped: list[str] = []
    for row, record in enumerate(dataset.records):
        try:
            found = encode(record)
            _check_size(found, longest, encoder)
        except TooLong as error:
            skipped.append(str(error))
            continue
        except UserError as error:
            raise UserError(f"{dataset.name}, '{record.id}': {error}") from error
        about = {"example_id": row, "weight": float(record.weight)}
        examples += [example._replace(**about) for example in found]
    return examples, skipped


def _require_targets(dataset: Dataset, examples: Sequence[Example]) -> None:
    masks = [s.loss_mask for x in examples if x.weight for s in x.sequences]
    if masks and not any(mask.any() for mask in masks):
        raise UserError(
            f"{dataset.name}: none of its {len(masks)} examples has a token to train"
            " on: responses are empty, or texts have one token"
        )


def _check_size(found: Sequence[Example], longest: int, encoder: Encoder) -> None:
    size = max(_size(example) for example in found)
    empty = any(not len(s.tokens) for example in found for s in example.sequences)
    if size <= longest and not empty:
        return
    if empty:
        raise UserError("no tokens at all; a sequence needs at least one")
    rule = TooLong if encoder.overlong_prompt == "skip" else UserError
    raise rule(
        f"{size} tokens, batches hold {longest}; raise the longest length, shorten the"
        " example, or skip it (overlong_prompt='skip')"
    )
