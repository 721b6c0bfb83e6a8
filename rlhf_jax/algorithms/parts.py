"""What a policy learner is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from rlhf_jax import losses
from rlhf_jax.types import (
    AdvantageEstimator,
    Array,
    Network,
    Params,
    PromptBatch,
    RewardTransformation,
    Rollout,
    Scorer,
    SequenceBatch,
)


class PPOBatch(NamedTuple):
    """Prompts of one iteration, and the pretraining sequences of PPO-ptx or None."""

    prompts: PromptBatch
    pretraining: SequenceBatch | None = None


class Frozen(NamedTuple):
    """What PPO reads and never changes.

    Attributes:
      reference: variables of the reference policy.
      scorer: the scorer's frozen state.
      policy_base: variables under the trainable policy ones; `{}` unless LoRA trains.
    """

    reference: Params
    scorer: Any
    policy_base: Params


class Parts(NamedTuple):
    """The parts of one PPO learner; every field is a keyword of `ppo`."""

    policy: Network
    value: Network | None
    initial: Callable[[Array], dict[str, Params]]
    sampler: Callable[[Params, PromptBatch, Array], Rollout]
    scorer: Scorer
    shaping: RewardTransformation
    estimator: AdvantageEstimator
    loss: losses.Loss
    optimizers: dict[str, optax.GradientTransformation]
    temperature: float | Array
    epochs: int
    minibatches: int
    microbatches: int
    target_kl: float | None
    value_warmup: int
    pretraining_loss: losses.Loss | None
    exact_kl: bool
    baseline_sampler: Callable[[Params, PromptBatch, Array], Rollout] | None
    selection: Any
    staleness: Any
    term_gradients: int
    term_cosines: bool
