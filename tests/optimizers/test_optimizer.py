"""Optimizers against closed forms in float64, and what they report."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax import metrics
from rlhf_jax.errors import UserError
from rlhf_jax.optimizers import apply_updates, ema_params, optimizer, schedules

GRADS = np.random.default_rng(0).normal(size=(6, 5)) * np.logspace(-4, 0, 5)


def adam_oracle(grads, lr, b1, b2, eps, form):
    """Kingma and Ba 2015, step by step in float64; positions after each update."""
    m = v = x = np.zeros(grads.shape[1])
    seen = []
    for t, g in enumerate(grads, start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        if form == "optax":
            x = x - lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
        else:
            x = x - lr * np.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(v) + eps)
        seen.append(x)
    return np.array(seen)


def follow(tx, grads, start=0.0):
    """Positions that `tx` visits on a given sequence of gradients."""
    params = {"w": jnp.full(grads.shape[1], start, jnp.float32)}
    state, seen = tx.init(params), []
    step = jax.jit(lambda p, s, g: apply_updates(tx, p, s, g)[:2])
    for g in grads:
        params, state = step(params, state, {"w": jnp.asarray(g, jnp.float32)})
        seen.append(np.asarray(params["w"]))
    return np.array(seen)


@pytest.mark.identity("B23", "I24")
@pytest.mark.parametrize("form", ["optax", "tensorflow"])
@pytest.mark.parametrize("eps", [1e-8, 1e-5, 1e-3])
def test_adam_is_its_closed_form(form, eps):
    """Adam's epsilon stands where its named form puts it, and the form is explicit."""
    tx = optimizer("adam", 0.1, b1=0.9, b2=0.95, eps=eps, eps_form=form)
    expected = adam_oracle(GRADS, 0.1, 0.9, 0.95, eps, form)
    np.testing.assert_allclose(follow(tx, GRADS), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.identity("B23")
def test_the_other_epsilon_form_is_told_apart():
    """Adam with the epsilon of the other form fails the closed form of this one."""
    swapped = optimizer("adam", 0.1, b2=0.95, eps=1e-3, eps_form="tensorflow")
    expected = adam_oracle(GRADS, 0.1, 0.9, 0.95, 1e-3, "optax")
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(follow(swapped, GRADS), expected, rtol=1e-2)


def test_optax_form_is_optax():
    """`eps_form="optax"` moves like `optax.adam`."""
    ours = follow(optimizer("adam", 0.1, b2=0.95, eps=1e-5), GRADS)
    theirs = follow(optax.adam(0.1, b2=0.95, eps=1e-5), GRADS)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_adafactor_is_optax():
    """Adafactor moves like optax's, learning rate included."""
    rows = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)), jnp.float32)
    params = {"w": rows}
    ours, theirs = optimizer("adafactor", 0.01), optax.adafactor(0.01)
    a, _, _ = apply_updates(ours, params, ours.init(params), {"w": rows * 2})
    b, _, _ = apply_updates(theirs, params, theirs.init(params), {"w": rows * 2})
    np.testing.assert_allclose(a["w"], b["w"], rtol=1e-6)


@pytest.mark.identity("B24")
def test_logged_rate_is_the_schedule_at_the_step():
    """The logged learning rate equals schedule(step), and is the one applied."""
    schedule = schedules.warmup(2, schedules.linear(0.3, 6))
    tx = optimizer("sgd", schedule)
    params = {"w": jnp.zeros(2)}
    state, logged, moved = tx.init(params), [], []
    for _ in range(8):
        before = params["w"]
        params, state, row = apply_updates(tx, params, state, {"w": jnp.ones(2)})
        logged.append(metrics.finish(row)["optim/lr"])
        moved.append(float((before - params["w"])[0]))
    expected = [float(schedule(step)) for step in range(8)]
    assert logged == expected
    np.testing.assert_allclose(moved, expected, atol=1e-6)


@pytest.mark.identity("B24")
def test_a_schedule_stepped_per_microbatch_is_told_apart():
    """Stepping the optimizer once per microbatch makes the logged rate run ahead."""
    schedule = schedules.linear(0.3, 6)
    tx = optimizer("sgd", schedule)
    params, logged = {"w": jnp.zeros(2)}, []
    state = tx.init(params)
    for _ in range(3):
        for _ in range(2):  # the bug: an optimizer step for each of two microbatches
            params, state, row = apply_updates(tx, params, state, {"w": jnp.ones(2)})
        logged.append(metrics.finish(row)["optim/lr"])
    assert logged != [float(schedule(step)) for step in range(3)]


def test_clipping_bounds_the_norm_and_reports_the_raw_one():
    """`clip_norm` bounds the global norm; `optim/grad_norm` is that before clipping."""
    tx = optimizer("sgd", 1.0, clip_norm=1.0)
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    grads = {"a": jnp.full(1, 3.0), "b": jnp.full(1, 4.0)}
    moved, _, row = apply_updates(tx, params, tx.init(params), grads)
    assert metrics.finish(row)["optim/grad_norm"] == pytest.approx(5.0)
    np.testing.assert_allclose([moved["a"][0], moved["b"][0]], [-0.6, -0.8], rtol=1e-6)


def test_weight_decay_is_decoupled_and_spares_biases():
    """AdamW subtracts lr * decay * w from matrices, and leaves biases and scales."""
    tx = optimizer("adamw", 0.1, weight_decay=0.5)
    params = {
        "layer": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones((2, 2))},
        "norm": {"scale": jnp.ones(2)},
    }
    zero = jax.tree.map(jnp.zeros_like, params)
    moved, _, _ = apply_updates(tx, params, tx.init(params), zero)
    np.testing.assert_allclose(moved["layer"]["kernel"], 0.95, rtol=1e-6)
    np.testing.assert_array_equal(moved["layer"]["bias"], 1.0)
    np.testing.assert_array_equal(moved["norm"]["scale"], 1.0)


def test_average_of_parameters():
    """The moving average is the bias-corrected mean of the parameters after updates."""
    tx = optimizer("sgd", 1.0, ema_decay=0.9)
    params = {"w": jnp.full(1, 7.0)}
    state, seen = tx.init(params), []
    np.testing.assert_array_equal(ema_params(state, params)["w"], 7.0)
    for g in (1.0, 2.0, -4.0):
        params, state, _ = apply_updates(tx, params, state, {"w": jnp.full(1, g)})
        seen.append(float(params["w"][0]))
    weights = 0.9 ** np.arange(2, -1, -1)
    expected = np.sum(weights * seen) / np.sum(weights)
    np.testing.assert_allclose(ema_params(state, params)["w"][0], expected, rtol=1e-6)


def test_moments_stay_float32_for_bfloat16_parameters():
    """Half-precision parameters keep their dtype, their moments are float32."""
    tx = optimizer("adamw", 0.1)
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    moved, state, _ = apply_updates(tx, params, tx.init(params), params)
    assert moved["w"].dtype == jnp.bfloat16
    moments = jax.tree.leaves(state)
    assert {x.dtype for x in moments if x.shape == (3,)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"name": "adamw2"}, "adamw2"),
        ({"eps_form": "keras"}, "keras"),
        ({"name": "adam", "weight_decay": 0.1}, "weight_decay=0.1"),
    ],
)
def test_bad_arguments_are_named(arguments, words):
    """An unknown optimizer, epsilon form or combination is named with its value."""
    with pytest.raises(UserError, match=words):
        optimizer(**arguments)
    with pytest.raises(UserError, match="ema_decay"):
        ema_params(optimizer("sgd").init({}), {})


def test_schedules_by_hand():
    """Values of each schedule at its corners and beyond its end."""
    line = schedules.linear(2.0, 4)
    assert [float(line(s)) for s in (0, 1, 4, 9)] == [2.0, 1.5, 0.0, 0.0]
    wave = schedules.cosine(2.0, 4, end=1.0)
    np.testing.assert_allclose([wave(0), wave(2), wave(4)], [2.0, 1.5, 1.0], atol=1e-6)
    rise = schedules.warmup(3, schedules.constant(4.0))
    np.testing.assert_allclose([rise(s) for s in range(5)], [1, 2, 3, 4, 4])
    steps = schedules.staircase(line, 2)
    assert [float(steps(s)) for s in range(4)] == [2.0, 2.0, 1.5, 1.5]
