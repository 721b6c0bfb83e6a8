"""Accumulated gradients are the gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import losses, metrics
from rlhf_jax.errors import UserError


def linear(params, part, prepared):
    residual = part["x"] @ params["w"] + params["b"] - part["y"]
    report = {"error": metrics.mean(residual), "worst": metrics.maximum(residual)}
    return jnp.sum(residual**2) / prepared, report


def problem(rows=6):
    draw = np.random.default_rng(0)
    batch = {
        "x": jnp.asarray(draw.normal(size=(rows, 3)), jnp.float32),
        "y": jnp.asarray(draw.normal(size=rows), jnp.float32),
    }
    return {"w": jnp.ones(3), "b": jnp.zeros(())}, batch


@pytest.mark.parametrize("microbatches", [2, 6])
def test_accumulation_equals_one_gradient(microbatches):
    params, batch = problem()
    (value, report), gradient = jax.jit(
        lambda p, b: losses.accumulated_gradients(linear, p, b, 6.0, 1)
    )(params, batch)
    (total, merged), summed = jax.jit(
        lambda p, b: losses.accumulated_gradients(linear, p, b, 6.0, microbatches)
    )(params, batch)
    np.testing.assert_allclose(total, value, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5), summed, gradient)
    assert metrics.finish(merged) == pytest.approx(metrics.finish(report), rel=1e-5)


def test_low_precision_parameters_accumulate_in_float32():
    params = {"w": jnp.ones((), jnp.bfloat16)}
    batch = jnp.asarray([256.0] + [0.5] * 511).reshape(512, 1)

    def loss(params, part, prepared):
        return jnp.sum(params["w"] * part.astype(jnp.bfloat16)), {}

    _, gradient = losses.accumulated_gradients(loss, params, batch, None, 512)
    assert gradient["w"].dtype == jnp.bfloat16
    assert float(gradient["w"]) == 512.0  # 511.5; in bfloat16 sums it stays at 256


def test_rows_that_do_not_divide_are_refused():
    params, batch = problem(rows=5)
    with pytest.raises(UserError, match="5 rows .* 2 microbatches"):
        losses.accumulated_gradients(linear, params, batch, 1.0, 2)
