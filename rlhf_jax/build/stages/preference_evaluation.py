"""Held-out numbers of a preference stage."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import algorithms, hosts, metrics
from rlhf_jax.algorithms import forward
from rlhf_jax.algorithms.preference_scoring import HeldOutMeasure
from rlhf_jax.optimizers import final_params
from rlhf_jax.training import loop
from rlhf_jax.types import ComparisonBatch, TrainState


def evaluation(
    measure: HeldOutMeasure,
    frozen: algorithms.PreferenceFrozen,
    batches: Sequence[ComparisonBatch],
    *,
    labels: bool,
) -> loop.Evaluate:
    """Accuracy, margin and losses on held-out comparisons or labels.

    Args:
      measure: compiled, see `preference_scoring.held_out`.
      frozen: base and reference variables.
      batches: held-out rows.
      labels: whether they are single labeled responses.
    """

    def evaluate(state: TrainState, step: int) -> loop.Evaluation:
        variables = forward.merged(frozen.base, final_params(state, "policy"))
        found = [
            measure(
                variables,
                frozen.reference,
                state.extra["loss"],
                jnp.asarray(step, jnp.int32),
                batch,
            )
            for batch in batches
        ]
        shown = metrics.finish(metrics.merge([one.metrics for one in found]))
        shown = {key.removeprefix("preference/"): value for key, value in shown.items()}
        if labels:
            gains = np.concatenate([hosts.fetch(one.gains)[:, 0] for one in found])
            ranks = np.concatenate([np.asarray(batch.ranks)[:, 0] for batch in batches])
            shown |= label_measures(gains, ranks)
            shown["margin"] = shown["chosen_reward"] - shown["rejected_reward"]
        # What no row speaks of, such as the reward of bad responses where all are good.
        return loop.Evaluation({k: v for k, v in shown.items() if not math.isnan(v)})

    return evaluate


def names(
    measure: HeldOutMeasure,
    state: TrainState,
    frozen: algorithms.PreferenceFrozen,
    batch: ComparisonBatch,
) -> set[str]:
    """What `evaluation` measures, from abstract arrays."""
    variables = forward.merged(frozen.base, state.params["policy"])
    arguments = variables, frozen.reference, state.extra["loss"], state.step, batch
    found = jax.eval_shape(measure, *arguments).metrics
    return {key.removeprefix("preference/") for key in found} | {"accuracy", "margin"}


def label_measures(gains: np.ndarray, ranks: np.ndarray) -> dict[str, float]:
    """The accuracy of good (rank 1) against bad responses (rank 2), all with all.

    The share of couples whose good response gained more log-prob over the reference,
    equal ones half: the area under the ROC curve.
    """
    good, bad = gains[ranks == 1], gains[ranks == 2]
    if not len(good) or not len(bad):
        return {}
    order = np.sort(bad)
    below = np.searchsorted(order, good, "left") + np.searchsorted(order, good, "right")
    return {"accuracy": float(np.mean(below) / (2 * len(bad)))}
