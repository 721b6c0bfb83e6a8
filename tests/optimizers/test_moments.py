"""Adam's moments in two bytes: right in the mean, with the error that is promised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import planning
from rlhf_jax.errors import UserError
from rlhf_jax.optimizers import apply_updates, optimizer
from rlhf_jax.optimizers.adam import round_at_random, scale_by_adam

COPIES = 4096


def moments(steps, *, b2=0.999, moment_dtype="bfloat16", gradient=0.3):
    """Both moments of many copies of one parameter under a constant gradient."""
    tx = scale_by_adam(0.9, b2, 1e-8, moment_dtype=moment_dtype)
    grads = {"w": jnp.full(COPIES, gradient, jnp.float32)}

    def step(state, _):
        return tx.update(grads, state)[1], None

    state = tx.init(grads)
    state = jax.jit(lambda s: jax.lax.scan(step, s, length=steps)[0])(state)
    return np.float64(state.mu["w"]), np.float64(state.nu["w"]), state


def test_rounding_at_random_takes_a_neighbour_with_the_chance_of_its_closeness():
    bits = jnp.arange(1 << 16, dtype=jnp.uint32) | jnp.uint32(0xABCD0000)
    for value in (1.0, 1.001, -3.3, 2e-30, 65504.0):
        x = np.float32(value)
        found = np.float64(round_at_random(jnp.full(bits.shape, x), bits))
        assert len(set(found)) <= 2
        assert np.max(np.abs(found - x)) < 2**-7 * abs(x)
        assert abs(found.mean() - np.float64(x)) < 1e-9 * abs(x)
    odd = jnp.asarray([jnp.inf, -jnp.inf, jnp.nan, 0.0])
    kept = np.float32(round_at_random(odd, jnp.full(4, 0xFFFF, jnp.uint32)))
    np.testing.assert_array_equal(kept, odd)


def test_moments_of_two_bytes_are_right_in_the_mean_within_the_promised_error():
    steps = 1500
    for found, b, limit in zip(
        moments(steps)[:2], (0.9, 0.999), (0.3, 0.09), strict=True
    ):
        exact = limit * (1 - b**steps)
        error = found / exact - 1
        assert abs(error.mean()) < 5 * error.std() / COPIES**0.5 + 1e-6
        assert 0 < np.mean(error**2) ** 0.5 <= 2**-8 / (1 - b**2) ** 0.5


def test_rounding_to_the_nearest_would_stand_still():
    """Why not: it is what a cast does, and a third of the second moment is missing."""
    v = jnp.zeros((), jnp.bfloat16)
    for _ in range(1500):
        v = (0.999 * v.astype(jnp.float32) + 0.001 * 0.09).astype(jnp.bfloat16)
    assert float(v) < 0.5 * 0.09 * (1 - 0.999**1500)


def test_steps_with_two_bytes_stay_near_those_with_four():
    """A noisy descent: each entry ends within a few percent of the way it went."""
    grads = 1.0 + np.random.default_rng(0).normal(size=(300, 64))
    ends = {}
    for dtype in ("float32", "bfloat16"):
        tx = optimizer("adamw", 0.01, b2=0.99, moment_dtype=dtype)
        params = {"w": jnp.zeros(64)}
        state, step = (
            tx.init(params),
            jax.jit(lambda p, s, g, tx=tx: apply_updates(tx, p, s, g)[:2]),
        )
        for g in grads:
            params, state = step(params, state, {"w": jnp.asarray(g, jnp.float32)})
        ends[dtype] = np.asarray(params["w"])
    gap = np.abs(ends["bfloat16"] - ends["float32"])
    assert 0 < gap.max() < 0.03 * np.abs(ends["float32"]).min()


def test_the_same_step_draws_the_same_bits():
    first, again = moments(3)[2], moments(3)[2]
    jax.tree.map(np.testing.assert_array_equal, first, again)
    mu, nu = (np.float64(x["w"]) / 2.0**-9 for x in (first.mu, first.nu))
    assert np.ptp(mu) > 0 and np.ptp(nu) > 0, "each entry has bits of its own"
    assert abs(np.corrcoef(mu, nu)[0, 1]) < 0.1, "and each moment"


def test_moments_of_two_bytes_take_half_the_bytes_of_a_compiled_step():
    params = {"w": jax.ShapeDtypeStruct((64, 64), jnp.float32)}

    def arguments(dtype):
        tx = optimizer("adamw", 0.1, moment_dtype=dtype)
        state = jax.eval_shape(tx.init, params)
        step = jax.jit(lambda p, s, g: apply_updates(tx, p, s, g)[:2])
        found = planning.compile_program(step, (params, state, params))
        return found.memory.arguments

    assert arguments("float32") - arguments("bfloat16") == 2 * 2 * 64 * 64


@pytest.mark.parametrize(
    "given, words",
    [
        ({"moment_dtype": "float16"}, "float16"),
        ({"name": "adafactor", "moment_dtype": "bfloat16"}, "adafactor keeps no"),
    ],
)
def test_other_dtypes_and_optimizers_are_refused(given, words):
    with pytest.raises(UserError, match=words):
        optimizer(**given)
