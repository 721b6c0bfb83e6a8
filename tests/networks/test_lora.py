"""Adapters: nothing at first, trained alone, and the same once merged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import networks, rng
from rlhf_jax.errors import UserError
from rlhf_jax.networks.config import PROJECTIONS

TOKENS = np.random.default_rng(2).integers(0, 23, (2, 6))
LORA = networks.LoRA(rank=2, alpha=6.0, targets=PROJECTIONS)


@pytest.fixture
def forward(zoo):
    """A compiled forward pass."""
    return zoo.jit(lambda network, v, x: network.apply(v, x), static_argnums=0)


def adapted(zoo):
    config = zoo.gemma3(lora=LORA)
    network = networks.language_model(config, value_head=True)
    return network, zoo.inputs(TOKENS)


def base_of(variables):
    return {"params": variables["params"]}


def test_fresh_adapters_change_nothing(zoo, forward):
    network, inputs = adapted(zoo)
    variables = network.init(rng.root(0))
    assert set(variables["lora"]["layers"]["mlp"]) == {"gate", "up", "down"}
    with_lora = forward(network, variables, inputs)
    without = forward(network, base_of(variables), inputs)
    np.testing.assert_allclose(with_lora.hidden, without.hidden, atol=1e-5)
    np.testing.assert_allclose(with_lora.scalars, without.scalars, atol=1e-5)
    assert (np.asarray(variables["lora"]["layers"]["mlp"]["up"]["a"]) != 0).all()


def test_base_tree_is_that_of_a_network_without_adapters(zoo):
    """The reference is the same base tree: same paths, same initial values."""
    network, _ = adapted(zoo)
    plain = networks.language_model(zoo.gemma3(), value_head=True)
    one = network.init(rng.root(0))["params"]
    other = plain.init(rng.root(0))["params"]
    equal = jax.tree.map(lambda a, b: bool((a == b).all()), one, other)
    assert jax.tree.all(equal)


def test_merged_equals_applied(zoo, forward):
    network, inputs = adapted(zoo)
    variables = zoo.variables(network)
    applied = forward(network, variables, inputs)
    merged_variables = networks.merge_lora(variables, network.config)
    assert set(merged_variables) == {"params"}
    merged = forward(network, merged_variables, inputs)
    base = forward(network, base_of(variables), inputs)
    assert np.abs(applied.hidden - base.hidden).max() > 0.1
    np.testing.assert_allclose(merged.hidden, applied.hidden, atol=2e-4)
    np.testing.assert_allclose(merged.scalars, applied.scalars, atol=2e-4)


def test_scale_is_alpha_over_rank(zoo):
    """One projection by hand: `W + 6 / 2 A B`."""
    network, _ = adapted(zoo)
    variables = zoo.variables(network)
    pair = variables["lora"]["layers"]["attention"]["value"]
    kernel = variables["params"]["layers"]["attention"]["value"]["kernel"]
    merged = networks.merge_lora(variables, network.config)
    found = merged["params"]["layers"]["attention"]["value"]["kernel"]
    expected = kernel[1] + 3.0 * pair["a"][1] @ pair["b"][1]
    np.testing.assert_allclose(found[1], expected, atol=1e-5)


def test_gradient_is_in_the_adapters_alone(zoo):
    """`grad` over the collection reaches every adapter; the base is a constant."""
    network, inputs = adapted(zoo)
    variables = zoo.variables(network)

    @zoo.jit
    def gradient(lora, params):
        def loss(lora):
            outputs = network.apply({"params": params, "lora": lora}, inputs)
            return jnp.square(outputs.hidden).sum() + outputs.scalars.sum()

        return jax.grad(loss)(lora)

    found = gradient(variables["lora"], variables["params"])
    assert jax.tree.structure(found) == jax.tree.structure(variables["lora"])
    assert all((np.abs(leaf) > 0).any() for leaf in jax.tree.leaves(found))


def test_targets_choose_projections(zoo):
    lora = networks.LoRA(targets=("query", "down"))
    network = networks.language_model(zoo.llama(lora=lora))
    layers = jax.eval_shape(network.init, rng.root(0))["lora"]["layers"]
    assert set(layers["attention"]) == {"query"} and set(layers["mlp"]) == {"down"}
    assert layers["mlp"]["down"]["a"].shape == (2, 24, 8)


def test_merge_needs_the_scale(zoo):
    network, _ = adapted(zoo)
    variables = network.init(rng.root(0))
    with pytest.raises(UserError, match="network.config"):
        networks.merge_lora(variables, zoo.gemma3())
    plain = base_of(variables)
    assert networks.merge_lora(plain, zoo.gemma3()) is plain


def test_merge_keeps_the_dtype_of_the_base(zoo):
    network = networks.language_model(zoo.llama(lora=LORA), param_dtype=jnp.bfloat16)
    merged = networks.merge_lora(network.init(rng.root(0)), network.config)
    assert {x.dtype for x in jax.tree.leaves(merged)} == {jnp.dtype("bfloat16")}
