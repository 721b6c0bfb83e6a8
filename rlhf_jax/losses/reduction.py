"""Which positions of a batch count, and how unreduced values become one number.

A reduction is split in two so that it is the same however a batch is cut: `scale`
gives every position a coefficient that depends on its own row only, `normalizer` is
one number of the *global* minibatch, computed once before the batch is divided. The
reduced value is `sum(scale * values) / normalizer`; over microbatches the sums add up
and the normalizer is shared, so values and gradients do not depend on the split.
(Averaging per microbatch, the common bug, weights tokens of short microbatches more.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax import types
from rlhf_jax.ops import masking


class Support(NamedTuple):
    """Where the values of a term live.

    Attributes:
      mask: bool[B T] for token terms, bool[B] for sequence and preference terms; True
        where a value counts.
      weight: float[B T] or float[B] like `mask`, the weight of the example that the
        position belongs to.
      segment_ids: int32[B T], documents packed in a row, or None: one per row.
    """

    mask: Array
    weight: Array
    segment_ids: Array | None = None


@functools.singledispatch
def support(batch: Any) -> Support:
    """The support of a batch; `support.register(YourBatch)` adds a batch type.

    - `types.Experience`: the response tokens (`trajectory.mask`), weight of the row.
    - `types.SequenceBatch`: the targets, see `language.targets`, [B L-1].
    - `types.RankingBatch`: the rows with an order, i.e. at least two different ranks
      among the ranked responses; a row without one says nothing about the scores.
    """
    raise TypeError(
        f"no support registered for a batch of type {type(batch).__name__}; "
        "call rlhf_jax.losses.support.register for it"
    )


@support.register
def _(batch: types.Experience) -> Support:
    mask = batch.trajectory.mask
    weight = jnp.broadcast_to(batch.trajectory.weight[:, None], mask.shape)
    return Support(mask, weight)


def one_more_token(batch: types.Experience) -> Support:
    """The response tokens and the column after the last one, where there is room.

    What the N+ paper's code trains its values on (its `padding_mask_p1`): together with
    `rewards.score_after_last_token` and `advantages.gae(..., after_last=True)`, pass it
    as `Term(clipped_value(), support=one_more_token)`. The value there is that of the
    finished response.
    """
    where = support(batch)
    return where._replace(mask=masking.extend_by_one(where.mask))


class Targets(NamedTuple):
    """What a language model predicts in a `SequenceBatch`, [B L-1].

    Column `t` of each array speaks of token `t + 1` of the row.

    Attributes:
      tokens: int32[B L-1], the token to predict.
      mask: bool[B L-1], True where it is a target.
      weight: float32[B L-1], weight of its example.
      segment_ids: int32[B L-1], its document.
    """

    tokens: Array
    mask: Array
    weight: Array
    segment_ids: Array


def targets(batch: types.SequenceBatch) -> Targets:
    """Shift a sequence batch to its prediction targets.

    The network's column `t` predicts token `t + 1`, so language terms read
    `PolicyOutputs` of shape [B L-1] computed from `hidden[:, :-1]` and `tokens` here.
    The first token of a document is never a target: nothing of its own document
    precedes it, and without packing it would sit in column 0, where nothing predicts.
    """
    inputs = batch.inputs
    same_document = inputs.segment_ids[:, 1:] == inputs.segment_ids[:, :-1]
    predicted = inputs.mask[:, 1:] & inputs.mask[:, :-1] & same_document
    return Targets(
        inputs.tokens[:, 1:],
        batch.loss_mask[:, 1:] & predicted,
        batch.weight[:, 1:],
        inputs.segment_ids[:, 1:],
    )


@support.register
def _(batch: types.SequenceBatch) -> Support:
    shifted = targets(batch)
    return Support(shifted.mask, shifted.weight, shifted.segment_ids)


@support.register
def _(batch: types.RankingBatch) -> Support:
    ranks = batch.ranks
    untied = (ranks[:, :, None] > 0) & (ranks[:, None, :] > ranks[:, :, None])
    return Support(jnp.any(untied, axis=(1, 2)), batch.weight)


class Reduction(NamedTuple):
    """A named way from unreduced values to a number.

    Attributes:
      scale: `scale(Support) -> float array` like the mask, zero where it is False.
      normalizer: `normalizer(scale of the global minibatch) -> float[]`.
    """

    scale: Callable[[Support], Array]
    normalizer: Callable[[Array], Array]


def _weighted_mask(where: Support) -> Array:
    weight = where.weight.astype(jnp.result_type(float))
    return jnp.where(where.mask, weight, 0.0)


def document_lengths(
    mask: Bool[Array, "B T"], segment_ids: Int[Array, "B T"] | None
) -> Float[Array, "B T"]:
    """Number of real tokens in the document of each position (float, at least 1).

    Documents are the runs of equal segment ids in a row, whatever the ids are.
    """
    count = mask.astype(jnp.result_type(float))
    if segment_ids is None:
        lengths = jnp.broadcast_to(jnp.sum(count, axis=1, keepdims=True), mask.shape)
    else:
        starts = segment_ids[:, 1:] != segment_ids[:, :-1]
        run = jnp.pad(jnp.cumsum(starts.astype(jnp.int32), axis=1), ((0, 0), (1, 0)))
        lengths = jax.vmap(
            lambda c, r: jax.ops.segment_sum(c, r, num_segments=c.shape[0])[r]
        )(count, run)
    return jnp.maximum(lengths, 1.0)


def _sequence_scale(where: Support) -> Array:
    scale = _weighted_mask(where)
    if where.mask.ndim == 1:
        return scale
    return scale / document_lengths(where.mask, where.segment_ids)


token_mean = Reduction(scale=_weighted_mask, normalizer=jnp.sum)
"""Mean over all real tokens of the global minibatch: `sum_bt w_b m_bt v_bt / sum_bt
w_b m_bt`. Every token counts alike, so long responses count more (DAPO, N+)."""

sequence_mean = Reduction(scale=_sequence_scale, normalizer=jnp.sum)
"""Mean over sequences of their token means: `sum_b w_b (sum_t m v / sum_t m) / sum_b
w_b`; sequences without a real token do not count, packed documents count each by
themselves. Every sequence counts alike, so tokens of long ones count less (GRPO)."""


def sum_over(constant: float) -> Reduction:
    """`sum_bt w_b m_bt v_bt / constant`, summed over the global minibatch.

    With `constant = rows * max_length` this is Dr. GRPO's length-unbiased form.

    Args:
      constant: the divisor, positive; it stands for the whole minibatch, whatever the
        number of microbatches.
    """
    if not constant > 0:
        raise ValueError(f"sum_over needs a positive constant, got {constant}")
    return Reduction(
        scale=_weighted_mask,
        normalizer=lambda scale: jnp.full((), constant, scale.dtype),
    )
