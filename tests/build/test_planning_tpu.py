"""`plan` with the compiler of real TPUs, which needs none of them.

It comes with Python 3.11 only (setup.py), so that the smoke run elsewhere is small.
"""

import math
import os

import jax
import jax.numpy as jnp
import plan_all
import pytest

pytest.importorskip("libtpu")

from jax.sharding import NamedSharding, PartitionSpec  # noqa: E402

from rlhf_jax import networks, planning, rng, sharding  # noqa: E402
from rlhf_jax.build.commands import checking
from rlhf_jax.build.configs import loading
from rlhf_jax.build.plans import planned
from rlhf_jax.build.plans import planning as building
from rlhf_jax.errors import UserError  # noqa: E402
from rlhf_jax.networks import kernels  # noqa: E402
from rlhf_jax.placement import Placement  # noqa: E402

pytestmark = pytest.mark.optimized

CHEAP = ("tldr_sft.py:1b", "tldr_rm.py:6.9b")
"""Recipes of one program each; its layers are scanned, so depth costs nothing."""


@pytest.mark.parametrize("recipe", CHEAP)
def test_the_header_of_a_recipe_says_what_its_plan_gives(recipe, tmp_path):
    """Memory and time on a v5e pod, and operations by formula: 8 N a token with full
    rematerialization, less what is not repeated."""
    config = loading.load(os.path.join("experiments", recipe))
    topology = planning.topology("v5e:16x16")
    made = building.plan(config, recipe, topology, tmp_path, say=lambda line: None)
    found = plan_all.line(recipe, made)
    assert made["fits"]
    assert plan_all.agrees(plan_all.said(recipe, found) or "", found), found
    (one,) = made["programs"]
    # 8 / 6 at most: no device repeats what another one does.
    assert 1.0 < one["total_flops"] / one["model_flops"] < 1.4
    assert not one["kernels_without_estimate"] and not one["unbounded_loops"]
    kinds = set(one["collectives"])
    assert {"all-gather", "all-reduce"} <= kinds | {"reduce-scatter"}


def test_memory_and_refusal_are_those_of_the_compiler():
    """An array that fits is counted; one that does not is refused with its size."""
    topology = planning.topology("v6e:2x2")
    assert len(topology.devices) == 4 and topology.device.name == "v6e"
    where = jax.sharding.SingleDeviceSharding(topology.devices[0])
    given = jax.ShapeDtypeStruct((), jnp.float32, sharding=where)

    def total(size):
        whole = jax.jit(lambda x: jnp.cumsum(jnp.full((size, 1 << 13), x), 0))
        return planning.compile_program(whole, (given,))

    fits = total(1 << 10)
    assert not fits.refused and fits.memory.peak > 4 << 23
    refused = total(1 << 21)  # 64 GiB of 31.25
    assert "RESOURCE_EXHAUSTED" in refused.refused
    assert refused.memory.peak > 64e9 > topology.device.memory


def test_splash_attention_compiles_on_a_mesh_with_its_backward_pass():
    """Forward, keys and values, queries: 2, 4 and 3 products of length by length."""
    topology = planning.topology("v5e:2x2")
    mesh = sharding.mesh(data=2, tensor=2, devices=topology.devices)
    rows, length, heads, groups, size = 4, 256, 4, 2, 64

    def array(*shape, at, dtype=jnp.bfloat16):
        where = NamedSharding(mesh, PartitionSpec(*at))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

    query = array(rows, length, heads, size, at=("data", None, "tensor"))
    key = array(rows, groups, length, size, at=("data", "tensor"))
    segments = array(rows, length, at=("data",), dtype=jnp.int32)

    def loss(query, key, value, segments):
        kernel = kernels.Kernel("splash", None, segments, segments)
        mask = jnp.ones((rows, length, length), bool)  # the kernel makes its own
        mixed = kernels.attend(kernel, query, key, value, mask, scale=0.1, softcap=None)
        return jnp.sum(mixed.astype(jnp.float32) ** 2)

    with Placement(mesh).active():
        found = planning.compile_program(
            jax.jit(jax.grad(loss, (0, 1, 2))), (query, key, key, segments)
        )
    assert found.text.count("tpu_custom_call") >= 3
    products = (2 + 4 + 3) * 2 * (rows // 2) * (heads // 2) * length**2 * size
    assert found.report.total.flops == products


def test_a_recipe_is_checked_for_a_pod_that_is_not_here():
    """Each of 256 devices holds a 256th of 8 B parameters, but for the norms."""
    config = building.without_files(loading.load("experiments/llama_8b_ppo.py"))
    out = checking.describe(config, planning.topology("v5e:16x16").devices)
    table = out[out.index("memory of each of 256 devices") :].splitlines()
    (row,) = [line.split() for line in table if line.split()[0] == "rm"]
    total = 4 * 7_504_928_768  # Llama 3.1 8B without its language head, a scalar one
    assert row[2] == "MiB" and float(row[1]) == pytest.approx(total / 256 / 2**20, 1e-2)


def test_moments_that_wait_on_the_host_leave_the_devices(tmp_path):
    """Fine-tuning compiled for TPUs, which tell host arrays from their own: the bytes
    of Adam's two moments go from the devices' arguments to the host's."""
    found = {}
    for waiting in ("False", "True"):
        config = loading.load(os.path.join("experiments", "quickstart.py:tiny"))
        settings = {"stages": "sft", "model.num_layers": "1", "mesh.fsdp": "4"}
        loading.override(config, settings | {"mesh.host_moments": waiting})
        made = building.plan(
            config, "sft", planning.topology("v5e:2x2"), tmp_path, say=lambda line: None
        )
        (found[waiting],) = made["programs"]
    assert found["False"]["host_bytes"] == 0
    moved = found["True"]["host_bytes"]
    # 43 x 16 embeddings, 4 x 16 x 16 and 3 x 16 x 64 of a layer, norms; over 4 devices.
    count = (43 * 16 + 4 * 16 * 16 + 3 * 16 * 64 + 3 * 16) // 4
    left = found["False"]["argument_bytes"] - found["True"]["argument_bytes"]
    assert moved >= 2 * 4 * count and left >= 2 * 4 * count  # tiles are padded


def test_a_frozen_model_that_waits_on_the_host_is_read_layer_by_layer():
    """Compiled for TPUs: its bytes are the host's, and a scan over its layers holds
    less than all of them at once."""
    config = networks.presets.llama(
        vocab_size=128, width=256, num_layers=16, num_heads=2
    )
    network = networks.language_model(config, scan_layers=True)
    mesh = sharding.mesh(devices=planning.topology("v5e:1x1").devices)
    placement = Placement(mesh, names=networks.axis_names(network), host_frozen=True)
    shapes = jax.eval_shape(network.init, rng.root(0))
    inputs = placement.abstract(planned.inputs(2, 16))
    with placement.active():
        away, near = (
            planning.compile_program(
                jax.jit(lambda variables, read: network.apply(variables, read).hidden),
                (where.abstract(shapes), inputs),
            ).memory
            for where in (placement.frozen(), placement)
        )
    read = {k: v for k, v in shapes["params"].items() if k != "unembedding"}
    size = sum(4 * math.prod(x.shape) for x in jax.tree.leaves(read))
    assert away.host >= size and near.host == 0 and near.arguments >= size
    assert away.arguments < size / 100 and away.temporaries < size / 2


def test_gradients_of_two_slices_meet_on_the_network_between_them():
    """Each device sends its part of the gradient, which `fsdp` has cut in four, to the
    other slice; all else stays on the links of a slice."""
    topology = planning.topology("v5e:2x2", slices=2)
    mesh = sharding.mesh(data=2, fsdp=4, slices=2, devices=topology.devices)

    def array(*shape, at):
        where = NamedSharding(mesh, PartitionSpec(*at))
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=where)

    width, rows = 512, ("data", "fsdp")
    weights, inputs = array(width, width, at=("fsdp",)), array(64, width, at=(rows,))
    step = jax.jit(
        jax.grad(lambda w, x: jnp.sum((x @ w) ** 2)), out_shardings=weights.sharding
    )
    place = {x: i // 4 for i, x in enumerate(topology.devices)}
    found = planning.compile_program(
        step, (weights, inputs), slices=[place[x] for x in mesh.devices.flat]
    )
    kinds = found.report.total.collectives
    assert sum(x.dcn for x in kinds.values()) == width * width * 4 / 4
    assert sum(x.ici for x in kinds.values()) > 0


@pytest.mark.parametrize(("name", "fsdp"), [("v6e:8x8", 16), ("v5p:4x4x4", 16)])
def test_an_axis_of_a_mesh_may_be_a_part_of_an_axis_of_the_pod(name, fsdp):
    devices = planning.topology(name).devices
    mesh = sharding.mesh(fsdp=-1, tensor=4, devices=devices)
    assert mesh.shape["fsdp"] == fsdp
    assert {d.id for d in mesh.devices.flat} == {d.id for d in devices}


def test_a_shape_that_the_generation_does_not_come_in_is_refused():
    with pytest.raises(UserError, match="v5e:3x5 is no slice"):
        planning.topology("v5e:3x5")
    assert len(planning.topology("v4:2x2x1").devices) == 4
    assert len(planning.topology("v5p:2x2x1", slices=2).devices) == 8
    assert len(planning.topology("v5e:1x1").devices) == 1
