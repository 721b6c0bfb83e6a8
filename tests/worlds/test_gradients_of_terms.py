"""C17: gradients of policy and KL terms, by autodiff on all responses of E64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from every_response import (
    GOLD,
    LENGTHS,
    PI,
    TABLE,
    WORLD,
    batch,
    cosine,
    exact,
    gradient,
    ragged_mask,
    same,
)

from rlhf_jax import losses
from rlhf_jax.rollout import scoring
from rlhf_jax.types import PolicyOutputs
from rlhf_jax.worlds import enumerable, fixed_points, relatives, tabular


def loss_gradient(term, reduction, mask, sequence_advantages=GOLD):
    """-d loss / d table by autodiff through network, scoring, term and reduction."""
    network, variables, experience = batch(mask, PI, sequence_advantages)
    loss = losses.combine(policy=losses.Term(term), reduction=reduction)
    prepared, _ = loss.prepare(experience, loss.init())

    def value(variables):
        scored = scoring.response_logprobs(network, variables, experience.rollout)
        outputs = PolicyOutputs(scored.logprobs, scored.entropy, scored.logsumexp)
        step = jnp.zeros((), jnp.int32)
        return loss.apply(outputs, experience, prepared, step)[0]

    found = jax.grad(value)(variables)["params"]["table"]
    return -np.asarray(found, np.float64)


TERMS = {
    "policy_gradient": losses.policy_gradient(),
    "clipped_surrogate": losses.clipped_surrogate(0.2),
    "gspo": losses.clipped_surrogate(0.2, level="sequence"),
    "cispo": losses.clipped_weight(),
}


@pytest.mark.identity("C17", "C19")
@pytest.mark.parametrize("name", TERMS)
def test_every_policy_term_has_the_exact_gradient_when_summed(name):
    """On-policy, summed over tokens, ragged or not: the gradient of E r. A sequence
    ratio, exp of a mean, counted at each token, is no exception."""
    for mask in (np.ones((64, 3), bool), ragged_mask()):
        mean = (PI * GOLD).reshape(4, 16).sum(1) / PI.reshape(4, 16).sum(1)
        reward = GOLD
        if not mask.all():  # what ends after token 0 has one reward
            reward = np.where(LENGTHS == 1, np.round(mean[0] * 1024) / 1024, GOLD)
        found = loss_gradient(TERMS[name], losses.sum_over(1.0), mask, reward)
        same(found, exact(reward), 1e-6)


@pytest.mark.identity("C17", "B13")
@pytest.mark.parametrize("name", ["policy_gradient", "gspo"])
def test_a_mean_over_the_tokens_of_a_sequence_rescales_by_its_length(name):
    """sequence_mean (GRPO, GSPO) has the gradient with advantages over lengths."""
    mask = ragged_mask()
    found = loss_gradient(TERMS[name], losses.sequence_mean, mask)
    wanted = np.where(mask, (GOLD / LENGTHS)[:, None], 0.0)
    same(found, gradient(wanted), 1e-6)
    unscaled = gradient(np.where(mask, GOLD[:, None], 0.0))
    assert cosine(found, unscaled) < 0.99


@pytest.mark.identity("C17", "B13")
def test_a_mean_over_all_tokens_divides_by_the_mean_length():
    """token_mean over infinitely many responses: the gradient over E |y|. In a batch
    of two, a response next to a long one counts less."""
    mask = ragged_mask()
    found = loss_gradient(TERMS["policy_gradient"], losses.token_mean, mask)
    summed = gradient(np.where(mask, GOLD[:, None], 0.0))
    same(found, summed / (PI @ LENGTHS), 1e-6)
    share = (2.0 / (LENGTHS[:, None] + LENGTHS[None, :])) @ PI
    of_two = gradient(np.where(mask, (GOLD * share)[:, None], 0.0))
    assert cosine(of_two, summed) < 0.999


@pytest.mark.identity("C17", "B31")
def test_kl_terms_have_the_gradients_of_their_fields():
    """The library's KL losses move the table as `worlds.fixed_points` says."""
    reference = np.asarray(tabular.reference_table(WORLD), np.float64)
    ref = jnp.asarray(enumerable.token_logprobs(reference), jnp.float32)
    network, variables, experience = batch(np.ones((64, 3), bool), PI, GOLD)
    moved = experience.trajectory._replace(ref_logprobs=ref)
    experience = experience._replace(trajectory=moved)
    frozen = {"params": {"table": jnp.asarray(reference, jnp.float32)}}

    def kl_gradient(estimator, level):
        term = losses.kl_to_reference(estimator, level)
        loss = losses.combine(kl=losses.Term(term), reduction=losses.sum_over(1.0))
        prepared, _ = loss.prepare(experience, loss.init())

        def value(variables):
            rollout = experience.rollout
            scored = scoring.response_logprobs(network, variables, rollout)
            divergence = scoring.exact_kl(network, variables, frozen, rollout)
            outputs = PolicyOutputs(
                scored.logprobs, scored.entropy, scored.logsumexp, divergence
            )
            step = jnp.zeros((), jnp.int32)
            return loss.apply(outputs, experience, prepared, step)[0]

        return np.asarray(jax.grad(value)(variables)["params"]["table"], np.float64)

    kinds = [("k1", "token"), ("k2", "token"), ("k3", "token"), ("exact", "token")]
    kinds += [("k3_with_k2_gradient", "token"), ("k2", "sequence"), ("k3", "sequence")]
    silent = WORLD._replace(gold=np.zeros(64))
    for estimator, level in kinds:
        held = relatives.relative(f"loss/{level}/{estimator}", 1.0)
        field = fixed_points.field(silent, TABLE, held)
        same(-kl_gradient(estimator, level), field, 2e-6)
