"""Scoring comparisons for preference learning: from tokens to what the terms read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlhf_jax import losses, metrics
from rlhf_jax.errors import UserError
from rlhf_jax.losses import microbatch
from rlhf_jax.losses.preference import (
    LabelBatch,
    PreferenceBatch,
    PreferenceOutputs,
    method,
    sequence_logprobs,
)
from rlhf_jax.ops import logprobs as token_level
from rlhf_jax.types import (
    ComparisonBatch,
    Metrics,
    ModelInputs,
    Network,
    Params,
)


class Needs(NamedTuple):
    """What a set of methods asks for together.

    Attributes:
      batch: `pairs`, `rankings` or `labels`.
      reference: whether any of them compares with a reference policy.
      before: what must be scored with the parameters before the update.
      wins: names of the methods that read win probabilities.
      samples: names of those whose first response is a fresh sample of the policy.
    """

    batch: str
    reference: bool
    before: tuple[str, ...]
    wins: tuple[str, ...] = ()
    samples: tuple[str, ...] = ()

    @property
    def mismatched(self) -> bool:
        """Whether responses of other prompts are scored."""
        return "mismatched_logprobs" in self.before


def needs(names: Sequence[str]) -> Needs:
    """What the methods of these names ask for.

    Raises:
      UserError: no or unknown names, or labels together with comparisons.
    """
    methods = [method(name) for name in names]
    if not methods:
        raise UserError("preference learning needs a loss; name one, such as dpo")
    kinds = {found.batch for found in methods}
    if "labels" in kinds and len(kinds) > 1:
        labeled = [
            n for n, m in zip(names, methods, strict=True) if m.batch == "labels"
        ]
        raise UserError(
            f"'{labeled[0]}' learns from single labeled responses and cannot share a"
            f" batch with comparisons ({', '.join(names)}); its form for pairs is"
            f" '{labeled[0]}_pairs'"
        )
    before = sorted({field for found in methods for field in found.before})
    return Needs(
        batch=next(k for k in ("labels", "pairs", "rankings") if k in kinds),
        reference=any(found.reference for found in methods),
        before=tuple(before),
        wins=tuple(n for n, m in zip(names, methods, strict=True) if m.wins),
        samples=tuple(n for n, m in zip(names, methods, strict=True) if m.samples),
    )


Facts = PreferenceBatch | LabelBatch
Scored = Callable[[Params, Params | None, ComparisonBatch], Facts]
"""`(policy variables, reference variables, batch) -> what the terms read`."""


def scoring(
    network: Network, needs: Needs, reference: Network | None, microbatches: int = 1
) -> Scored:
    """From tokens to what the loss terms read, without gradient.

    Args:
      network: the policy.
      needs: of the terms.
      reference: network of the reference policy, or None to read cached log-probs.
      microbatches: parts that the batch is scored in, to bound memory.
    """

    def score(model: Network, variables: Params, inputs: Any, response: Any) -> Array:
        def part(both: Any) -> Array:
            return response_logprobs(model, variables, *both)[0]

        found = _in_parts(part, (inputs, response), microbatches)
        return jax.lax.stop_gradient(found)

    def scored(policy: Params, frozen: Params | None, batch: ComparisonBatch) -> Facts:
        ref, ref_mismatched = batch.ref_logprobs, batch.mismatched_ref_logprobs
        own, other = (
            (batch.inputs, batch.response),
            (batch.mismatched, batch.mismatched_response),
        )
        if reference is not None:
            ref = score(reference, frozen, *own)
            if needs.mismatched:
                ref_mismatched = score(reference, frozen, *other)
        before = {"policy_logprobs": own, "mismatched_logprobs": other}
        found = {
            name: score(network, policy, *tokens) if name in needs.before else None
            for name, tokens in before.items()
        }
        return facts(
            batch, needs, ref_logprobs=ref, mismatched_ref_logprobs=ref_mismatched,
            **found,
        )  # fmt: skip

    return scored


def facts(
    batch: ComparisonBatch, needs: Needs, **scores: Float[Array, "B K"] | None
) -> Facts:
    """What the terms read: lengths and order of a batch, and sequence log-probs.

    Args:
      batch: the tokens.
      needs: of the terms.
      **scores: `ref_logprobs`, `policy_logprobs`, `mismatched_logprobs` and
        `mismatched_ref_logprobs`, None where no term reads them.
    """
    lengths = jnp.sum(batch.response[..., 1:].astype(jnp.float32), axis=-1)
    shared = dict(example_id=batch.example_id, weight=batch.weight)
    if needs.batch != "labels":
        given: Any = {**scores, **shared, "win_probability": batch.win_probability}
        return PreferenceBatch(ranks=batch.ranks, lengths=lengths, **given)
    flat = {k: None if x is None else x[:, 0] for k, x in scores.items()}
    return LabelBatch(
        labels=batch.ranks[:, 0] == 1,
        mask=batch.ranks[:, 0] > 0,
        lengths=lengths[:, 0],
        **flat,  # type: ignore
        **shared,  # type: ignore
    )


def response_logprobs(
    network: Network,
    variables: Params,
    inputs: ModelInputs,
    response: Bool[Array, "B K L"],
) -> tuple[Float[Array, "B K"], Float[Array, "B K"]]:
    """Sums of the log-probs of response tokens, and their numbers.

    The K responses of a prompt go through the network as one element of the batch, so
    they never end up in different microbatches (check B26).
    """
    flat = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), inputs)
    hidden = network.apply(variables, flat).hidden
    values = token_level.token_logprobs(
        hidden[:, :-1],
        network.unembedding(variables),
        flat.tokens[:, 1:],
        softcap=network.config.final_softcap,
    )
    tokens = values.logprobs.reshape(*response.shape[:-1], -1)
    return sequence_logprobs(tokens, response)


def order_measures(
    values: Float[Array, "B K"], batch: ComparisonBatch, about: Facts
) -> Metrics:
    """`preference/accuracy` and `preference/margin` of plain log-ratios over all
    strictly ordered pairs; of log-probs where there is no reference. Terms that define
    an implicit reward report theirs instead."""
    if values.shape[1] < 2:
        return {}
    reference = about.ref_logprobs
    gain = jax.lax.stop_gradient(values if reference is None else values - reference)
    ranks = batch.ranks
    below = (ranks[:, :, None] > 0) & (ranks[:, None, :] > ranks[:, :, None])
    gap = gain[:, :, None] - gain[:, None, :]
    weight = batch.weight[:, None, None]
    return {
        "preference/accuracy": metrics.mean(0.5 * (1 + jnp.sign(gap)), below, weight),
        "preference/margin": metrics.mean(gap, below, weight),
    }


class HeldOut(NamedTuple):
    """What held-out comparisons say.

    Attributes:
      metrics: those of the terms; `loss/<term>` and `loss` (their weighted sum) count
        by the weight of the rows, so that batches merge to the whole.
      gains: float32[B K], log policy - log reference (log policy without reference).
    """

    metrics: Metrics
    gains: Array


HeldOutMeasure = Callable[[Params, Params | None, Any, Array, ComparisonBatch], HeldOut]
"""`(policy, reference, loss state, step, batch) -> HeldOut`."""


def held_out(
    network: Network, *, loss: losses.Loss, needs: Needs, reference: Network | None
) -> HeldOutMeasure:
    """Compiled `(policy, reference, loss state, step, batch) -> HeldOut`.

    Terms that couple the batch are prepared on each batch from the given state, which
    is not carried on: evaluation changes nothing.
    """
    scored = scoring(network, needs, reference)

    @jax.jit
    def measure(
        variables: Params, frozen: Params | None, state: Any, step: Array, batch: Any
    ) -> HeldOut:
        about = scored(variables, frozen, batch)
        prepared, _ = loss.prepare(about, state)
        values, _ = response_logprobs(network, variables, batch.inputs, batch.response)
        outputs = PreferenceOutputs(shaped(values, needs))
        total, measured = loss.apply(outputs, about, prepared, step)
        measured = {**order_measures(values, batch, about), **measured}
        where = losses.support(about)
        rows = jnp.sum(jnp.where(where.mask, where.weight, 0.0))
        measured = {**measured, "loss": metrics.scalar(total)}
        scaled = {
            name: metrics.Mean(value.total * rows, value.count * rows)
            if name.startswith("loss")
            else value
            for name, value in measured.items()
        }
        reference_values = about.ref_logprobs
        gains = values
        if reference_values is not None:
            gains = values - reference_values.reshape(values.shape)
        return HeldOut(scaled, gains)

    return measure


def reference_scores(
    network: Network, needs: Needs
) -> Callable[[Params, ComparisonBatch], dict[str, Array]]:
    """Compiled reference log-probs of a batch, float32[B K] by name, for caching."""

    @jax.jit
    def score(variables: Params, batch: ComparisonBatch) -> dict[str, Array]:
        own = response_logprobs(network, variables, batch.inputs, batch.response)[0]
        found = {"ref_logprobs": own}
        if needs.mismatched:
            assert batch.mismatched is not None
            assert batch.mismatched_response is not None
            found["mismatched_ref_logprobs"] = response_logprobs(
                network, variables, batch.mismatched, batch.mismatched_response
            )[0]
        return found

    return score


def shaped(values: Array, needs: Needs) -> Array:
    """[B K] for comparisons, [B] for labels."""
    return values[:, 0] if needs.batch == "labels" else values


def _in_parts(function: Callable[[Any], Array], batch: Any, parts: int) -> Array:
    """`function` over microbatches one after the other, rows back in their order."""
    if parts == 1:
        return function(batch)
    found = jax.lax.map(function, microbatch.split(batch, parts))
    return jnp.swapaxes(found, 0, 1).reshape(-1, *found.shape[2:])
