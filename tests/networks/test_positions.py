"""Masks as literal grids, rotary angles against the textbook."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.errors import UserError
from rlhf_jax.networks import RopeScaling, positions


def grid(text: str) -> np.ndarray:
    return np.array([[c == "x" for c in row] for row in text.split()])


def mask_of(key_mask, segments=None, columns=None):
    keys = jnp.asarray([key_mask], bool)
    segments = jnp.zeros(keys.shape, jnp.int32) if segments is None else segments
    columns = jnp.arange(keys.shape[1]) if columns is None else columns
    return positions.attention_mask(
        query_columns=columns,
        query_segments=jnp.take(segments, columns, axis=1),
        key_mask=keys,
        key_segments=segments,
    )[0]


def test_causal_grid():
    assert (mask_of([1, 1, 1]) == grid("x.. xx. xxx")).all()


def test_left_padding_grid():
    assert (mask_of([0, 0, 1, 1]) == grid(".... .... ..x. ..xx")).all()


def test_padding_inside_grid():
    assert (mask_of([1, 0, 1, 0]) == grid("x... x... x.x. x.x.")).all()


def test_segments_grid():
    segments = jnp.array([[0, 0, 1, 1, 1]])
    expected = grid("x.... xx... ..x.. ..xx. ..xxx")
    assert (mask_of([1] * 5, segments) == expected).all()


def test_chunk_grid():
    """A chunk that starts at column 2 of a cache sees what was there before it."""
    expected = grid("x.x.. x.xx.")
    assert (mask_of([1, 0, 1, 1, 1], columns=jnp.array([2, 3])) == expected).all()


def test_window_grid_counts_tokens_not_columns():
    mask = mask_of([1, 0, 1, 1, 1])[None]
    places = jnp.array([[0, 0, 1, 2, 3]])
    windowed = positions.window_mask(
        mask, query_positions=places, key_positions=places, window=2
    )[0]
    # Columns 0 and 2 are neighbors: the padding between them takes no room.
    assert (windowed[2:] == grid("x.x.. ..xx. ...xx")).all()


def test_rotation_is_a_complex_product(zoo):
    """Oracle: pair (i, i + R) is a complex number turned by position * frequency."""
    config = zoo.llama(head_dim=6, rope_fraction=0.67)
    frequencies = positions.inverse_frequencies(config, local=False)
    assert len(frequencies) == 2
    np.testing.assert_allclose(frequencies, [1.0, 1 / 100.0])
    x = np.random.default_rng(0).standard_normal((1, 3, 2, 6)).astype(np.float32)
    places = jnp.array([[0, 1, 7]])
    turned = positions.rotate(
        jnp.asarray(x), positions.rotary_angles(places, frequencies)
    )
    pairs = x[..., :2] + 1j * x[..., 2:4]
    phase = np.exp(1j * np.asarray(places)[..., None] * np.array(frequencies))
    expected = pairs * phase[:, :, None]
    np.testing.assert_allclose(turned[..., :2], expected.real, atol=1e-6)
    np.testing.assert_allclose(turned[..., 2:4], expected.imag, atol=1e-6)
    assert (turned[..., 4:] == x[..., 4:]).all()


def test_linear_scaling_divides_every_frequency(zoo):
    plain = positions.inverse_frequencies(zoo.llama(), local=False)
    scaling = RopeScaling(kind="linear", factor=4.0)
    scaled = positions.inverse_frequencies(zoo.llama(rope_scaling=scaling), local=False)
    np.testing.assert_allclose(scaled, np.array(plain) / 4)


def test_llama3_scaling_keeps_short_waves_and_stretches_long_ones(zoo):
    scaling = RopeScaling(kind="llama3", factor=8.0, original_max_length=256)
    config = zoo.llama(head_dim=64, rope_scaling=scaling)
    plain = np.array(positions.inverse_frequencies(zoo.llama(head_dim=64), local=False))
    scaled = np.array(positions.inverse_frequencies(config, local=False))
    wavelengths = 2 * math.pi / plain
    short, long = wavelengths < 64, wavelengths > 256
    np.testing.assert_allclose(scaled[short], plain[short])
    np.testing.assert_allclose(scaled[long], plain[long] / 8)
    ratio = scaled[~short & ~long] / plain[~short & ~long]
    assert ((ratio > 1 / 8) & (ratio < 1)).all() and len(ratio) >= 2


def test_local_layers_with_their_own_base_are_not_scaled(zoo):
    scaling = RopeScaling(kind="linear", factor=4.0)
    config = zoo.gemma3(rope_scaling=scaling)
    local = positions.inverse_frequencies(config, local=True)
    np.testing.assert_allclose(local, [10_000.0 ** (-i / 3) for i in range(3)])
    everywhere = positions.inverse_frequencies(config, local=False)
    expected = [1_000_000.0 ** (-i / 3) / 4 for i in range(3)]
    np.testing.assert_allclose(everywhere, expected)


def test_unknown_scaling_is_refused():
    with pytest.raises(UserError, match="yarn"):
        RopeScaling(kind="yarn", factor=2.0)


def test_the_gradient_of_a_rotation_turns_back(zoo):
    """R is orthogonal: pulling y back through it gives the x with R x = y."""
    config = zoo.llama(head_dim=8, rope_fraction=0.5)
    rates = positions.inverse_frequencies(config, local=False)
    angles = positions.rotary_angles(jnp.arange(5)[None], rates)
    x = jnp.asarray(np.random.default_rng(1).standard_normal((1, 5, 2, 8)), jnp.float32)
    turned, pull = jax.vjp(lambda x: positions.rotate(x, angles), x)
    np.testing.assert_allclose(pull(turned)[0], x, atol=1e-5)
