"""What lies where: rules of one process here, updates on eight fake devices beside."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec, SingleDeviceSharding

from rlhf_jax import networks, optimizers, placement, rng, sharding
from rlhf_jax.build.runs import placing
from rlhf_jax.errors import UserError

CASES = (
    *("sft:8,1,1,1,1", "sft:1,4,2,1,1", "sft:2,1,1,4,1", "sft:4,1,2,1,2"),
    *("rm:2,2,2,1,1", "rm:1,2,4,1,1", "dpo:1,4,2,1,1"),
    *("ppo:2,2,2,1,1", "ppo:1,2,2,2,1", "ppo:2,1,4,1,2"),
)
"""Learner, the sizes of data, fsdp, tensor and sequence, and slices of a pod; with
`tensor=4` the two key-value heads are on every device of that axis."""


@pytest.mark.identity("C31")
def test_eight_devices_take_the_updates_of_one():
    """One device and eight fake ones, on several meshes, end in the same parameters,
    moments and metrics for SFT, reward model, DPO and PPO.

    States stay where they were, and the largest parameter takes its share of each
    device.
    """
    script = Path(__file__).parent / "sharded_updates.py"
    command = [sys.executable, str(script), *CASES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [f"ok {case}" for case in CASES]


@pytest.fixture
def laid_out(monkeypatch):
    """A placement that speaks of two devices on each axis, whatever is here."""

    class Wide(placement.Placement):
        spread = True

        def parts(self, name):
            return 2 ** len(sharding.mesh_axes(self.rules[name] if name else None))

    network = networks.language_model(
        networks.presets.llama(
            vocab_size=32, width=16, num_layers=2, num_heads=4, max_length=16
        ),
        value_head=True,
    )
    one = sharding.mesh(devices=jax.devices()[:1])
    return network, Wide(one, names=networks.axis_names(network))


def test_a_leaf_is_known_by_the_end_of_its_path(laid_out):
    network, found = laid_out
    params = jax.eval_shape(network.init, rng.root(0))
    adam = optimizers.optimizer("adamw", 1e-3)
    state = jax.eval_shape(adam.init, params)
    tree = {"policy": params, "more": [state, jnp.zeros((4, 4))]}
    names = {
        jax.tree_util.keystr(path, simple=True, separator="/"): found.axes(path, leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    kernel = "params/layers/mlp/up/kernel"
    for path in (f"policy/{kernel}", *(p for p in names if p.endswith(kernel))):
        assert names[path] == ("layers", "embed", "mlp"), path
    assert sum(path.endswith(kernel) for path in names) == 3  # and two moments
    assert names["more/1"] == ()


def test_what_does_not_divide_is_named(laid_out):
    network, found = laid_out
    odd = {"params": {"embedding": {"tokens": jax.ShapeDtypeStruct((43, 16), float)}}}
    with pytest.raises(
        UserError, match="embedding/tokens of shape .* axis vocab of 43"
    ):
        placing.check_divides(found, odd, "config.mesh")
    with pytest.raises(UserError, match="config.sft.batch_size: 6 rows .* 4 devices"):
        found.check_rows(6, "config.sft.batch_size")
    path = (
        jax.tree_util.DictKey("params"),
        *map(jax.tree_util.DictKey, ("head", "kernel")),
    )
    assert found.axes(path, jax.ShapeDtypeStruct((16,), float)) == ("embed",)
    # What an optimizer keeps in another shape under the same name is on every device.
    assert found.axes(path, jax.ShapeDtypeStruct((1,), float)) == ()
    assert found.axes(path, jax.ShapeDtypeStruct((16, 1), float)) == ()


def test_one_device_costs_nothing():
    """No array is moved, no program is constrained, no mesh is set."""
    found = placement.one_device()
    tree = {"w": jnp.ones((4, 4))}
    assert found.put(tree) is tree and not found.spread
    assert isinstance(found.shardings(tree)["w"], SingleDeviceSharding)
    with found.active():
        program = str(jax.make_jaxpr(lambda x: placement.pinned({"w": x}))(tree["w"]))
        assert "sharding_constraint" not in program
        assert jax.sharding.get_abstract_mesh().empty


def test_axes_of_size_one_are_left_out_of_what_is_compared():
    found = placement.Placement(sharding.mesh(devices=jax.devices()[:1]))
    assert found.over(("embed", "mlp")).spec == PartitionSpec()
