"""Kernels against the plain path, on the CPU: interpreted, or by another backend."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import networks, placement, sharding
from rlhf_jax.errors import UserError
from rlhf_jax.networks import attention, kernels, positions

ROWS, LENGTH, HEADS, GROUPS, SIZE = 2, 140, 4, 2, 8


def rows():
    """(mask, segments): the first row is padded on the left and holds two documents,
    the second is padded on the right."""
    mask = np.ones((ROWS, LENGTH), bool)
    mask[0, :30], mask[1, 120:] = False, False
    segments = np.zeros((ROWS, LENGTH), np.int32)
    segments[0, 90:] = 1
    return jnp.asarray(mask), jnp.asarray(segments)


def attention_mask(window):
    mask, segments = rows()
    columns = jnp.arange(LENGTH)
    allowed = positions.attention_mask(
        query_columns=columns,
        query_segments=segments,
        key_mask=mask,
        key_segments=segments,
    )
    if window is None:
        return allowed
    places = jnp.broadcast_to(columns, mask.shape)
    return positions.window_mask(
        allowed, query_positions=places, key_positions=places, window=window
    )


def arrays():
    keys = jax.random.split(jax.random.key(0), 4)
    group = (ROWS, GROUPS, LENGTH, SIZE)
    query = (ROWS, LENGTH, HEADS, SIZE)
    shapes = (query, group, group, query)
    return [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]


def values_and_gradients(function, seen):
    *given, noise = arrays()
    noise = noise * seen[:, :, None, None]

    @jax.jit
    def compute(*given):
        return jax.value_and_grad(lambda *x: jnp.sum(function(*x) * noise), (0, 1, 2))(
            *given
        )

    return compute(*given)


@pytest.mark.parametrize(("window", "softcap"), [(21, None), (None, 3.0)])
def test_splash_attention_equals_the_plain_path_and_so_do_its_gradients(
    window, softcap
):
    """With padding on either side, packed documents and grouped queries; a query that
    may see nothing is undefined in both."""
    mask, segments = rows()
    allowed = attention_mask(window)
    kernel = kernels.Kernel(
        "splash_interpreted", window, segments, jnp.where(mask, segments, -1)
    )
    options = dict(scale=0.3, softcap=softcap)
    by_kernel = functools.partial(kernels.attend, kernel, mask=allowed, **options)
    plain = functools.partial(attention.attend, mask=allowed, **options)
    seen = allowed.any(axis=-1)
    found = values_and_gradients(by_kernel, seen)
    wanted = values_and_gradients(plain, seen)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-5)


def test_what_cudnn_is_given_means_the_plain_path():
    """By XLA's implementation of the same function: no GPU is at hand."""
    allowed = attention_mask(21)
    query, key, value, _ = arrays()
    found = kernels.cudnn(query, key, value, allowed, scale=0.3, implementation="xla")
    wanted = attention.attend(query, key, value, allowed, scale=0.3, softcap=None)
    seen = np.asarray(allowed.any(axis=-1))
    np.testing.assert_allclose(found[seen], wanted[seen], rtol=2e-5, atol=2e-6)


def test_a_network_uses_its_kernel_for_whole_rows_and_in_prefill(zoo, monkeypatch):
    """Hidden states are those of the plain path; a decoding step leaves the kernel."""
    used = []
    real = kernels.attend
    monkeypatch.setattr(
        kernels, "attend", lambda *a, **k: used.append(1) or real(*a, **k)
    )
    config = zoo.gemma3(window=9)
    plain = networks.language_model(config)
    other = networks.language_model(config, attention="splash_interpreted")
    variables = zoo.variables(plain)
    tokens = np.random.default_rng(0).integers(0, 23, (2, 129))
    inputs = zoo.inputs(tokens, np.arange(129) >= [[5], [0]])
    whole, first = other.apply(variables, inputs), other.init_cache(2, 131)
    assert len(used) == config.num_layers
    cached = other.apply(variables, inputs, first)
    assert len(used) == 2 * config.num_layers
    wanted = plain.apply(variables, inputs).hidden
    real_columns = np.asarray(inputs.mask)
    for found in (whole.hidden, cached.hidden):
        np.testing.assert_allclose(
            found[real_columns], wanted[real_columns], rtol=2e-4, atol=2e-4
        )
    other.apply(variables, zoo.inputs(tokens[:, :1]), cached.cache)
    assert len(used) == 2 * config.num_layers


def kernel_of(name, zoo, length=128, **fields):
    config = zoo.families["llama"](**fields)
    inputs = zoo.inputs(np.zeros((4, length), int))
    return kernels.choose(name, config, inputs, local=False)


def test_what_a_kernel_cannot_do_is_left_to_the_plain_path(zoo):
    assert kernel_of("plain", zoo) is None
    assert kernel_of("splash", zoo) is not None
    assert kernel_of("splash", zoo, length=127) is None
    assert kernel_of("cudnn", zoo, length=127) is not None
    assert kernel_of("cudnn", zoo, attention_softcap=5.0) is None
    mesh = sharding.mesh(devices=jax.devices()[:1])
    one = placement.Placement(mesh)
    with pytest.MonkeyPatch.context() as patch:
        for parts in ({"length": 2}, {"batch": 8}, {"activation_heads": 2}):
            split = placement.Placement.parts
            patch.setattr(
                placement.Placement, "parts", lambda _, name, p=parts: p.get(name, 1)
            )
            patch.setattr(placement, "current", lambda: one)
            assert kernel_of("splash", zoo) is None, parts
            patch.setattr(placement.Placement, "parts", split)


@pytest.mark.parametrize(
    ("name", "platform", "dtype", "wanted"),
    [
        ("auto", "tpu", jnp.float32, "splash"),
        ("auto", "gpu", jnp.bfloat16, "cudnn"),
        ("auto", "gpu", jnp.float32, "plain"),
        ("auto", "cpu", jnp.float32, "plain"),
        ("plain", "tpu", jnp.float32, "plain"),
    ],
)
def test_a_config_names_a_kernel_or_leaves_it_to_the_platform(
    name, platform, dtype, wanted
):
    assert kernels.for_platform(name, platform, dtype) == wanted


def test_a_kernel_of_another_platform_is_refused():
    with pytest.raises(UserError, match="attention='splash' does not run on cpu"):
        kernels.for_platform("splash", "cpu", jnp.float32)
    with pytest.raises(UserError, match="attention='flash': choose from plain"):
        sizes = dict(vocab_size=8, width=8, num_layers=1, num_heads=1)
        networks.language_model(networks.TransformerConfig(**sizes), attention="flash")
