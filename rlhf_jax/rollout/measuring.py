"""What an evaluation measures of every response, as compiled steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax.ops import kl
from rlhf_jax.rollout import logits as rules_of
from rlhf_jax.rollout import scoring
from rlhf_jax.rollout.sampler import Program, sampling_program
from rlhf_jax.types import Array, Network, Params, Rollout


class Programs(NamedTuple):
    """The compiled steps of an evaluation; they close over no array.

    The temperature is their last argument, as `temperature_argument` gives it.

    Attributes:
      sample: `(params, prompts, key, temperature) -> Rollout`.
      measure: `(params, ref_params, rollout, temperature) -> (columns [B], metrics)`.
    """

    sample: Program
    measure: Callable[..., tuple[dict[str, Any], dict[str, Any]]]


def programs(
    network: Network,
    *,
    max_length: int,
    stop_tokens: Sequence[int],
    pad_token: int,
    min_length: int = 0,
    top_k: int | None = None,
    top_p: float | int | None = None,
    samples_per_prompt: int = 1,
) -> Programs:
    """The compiled steps of `evaluator`, whose other arguments it takes."""
    sample = sampling_program(
        network,
        max_length=max_length,
        stop_tokens=stop_tokens,
        pad_token=pad_token,
        min_length=min_length,
        top_k=top_k,
        top_p=top_p,
        samples_per_prompt=samples_per_prompt,
    )
    measure = jax.jit(
        _measures(
            network,
            not rules_of.requires_support(top_k, top_p),
            min_length=min_length,
            stop_tokens=tuple(stop_tokens),
        )
    )
    return Programs(sample, measure)


def _measures(network: Network, whole: bool, **support: Any) -> Callable:
    """`(params, ref_params, rollout, temperature) -> (columns [B], metrics)`.

    `whole`: whether what was sampled from is the distribution that is measured, at a
    temperature; `support`: min_length and stop_tokens of the latter.
    """

    def summed(values: Array, rollout: Rollout) -> Array:
        return jnp.sum(jnp.where(rollout.mask, values, 0.0), axis=1)

    def measure(
        params: Params,
        ref_params: Params | None,
        rollout: Rollout,
        temperature: Array | None,
    ):
        given: Any = 1.0 if temperature is None else temperature
        distribution = {**support, "temperature": given}
        hidden = scoring.response_hidden(network, params, rollout)
        scored = scoring.logprobs_from_hidden(
            network, params, hidden, rollout, **distribution
        )
        length = jnp.sum(rollout.mask, axis=1, dtype=jnp.float32)
        columns = {
            "length": length,
            "truncated": rollout.truncated.astype(jnp.float32),
            "logprob": summed(rollout.logprobs, rollout),
            "entropy": summed(scored.entropy, rollout) / jnp.maximum(length, 1.0),
        }
        found = {}
        if whole and temperature is not None:
            found = scoring.logprob_difference(
                rollout.logprobs, scored.logprobs, rollout.mask
            )
        if ref_params is None:
            return columns, found
        ref_hidden = scoring.response_hidden(network, ref_params, rollout)
        reference = scoring.logprobs_from_hidden(
            network, ref_params, ref_hidden, rollout, **distribution
        )
        sides = (params, hidden), (ref_params, ref_hidden)
        exact = scoring.exact_kl_from_hidden(network, *sides, rollout, **distribution)
        columns["kl"] = summed(exact, rollout)
        for name, estimator in (("k1", kl.k1), ("k2", kl.k2), ("k3", kl.k3)):
            estimate = estimator(scored.logprobs, reference.logprobs)
            columns[name] = summed(estimate, rollout)
        return columns, found

    return measure
