"""WARM and ensembles of reward models, models with several heads."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax import networks, rng, types
from rlhf_jax.algorithms import reward_averaging, several_heads
from rlhf_jax.errors import UserError
from rlhf_jax.losses import attributes
from rlhf_jax.rollout import scorers


def tree(seed):
    draw = np.random.default_rng(seed)
    return {
        "params": {
            "a": jnp.asarray(draw.normal(size=(3, 2)), jnp.float32),
            "b": jnp.asarray(draw.normal(size=4), jnp.bfloat16),
        }
    }


def leaves(values):
    return [np.asarray(x, np.float64) for x in jax.tree.leaves(values)]


@pytest.mark.identity("C29")
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_average_of_identical_models_is_the_model(count):
    """WARM of identical models is the model, bit for bit, whatever the weights."""
    one = tree(0)
    for weights in (None, list(range(1, count + 1))):
        found = reward_averaging.average([one] * count, weights)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(one), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.identity("C29")
def test_ensembles_of_identical_members_are_the_member():
    """Mean, minimum and mean minus anything of identical members is the member."""
    scores = jnp.asarray(np.random.default_rng(0).normal(size=5), jnp.float32)
    same = jnp.tile(scores, (4, 1))
    aggregates = [scorers.mean, scorers.minimum]
    aggregates += [scorers.mean_minus_std(2.0), scorers.mean_minus_variance(2.0)]
    for aggregate in aggregates:
        np.testing.assert_allclose(aggregate(same), scores, atol=1e-6)
    apart = jnp.stack([scores, scores + 1.0])
    np.testing.assert_array_equal(
        scorers.mean_minus_variance(0.0)(apart), scorers.mean(apart)
    )


def test_the_average_is_the_weighted_mean():
    one, two = tree(1), tree(2)
    found = reward_averaging.average([one, two], [3.0, 1.0])
    for a, x, y in zip(leaves(found), leaves(one), leaves(two), strict=True):
        np.testing.assert_allclose(a, 0.75 * x + 0.25 * y, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("members", "weights", "said"),
    [
        ([], None, "at least one"),
        ([tree(0), {"params": {}}], None, "member 2"),
        ([tree(0), tree(1)], [1.0], "one per member"),
        ([tree(0), tree(1)], [1.0, -1.0], "none negative"),
        ([tree(0)], [0.0], "not all 0"),
    ],
)
def test_what_cannot_be_averaged_is_named(members, weights, said):
    with pytest.raises(UserError, match=said):
        reward_averaging.average(members, weights)


@pytest.fixture(scope="module")
def model():
    config = networks.presets.llama(
        vocab_size=11, width=8, num_layers=1, num_heads=2, max_length=8
    )
    network = networks.scalar_model(config)
    variables = network.init(rng.root(0))
    return network, several_heads.with_heads(variables, rng.root(1), 2)


def inputs(rows):
    draw = np.random.default_rng(0)
    mask = np.arange(6) < draw.integers(2, 7, rows)[:, None]
    tokens = draw.integers(0, 11, (rows, 6))
    return types.ModelInputs(
        jnp.asarray(tokens, jnp.int32),
        jnp.asarray(mask),
        jnp.tile(jnp.arange(6, dtype=jnp.int32), (rows, 1)),
        jnp.zeros((rows, 6), jnp.int32),
    )


def test_a_folded_head_scores_as_it_did_among_the_others(model):
    """Kills: the wrong column, a read at the last column in the place of the token."""
    network, variables = model
    batch = inputs(5)
    found = several_heads.outputs(network, variables, batch)
    assert found.shape == (5, 2)
    quality = several_heads.quality(variables)
    assert "heads" not in quality
    plain = scorers.last_token_scores(network, quality, batch)
    np.testing.assert_allclose(plain, found[:, 0], atol=1e-5)
    summed = several_heads.single(variables, [0.5, 2.0])
    both = scorers.last_token_scores(network, summed, batch)
    np.testing.assert_allclose(both, found @ jnp.asarray([0.5, 2.0]), atol=1e-5)
    with pytest.raises(UserError, match="one for each"):
        several_heads.single(variables, [1.0])


def test_attributes_are_learned_from_what_was_rated(model):
    network, variables = model
    batch = attributes.AttributeBatch(
        inputs=inputs(8),
        ratings=jnp.asarray(np.random.default_rng(1).normal(size=(8, 2)), jnp.float32),
        rated=jnp.asarray(np.random.default_rng(2).random((8, 2)) < 0.8),
        example_id=jnp.arange(8, dtype=jnp.int32),
        weight=jnp.ones(8, jnp.float32),
    )
    learner = several_heads.attribute_model(
        network, initial=lambda key: variables, optimizer=optax.adam(1e-2)
    )
    state = learner.init(rng.root(0))
    losses = []
    for _ in range(30):
        state, measured = learner.update(state, {}, batch)
        losses.append(measured["loss/regression"].finish())
    assert losses[-1] < 0.5 * losses[0]


def test_odin_learns_the_order_and_parts_its_heads(model):
    network, variables = model
    flat = inputs(12)
    grouped = types.ModelInputs(*(x.reshape(6, 2, 6) for x in flat))
    batch = types.RankingBatch(
        inputs=grouped,
        ranks=jnp.tile(jnp.asarray([1, 2], jnp.int32), (6, 1)),
        margin=jnp.zeros(6, jnp.float32),
        example_id=jnp.arange(6, dtype=jnp.int32),
        weight=jnp.ones(6, jnp.float32),
    )
    learner = several_heads.odin_model(
        network, initial=lambda key: variables, optimizer=optax.adam(1e-2)
    )
    state = learner.init(rng.root(0))
    first = last = None
    for _ in range(40):
        state, measured = learner.update(state, {}, batch)
        last = {name: value.finish() for name, value in measured.items()}
        first = first or last
    assert last["loss/preference"] < first["loss/preference"]
    assert last["loss/decorrelation"] < first["loss/decorrelation"]
    assert last["reward_model/length_correlation"] > 0.5
    assert last["loss/overlap"] < 0.2
