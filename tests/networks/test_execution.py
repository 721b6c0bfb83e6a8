"""Scan, remat, unstacking and layout: how layers run changes no value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import networks, placement, rng, sharding
from rlhf_jax.errors import UserError

TOKENS = np.random.default_rng(0).integers(0, 23, (2, 8))


def disturbed(zoo, family="llama", **fields):
    network = networks.language_model(zoo.families[family](**fields))
    return network, zoo.variables(network)


def value_and_gradient(zoo, network, variables, inputs):
    """A scalar that depends on every output, and its gradient."""

    @zoo.jit
    def compute(variables):
        def loss(variables):
            outputs = network.apply(variables, inputs)
            logits = networks.logits(network, variables, outputs.hidden)
            # Dotted with fixed noise: a norm would cancel a wrong scale.
            noise = jax.random.normal(jax.random.key(1), logits.shape)
            return (logits * noise).sum() + outputs.scalars.sum()

        return jax.value_and_grad(loss)(variables)

    return compute(variables)


@pytest.fixture(scope="module")
def plain_run():
    """Loss and gradient of the unrolled network without remat, computed once."""
    return {}


@pytest.mark.parametrize(
    ("scan_layers", "remat"),
    [(True, "none"), (False, "full"), (True, "weight_dots")],
)
def test_scan_and_remat_change_neither_values_nor_gradients(
    zoo, plain_run, scan_layers, remat
):
    config = zoo.gemma3(tied_embeddings=False, lora=networks.LoRA(rank=2))
    plain = networks.language_model(config, value_head=True)
    inputs = zoo.inputs(TOKENS, [[False] * 2 + [True] * 6, [True] * 8])
    if not plain_run:
        plain_run["variables"] = zoo.variables(plain)
        plain_run["wanted"] = value_and_gradient(
            zoo, plain, plain_run["variables"], inputs
        )
    variables, wanted = plain_run["variables"], plain_run["wanted"]
    other = networks.language_model(
        config, value_head=True, scan_layers=scan_layers, remat=remat
    )
    assert jax.tree.structure(other.init(rng.root(0))) == jax.tree.structure(variables)
    found = value_and_gradient(zoo, other, variables, inputs)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)


def residual_bytes(network, variables, inputs):
    """What the backward pass keeps, as traced (the compiler may keep less)."""
    function = jax.eval_shape(
        lambda v: jax.vjp(lambda v: network.apply(v, inputs).hidden, v)[1], variables
    )
    leaves = jax.tree.leaves(function)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def test_remat_keeps_less(zoo):
    """The named policies do what their names say: this fails where remat is ignored."""
    config, inputs = zoo.llama(), zoo.inputs(TOKENS)
    variables = networks.language_model(config).init(rng.root(0))
    for scan_layers in (False, True):
        kept = {
            remat: residual_bytes(
                networks.language_model(config, scan_layers=scan_layers, remat=remat),
                variables,
                inputs,
            )
            for remat in networks.REMAT
        }
        assert kept["full"] < kept["weight_dots"] < kept["dots"] < kept["none"]


def test_unknown_remat_is_refused(zoo):
    with pytest.raises(UserError, match="'everything'.*none, full"):
        networks.language_model(zoo.llama(), remat="everything")


def test_scan_is_a_scan(zoo):
    """Depth changes the size of an unrolled program, not of a scanned one."""

    def size(scan_layers, num_layers):
        config = zoo.llama(num_layers=num_layers)
        network = networks.language_model(config, scan_layers=scan_layers)
        variables = jax.eval_shape(network.init, rng.root(0))
        program = jax.make_jaxpr(network.apply)(variables, zoo.inputs(TOKENS))
        return len(str(program).splitlines())

    assert size(True, 2) == size(True, 6)
    assert size(False, 2) < size(False, 6)


def test_unstacked_layers_give_the_same(zoo):
    network, variables = disturbed(zoo, "gpt2", lora=networks.LoRA(rank=1))
    inputs = zoo.inputs(TOKENS)
    unstacked = networks.unstack_layers(variables, network.config)
    assert isinstance(unstacked["lora"]["layers"], tuple)
    np.testing.assert_array_equal(
        zoo.logits(network, unstacked, inputs), zoo.logits(network, variables, inputs)
    )


def test_activations_are_constrained_inside_mesh_and_rules(zoo, monkeypatch):
    """The logical names of activations reach the program, and only there."""
    network = networks.language_model(zoo.llama())
    variables = jax.eval_shape(network.init, rng.root(0))
    inputs = zoo.inputs(TOKENS)

    def count():
        program = jax.make_jaxpr(lambda v: network.apply(v, inputs))(variables)
        return str(program).count("sharding_constraint")

    one = sharding.mesh(devices=jax.devices()[:1])
    with placement.Placement(one).active():
        assert count() == 0  # one device costs nothing
    monkeypatch.setattr(placement.Placement, "spread", True)
    with placement.Placement(one).active():
        # Table, stream and mask; per layer q, k, v, all keys, all values, mixed, MLP,
        # stream.
        assert count() == 3 + 2 * 8
    assert count() == 0


def test_logical_axes_name_every_axis(zoo):
    config = zoo.gemma3(tied_embeddings=False, lora=networks.LoRA(targets=("up",)))
    network = networks.language_model(config, value_head=True)
    axes = networks.logical_axes(network)
    shapes = jax.eval_shape(network.init, rng.root(0))
    is_names = lambda x: isinstance(x, tuple)  # noqa: E731
    named = jax.tree.leaves(axes, is_leaf=is_names)
    for names, shape in zip(named, jax.tree.leaves(shapes), strict=True):
        assert len(names) == len(shape.shape) and None not in names
    layers = axes["params"]["layers"]
    assert layers["attention"]["key"]["kernel"] == ("layers", "embed", "kv_heads")
    assert axes["lora"]["layers"]["mlp"]["up"]["b"] == ("layers", "lora_rank", "mlp")
    assert axes["params"]["unembedding"]["kernel"] == ("vocab", "embed")


@pytest.mark.parametrize("family", ["gpt2", "gemma3"])
def test_matrices_gathered_for_decoding_are_those_that_products_read(zoo, family):
    """In bfloat16, of a mesh: half the bytes to move, and not one bit changes; scales
    of norms and the scalar head stay float32, as they are read."""

    class Spread(placement.Placement):
        spread = True

    config = zoo.families[family](lora=networks.LoRA(rank=2))
    network = networks.language_model(config, value_head=True, dtype=jnp.bfloat16)
    variables, inputs = zoo.variables(network), zoo.inputs(TOKENS)
    where = Spread(sharding.mesh(devices=jax.devices()[:1]))
    where = where._replace(names=networks.axis_names(network))
    with where.active():
        gathered = jax.jit(network.for_decoding)(variables)
    found, wanted = (
        jax.jit(network.apply)(x, inputs)
        for x in (gathered, network.for_decoding(variables))
    )
    np.testing.assert_array_equal(found.hidden, wanted.hidden)
    np.testing.assert_array_equal(found.scalars, wanted.scalars)
    np.testing.assert_array_equal(
        network.unembedding(gathered), network.unembedding(variables)
    )
    layer = gathered["params"]["layers"][0]
    assert layer["mlp"]["up"]["kernel"].dtype == jnp.bfloat16
    assert layer["attention_norm"]["scale"].dtype == jnp.float32
    assert gathered["params"]["head"]["kernel"].dtype == jnp.float32
