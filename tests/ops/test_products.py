"""Few rows times large weights: the same numbers, with the weights as first factor."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import placement, sharding
from rlhf_jax.ops import products

KERNEL = np.random.default_rng(0).standard_normal((1024, 256)).astype(np.float32)


def rows(count, dtype=np.float32):
    return np.random.default_rng(1).standard_normal((count, 256)).astype(dtype)


def result_shapes(count):
    """The shapes of the products that the compiled program takes."""
    program = jax.jit(products.turned).lower(rows(count), KERNEL).compile()
    lines = [line for line in program.as_text().splitlines() if " dot(" in line]
    return [line.split(" = ")[1].split("{")[0] for line in lines]


@pytest.mark.parametrize("count", [1, products.FEW_ROWS, products.FEW_ROWS + 1])
def test_it_is_the_product_with_the_transpose(count):
    found = jax.jit(products.turned)(rows(count), KERNEL)
    wanted = rows(count, np.float64) @ KERNEL.T.astype(np.float64)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_with_few_rows_the_kernel_is_the_first_factor():
    """What the compiler would undo without barriers."""
    assert result_shapes(products.FEW_ROWS) == [f"f32[1024,{products.FEW_ROWS}]"]
    more = products.FEW_ROWS + 1
    assert result_shapes(more) == [f"f32[{more},1024]"]


def test_it_accumulates_in_the_dtype_asked_for():
    x, kernel = jnp.asarray(rows(2), jnp.bfloat16), jnp.asarray(KERNEL, jnp.bfloat16)
    found = products.turned(x, kernel, jnp.float32)
    assert found.dtype == jnp.float32
    wanted = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64).T
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    assert products.turned(x, kernel).dtype == jnp.bfloat16


def test_small_kernels_and_meshes_are_left_alone(monkeypatch):
    assert products.worth_turning(KERNEL)
    assert not products.worth_turning(KERNEL[:-1])
    monkeypatch.setattr(placement.Placement, "spread", True)
    with placement.Placement(sharding.mesh(devices=jax.devices()[:1])).active():
        assert not products.worth_turning(KERNEL)


def test_one_accelerator_is_left_alone_here_and_in_a_plan(monkeypatch):
    """A plan traces for devices that are not at hand."""

    class Chip:
        platform = "tpu"

    planned = types.SimpleNamespace(size=1, devices=np.array([Chip()]))
    with placement.Placement(planned).active():
        assert placement.current() is None
        assert not products.worth_turning(KERNEL)
    assert products.worth_turning(KERNEL)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert not products.worth_turning(KERNEL)
