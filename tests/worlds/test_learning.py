"""The ordinary learner, with the ordinary sampler, ends where enumeration says."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax import advantages, algorithms, losses, rewards, rng, rollout
from rlhf_jax.types import PromptBatch
from rlhf_jax.worlds import boundaries, enumerable, fixed_points, relatives, tabular

WORLD = enumerable.e64(0)
BATCH, STEPS, BETA = 512, 400, 0.3


def prompts(count):
    return PromptBatch(
        tokens=jnp.full((count, 1), enumerable.BOS, jnp.int32),
        mask=jnp.ones((count, 1), bool),
        example_id=jnp.zeros(count, jnp.int32),
        weight=jnp.ones(count, jnp.float32),
    )


def trained(shaping, **terms):
    """RLOO in groups of 4 on E64; the policy's distribution after training."""
    network = tabular.policy(WORLD)
    sample = rollout.sampler(
        network, max_length=3, stop_tokens=(), pad_token=enumerable.PAD, temperature=1.0
    )
    schedule = optax.linear_schedule(0.05, 0.0, STEPS)
    built = algorithms.ppo(
        policy=network,
        value=None,
        initial=lambda key: {"policy": network.init(key)},
        sampler=boundaries.ends_at(sample, 3),
        scorer=rollout.world_scorer(lambda *arrays: enumerable.gold(WORLD, *arrays)),
        shaping=rewards.chain(rewards.score_at_last_token(), *shaping),
        estimator=advantages.leave_one_out(4),
        loss=losses.combine(reduction=losses.sum_over(BATCH), **terms),
        optimizers={"policy": optax.adam(schedule)},
        epochs=1,
    )
    state = built.learner.init(rng.root(0))
    reference = network.init(rng.root(1))
    frozen = algorithms.Frozen(reference, (), {})
    batch = algorithms.PPOBatch(prompts(BATCH))
    for _ in range(STEPS):
        state, measured = built.learner.update(state, frozen, batch)
    assert float(measured["rollout/truncated_fraction"].finish()) == 0.0
    return enumerable.distribution(tabular.logits(state.params["policy"]))


@pytest.mark.identity("C3", "C36")
def test_rloo_with_a_kl_penalty_reaches_the_tilt():
    """Sampled, with the KL in the reward: total variation to the tilt below 0.05, J
    within 0.02 of the best, and no more gold than the frontier has at its KL."""
    pi = trained(
        [rewards.kl_penalty(BETA)], policy=losses.Term(losses.policy_gradient())
    )
    star = enumerable.tilt(WORLD, BETA)
    assert enumerable.total_variation(pi, star) < 0.05
    best = enumerable.best_objective(WORLD, BETA)
    assert best - enumerable.objective(WORLD, pi, BETA) < 0.02
    divergence = enumerable.kl(pi, enumerable.reference(WORLD))
    assert pi @ WORLD.gold <= enumerable.frontier(WORLD, divergence) + 1e-6


@pytest.mark.identity("C3", "B31")
def test_rloo_with_a_token_level_k3_loss_reaches_its_own_fixed_point():
    """The same learner with GRPO's KL term is held to another target, and far from the
    tilt when it gets there."""
    pi = trained(
        [],
        policy=losses.Term(losses.policy_gradient()),
        kl=losses.Term(losses.kl_to_reference("k3"), weight=BETA),
    )
    own = fixed_points.solve(WORLD, relatives.relative("loss/token/k3", BETA))
    assert enumerable.total_variation(pi, own) < 0.05
    assert enumerable.total_variation(pi, enumerable.tilt(WORLD, BETA)) > 0.15
    assert np.isfinite(pi).all()
