"""What stands between sampling and learning, and what each term pulls at."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_ppo as support

from rlhf_jax import advantages, algorithms, losses, metrics, rewards, rollout
from rlhf_jax.algorithms import collecting, experience
from rlhf_jax.errors import UserError

BATCH = algorithms.PPOBatch(support.prompts())


def critic_free(**changes):
    """A learner without a critic, for group estimators."""
    parts = dict(
        value=None,
        estimator=advantages.leave_one_out(2),
        loss=losses.combine(
            policy=losses.Term(losses.clipped_surrogate()),
            kl=losses.Term(losses.kl_to_reference("k3"), weight=0.1),
            reduction=losses.token_mean,
        ),
        shaping=rewards.chain(rewards.score_at_last_token()),
        epochs=1,
        minibatches=1,
    )
    ppo, _, frozen = support.build(**{**parts, **changes})
    start = frozen.reference
    ppo = algorithms.ppo(
        **{**ppo.parts._asdict(), "initial": lambda key: {"policy": start}}
    )
    return ppo, ppo.learner.init(jax.random.key(3)), frozen


def _scored(scores):
    empty = collecting.scored_like(len(scores), 1, 2, 2, baseline=False)
    prompt = empty.rollout.prompt._replace(
        example_id=jnp.arange(len(scores)), weight=jnp.ones(len(scores))
    )
    return empty._replace(
        scores=jnp.asarray(scores), rollout=empty.rollout._replace(prompt=prompt)
    )


def test_dynamic_sampling_fills_the_batch_with_groups_that_vary():
    """Groups of equal scores make room for groups that vary, in their order."""
    keep = algorithms.informative_groups(2, rounds=3).keep
    first, fresh = _scored([1.0, 1.0, 0.0, 1.0]), _scored([0.0, 1.0, 1.0, 0.0])
    merged, good = collecting._merge(first, keep(first), fresh, keep(fresh))
    assert merged.scores.tolist() == [0.0, 1.0, 0.0, 1.0]
    assert merged.rollout.prompt.example_id.tolist() == [2, 3, 0, 1]
    assert bool(jnp.all(good))


def test_groups_that_never_vary_have_no_weight(monkeypatch):
    """Where all rounds fail, the batch changes nothing."""
    ppo, state, frozen = critic_free(
        selection=algorithms.informative_groups(2, rounds=2),
        scorer=rollout.world_scorer(lambda p, pm, t, m: jnp.ones(t.shape[0])),
        loss=losses.combine(
            policy=losses.Term(losses.clipped_surrogate()), reduction=losses.token_mean
        ),
    )
    before = support.copied(state.params)
    state, found = ppo.learner.update(state, frozen, BATCH)
    numbers = metrics.finish(found)
    assert numbers["rollout/kept_fraction"] == 0 and numbers["rollout/rounds"] == 2
    assert support.largest_difference(before, state.params) == 0
    with pytest.raises(UserError, match="16 prompts"):
        odd = critic_free(selection=algorithms.informative_groups(2, rounds=3))
        odd[0].learner.update(odd[1], odd[2], BATCH)


def test_a_buffer_hands_out_rollouts_late():
    """Step t learns from what step t - min(t, steps) sampled, and says so."""
    like = collecting.scored_like(2, 1, 2, 2, baseline=False)
    buffer = collecting.empty_buffer(algorithms.Staleness(2, like))
    seen = []
    for step in range(6):
        fresh = like._replace(scores=jnp.full(2, float(step)))
        buffer, due = collecting.exchange(buffer, fresh, jnp.asarray(step))
        seen.append(int(due.scores[0]))
    assert seen == [0, 0, 0, 1, 2, 3]


def test_stale_rollouts_keep_the_behaviour_policy():
    """Off-policy rollouts carry their version and the log-probs they were drawn by;
    the ratio still starts at 1, importance weights see the gap."""
    like = algorithms.scored_like(16, 1, support.PROMPT, support.RESPONSE, False)
    term = losses.truncated_importance(losses.clipped_surrogate(), cap=2.0)
    ppo, state, frozen = critic_free(
        staleness=algorithms.Staleness(1, like),
        loss=losses.combine(policy=losses.Term(term), reduction=losses.token_mean),
    )
    found = []
    for _ in range(3):
        state, measured = ppo.learner.update(state, frozen, BATCH)
        found.append(metrics.finish(measured))
    assert [f["rollout/staleness"] for f in found] == [0, 1, 1]
    assert found[0]["policy/importance_mean"] == pytest.approx(1, abs=1e-5)
    assert abs(found[2]["policy/importance_mean"] - 1) > 1e-5
    assert found[2]["policy/first_ratio_max"] == pytest.approx(1, abs=1e-5)


def test_the_greedy_baseline_reaches_the_trajectory():
    greedy = rollout.sampler(
        support.build()[0].parts.policy,
        max_length=support.RESPONSE,
        stop_tokens=(support.EOS,),
        pad_token=support.PAD,
        temperature=0,
    )
    ppo, state, frozen = critic_free(
        baseline_sampler=greedy, estimator=advantages.greedy_baseline()
    )
    found = ppo.explain(state, frozen, BATCH).experience
    best = greedy(state.params["policy"], BATCH.prompts, state.key)
    expected = support.evenness(None, None, best.tokens, best.mask)
    np.testing.assert_allclose(found.trajectory.baseline, expected, rtol=1e-6)
    gain = np.asarray(found.trajectory.scores - found.trajectory.baseline)
    np.testing.assert_allclose(found.advantages.advantages[:, 0], gain, atol=1e-6)


def test_each_term_shows_its_share_norm_and_angle():
    """The terms' gradients are those of the terms alone, and add up to the whole."""
    ppo, state, frozen = critic_free(term_gradients=2, term_cosines=True)
    other = jax.tree.map(lambda x: 1.5 * x, frozen.reference)
    frozen = frozen._replace(reference=other)  # else the KL pulls at nothing
    explained = ppo.explain(state, frozen, BATCH)
    collected = explained.experience
    loss, params = ppo.parts.loss, state.params

    def value(tree, name):
        current = experience.outputs(
            ppo.parts, tree, frozen, collected.rollout, whole=False
        )
        prepared, _ = loss.prepare(collected, loss.init())
        return loss.weighted(current, collected, prepared, 0)[0][name]

    values, gradients = {}, {}
    for name in ("policy", "kl"):
        values[name], gradients[name] = jax.value_and_grad(value)(params, name)
    state, measured = ppo.learner.update(state, frozen, BATCH)
    found = metrics.finish(measured)
    for name, gradient in gradients.items():
        norm = float(optax.tree.norm(gradient))
        assert found[f"term_grad_norm/{name}"] == pytest.approx(norm, rel=1e-3)
    total = sum(abs(float(v)) for v in values.values())
    share = abs(float(values["policy"])) / total if total else 0.0
    assert found["loss_share/policy"] == pytest.approx(share, abs=1e-4)
    assert -1 <= found["term_cosine/policy/kl"] <= 1
    _, second = ppo.learner.update(state, frozen, BATCH)
    assert "term_grad_norm/policy" not in second  # every second step
