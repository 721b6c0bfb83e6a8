"""Policy terms against slow formulas, and the bugs that they must not have."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import losses, metrics
from rlhf_jax.errors import UserError
from rlhf_jax.losses import policy


def slow_clipped(log_ratio, advantage, low, high, dual=None) -> float:
    """One token, by the text of the papers."""
    ratio = np.exp(np.float64(log_ratio))
    objective = min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)
    if dual is not None and advantage < 0:
        objective = max(objective, dual * advantage)
    return -objective


@functools.cache
def reduced(term):
    """Jitted `(outputs, batch) -> ((scalar, metrics), gradient to outputs)`."""
    loss = losses.combine(policy=losses.Term(term), reduction=losses.token_mean)

    @jax.jit
    def run(outputs, batch):
        prepared = loss.prepare(batch, loss.init())[0]
        return jax.value_and_grad(
            lambda o: loss.apply(o, batch, prepared, 0), has_aux=True
        )(outputs)

    return run


@pytest.mark.parametrize(
    ("clip_eps", "dual_clip"), [(0.2, None), ((0.1, 0.3), None), (0.2, 1.5)]
)
def test_clipped_surrogate_against_the_definition(x64, clip_eps, dual_clip, experience):
    outputs, batch = experience(0, [5, 5], 5, np.float64)
    term = losses.clipped_surrogate(clip_eps=clip_eps, dual_clip=dual_clip)
    values, _ = jax.jit(term)(outputs, batch)
    low, high = clip_eps if isinstance(clip_eps, tuple) else (clip_eps, clip_eps)
    gap = outputs.logprobs - batch.trajectory.old_logprobs
    slow = np.vectorize(slow_clipped, excluded={2, 3, 4}, otypes=[float])
    expected = slow(gap, batch.advantages.advantages, low, high, dual_clip)
    mask = np.asarray(batch.trajectory.mask)
    np.testing.assert_allclose(np.asarray(values)[mask], expected[mask], atol=1e-10)
    if dual_clip is not None:
        uncapped, _ = jax.jit(losses.clipped_surrogate(clip_eps=clip_eps))(
            outputs, batch
        )
        assert np.any(values < uncapped)


def test_dual_clip_must_exceed_one():
    with pytest.raises(UserError, match="dual_clip=0.5 must be above 1"):
        losses.clipped_surrogate(dual_clip=0.5)


def softmax_policy(seed: int, tokens: int = 4):
    """Logits of a context-free policy, sampled tokens [B T], and its log-probs."""
    draw = np.random.default_rng(seed)
    logits = jnp.asarray(draw.normal(size=tokens))
    sampled = jnp.asarray(draw.integers(0, tokens, (3, 5)))

    def outputs(logits, template):
        logprobs = jax.nn.log_softmax(logits)[sampled]
        return template._replace(logprobs=logprobs)

    return logits, outputs


@pytest.mark.identity("C19")
def test_first_ppo_gradient_is_the_actor_critic_gradient(x64, experience):
    """At ratio 1 the gradient of PPO's surrogate is that of -A log pi (A2C)."""
    template, batch = experience(1, [5, 2, 4], 5, np.float64)
    logits, outputs = softmax_policy(2)
    old = outputs(logits, template).logprobs
    batch = batch._replace(trajectory=batch.trajectory._replace(old_logprobs=old))

    def gradient(term):
        loss = losses.combine(x=losses.Term(term), reduction=losses.token_mean)
        prepared = loss.prepare(batch, loss.init())[0]

        def scalar(x):
            return loss.apply(outputs(x, template), batch, prepared, 0)[0]

        return jax.jit(jax.grad(scalar))(logits)

    expected = gradient(losses.policy_gradient())
    assert np.abs(expected).max() > 1e-3
    for term in (
        losses.clipped_surrogate(clip_eps=0.2),
        losses.clipped_surrogate(clip_eps=(0.1, 0.3), dual_clip=3.0),
    ):
        np.testing.assert_allclose(gradient(term), expected, atol=1e-12)


@pytest.mark.identity("B3")
@pytest.mark.parametrize(
    "term", [losses.clipped_surrogate(), losses.policy_gradient()], ids=["ppo", "a2c"]
)
def test_positive_advantage_raises_the_log_prob(term, experience):
    """One descent step raises the log-probs of tokens with positive advantage."""
    outputs, batch = experience(3, [5, 3], 5)
    outputs = outputs._replace(logprobs=batch.trajectory.old_logprobs)

    def moves_up(candidate):
        _, gradient = reduced(candidate)(outputs, batch)
        step = -np.asarray(gradient.logprobs)
        sign = np.sign(np.asarray(batch.advantages.advantages))
        return np.all((step * sign > 0)[np.asarray(batch.trajectory.mask)])

    def missing_minus(outputs, batch):
        values, report = term(outputs, batch)
        return -values, report

    assert moves_up(term)
    assert not moves_up(missing_minus)


def spoil(tree, mask):
    """NaN at every floating-point [B T] position outside of the mask."""

    def leaf(x):
        if x.shape != mask.shape or not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        return jnp.asarray(np.where(mask, x, np.asarray(np.nan, x.dtype)))

    return jax.tree.map(leaf, tree)


@pytest.mark.identity("B15", "I2")
def test_tokens_after_the_end_have_no_gradient(experience):
    """Gradients at positions after EOS are exactly 0, whatever stands there."""
    outputs, batch = experience(4, [5, 2, 3], 5)
    outside = ~np.asarray(batch.trajectory.mask)
    terms = (losses.clipped_surrogate(), losses.clipped_value())

    def clean(outputs, batch, term):
        _, gradient = reduced(term)(outputs, batch)
        found = np.stack([gradient.logprobs, gradient.values])
        return np.all(found[:, outside] == 0) and np.all(np.isfinite(found))

    for term in terms:
        (value, report), gradient = reduced(term)(outputs, batch)
        bad_outputs = spoil(outputs, batch.trajectory.mask)
        bad_batch = spoil(batch, batch.trajectory.mask)
        (again, bad_report), bad_gradient = reduced(term)(bad_outputs, bad_batch)
        assert value == again
        assert metrics.finish(report) == metrics.finish(bad_report)
        for a, b in zip(gradient[:1], bad_gradient[:1], strict=True):
            np.testing.assert_array_equal(a, b)
        assert clean(outputs, batch, term)
        assert clean(bad_outputs, bad_batch, term)
    # The bug: the mask of the rollout says True past the end.
    trained = batch.trajectory._replace(mask=jnp.ones_like(batch.trajectory.mask))
    assert not clean(outputs, batch._replace(trajectory=trained), terms[0])


@pytest.mark.identity("B16")
def test_the_advantage_is_a_constant(experience):
    """No gradient flows into what the advantage, returns or old values came from."""
    outputs, batch = experience(5, [4, 3], 4)

    def leak(term):
        loss = losses.combine(x=losses.Term(term), reduction=losses.token_mean)

        def through(teacher):
            moved = batch._replace(
                advantages=jax.tree.map(lambda x: x * teacher, batch.advantages),
                trajectory=batch.trajectory._replace(
                    old_logprobs=batch.trajectory.old_logprobs * teacher,
                    ref_logprobs=batch.trajectory.ref_logprobs * teacher,
                    values=batch.trajectory.values * teacher,
                ),
            )
            return loss.apply(outputs, moved, loss.prepare(batch, loss.init())[0], 0)[0]

        return float(jax.jit(jax.grad(through))(1.0))

    for term in (
        losses.clipped_surrogate(),
        losses.policy_gradient(),
        losses.clipped_value(),
        losses.squared_value(),
        losses.kl_to_reference("k3"),
    ):
        assert leak(term) == 0.0

    def without_stop_gradient(outputs, batch):
        return -batch.advantages.advantages * outputs.logprobs, {}

    assert leak(without_stop_gradient) != 0.0


@pytest.mark.identity("B32")
def test_huge_log_prob_gaps_stay_finite(monkeypatch, experience):
    """Loss, gradient and metrics are finite at log-prob gaps of +-1000."""
    outputs, batch = experience(6, [6, 6], 6)
    gaps = jnp.tile(jnp.asarray([1e3, -1e3, 100.0, -100.0, 25.0, 0.0])[None], (2, 1))
    outputs = outputs._replace(logprobs=batch.trajectory.old_logprobs + gaps)

    def finite(term):
        (value, report), gradient = reduced(term)(outputs, batch)
        numbers = [float(value), *metrics.finish(report).values()]
        return np.all(np.isfinite(numbers)) and np.all(np.isfinite(gradient.logprobs))

    assert finite(losses.clipped_surrogate())
    assert finite(losses.clipped_surrogate(dual_clip=3.0))
    for estimator in ("k1", "k2", "k3"):
        assert finite(losses.kl_to_reference(estimator))
    monkeypatch.setattr(policy, "LOG_RATIO_BOUND", np.inf)
    assert not finite(losses.clipped_surrogate())


@pytest.mark.identity("I21", "B12")
def test_diagnostics_are_masked_weighted_means(x64, experience):
    """approx-KL, clip fraction and ratio are means over the real tokens only."""
    outputs, batch = experience(7, [5, 1, 3], 5, np.float64)
    weight = jnp.asarray([1.0, 0.0, 2.0])
    batch = batch._replace(trajectory=batch.trajectory._replace(weight=weight))
    (_, report), _ = reduced(losses.clipped_surrogate())(outputs, batch)
    found = metrics.finish(report)
    scale = np.asarray(batch.trajectory.mask) * np.asarray(weight)[:, None]
    gap = np.asarray(outputs.logprobs - batch.trajectory.old_logprobs)
    ratio, sign = np.exp(gap), np.sign(batch.advantages.advantages)
    expected = {
        "policy/approx_kl": ratio - 1 - gap,
        "policy/approx_kl_k2": gap**2 / 2,
        "policy/ratio_mean": ratio,
        "policy/clip_fraction": np.where(sign > 0, ratio > 1.2, ratio < 0.8),
    }
    for name, values in expected.items():
        mean = (values * scale).sum() / scale.sum()
        np.testing.assert_allclose(found[name], mean, rtol=1e-6)
        assert abs(values.mean() - mean) > 1e-4  # the bug: a mean over the padding
    np.testing.assert_allclose(found["policy/ratio_max"], ratio[scale > 0].max())


@pytest.mark.identity("I17")
def test_advantages_in_the_place_of_the_mask_are_refused(experience):
    """A float array where a mask belongs raises instead of silently weighting."""
    outputs, batch = experience(8, [3, 2], 3)
    swapped = batch.trajectory._replace(mask=batch.advantages.advantages)
    loss = losses.combine(
        policy=losses.Term(losses.clipped_surrogate()), reduction=losses.token_mean
    )
    with pytest.raises(TypeError, match="boolean"):
        loss.prepare(batch._replace(trajectory=swapped), loss.init())[0]
    term = losses.Term(
        losses.clipped_surrogate(), mask=lambda b: b.advantages.advantages
    )
    with pytest.raises(TypeError):
        losses.combine(policy=term, reduction=losses.token_mean).prepare(batch)
