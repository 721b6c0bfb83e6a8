"""How arrays start."""

import jax
import numpy as np

from rlhf_jax import networks, rng


def kernels(variables):
    layers = variables["params"]["layers"]
    return {
        name: np.asarray(part[name]["kernel"])
        for part in (layers["attention"], layers["mlp"])
        for name in part
        if "kernel" in part[name]
    }


def test_standard_deviations_are_as_documented(zoo):
    """Kernels by fan-in, into the stream smaller by depth, norms at one."""
    config = zoo.llama(width=64, head_dim=16, mlp_width=96)
    variables = networks.language_model(config).init(rng.root(0))
    inputs = {"output": 64 * 2 * 2, "down": 96 * 2 * 2}
    for name, kernel in kernels(variables).items():
        assert abs(kernel.mean()) < 0.02
        assert 0.95 < kernel.std() * np.sqrt(inputs.get(name, 64)) < 1.05, name
    tokens = variables["params"]["embedding"]["tokens"]
    assert 0.9 < tokens.std() * 8 < 1.1
    assert (variables["params"]["final_norm"]["scale"] == 1).all()


def test_no_two_arrays_or_layers_start_alike(zoo):
    config = zoo.llama(mlp_width=16, num_kv_heads=4)
    found = kernels(networks.language_model(config).init(rng.root(0)))
    scaled = [kernel[i] / kernel.std() for kernel in found.values() for i in range(2)]
    for i, one in enumerate(scaled):
        for other in scaled[i + 1 :]:
            assert abs((one * other).mean()) < 0.3


def test_initial_values_depend_on_the_key_alone(zoo):
    network = networks.language_model(zoo.gpt2(), value_head=True, head_init=0.1)
    one, again, other = (network.init(rng.root(seed)) for seed in (0, 0, 1))
    same = jax.tree.map(lambda a, b: bool((a == b).all()), one, again)
    assert jax.tree.all(same)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        constant = bool((a == a.ravel()[0]).all())
        assert constant or not (a == b).any()


def test_gemma_norms_start_at_zero_beside_their_offset(zoo):
    variables = networks.language_model(zoo.gemma3()).init(rng.root(0))
    assert (variables["params"]["layers"]["mlp_norm"]["scale"] == 0).all()


def test_fixed_standard_deviation(zoo):
    config = zoo.llama(width=64, head_dim=16, init_std=0.02)
    for kernel in kernels(networks.language_model(config).init(rng.root(0))).values():
        assert 0.019 < kernel.std() < 0.021
