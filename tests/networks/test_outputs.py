"""Dtypes, heads and logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import networks, rng
from rlhf_jax.errors import UserError
from rlhf_jax.networks import attention

TOKENS = np.random.default_rng(0).integers(0, 23, (2, 8))


def disturbed(zoo, family="llama", **fields):
    network = networks.language_model(zoo.families[family](**fields))
    return network, zoo.variables(network)


def test_dtypes_of_parameters_and_computation_are_separate(zoo):
    inputs = zoo.inputs(TOKENS)
    wanted_network, variables = disturbed(zoo)
    network = networks.language_model(
        zoo.llama(), value_head=True, dtype=jnp.bfloat16, param_dtype=jnp.float32
    )
    made = jax.eval_shape(network.init, rng.root(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype("float32")}
    outputs = jax.eval_shape(network.apply, made, inputs)
    assert outputs.hidden.dtype == jnp.bfloat16
    assert outputs.scalars.dtype == jnp.float32
    half = networks.language_model(zoo.llama(), param_dtype=jnp.bfloat16)
    made = jax.eval_shape(half.init, rng.root(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype("bfloat16")}
    close = networks.language_model(zoo.llama(), dtype=jnp.bfloat16)
    wanted = zoo.logits(wanted_network, variables, inputs)
    found = zoo.logits(close, variables, inputs)
    assert found.dtype == np.float32
    # Eight bits of mantissa through three layers.
    assert 1e-4 < np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()


def check_float32_logits(compute):
    """Logits of bfloat16 hidden states against a product in float64."""
    source = np.random.default_rng(0)
    hidden = jnp.asarray(source.standard_normal((2, 3, 16)), jnp.bfloat16)
    matrix = jnp.asarray(source.standard_normal((23, 16)), jnp.bfloat16)
    found = compute(hidden, matrix)
    wanted = np.asarray(hidden, np.float64) @ np.asarray(matrix, np.float64).T
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.identity("B29")
def test_logits_are_float32_under_bfloat16(zoo):
    """Logits are float32 sums of bfloat16 products; rounded to bfloat16 they fail."""
    network = networks.language_model(zoo.llama(), dtype=jnp.bfloat16)

    def compute(hidden, matrix):
        variables = {"params": {"unembedding": {"kernel": matrix}}}
        return networks.logits(network, variables, hidden)

    check_float32_logits(compute)
    with pytest.raises(AssertionError):
        check_float32_logits(lambda h, m: (h @ m.T).astype(jnp.float32))


def check_float32_scores(attend):
    """Attention on bfloat16 with large scores, against float64."""
    source = np.random.default_rng(0)
    q, k, v = (
        jnp.asarray(source.standard_normal(shape), jnp.bfloat16)
        for shape in ((1, 4, 1, 8), (1, 1, 300, 8), (1, 1, 300, 8))
    )
    mask = jnp.ones((1, 4, 300), bool)
    found = attend(q, k, v, mask, scale=3.0, softcap=None)[0, :, 0]
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    scores = 3 * q[0, :, 0] @ k[0, 0].T
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    wanted = weights @ v[0, 0]
    np.testing.assert_allclose(np.asarray(found, np.float64), wanted, atol=0.01)


@pytest.mark.identity("B29")
def test_attention_softmax_is_float32_under_bfloat16():
    """Scores and softmax are float32; a softmax in bfloat16 fails the same check."""
    check_float32_scores(attention.attend)

    def rounded(q, k, v, mask, *, scale, softcap):
        scores = jnp.einsum("blhe,bhse->bhls", q, k) * jnp.bfloat16(scale)
        weights = jax.nn.softmax(scores, axis=-1)
        return jnp.einsum("bhls,bhse->blhe", weights, v)

    with pytest.raises(AssertionError):
        check_float32_scores(rounded)


def test_heads_start_as_documented(zoo):
    config = zoo.llama(width=64, head_dim=16)
    key = rng.root(3)

    def kernel(network):
        # The rest is dead code, which the compiler drops.
        pick = zoo.jit(lambda key: network.init(key)["params"]["head"]["kernel"])
        return np.asarray(pick(key))

    assert (kernel(networks.language_model(config, value_head=True)) == 0).all()
    zero = networks.scalar_model(config, head_init=networks.zeros())
    assert (kernel(zero) == 0).all()
    default = kernel(networks.scalar_model(config))
    assert default.shape == (64,)  # and no bias beside it
    assert 0.7 < default.std() * np.sqrt(65) < 1.3
    np.testing.assert_allclose(
        kernel(networks.scalar_model(config, head_init=0.5)),
        default * 0.5 * np.sqrt(65),
        rtol=1e-6,
    )
    names = set(jax.eval_shape(networks.scalar_model(config).init, key)["params"])
    assert names == {"embedding", "layers", "final_norm", "head"}


def test_scalars_are_hidden_times_kernel(zoo):
    network = networks.scalar_model(zoo.llama())
    variables = zoo.variables(network)
    outputs = network.apply(variables, zoo.inputs(TOKENS))
    expected = outputs.hidden @ variables["params"]["head"]["kernel"]
    assert outputs.scalars.shape == (2, 8)
    np.testing.assert_allclose(outputs.scalars, expected, atol=1e-5)


def test_scalar_model_has_no_unembedding(zoo):
    network = networks.scalar_model(zoo.llama(tied_embeddings=True))
    with pytest.raises(UserError, match="language_model"):
        network.unembedding(network.init(rng.root(0)))


def test_trunk_of_one_key_is_the_same_in_every_network(zoo):
    config = zoo.llama()
    policy = networks.language_model(config, value_head=True).init(rng.root(0))
    value = networks.scalar_model(config).init(rng.root(0))
    for name in ("embedding", "layers", "final_norm"):
        one, other = policy["params"][name], value["params"][name]
        assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), one, other))
