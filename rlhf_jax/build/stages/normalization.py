"""The fixed gain and bias of a reward model's scores, and what they are measured on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rlhf_jax import data, hosts, rewards
from rlhf_jax.build.configs.section import Section
from rlhf_jax.build.runs.context import Context
from rlhf_jax.errors import UserError
from rlhf_jax.rollout import scorers
from rlhf_jax.types import Network, Params

WAYS = ("responses", "demonstrations", "none")
"""Mean 0 and sd 1 over the ranked responses, which a reference sampled (Ziegler et al.
2019); mean 0 over the demonstrations, scale left alone (Huang et al. 2024, the N+
paper); scores as they come."""


def way(section: Section, context: Context) -> str:
    """Reads `normalize`, one of `WAYS`.

    Raises:
      UserError: it asks for demonstrations, which the task does not have.
    """
    found = section.choice("normalize", WAYS)
    if found == "demonstrations" and context.task.demonstrations is None:
        raise UserError(
            f"{section.path}.normalize='demonstrations': the task has none; name a file"
            " in config.task.demonstrations, or use 'responses'"
        )
    return found


def gain_and_bias(
    way: str,
    context: Context,
    network: Network,
    variables: Params,
    batch_size: int,
    responses: Callable[[], np.ndarray],
) -> dict[str, Any]:
    """`gain` and `bias` of a trained reward model.

    Args:
      way: one of `WAYS`.
      context: of the run.
      network: the reward model.
      variables: its weights.
      batch_size: demonstrations that are scored at once.
      responses: raw scores float[M] of the ranked responses.
    """
    if way == "responses":
        return rewards.measure_gain_and_bias(responses())._asdict()
    if way == "none":
        return {"gain": 1.0, "bias": 0.0}
    scores = demonstrated(context, network, variables, batch_size)
    return {"gain": 1.0, "bias": -float(np.mean(scores))}


def demonstrated(
    context: Context, network: Network, variables: Params, batch_size: int
) -> np.ndarray:
    """Raw scores float64[N] of the task's training demonstrations."""

    def program() -> Any:
        def score(weights: Params, inputs: Any) -> Any:
            return scorers.last_token_scores(network, weights, inputs)

        return jax.jit(score)

    task = context.task
    assert task.demonstrations is not None
    score = context.compiled("demonstration_scores", repr(network.config), program)
    stream = data.sequence_stream(
        task.demonstrations,
        task.encoder,
        batch_size=batch_size,
        seed=0,
        lengths=task.lengths,
        shuffle=False,
        remainder="pad",
    )
    found = []
    for batch in stream.epoch():
        real = np.asarray(batch.example_id)[:, 0] >= 0  # the others fill the batch
        found.append(
            np.asarray(hosts.fetch(score(variables, batch.inputs)), np.float64)[real]
        )
    return np.concatenate(found)
