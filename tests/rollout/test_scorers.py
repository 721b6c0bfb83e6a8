import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import rng, rollout
from rlhf_jax.errors import UserError
from rlhf_jax.ops import masking
from rlhf_jax.types import Scorer, Scores

PROMPTS = [[1, 2, 3], [4], [2, 2]]
RESPONSES = [[5, 6, 0], [3, 3, 3, 1], [6]]


def score(scorer, result, params=None):
    return np.asarray(scorer.apply(scorer.init(), params, result).sequence)


def layouts(make_rollout):
    """The same three rows: tight (one row fills its columns), and padded by other
    tokens on either side."""
    yield make_rollout(PROMPTS, RESPONSES)
    yield make_rollout(PROMPTS, RESPONSES, prompt_width=7, pad=4)
    yield make_rollout(PROMPTS, RESPONSES, width=9, pad=6)
    yield make_rollout(PROMPTS, RESPONSES, prompt_width=5, width=6, pad=1)


def slow_scores(fake):
    """The scalar of the last token of each row alone, without any padding."""
    values = []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        tokens = jnp.asarray([prompt + response], jnp.int32)
        mask = jnp.ones(tokens.shape, bool)
        inputs = masking.join(tokens[:, :0], mask[:, :0], tokens, mask)
        values.append(float(fake.network.apply(fake.params, inputs).scalars[0, -1]))
    return np.array(values)


@pytest.mark.identity("B6", "C31")
def test_the_score_is_read_at_the_last_real_token(fake, make_rollout):
    """A reward model's score does not depend on padding, left or right, on what stands
    there, or on whether a row fills all its columns."""
    scorer = rollout.reward_model_scorer(fake.network, fake.params)
    for layout in layouts(make_rollout):
        ours = score(scorer, layout)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, slow_scores(fake), atol=1e-5)


@pytest.mark.parametrize("bug", ["last column", "first pad"])
@pytest.mark.identity("B6")
def test_a_wrong_last_token_fails_the_padding_check(
    fake, make_rollout, monkeypatch, bug
):
    """Mutations: index -1, and the column before the first pad token of the row, each
    give scores that depend on the layout."""

    def wrong(mask):
        if bug == "last column":
            return jnp.full(mask.shape[:1], mask.shape[1] - 1, jnp.int32)
        return (jnp.argmax(~mask, axis=1) - 1).astype(jnp.int32)

    monkeypatch.setattr(masking, "last_real_index", wrong)
    scorer = rollout.reward_model_scorer(fake.network, fake.params)
    gaps = [
        np.abs(score(scorer, layout) - slow_scores(fake)).max()
        for layout in layouts(make_rollout)
    ]
    assert max(gaps) > 0.1


def test_gain_and_bias(fake, make_rollout):
    result = make_rollout(PROMPTS, RESPONSES)
    scorer = rollout.reward_model_scorer(fake.network, fake.params, gain=2.0, bias=-3.0)
    np.testing.assert_allclose(
        score(scorer, result), 2 * slow_scores(fake) - 3, atol=1e-5
    )


def test_weights_are_arguments_and_live_parameters_are_ignored(fake, make_rollout):
    """Frozen state decides: other variables there give other scores."""
    result = make_rollout(PROMPTS, RESPONSES)
    scorer = rollout.reward_model_scorer(fake.network, fake.params)
    other = fake.network.init(rng.root(5))
    np.testing.assert_array_equal(
        score(scorer, result, params=other), score(scorer, result)
    )
    frozen = scorer.init() | {"variables": other}
    changed = scorer.apply(frozen, None, result).sequence
    assert np.abs(changed - score(scorer, result)).max() > 0.1


def test_a_network_without_scalars_is_named(fake, make_rollout):
    def apply(variables, inputs, cache=None):
        outputs = fake.network.apply(variables, inputs, cache)
        return outputs._replace(scalars=None)

    network = fake.network._replace(apply=apply)
    scorer = rollout.reward_model_scorer(network, fake.params)
    with pytest.raises(UserError, match="scalar head"):
        score(scorer, make_rollout(PROMPTS, RESPONSES))


def test_world_scorer_sees_prompt_and_response_with_masks(make_rollout):
    def fn(prompt, prompt_mask, tokens, mask):
        named = jnp.sum(jnp.where(mask, tokens, 0), axis=1)
        return named - 10 * jnp.sum(jnp.where(prompt_mask, prompt, 0), axis=1)

    result = make_rollout(PROMPTS, RESPONSES, prompt_width=6, width=8, pad=6)
    ours = score(rollout.world_scorer(fn), result)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, [11 - 60, 10 - 40, 6 - 40])


def constant(value):
    def apply(frozen, params, result):
        del params
        return Scores(jnp.full(result.tokens.shape[0], frozen, jnp.float32))

    return Scorer(lambda: value, apply)


def test_a_sum_weighs_its_members(make_rollout):
    result = make_rollout(PROMPTS, RESPONSES)
    total = rollout.sum_of([constant(2.0), constant(5.0)], [1.0, -0.5])
    np.testing.assert_allclose(score(total, result), -0.5)
    with pytest.raises(UserError, match="2 scorers was given 1 weights"):
        rollout.sum_of([constant(2.0), constant(5.0)], [1.0])
    with pytest.raises(UserError, match="no member"):
        rollout.sum_of([], [])


@pytest.mark.identity("C29")
def test_ensembles_by_hand(make_rollout):
    """Mean, minimum, mean minus k std, mean minus k variance; identical members are one
    member, and k = 0 is the mean."""
    result = make_rollout(PROMPTS, RESPONSES)
    members = [constant(v) for v in (1.0, 2.0, 6.0)]
    variance = 14 / 3
    for aggregate, expected in (
        (rollout.mean, 3.0),
        (rollout.minimum, 1.0),
        (rollout.mean_minus_std(0.5), 3.0 - 0.5 * variance**0.5),
        (rollout.mean_minus_std(0.0), 3.0),
        (rollout.mean_minus_variance(0.1), 3.0 - 0.1 * variance),
        (lambda scores: jnp.median(scores, axis=0), 2.0),
    ):
        ours = score(rollout.ensemble(members, aggregate), result)
        np.testing.assert_allclose(ours, expected, rtol=1e-6)
        same = rollout.ensemble([constant(4.0)] * 3, aggregate)
        np.testing.assert_allclose(score(same, result), 4.0, rtol=1e-6)


def test_an_ensemble_of_reward_models(fake, make_rollout):
    result = make_rollout(PROMPTS, RESPONSES)
    members = [
        rollout.reward_model_scorer(fake.network, fake.network.init(rng.root(seed)))
        for seed in range(3)
    ]
    each = np.stack([score(member, result) for member in members])
    ours = score(rollout.ensemble(members, rollout.minimum), result)
    np.testing.assert_allclose(ours, each.min(axis=0), atol=1e-6)


def test_scoring_compiles_once(fake, make_rollout):
    traces = []

    def apply(variables, inputs, cache=None):
        traces.append(inputs.tokens.shape)
        return fake.network.apply(variables, inputs, cache)

    scorer = rollout.reward_model_scorer(
        fake.network._replace(apply=apply), fake.params
    )
    frozen = scorer.init()
    result = make_rollout(PROMPTS, RESPONSES)
    for shift in range(3):
        scorer.apply(frozen, None, result._replace(tokens=result.tokens + shift % 2))
    assert len(traces) == 1
    assert jax.tree.leaves(frozen)
