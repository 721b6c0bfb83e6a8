"""One PPO step laid open: the npz dump and the token-by-token rows of the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rlhf_jax import algorithms, hosts, losses, metrics
from rlhf_jax.algorithms import experience
from rlhf_jax.studies import schema
from rlhf_jax.types import Learner, Metrics, TrainState

DUMP = """Arrays of one PPO step in `W/<stage>/step_<n>.npz`; B rollouts, T tokens.

    prompt_tokens, prompt_mask             [B P]
    response_tokens, response_mask         [B T]
    example_id, score, terminal, truncated
    logprobs                               [B T] by the sampler (behaviour policy)
    old_logprobs, ref_logprobs             [B T] by the training graph, before the step
    new_logprobs, new_values, ratio        [B T] after the step's epochs
    values                                 [B T+1] before the step
    reward_scores, reward_tokens           [B], [B T] after the shaping chain
    advantages, returns                    [B T]
    entropy                                [B T] before the step
    term/<name>, term_gradient_norm/<name> [] each loss term on all rollouts, unweighted
    metric/<name>                          [] what the step reports
"""


def dump(
    path: Path,
    built: algorithms.PPO,
    terms: Mapping[str, losses.Loss],
    state: TrainState,
    frozen: algorithms.Frozen,
    batch: algorithms.PPOBatch,
) -> None:
    """Writes the arrays that `DUMP` lists, for the step that `state` will take."""
    found = built.explain(state, frozen, batch)
    rollout, trajectory = found.experience.rollout, found.experience.trajectory
    arrays: dict[str, Any] = {
        "prompt_tokens": rollout.prompt.tokens,
        "prompt_mask": rollout.prompt.mask,
        "response_tokens": rollout.tokens,
        "response_mask": rollout.mask,
        "example_id": trajectory.example_id,
        "score": trajectory.scores,
        "terminal": trajectory.terminal,
        "truncated": trajectory.truncated,
        "logprobs": trajectory.logprobs,
        "old_logprobs": trajectory.old_logprobs,
        "ref_logprobs": trajectory.ref_logprobs,
        "new_logprobs": found.after.logprobs,
        "ratio": jnp.exp(found.after.logprobs - found.before.logprobs),
        "reward_scores": found.experience.rewards.scores,
        "reward_tokens": found.experience.rewards.tokens,
        "advantages": found.experience.advantages.advantages,
        "returns": found.experience.advantages.returns,
        "entropy": found.before.entropy,
    }
    if trajectory.values is not None:
        arrays |= {"values": trajectory.values, "new_values": found.after.values}
    for name, loss in terms.items():
        value, norm = _term(built.parts, loss, state, frozen, found.experience)
        arrays |= {f"term/{name}": value, f"term_gradient_norm/{name}": norm}
    reported = metrics.finish(found.metrics)
    arrays |= {f"metric/{name}": value for name, value in reported.items()}
    host = hosts.fetch(arrays)

    def write() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            np.savez(file, **host)

    hosts.done(write)


def _term(
    parts: Any,
    loss: losses.Loss,
    state: TrainState,
    frozen: algorithms.Frozen,
    collected: Any,
) -> tuple[Any, Any]:
    """Value and gradient norm of one term on all rollouts of the step."""

    def objective(params: Any) -> Any:
        current = experience.outputs(
            parts, params, frozen, collected.rollout, whole=False
        )
        prepared, _ = loss.prepare(collected, loss.init())
        return loss.apply(current, collected, prepared, state.step)[0]

    value, gradients = jax.jit(jax.value_and_grad(objective))(state.params)
    return value, optax.tree.norm(gradients)


def dumping(
    built: algorithms.PPO,
    terms: Mapping[str, losses.Loss],
    step: int,
    folder: Path,
) -> Learner:
    """The learner, which writes `step_<step>.npz` before it takes that step."""
    if step < 0:
        return built.learner

    def update(
        state: TrainState, frozen: Any, batch: Any
    ) -> tuple[TrainState, Metrics]:
        if int(state.step) == step:
            dump(folder / f"step_{step}.npz", built, terms, state, frozen, batch)
        return built.learner.update(state, frozen, batch)

    return built.learner._replace(update=update)


def token_rows(found: algorithms.Explained, row: int, decode: Any) -> list[Any]:
    """One response token by token: reward, KL, value, advantage, ratio."""
    found = hosts.fetch(found)
    trajectory = found.experience.trajectory
    tokens = found.experience.rollout.tokens[row]
    mask = trajectory.mask[row]
    ratio = np.exp((found.after.logprobs - found.before.logprobs)[row])
    values = None if trajectory.values is None else trajectory.values[row][:-1]
    return schema.token_rows(
        [decode([int(token)]) for token in tokens[mask]],
        reward=found.experience.rewards.tokens[row],
        kl=trajectory.old_logprobs[row] - trajectory.ref_logprobs[row],
        value=values,
        advantage=found.experience.advantages.advantages[row],
        ratio=ratio,
    )
