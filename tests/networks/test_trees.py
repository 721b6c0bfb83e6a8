"""Starting one network from another."""

import jax
import numpy as np
import pytest

from rlhf_jax import networks, rng
from rlhf_jax.errors import UserError

TRUNK = ("embedding", "layers", "final_norm")


def same(one, other):
    equal = jax.tree.map(lambda a, b: bool((a == b).all()), one, other)
    return jax.tree.all(equal)


def trunk_of(variables):
    return {name: variables["params"][name] for name in TRUNK}


def test_critic_from_the_policy_gets_a_fresh_head(zoo):
    config = zoo.llama()
    policy = zoo.variables(networks.language_model(config), seed=5)
    critic = networks.scalar_model(config, head_init=networks.zeros())
    made = networks.initialize_from(critic, policy, key=rng.root(0))
    assert set(made["params"]) == {*TRUNK, "head"}
    assert same(trunk_of(made), trunk_of(policy))
    assert (made["params"]["head"]["kernel"] == 0).all()


def test_critic_from_the_reward_model_keeps_its_head(zoo):
    network = networks.scalar_model(zoo.llama())
    reward_model = zoo.variables(network, seed=5)
    made = networks.initialize_from(network, reward_model, key=rng.root(0))
    assert same(made, reward_model)
    fresh = networks.initialize_from(
        network, reward_model, key=rng.root(0), keep_head=False
    )
    assert same(trunk_of(fresh), trunk_of(reward_model))
    expected = network.init(rng.root(0))["params"]["head"]["kernel"]
    np.testing.assert_array_equal(fresh["params"]["head"]["kernel"], expected)


def test_copies_may_be_donated(zoo):
    """No array is shared: donating the one leaves the other alive."""
    network = networks.scalar_model(zoo.llama())
    source = network.init(rng.root(1))
    made = networks.initialize_from(network, source, key=rng.root(0))
    pointers = [
        {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree)}
        for tree in (source, made)
    ]
    assert not pointers[0] & pointers[1]


def test_fresh_adapters_on_a_given_base(zoo):
    config = zoo.llama(lora=networks.LoRA(rank=2))
    network = networks.language_model(config)
    base = zoo.variables(networks.language_model(zoo.llama()))
    made = networks.initialize_from(network, base, key=rng.root(0))
    assert same(made["params"], base["params"])
    assert (made["lora"]["layers"]["attention"]["query"]["b"] == 0).all()


def test_other_sizes_are_refused_by_name(zoo):
    critic = networks.scalar_model(zoo.llama())
    wide = networks.language_model(zoo.llama(vocab_size=24)).init(rng.root(0))
    with pytest.raises(UserError, match=r"params/embedding/tokens.*\(24, 16\)"):
        networks.initialize_from(critic, wide, key=rng.root(0))
    other = jax.tree.map(lambda x: x, wide)
    del other["params"]["layers"]["mlp"]["gate"], other["params"]["embedding"]
    with pytest.raises(UserError, match="no params/embedding/tokens"):
        networks.initialize_from(critic, other, key=rng.root(0))


def test_unmerged_adapters_are_refused(zoo):
    adapted = networks.language_model(zoo.llama(lora=networks.LoRA()))
    with pytest.raises(UserError, match="merge_lora"):
        networks.initialize_from(
            networks.scalar_model(zoo.llama()),
            adapted.init(rng.root(0)),
            key=rng.root(0),
        )
