"""PPO for language models: sample, score, shape, estimate, update.

One iteration (Ziegler et al. 2019; Huang et al. 2024, "N+ implementation details"):

    rollout  ~ policy(prompts)
    scores   = scorer(rollout)
    rewards  = shaping(scores, KL to the reference, ...)
    A, R     = estimator(rewards, values)
    repeat `epochs` times, over shuffled minibatches:
        minimise sum_i weight_i * reduce(term_i(policy, value, A, R))

Every capital letter is a part that the caller hands in. Dropping the value network and
swapping the estimator gives RLOO; adding a KL term to the loss gives GRPO.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax

from rlhf_jax import losses
from rlhf_jax.algorithms import (
    collecting,
    experience,
    forward,
    optimization,
    term_gradient,
)
from rlhf_jax.algorithms.collecting import Scored, Selection, Staleness
from rlhf_jax.algorithms.parts import Frozen, Parts, PPOBatch
from rlhf_jax.placement import pinned
from rlhf_jax.types import (
    AdvantageEstimator,
    Array,
    Experience,
    Learner,
    Metrics,
    Network,
    Params,
    PolicyOutputs,
    PromptBatch,
    RewardTransformation,
    Rollout,
    Scorer,
    SequenceBatch,
    TrainState,
)

T = TypeVar("T")


class PPO(NamedTuple):
    """A PPO learner, and the same step with everything it computed.

    Attributes:
      learner: `init`, `update(state, Frozen, PPOBatch)`.
      explain: `(state, Frozen, PPOBatch) -> Explained`, the intermediates of the step
        that `update` would take; the state is left as it was.
      parts: what it was built from.
      programs: its compiled steps.
    """

    learner: Learner
    explain: Callable[[TrainState, Frozen, PPOBatch], Explained]
    parts: Parts
    programs: Programs


class Programs(NamedTuple):
    """The compiled steps of a learner.

    They close over all parts but the sampler, the scorer and the temperature, and over
    no array: another learner whose other parts are equal may use them (`sharing`).
    Coefficients and weights that are numbers come from the state.

    Attributes:
      learn: `(state, frozen, pretraining, scored, temperature)`, everything after the
        scores, donates the state.
      collect: `(state, frozen, scored, temperature)`, the experience that `learn`
        learns from, and log-probs, entropy and values [B T] at its tokens.
      gradients: `term_gradient.gradients`.
    """

    learn: Any
    collect: Any
    gradients: Callable[[TrainState, Frozen, Experience, Array], Metrics]


class Explained(NamedTuple):
    """One PPO step laid open.

    Attributes:
      experience: rollouts, trajectory, shaped rewards, advantages.
      before: log-probs, entropy and values [B T] of the policy that sampled.
      after: the same after the step's epochs; `exp(after - before)` is the ratio.
      metrics: what the step reports.
    """

    experience: Experience
    before: PolicyOutputs
    after: PolicyOutputs
    metrics: Metrics


def ppo(
    *,
    policy: Network,
    value: Network | None,
    initial: Callable[[Array], dict[str, Params]],
    sampler: Callable[[Params, PromptBatch, Array], Rollout],
    scorer: Scorer,
    shaping: RewardTransformation,
    estimator: AdvantageEstimator,
    loss: losses.Loss,
    optimizers: dict[str, optax.GradientTransformation],
    temperature: float = 1.0,
    epochs: int = 4,
    minibatches: int = 1,
    microbatches: int = 1,
    target_kl: float | None = None,
    value_warmup: int = 0,
    pretraining_loss: losses.Loss | None = None,
    exact_kl: bool = False,
    baseline_sampler: Callable[[Params, PromptBatch, Array], Rollout] | None = None,
    selection: Selection | None = None,
    staleness: Staleness | None = None,
    term_gradients: int = 0,
    term_cosines: bool = False,
) -> PPO:
    """Builds the learner from its parts.

    Args:
      policy: the policy network; with a scalar head of its own where `value` is None
        and the estimator needs values.
      value: a separate value network (group `value`), or None.
      initial: `key -> {"policy": variables, "value": variables}` to train.
      sampler: draws responses; must sample from the full softmax at `temperature`.
      scorer: one score per response.
      shaping: chain from scores to per-token rewards.
      estimator: rewards and values to advantages.
      loss: combined loss terms.
      optimizers: one per parameter group.
      temperature: sampling temperature, applied in every log-prob.
      epochs: passes over the rollouts of an iteration.
      minibatches: optimizer steps per epoch; the rollouts are reshuffled each epoch.
      microbatches: parts of a minibatch whose gradients are summed.
      target_kl: a minibatch whose approximate KL to the old policy exceeds it, and all
        that follow in the iteration, change nothing. None never stops.
      value_warmup: iterations in which only the value function learns.
      pretraining_loss: loss on `PPOBatch.pretraining` added to every minibatch
        (PPO-ptx), or None.
      exact_kl: run the reference on every minibatch as well, for loss terms that read
        `PolicyOutputs.kl_exact` (`losses.kl_to_reference("exact")`).
      baseline_sampler: one response per prompt whose score is the baseline of
        `advantages.greedy_baseline` (ReMax), or None.
      selection: `informative_groups` (DAPO's dynamic sampling), or None to learn from
        every rollout.
      staleness: learn from rollouts some steps late, or None.
      term_gradients: every so many steps, report each term's share of the loss and the
        norm of its gradient on the rollouts of the step, before its epochs; 0 = never.
      term_cosines: report the cosines between the terms' gradients there too.

    Returns:
      The learner and its `explain`.
    """
    parts = Parts(**locals())
    programs = Programs(
        learn=jax.jit(lambda *args: _at(parts, _learn, *args), donate_argnums=0),
        collect=jax.jit(lambda *args: _at(parts, _collect, *args)),
        gradients=term_gradient.gradients(parts),
    )
    return _assembled(parts, programs)


def sharing(built: PPO, programs: Programs) -> PPO:
    """The learner on the compiled steps of another one whose parts are equal."""
    return _assembled(built.parts, programs)


def _at(parts: Parts, step: Callable[..., T], *args: Any) -> T:
    """A step at the temperature that is the last argument."""
    *rest, temperature = args
    return step(parts._replace(temperature=temperature), *rest)


def _assembled(parts: Parts, programs: Programs) -> PPO:
    """The host's side: sample, score, and hand over."""
    every = parts.term_gradients
    temperature = jnp.asarray(parts.temperature, jnp.float32)

    def update(
        state: TrainState, frozen: Frozen, batch: PPOBatch
    ) -> tuple[TrainState, Metrics]:
        clock = collecting.Clock()
        scored, gathered = collecting.gather(parts, state, frozen, batch, clock)
        fixed = frozen._replace(scorer=())
        if parts.staleness is not None:
            buffer, scored = collecting.exchange(
                state.extra["buffer"], scored, state.step
            )
            state = state._replace(extra={**state.extra, "buffer": buffer})
        if every and int(state.step) % every == 0:
            collected, _ = programs.collect(state, fixed, scored, temperature)
            found = programs.gradients(state, fixed, collected, temperature)
            gathered = {**gathered, **clock("diagnose", found)}
        rest = batch.pretraining, scored, temperature
        state, measured = clock("learn", programs.learn(state, fixed, *rest))
        return state, {**measured, **gathered, **clock.metrics}

    def explain(state: TrainState, frozen: Frozen, batch: PPOBatch) -> Explained:
        clock = collecting.Clock()
        scored, _ = collecting.gather(parts, state, frozen, batch, clock)
        fixed = frozen._replace(scorer=())
        collected, before = programs.collect(state, fixed, scored, temperature)
        rest = batch.pretraining, scored, temperature
        learned, measured = programs.learn(forward.duplicate(state), fixed, *rest)
        # The same program at the new parameters: only what they say of the tokens.
        _, after = programs.collect(learned, fixed, scored, temperature)
        return Explained(collected, before, after, measured)

    learner = Learner(lambda key: _init(parts, key), update)
    return PPO(learner, explain, parts, programs)


def _init(parts: Parts, key: Array) -> TrainState:
    params = forward.copied(parts.initial(key))
    opt_state = {
        name: parts.optimizers[name].init(tree) for name, tree in params.items()
    }
    mix = parts.pretraining_loss
    extra = {
        "shaping": parts.shaping.init(),
        "estimator": parts.estimator.init(),
        "loss": parts.loss.init(),
        "pretraining": None if mix is None else mix.init(),
        "buffer": collecting.empty_buffer(parts.staleness),
    }
    return TrainState(jnp.zeros((), jnp.int32), params, opt_state, key, extra)


def _learn(
    parts: Parts,
    state: TrainState,
    frozen: Frozen,
    pretraining: SequenceBatch | None,
    scored: Scored,
) -> tuple[TrainState, Metrics]:
    """Everything of an iteration after the scores, as one program."""
    with jax.named_scope("experience"):
        collected = experience.collect(parts, state, frozen, scored)
    with jax.named_scope("update"):
        trained, learned = optimization.optimize(
            parts, state, frozen, collected.experience, pretraining
        )
    extra = {**trained.extra, **collected.extra}
    state = trained._replace(step=state.step + 1, extra=extra)
    return pinned(state), {**collected.metrics, **learned}


def _collect(
    parts: Parts, state: TrainState, frozen: Frozen, scored: Scored
) -> tuple[Experience, PolicyOutputs]:
    """The experience, and what the state's parameters say of each token in it."""
    collected = experience.collect(parts, state, frozen, scored)
    found = collected.outputs
    if found.values is not None:
        found = found._replace(values=found.values[:, :-1])
    return collected.experience, found
