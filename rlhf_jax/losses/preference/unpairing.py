"""KTO and BCO on pairs: the chosen response is a good one, the rejected a bad one.

For comparisons as they are, without making single examples of them first::

    Term(kto_pairs(beta=0.1), prepare=pairs_reference_point)
    Term(bco_pairs(beta=0.1), prepare=pairs_running_mean(beta=0.1))

A pair's value is the mean over its two responses, so a pair is one element.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax import types
from rlhf_jax.errors import UserError
from rlhf_jax.losses.combine import LossTerm, Number, Preparation
from rlhf_jax.losses.preference import unpaired
from rlhf_jax.losses.preference.batches import (
    LabelBatch,
    PreferenceBatch,
    PreferenceOutputs,
    ordered,
)
from rlhf_jax.losses.reduction import support


def labels_of_pairs(batch: PreferenceBatch) -> LabelBatch:
    """The 2B responses of B pairs, row by row; those of rows without order masked."""
    where = support(batch)

    def flat(x: Array | None) -> Array | None:
        return None if x is None else x.reshape(-1)

    def both(x: Array) -> Array:
        return jnp.repeat(x, 2)

    other = batch.ranks[:, ::-1]
    return LabelBatch(
        labels=(batch.ranks < other).reshape(-1),
        mask=both(where.mask),
        ref_logprobs=flat(batch.ref_logprobs),
        lengths=batch.lengths.reshape(-1),
        policy_logprobs=flat(batch.policy_logprobs),
        mismatched_logprobs=flat(batch.mismatched_logprobs),
        mismatched_ref_logprobs=flat(batch.mismatched_ref_logprobs),
        example_id=both(batch.example_id),
        weight=both(where.weight),
    )


def kto_pairs(
    beta: Number = 0.1, desirable_weight: float = 1.0, undesirable_weight: float = 1.0
) -> LossTerm:
    """`unpaired.kto` on a `PreferenceBatch` with `prepare=pairs_reference_point`."""
    term = unpaired.kto(beta, desirable_weight, undesirable_weight)
    return _on_pairs("kto_pairs", "pairs_reference_point", term)


def bco_pairs(beta: Number = 0.1) -> LossTerm:
    """`unpaired.bco` on a `PreferenceBatch` with `prepare=pairs_running_mean(beta)`.

    TRL's `bco_pair` is twice that: it adds the two responses' losses.
    """
    preparation = f"pairs_running_mean(beta={beta})"
    return _on_pairs("bco_pairs", preparation, unpaired.bco(beta))


def pairs_reference_point(batch: PreferenceBatch) -> Float[Array, ""]:
    """`unpaired.reference_point` over both responses of all pairs.

    Raises:
      UserError: the batch holds no mismatched log-probs.
    """
    return unpaired.reference_point(labels_of_pairs(batch))


def pairs_running_mean(beta: Number = 0.1) -> Preparation:
    """`unpaired.running_mean` over both responses of all pairs."""
    inner = unpaired.running_mean(beta)

    def update(batch: PreferenceBatch, state: Any) -> tuple[Array, Any]:
        return inner.update(labels_of_pairs(batch), state)

    return Preparation(inner.init, update)


def _on_pairs(name: str, preparation: str, term: LossTerm) -> LossTerm:
    def values(
        outputs: PreferenceOutputs, batch: PreferenceBatch, prepared: Any = None
    ) -> tuple[Array, types.Metrics]:
        ordered(outputs.logprobs, batch.ranks, name)
        if prepared is None:
            raise UserError(
                f"{name} couples the batch; write Term({name}(...), "
                f"prepare={preparation})"
            )
        flat = PreferenceOutputs(outputs.logprobs.reshape(-1))
        found, report = term(flat, labels_of_pairs(batch), prepared)
        return jnp.mean(found.reshape(-1, 2), axis=1), report

    return values
