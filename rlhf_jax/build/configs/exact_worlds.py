"""Experiments of one policy learner in a world whose gold reward is exact.

A relative of PPO is a few keywords of the section `ppo`; `e64` and `arith` put it into
the enumerable world and into sums. The files in `experiments/relatives` are made so.
"""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from rlhf_jax.build.configs import defaults, sections


def critic_free() -> dict[str, Any]:
    """The value section of learners without a critic."""
    return dict(enabled=False, separate=True, init="scratch", head="zero")


def critic() -> dict[str, Any]:
    """The value section of learners with a critic of their own."""
    return dict(enabled=True, separate=True, init="scratch", head="zero")


def e64(*, target: str, beta: float, group: int | None = None, **ppo: Any) -> Any:
    """The stages `ppo` and `exact`: a table trained against gold, then enumerated.

    Args:
      target: what the policy is held to, see `build.stages.exact`.
      beta: weight of the KL to the reference.
      group: group size, where advantages are divided by a group's deviation.
      **ppo: keys of the section `ppo`. The loss is a mean over the 512 responses of an
        iteration of sums over their tokens, so terms weigh as in the objective.
    """
    # World 7: its best response is best by half a standard deviation, so that a
    # policy without a KL has one response to end at.
    config = _world(sections.e64_task(world=7), defaults.tabular_model())
    config.stages = ("ppo", "exact")
    changes = dict(steps=300, batch_size=64, samples_per_prompt=8, reduction="512.0")
    config.ppo = _learner(0.05, "init", **{**changes, **ppo})
    config.exact = sections.exact(target=target, beta=beta, group=group)
    return config


def arith(**ppo: Any) -> ConfigDict:
    """The stages `sft`, `ppo` and `table`: sums, half of whose demonstrations are
    wrong, then trained against right or wrong.

    Args:
      **ppo: keys of the section `ppo`.
    """
    config = _world(sections.arith_task(), defaults.model(width=64, num_layers=2))
    config.stages = ("sft", "ppo", "table")
    config.sft = sections.sft(
        3e-3,
        steps=800,
        batch_size=64,
        optimizer=defaults.optimizer(3e-3, schedule="cosine", warmup_steps=40),
    )
    changes = dict(
        steps=60, batch_size=64, samples_per_prompt=4, eval_every=20, eval_prompts=256
    )
    config.ppo = _learner(5e-4, "sft", **{**changes, **ppo})
    config.table = sections.table(
        base="sft", reward_model="gold", best_of=4, prompts=0, samples=4
    )
    return config


def _world(task: ConfigDict, model: ConfigDict) -> ConfigDict:
    config = defaults.base()
    config.task, config.model = task, model
    return config


def _learner(learning_rate: float, policy: str, **changes: Any) -> ConfigDict:
    """A policy-gradient learner against gold; on-policy, without critic and KL."""
    linear = defaults.optimizer(
        learning_rate, schedule="linear", name="adam", clip_norm=None
    )
    values = dict(
        policy=policy,
        reference=policy,
        reward_model="gold",
        epochs=1,
        temperature=1.0,
        kl_coef=0.0,
        rewards=("score_at_last_token",),
        terms=("clipped_surrogate",),
        value=critic_free(),
        optimizer=linear,
        value_optimizer=linear,
    )
    return sections.ppo(learning_rate, learning_rate, **{**values, **changes})
