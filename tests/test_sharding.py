"""Meshes and rules on one device here, and on eight fake ones in a subprocess."""

import os
import subprocess
import sys

import jax
import pytest
from jax.sharding import AxisType, PartitionSpec

from rlhf_jax import networks, rng, sharding
from rlhf_jax.errors import UserError


def test_mesh_axes_are_auto_and_in_order():
    mesh = sharding.mesh()
    assert mesh.axis_names == ("data", "fsdp", "tensor", "sequence")
    assert mesh.axis_types == (AxisType.Auto,) * 4
    assert mesh.size == 1


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"data": 2}, r"data=2 x .* needs 2 devices and there are 1"),
        ({"data": 3, "fsdp": -1}, "a multiple of 3 devices and there are 1"),
        ({"data": -1, "fsdp": -1}, "at most one is -1"),
        ({"tensor": 0}, "sizes are positive"),
        ({"tensor": -2}, "sizes are positive"),
    ],
)
def test_mesh_that_does_not_fit_names_the_numbers(sizes, message):
    with pytest.raises(UserError, match=message):
        sharding.mesh(**sizes)


def test_spec_follows_the_rules():
    assert sharding.spec(("embed", "mlp")) == PartitionSpec("fsdp", "tensor")
    assert sharding.spec(("layers", None, "heads")) == PartitionSpec(
        None, None, "tensor"
    )
    assert sharding.spec(()) == PartitionSpec()


def test_collision_names_both_axes():
    with pytest.raises(UserError, match="'heads' and 'mlp'.*'tensor'"):
        sharding.spec(("heads", "embed", "mlp"))


def test_unknown_logical_axis_is_an_error():
    with pytest.raises(UserError, match="'wings' has no sharding rule"):
        sharding.spec(("wings",))


def test_rule_for_an_absent_mesh_axis_is_an_error():
    with pytest.raises(UserError, match="embed -> expert: the mesh has the axes data"):
        sharding.shardings(sharding.mesh(), {"w": ("embed",)}, {"embed": "expert"})


def test_shardings_keep_the_tree():
    axes = {"a": ("embed", "mlp"), "b": [(), ("vocab", "embed")], "c": None}
    result = sharding.shardings(sharding.mesh(), axes)
    assert result["a"].spec == PartitionSpec("fsdp", "tensor")
    assert result["b"][0].spec == PartitionSpec()
    assert result["b"][1].spec == PartitionSpec("tensor", "fsdp")
    assert result["c"] is None


def test_one_axis_of_an_array_may_lie_over_two_mesh_axes():
    batch = ("batch", "length", "activation_embed")
    assert sharding.spec(batch) == PartitionSpec(("data", "fsdp"), "sequence", None)
    with pytest.raises(UserError, match="'batch' and 'embed'.*'fsdp'"):
        sharding.spec(("batch", "embed"))


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("family", [networks.presets.llama, networks.presets.gpt2])
def test_every_axis_of_a_network_has_a_rule(family, scan_layers):
    network = networks.language_model(
        tiny(family), value_head=True, scan_layers=scan_layers
    )
    axes = networks.logical_axes(network)
    where = sharding.shardings(sharding.mesh(), axes)
    abstract = jax.eval_shape(network.init, rng.root(0))
    sharding.check_fits(abstract, where)
    assert jax.tree.structure(abstract) == jax.tree.structure(where)


def tiny(family):
    return family(
        vocab_size=32,
        width=16,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        mlp_width=32,
        max_length=16,
    )


EIGHT = """
import jax, jax.numpy as jnp, numpy as np
from rlhf_jax import networks, placement, rng, sharding
from rlhf_jax.errors import UserError
from rlhf_jax.types import ModelInputs

mesh = sharding.mesh(data=2, fsdp=2, tensor=-1)
assert dict(mesh.shape) == dict(data=2, fsdp=2, tensor=2, sequence=1), mesh.shape

axes = {"up": ("embed", "mlp"), "down": ("mlp", "embed"), "bias": ("embed",)}
shapes = {"up": (4, 8), "down": (8, 4), "bias": (4,)}
params = {k: np.random.default_rng(0).normal(size=s) for k, s in shapes.items()}
params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
where = sharding.shardings(mesh, axes)
sharding.check_fits(params, where)
batch = jnp.asarray(np.random.default_rng(1).normal(size=(8, 4)), jnp.float32)

def loss(params, batch):
    hidden = jnp.tanh(batch @ params["up"]) @ params["down"] + params["bias"][None]
    return jnp.mean(hidden**2)

step = jax.value_and_grad(loss)
value, grads = jax.jit(step)(params, batch)
sharded = jax.jit(step, out_shardings=(sharding.replicated(mesh), where))
there = jax.device_put(params, where)
assert there["up"].addressable_shards[0].data.shape == (2, 4)
rows = jax.device_put(batch, sharding.batch_sharding(mesh))
assert rows.addressable_shards[0].data.shape == (2, 4)
value8, grads8 = sharded(there, rows)
np.testing.assert_allclose(value8, value, rtol=1e-6)
for name in grads:
    assert grads8[name].sharding == where[name], name
    np.testing.assert_allclose(grads8[name], grads[name], rtol=1e-5, atol=1e-7)

try:
    sharding.check_fits({"up": jnp.zeros((5, 8))}, {"up": where["up"]})
except UserError as error:
    assert "['up'] of shape (5, 8): axis 0 of size 5" in str(error), error
else:
    raise AssertionError("an axis of 5 over 2 devices was accepted")

network = networks.language_model(
    networks.presets.llama(
        vocab_size=32, width=16, num_layers=1, num_heads=4, num_kv_heads=2,
        mlp_width=32, max_length=16,
    )
)
tokens = np.random.default_rng(2).integers(0, 32, (4, 8)).astype(np.int32)
mask = np.ones((4, 8), bool)
mask[1, :3] = False
inputs = ModelInputs(
    jnp.asarray(tokens),
    jnp.asarray(mask),
    jnp.asarray(np.maximum(np.cumsum(mask, axis=1) - 1, 0), jnp.int32),
    jnp.zeros((4, 8), jnp.int32),
)
where = sharding.shardings(mesh, networks.logical_axes(network))
alone = network.init(rng.root(0))
spread = jax.device_put(alone, where)

def hidden(variables, inputs):
    return network.apply(variables, inputs).hidden

expected = jax.jit(hidden)(alone, inputs)
inputs8 = jax.device_put(inputs, sharding.batch_sharding(mesh))
with placement.Placement(mesh).active():
    found = jax.jit(hidden)(spread, inputs8)
np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

half = sharding.mesh(data=4, devices=jax.devices()[:4])
assert half.size == 4
print("ok")
"""


def test_eight_devices_give_the_loss_and_gradients_of_one():
    """Also: shards have the sizes asked for, and gradients come back where pinned."""
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    result = subprocess.run(
        [sys.executable, "-c", EIGHT], env=env, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "ok"


def test_check_fits_accepts_abstract_arrays():
    where = sharding.shardings(sharding.mesh(), {"w": ("embed", "mlp")})
    sharding.check_fits({"w": jax.ShapeDtypeStruct((3, 5), "float32")}, where)
