"""C17: each estimator's expected gradient, summed over all responses and all groups.

The library's own estimators and loss terms run on every response (or every group of
two) of E64 at once; probabilities are then summed over in float64 and compared with the
gradient of the exact objective. Gold is rounded to 1/1024, which float32 holds exactly.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import advantages, losses
from rlhf_jax.rollout import best_of_n, scoring
from rlhf_jax.types import (
    Advantages,
    Experience,
    PolicyOutputs,
    PromptBatch,
    Rewards,
    Rollout,
    Trajectory,
)
from rlhf_jax.worlds import enumerable, expected, fixed_points, relatives, tabular

WORLD = enumerable.e64(0)
GOLD = np.round(WORLD.gold * 1024) / 1024
TABLE = np.random.default_rng(5).normal(size=(21, 4))
PI = enumerable.distribution(TABLE)
LENGTHS = np.where(enumerable.contents(4, 3)[:, 0] == 0, 1, 3)
"""Ragged: a response that begins with token 0 ends there."""


def exact(reward=GOLD):
    """Gradient of E r by autodiff in float64."""

    def objective(table):
        logprobs = jax.nn.log_softmax(table, axis=1)
        at = enumerable.rows(4, 3), enumerable.contents(4, 3)
        return jnp.sum(jnp.exp(jnp.sum(logprobs[at], axis=1)) * reward)

    with jax.enable_x64(True):
        return np.asarray(jax.grad(objective)(jnp.asarray(TABLE)))


def trajectory(scores, mask=None, values=None, weight=None):
    """Rows of E64 with the mathematical fields that estimators read."""
    count = len(scores)
    mask = np.ones((count, 3), bool) if mask is None else mask
    zeros = jnp.zeros((count, 3), jnp.float32)
    last = mask & (np.arange(3)[None, :] == mask.sum(1, keepdims=True) - 1)
    return Trajectory(
        mask=jnp.asarray(mask),
        logprobs=zeros,
        old_logprobs=zeros,
        ref_logprobs=zeros,
        values=values,
        scores=jnp.asarray(scores, jnp.float32),
        terminal=jnp.asarray(last),
        truncated=jnp.zeros(count, bool),
        policy_version=jnp.zeros(count, jnp.int32),
        example_id=jnp.zeros(count, jnp.int32),
        weight=jnp.ones(count) if weight is None else jnp.asarray(weight, jnp.float32),
    )


def rewards(found):
    """The score on the last token."""
    tokens = jnp.where(found.terminal, found.scores[:, None], 0.0)
    return Rewards(found.scores, tokens)


def estimate(estimator, found):
    result, _ = estimator.update(rewards(found), estimator.init(), found)
    return np.asarray(result.advantages, np.float64)


def per_response(estimator, values=None):
    """Coefficients of an estimator that looks at one response at a time."""
    return estimate(estimator, trajectory(GOLD, values=values))


def pairs(estimator):
    """Coefficients of an estimator in batches of one group of two, others summed out.

    Every ordered pair is a batch of its own, so that statistics over the batch are
    those of the pair.
    """
    one, other = np.divmod(np.arange(64 * 64), 64)
    scores = jnp.asarray(np.stack([GOLD[one], GOLD[other]], axis=1), jnp.float32)
    like = trajectory(GOLD[:2])

    def single(pair):
        found = like._replace(scores=pair)
        return estimator.update(rewards(found), estimator.init(), found)[0].advantages

    found = np.asarray(jax.vmap(single)(scores), np.float64).reshape(64, 64, 2, 3)
    as_first = np.einsum("abt,b->at", found[:, :, 0], PI)
    as_second = np.einsum("bat,b->at", found[:, :, 1], PI)
    return 0.5 * (as_first + as_second)


def gradient(coefficients):
    return expected.expected_gradient(TABLE, coefficients)


def cosine(a, b):
    return np.sum(a * b) / np.sqrt(np.sum(a**2) * np.sum(b**2))


def same(found, wanted, tolerance=1e-8):
    np.testing.assert_allclose(found, wanted, atol=tolerance)


@pytest.mark.identity("C17")
def test_reinforce_is_unbiased():
    """E[r grad log pi] is the gradient of E r."""
    same(gradient(per_response(advantages.monte_carlo(discount=1.0))), exact())


@pytest.mark.identity("C17")
def test_a_value_baseline_changes_nothing_at_lam_one():
    """Whatever the values of the states before each token are."""
    table = np.random.default_rng(0).normal(size=21) * 0.25
    table = np.round(table * 1024) / 1024
    values = np.concatenate([table[enumerable.rows(4, 3)], np.zeros((64, 1))], axis=1)
    values = jnp.asarray(values, jnp.float32)
    found = per_response(advantages.gae(discount=1.0, lam=1.0), values)
    same(gradient(found), exact(), 1e-6)
    same(gradient(per_response(advantages.monte_carlo(1.0), values)), exact(), 1e-6)


@pytest.mark.identity("C17")
def test_lam_below_one_is_biased_by_wrong_values_only():
    """GAE at lam 0.5: exact with the true values, biased with those of nothing."""
    after = expected.after_token(TABLE, np.repeat(GOLD[:, None], 3, axis=1))
    truth = np.sum(np.exp(tabular_logprobs()) * after, axis=1)
    at = enumerable.rows(4, 3)
    right = np.concatenate([truth[at], np.zeros((64, 1))], axis=1)
    estimator = advantages.gae(discount=1.0, lam=0.5)
    found = gradient(per_response(estimator, jnp.asarray(right, jnp.float32)))
    same(found, exact(), 1e-6)
    wrong = gradient(per_response(estimator, jnp.zeros((64, 4), jnp.float32)))
    assert cosine(wrong, exact()) < 0.99


def tabular_logprobs():
    shifted = TABLE - TABLE.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


@pytest.mark.identity("C17")
def test_the_score_of_a_greedy_response_is_a_baseline_like_any_other():
    """ReMax: a number that depends on the prompt alone leaves the gradient exact."""
    greedy = GOLD[np.argmax(PI)]
    found = trajectory(GOLD)._replace(baseline=jnp.full(64, greedy, jnp.float32))
    same(gradient(estimate(advantages.greedy_baseline(), found)), exact())


@pytest.mark.identity("C35")
def test_keeping_the_best_of_two_imitates_best_of_two():
    """RAFT: the expected update is that of log-likelihood on best-of-2 samples."""
    kept = best_of_n.pmf(PI, GOLD, 2)
    found = 2.0 * gradient(pairs(advantages.best_of_group(2)))
    same(found, gradient(np.repeat((kept / PI)[:, None], 3, axis=1)))


@pytest.mark.identity("C17", "C16")
def test_leave_one_out_is_unbiased():
    """RLOO: the mean of the others is independent of the response."""
    same(gradient(pairs(advantages.leave_one_out(2))), exact())


@pytest.mark.identity("C17", "C16")
def test_a_mean_that_includes_the_sample_shrinks_the_gradient():
    """Batch mean including the sample itself: exact gradient times 1 - 1/G."""
    centered = advantages.group_relative(2, scale_by_std=False)
    same(gradient(pairs(centered)), 0.5 * exact())
    same(gradient(pairs(advantages.batch_mean())), 0.5 * exact())


@pytest.mark.identity("C17", "C16")
def test_grpo_reweights_groups_by_their_deviation():
    """GRPO: each group's centered gradient over its standard deviation; of two, the
    sign of the difference, so the expected gradient is that of another reward."""
    found = pairs(advantages.group_relative(2))
    gap = GOLD[:, None] - GOLD[None, :]
    wins = np.sign(gap) @ PI
    near = (np.abs(gap) > 0) & (np.abs(gap) < 2e-4)
    assert not near.any()  # no pair meets the floor of the deviation
    same(found, np.repeat(wins[:, None], 3, axis=1), 1e-5)
    same(gradient(found), exact(wins), 1e-5)
    assert cosine(gradient(found), exact()) < 0.999
    world = WORLD._replace(gold=GOLD)
    again = fixed_points.coefficients(world, TABLE, relatives.relative("none", 0, 2))
    same(found, again, 1e-5)


@pytest.mark.identity("C17")
def test_whitening_is_biased():
    """Advantages over the deviation of their own batch: no multiple of the gradient."""
    white = advantages.whitened(advantages.monte_carlo(discount=1.0))
    assert cosine(gradient(pairs(white)), exact()) < 0.999
    reward_to_go = advantages.whitened(advantages.leave_one_out(2), shift_mean=False)
    assert cosine(gradient(pairs(reward_to_go)), exact()) < 0.999


def ragged_mask():
    return np.arange(3)[None, :] < LENGTHS[:, None]


def batch(mask, weight, sequence_advantages):
    """All 64 responses as a minibatch at ratio 1."""
    variables = {"params": {"table": jnp.asarray(TABLE, jnp.float32)}}
    real = jnp.asarray(mask)
    prompt = PromptBatch(
        tokens=jnp.ones((64, 1), jnp.int32),
        mask=jnp.ones((64, 1), bool),
        example_id=jnp.zeros(64, jnp.int32),
        weight=jnp.asarray(weight, jnp.float32),
    )
    found = trajectory(GOLD, mask, weight=weight)
    rollout = Rollout(
        prompt=prompt,
        tokens=jnp.asarray(enumerable.sequences(WORLD)),
        mask=real,
        logprobs=jnp.zeros((64, 3), jnp.float32),
        terminal=found.terminal,
        truncated=found.truncated,
    )
    network = tabular.policy(WORLD)
    old = scoring.response_logprobs(network, variables, rollout).logprobs
    found = found._replace(old_logprobs=old, logprobs=old)
    spread = jnp.where(real, jnp.asarray(sequence_advantages, jnp.float32)[:, None], 0)
    experience = Experience(rollout, found, rewards(found), Advantages(spread, spread))
    return network, variables, experience


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
