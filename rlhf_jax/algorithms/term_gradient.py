"""What each loss term pulls at: its share of the loss, its gradient, their angles."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rlhf_jax import metrics
from rlhf_jax.algorithms import experience
from rlhf_jax.algorithms.parts import Frozen, Parts
from rlhf_jax.losses import microbatch
from rlhf_jax.types import Array, Experience, Metrics, TrainState


def gradients(
    parts: Parts,
) -> Callable[[TrainState, Frozen, Experience, Array], Metrics]:
    """`(state, frozen, experience, temperature) -> metrics` of a learner.

    Metrics, over all rollouts of the step at the parameters before its epochs:
    `loss_share/<term>`, |w_i L_i| / sum_j |w_j L_j|; `term_grad_norm/<term>`, the norm
    of the weighted term's gradient over all groups; with `term_cosines`
    `term_cosine/<a>/<b>`.
    """

    @jax.jit
    def one(
        state: TrainState,
        frozen: Frozen,
        collected: Experience,
        chosen: Array,
        temperature: Array,
    ) -> tuple[dict[str, Array], Any]:
        """Values of all terms, gradient of `sum_i chosen_i * term_i`."""
        given = parts._replace(temperature=temperature)
        prepared, _ = parts.loss.prepare(collected, state.extra["loss"])

        def objective(params: Any, part: Experience, shared: Any) -> Any:
            current = experience.outputs(
                given, params, frozen, part.rollout, whole=False
            )
            found, _ = parts.loss.weighted(current, part, shared, state.step)
            value = jnp.dot(jnp.stack(list(found.values())), chosen)
            return value, {name: metrics.scalar(x) for name, x in found.items()}

        (_, shown), found = microbatch.accumulated_gradients(
            objective, state.params, collected, prepared, parts.microbatches
        )
        return {name: mean.total for name, mean in shown.items()}, found

    names = list(parts.loss.init())
    report = jax.jit(functools.partial(_report, names, cosines=parts.term_cosines))

    def measure(
        state: TrainState, frozen: Frozen, collected: Experience, temperature: Array
    ) -> Metrics:
        rows = jnp.eye(len(names))
        found = [one(state, frozen, collected, row, temperature) for row in rows]
        return report(found[0][0], [g for _, g in found])

    return measure


def _report(
    names: list[str], values: dict[str, Array], found: list[Any], cosines: bool
) -> Metrics:
    total = sum(jnp.abs(values[name]) for name in names)
    norms = {n: optax.tree.norm(g) for n, g in zip(names, found, strict=True)}
    report: dict[str, Any] = {}
    for name in names:
        share = jnp.abs(values[name]) / jnp.maximum(total, 1e-30)
        report[f"loss_share/{name}"] = metrics.scalar(share)
        report[f"term_grad_norm/{name}"] = metrics.scalar(norms[name])
    if cosines:
        for (a, ga), (b, gb) in itertools.combinations(
            zip(names, found, strict=True), 2
        ):
            product = jnp.maximum(norms[a] * norms[b], 1e-30)
            cosine = optax.tree.vdot(ga, gb) / product
            report[f"term_cosine/{a}/{b}"] = metrics.scalar(cosine)
    return report
