"""Decoding with the cache against the full forward pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import networks
from rlhf_jax.errors import UserError
from rlhf_jax.networks import attention, positions

TOKENS = np.random.default_rng(1).integers(0, 23, (2, 12))
MASK = np.array([[False] * 3 + [True] * 9, [True] * 12])


def decode(zoo, network, variables, inputs, chunks, length=16):
    """Logits by appending chunks of these widths to an empty cache."""

    @zoo.jit
    def step(variables, chunk, cache):
        outputs = network.apply(variables, chunk, cache)
        logits = networks.logits(network, variables, outputs.hidden)
        return logits, outputs.cache

    cache, start, found = network.init_cache(2, length), 0, []
    for width in chunks:
        chunk = jax.tree.map(lambda x, s=start, w=width: x[:, s : s + w], inputs)
        logits, cache = step(variables, chunk, cache)
        found.append(np.asarray(logits))
        start += width
    return np.concatenate(found, axis=1), cache


def check_decoding(zoo, network, variables, chunks=(6, *[1] * 6)):
    """A prefill, then column by column, past the window of 3."""
    inputs = zoo.inputs(TOKENS, MASK)
    wanted = zoo.logits(network, variables, inputs)
    found, cache = decode(zoo, network, variables, inputs, chunks)
    np.testing.assert_allclose(found[MASK], wanted[MASK], atol=1e-4)
    assert int(cache.index) == 12
    return cache


@pytest.mark.identity("C32")
@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_decoding_equals_the_full_forward_pass(zoo, family):
    """Logits from the key-value cache are those of the full forward pass."""
    network = networks.language_model(zoo.families[family]())
    # Llama in chunks, the others by single columns.
    chunks = (6, 3, 3) if family == "llama" else (6, *[1] * 6)
    cache = check_decoding(zoo, network, zoo.variables(network), chunks)
    np.testing.assert_array_equal(cache.mask[:, :12], MASK)
    assert not cache.mask[:, 12:].any()
    config = network.config
    assert len(cache.keys) == config.num_layers
    assert cache.keys[0].shape == (2, config.kv_heads, 16, config.head_width)


@pytest.mark.identity("C32")
def test_decoding_check_finds_a_wrong_column(zoo, monkeypatch):
    """A cache written one column too far fails the decoding check."""
    real = attention.append

    def shifted(cache, keys, values):
        return real(cache._replace(index=cache.index + 1), keys, values)

    monkeypatch.setattr(attention, "append", shifted)
    network = networks.language_model(zoo.llama())
    with pytest.raises(AssertionError):
        check_decoding(zoo, network, zoo.variables(network))


def test_empty_cache_may_be_an_argument_of_jit(zoo):
    """The index as an array, where prefill cannot know that the cache is empty."""
    network = networks.language_model(zoo.gemma3())
    variables = zoo.variables(network)
    inputs = zoo.inputs(TOKENS, MASK)
    cache = jax.tree.map(jnp.asarray, network.init_cache(2, 16))
    hidden = zoo.jit(network.apply)(variables, inputs, cache).hidden
    found = networks.logits(network, variables, hidden)
    wanted = zoo.logits(network, variables, inputs)
    np.testing.assert_allclose(found[MASK], wanted[MASK], atol=1e-4)


def test_padding_written_to_the_cache_is_never_attended(zoo):
    """A finished row may go on writing padding; nothing later changes."""
    network = networks.language_model(zoo.llama())
    variables = zoo.variables(network)
    holes = MASK.copy()
    holes[:, 6:9] = False
    inputs = zoo.inputs(TOKENS, holes)
    kept = zoo.inputs(np.delete(TOKENS, [6, 7, 8], 1), np.delete(MASK, [6, 7, 8], 1))
    found, _ = decode(zoo, network, variables, inputs, [6] + [1] * 6)
    wanted, _ = decode(zoo, network, variables, kept, [6] + [1] * 3)
    np.testing.assert_allclose(found[:, 9:], wanted[:, 6:], atol=1e-5)


def test_repeated_cache_continues_every_row(zoo):
    """One prefill for several responses: rows of one prompt are neighbors."""
    network = networks.language_model(zoo.llama())
    variables = zoo.variables(network)
    inputs = zoo.inputs(TOKENS, MASK)
    prompt = jax.tree.map(lambda x: x[:, :8], inputs)
    rest = jax.tree.map(lambda x: jnp.repeat(x[:, 8:], 3, axis=0), inputs)
    apply = zoo.jit(network.apply)
    cache = apply(variables, prompt, network.init_cache(2, 12)).cache
    repeated = networks.repeat_cache(cache, 3)
    assert repeated.mask.shape == (6, 12) and repeated.index.shape == ()
    hidden = apply(variables, rest, repeated).hidden
    wanted = apply(variables, inputs, None).hidden[:, 8:]
    np.testing.assert_allclose(hidden, jnp.repeat(wanted, 3, axis=0), atol=1e-4)


def test_cache_updates_in_a_loop_keep_their_structure(zoo):
    """The cache is a carry of `while_loop`, in bfloat16 too."""
    network = networks.language_model(zoo.llama(), dtype=jnp.bfloat16)
    variables = zoo.variables(network)
    inputs = zoo.inputs(TOKENS)
    one = jax.tree.map(lambda x: x[:, :1], inputs)

    @zoo.jit
    def run(variables):
        cache = network.apply(variables, inputs, network.init_cache(2, 16)).cache
        return jax.lax.fori_loop(
            0, 3, lambda _, cache: network.apply(variables, one, cache).cache, cache
        )

    cache = run(variables)
    assert int(cache.index) == 15 and cache.keys[0].dtype == jnp.bfloat16


def test_cache_longer_than_the_context_is_refused(zoo):
    network = networks.language_model(zoo.gpt2(max_length=32))
    with pytest.raises(UserError, match="33 columns .* context of 32"):
        network.init_cache(1, 33)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_decode_step_looks_its_angles_up(zoo, family):
    """The bits of computed ones, for both kinds of layers; no cosine in the step."""
    network = networks.language_model(zoo.families[family]())
    cache, config = network.init_cache(2, 16), network.config
    at = jnp.asarray([[0, 7], [15, 3]], jnp.int32)
    assert set(cache.angles) == {False, *config.local_layers}
    for local, table in cache.angles.items():
        rates = positions.inverse_frequencies(config, local=local)
        wanted = jax.jit(lambda x, r=rates: positions.rotary_angles(x, r))(at)
        for found, computed in zip(table.at(at), wanted, strict=True):
            np.testing.assert_array_equal(found, computed)
    inputs = zoo.inputs(TOKENS[:, :1])
    cache = cache._replace(index=jnp.int32(3))
    step = jax.make_jaxpr(network.apply)(zoo.variables(network), inputs, cache)
    assert " cos " not in str(step)
    assert " cos " in str(jax.make_jaxpr(network.apply)(zoo.variables(network), inputs))
