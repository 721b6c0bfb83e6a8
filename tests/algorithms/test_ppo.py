import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_ppo as support

from rlhf_jax import (
    algorithms,
    losses,
    metrics,
    networks,
    optimizers,
    rewards,
    rng,
    training,
)
from rlhf_jax.algorithms import experience, forward

BATCH = algorithms.PPOBatch(support.prompts())


@pytest.fixture(scope="module")
def built():
    return support.build()


@pytest.fixture(scope="module")
def stepped(built):
    """Two steps of the default learner: metrics of each, states before and after."""
    ppo, state, frozen = built
    states, measured = [support.copied(state.params)], []
    for _ in range(2):
        state, found = ppo.learner.update(state, frozen, BATCH)
        states.append(support.copied(state.params))
        measured.append(metrics.finish(found))
    return states, measured, state


@pytest.mark.smoke
@pytest.mark.identity("C18", "I4")
def test_the_first_minibatch_has_ratio_one(stepped):
    """The ratio is 1 on the first minibatch of the first epoch, up to rounding."""
    for found in stepped[1]:
        assert found["policy/first_ratio_max"] == pytest.approx(1.0, abs=1e-5)
        assert found["rollout/logprob_difference"] < 1e-5
        assert found["policy/ratio_max"] > 1.0 + 1e-4  # later minibatches did move


@pytest.mark.identity("B11", "C18")
def test_stale_old_logprobs_are_seen(monkeypatch):
    """Old log-probs of another policy than the one that is updated show at once."""
    real = experience.collect

    def stale(parts, state, *rest):
        other = jax.tree.map(lambda x: x + 0.05, state.params)
        return real(parts, state._replace(params=other), *rest)

    monkeypatch.setattr(experience, "collect", stale)
    ppo, state, frozen = support.build(epochs=1, minibatches=1)
    found = metrics.finish(ppo.learner.update(state, frozen, BATCH)[1])
    assert abs(found["policy/first_ratio_max"] - 1.0) > 1e-3
    assert found["rollout/logprob_difference"] > 1e-3


@pytest.mark.identity("I7")
def test_epochs_and_minibatches_really_loop(stepped):
    """`epochs` x `minibatches` optimizer steps are taken in every iteration."""
    state = stepped[2]
    for group in ("policy", "value"):
        assert int(state.opt_state[group].count) == 2 * 2 * 2


def test_both_networks_learn_and_metrics_are_finite(stepped):
    states, measured, _ = stepped
    for group in ("policy", "value"):
        assert support.largest_difference(states[0][group], states[1][group]) > 1e-4
    for found in measured:
        assert all(np.isfinite(value) for value in found.values())
    assert {"objective/kl", "objective/entropy", "value/explained_variance"} <= set(
        measured[0]
    )


@pytest.mark.identity("B17")
def test_the_reference_never_changes(built):
    """The reference model stays bit for bit what it was, though it was the start."""
    ppo, _, frozen = built
    before = support.copied(frozen.reference)
    state = ppo.learner.init(rng.root(1))  # the same arrays are the initial policy
    for _ in range(2):
        state, _ = ppo.learner.update(state, frozen, BATCH)
    after = support.copied(frozen.reference)  # a donated buffer would raise here
    assert support.largest_difference(before, after) == 0.0
    moved = state.params["policy"]
    assert support.largest_difference(moved, after) > 1e-4


@pytest.mark.identity("B17")
def test_an_aliased_reference_is_noticed(built, monkeypatch):
    """Without the copy in `init`, the update deletes the reference's own buffers."""
    ppo, _, frozen = built
    aliased = frozen._replace(
        reference=jax.tree.map(lambda x: x.copy(), frozen.reference)
    )
    state = ppo.learner.init(rng.root(1))
    state.params["policy"] = aliased.reference
    with pytest.raises((RuntimeError, ValueError)):
        ppo.learner.update(state, aliased, BATCH)
        support.copied(aliased.reference)


@pytest.mark.identity("I27")
def test_frozen_weights_are_arguments(built):
    """Other frozen weights change the result without a new compilation."""
    ppo, _, frozen = built
    state = ppo.learner.init(rng.root(1))
    state, _ = ppo.learner.update(state, frozen, BATCH)
    other = frozen._replace(reference=jax.tree.map(lambda x: x + 0.1, frozen.reference))
    with training.count_compiles() as compiles:
        state, found = ppo.learner.update(state, other, BATCH)
        found = metrics.finish(found)
    assert int(compiles) == 0
    assert abs(found["objective/kl"]) > 1e-2


def test_explain_repeats_the_step_and_leaves_the_state(built):
    ppo, _, frozen = built
    state = ppo.learner.init(rng.root(1))
    before = support.copied(state.params)
    found = ppo.explain(state, frozen, BATCH)
    assert support.largest_difference(before, state.params) == 0.0
    explained = metrics.finish(found.metrics)
    _, measured = ppo.learner.update(state, frozen, BATCH)
    measured = metrics.finish(measured)
    for name in ("objective/scores", "policy/approx_kl", "loss/policy"):
        assert explained[name] == pytest.approx(measured[name], rel=1e-5, abs=1e-7)
    mask = found.experience.rollout.mask
    ratio = jnp.exp(found.after.logprobs - found.before.logprobs)
    assert float(jnp.max(jnp.where(mask, jnp.abs(ratio - 1), 0))) > 1e-4


@pytest.mark.identity("I27")
def test_explaining_runs_the_program_that_learns():
    """Telling of a step compiles no second update, whenever it is asked for."""
    ppo, state, frozen = support.build()
    ppo.explain(state, frozen, BATCH)
    for _ in range(2):
        state, _ = ppo.learner.update(state, frozen, BATCH)
    ppo.explain(state, frozen, BATCH)
    assert ppo.programs.learn._cache_size() == 1
    assert ppo.programs.collect._cache_size() == 1


def sgd():
    return {name: optimizers.optimizer("sgd", 1.0) for name in ("policy", "value")}


@pytest.fixture(scope="module")
def plain():
    """One SGD step of size 1 on one minibatch: parameters move by the gradient."""
    ppo, state, frozen = support.build(epochs=1, minibatches=1, optimizers=sgd())
    start = support.copied(state.params)
    state, _ = ppo.learner.update(state, frozen, BATCH)
    return start, support.copied(state.params)


@pytest.mark.identity("C31", "I3")
def test_microbatches_change_nothing(plain):
    """An update is the same whether its minibatch is cut into 1 or 4 microbatches."""
    ppo, state, frozen = support.build(
        epochs=1, minibatches=1, microbatches=4, optimizers=sgd()
    )
    state, _ = ppo.learner.update(state, frozen, BATCH)
    assert support.largest_difference(state.params, plain[1]) < 1e-6


@pytest.mark.identity("C34")
def test_the_pretraining_mix_adds_its_gradient_and_nothing_else(plain):
    """PPO-ptx adds gamma times the gradient of the language loss to the update."""
    gamma, documents = 0.5, support.documents()
    mix = losses.combine(
        pretraining=losses.Term(losses.pretraining_mix(), weight=gamma),
        reduction=losses.token_mean,
    )
    ppo, state, frozen = support.build(
        epochs=1, minibatches=1, optimizers=sgd(), pretraining_loss=mix
    )
    network = networks.language_model(support.CONFIG)

    def nll(variables):
        outputs = forward.language_outputs(network, variables, documents)
        return -jnp.mean(outputs.logprobs)

    expected = jax.grad(nll)(jax.tree.map(jnp.asarray, plain[0]["policy"]))
    state, _ = ppo.learner.update(state, frozen, BATCH._replace(pretraining=documents))
    moved = jax.tree.map(lambda a, b: b - a, state.params["policy"], plain[1]["policy"])
    scaled = jax.tree.map(lambda g: gamma * g, expected)
    assert support.largest_difference(moved, scaled) < 1e-5
    assert support.largest_difference(state.params["value"], plain[1]["value"]) < 1e-6


def test_the_early_stop_skips_the_remaining_minibatches():
    ppo, state, frozen = support.build(epochs=3, minibatches=1, target_kl=1e-9)
    found = metrics.finish(ppo.learner.update(state, frozen, BATCH)[1])
    # The first minibatch sees no divergence and moves; the other two are skipped.
    assert found["policy/stopped"] == pytest.approx(2 / 3)


def test_the_policy_waits_for_the_critic():
    ppo, state, frozen = support.build(epochs=1, minibatches=1, value_warmup=1)
    start = support.copied(state.params)
    state, _ = ppo.learner.update(state, frozen, BATCH)
    first = support.copied(state.params)
    assert support.largest_difference(start["policy"], first["policy"]) == 0.0
    assert support.largest_difference(start["value"], first["value"]) > 1e-5
    state, _ = ppo.learner.update(state, frozen, BATCH)
    assert support.largest_difference(state.params["policy"], first["policy"]) > 1e-5


def test_a_value_head_on_the_trunk_needs_no_second_network():
    policy = networks.language_model(support.CONFIG, value_head=True)
    ppo, state, frozen = support.build(
        policy=policy,
        value=None,
        initial=lambda key: {"policy": policy.init(key)},
        optimizers={"policy": optimizers.optimizer("adam", 1e-2)},
        epochs=1,
        minibatches=1,
    )
    frozen = frozen._replace(reference=policy.init(rng.root(1)))
    state, found = ppo.learner.update(state, frozen, BATCH)
    assert metrics.finish(found)["value/loss"] > 0
    assert set(state.params) == {"policy"}
    head = state.params["policy"]["params"]["head"]
    assert float(max(jnp.max(jnp.abs(x)) for x in jax.tree.leaves(head))) > 0


@pytest.mark.identity("C33", "B3")
def test_a_larger_kl_coefficient_ends_nearer_to_the_reference():
    """KL to the reference falls with the coefficient; a huge one pins the policy."""
    ends = []
    for coefficient in (0.0, 0.5, 50.0):
        chain = rewards.chain(
            rewards.score_at_last_token(), rewards.kl_penalty(coefficient)
        )
        ppo, state, frozen = support.build(
            shaping=chain,
            estimator=support.advantages.gae(discount=1.0, lam=1.0),
            epochs=1,
            minibatches=1,
        )
        for _ in range(25):
            state, found = ppo.learner.update(state, frozen, BATCH)
        ends.append(metrics.finish(found)["objective/kl_k3"])
    assert ends[0] > 2 * ends[1] > 4 * ends[2]
    assert ends[2] < 0.1 * ends[0]


@pytest.mark.identity("B8")
def test_no_network_is_random(built):
    """A forward pass draws no random number: there is no dropout to forget."""
    inputs = support.documents().inputs
    network = networks.language_model(support.CONFIG)
    jaxpr = str(jax.make_jaxpr(network.apply)(built[2].reference, inputs))
    assert "random_bits" not in jaxpr and "threefry" not in jaxpr

    def with_dropout(variables, key):
        hidden = network.apply(variables, inputs).hidden
        return hidden * jax.random.bernoulli(key, 0.9, hidden.shape)

    bad = str(jax.make_jaxpr(with_dropout)(built[2].reference, rng.root(0)))
    assert "random_bits" in bad or "threefry" in bad


def test_exact_kl_reaches_the_loss():
    loss = support.terms(kl=losses.Term(losses.kl_to_reference("exact"), weight=1.0))
    ppo, state, frozen = support.build(
        loss=loss, epochs=1, minibatches=1, exact_kl=True
    )
    other = jax.tree.map(lambda x: x + 0.05, frozen.reference)
    _, found = ppo.learner.update(state, frozen._replace(reference=other), BATCH)
    assert metrics.finish(found)["policy/kl_to_reference"] > 1e-4
