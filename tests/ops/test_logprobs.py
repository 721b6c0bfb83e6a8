import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import errors
from rlhf_jax.ops import logprobs, masking

VOCAB, WIDTH = 50, 16
STATIC = ("temperature", "softcap", "chunk_size")
score = jax.jit(logprobs.token_logprobs, static_argnames=STATIC)


def arrays(seed=0, shape=(2, 5), width=WIDTH, vocab=VOCAB):
    draw = np.random.default_rng(seed)
    hidden = jnp.asarray(draw.normal(size=(*shape, width)), jnp.float32)
    unembedding = jnp.asarray(draw.normal(size=(vocab, width)), jnp.float32)
    targets = jnp.asarray(draw.integers(vocab, size=shape), jnp.int32)
    return hidden, unembedding / np.sqrt(width), targets


def slow(hidden, unembedding, targets, temperature=1.0, softcap=None):
    """Log-prob, entropy, logsumexp in float64, from all logits."""
    hidden, unembedding = (np.asarray(x, np.float64) for x in (hidden, unembedding))
    logits = hidden @ unembedding.T
    if softcap is not None:
        logits = softcap * np.tanh(logits / softcap)
    logits = logits / temperature
    largest = logits.max(-1, keepdims=True)
    lse = np.log(np.exp(logits - largest).sum(-1)) + largest[..., 0]
    all_logprobs = logits - lse[..., None]
    chosen = np.take_along_axis(all_logprobs, np.asarray(targets)[..., None], -1)
    return chosen[..., 0], -(np.exp(all_logprobs) * all_logprobs).sum(-1), lse


def naive(hidden, unembedding, targets, temperature=1.0, softcap=None):
    """The naive form in JAX, for its gradient."""
    logits = hidden @ unembedding.T
    if softcap is not None:
        logits = softcap * jnp.tanh(logits / softcap)
    return logprobs.statistics(logits, targets, temperature)


SETTINGS = [(1.0, None), (0.7, None), (1.3, 2.0)]


@pytest.mark.parametrize("temperature, softcap", SETTINGS)
@pytest.mark.parametrize("chunk_size", [None, 7, 10, 64])
def test_values_are_those_of_all_logits(chunk_size, temperature, softcap):
    inputs = arrays()
    found = score(
        *inputs, temperature=temperature, softcap=softcap, chunk_size=chunk_size
    )
    for value, expected in zip(found, slow(*inputs, temperature, softcap), strict=True):
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, expected, atol=1e-5)


@pytest.mark.parametrize("temperature, softcap", SETTINGS)
@pytest.mark.parametrize("chunk_size", [None, 7])
def test_gradients_are_those_of_all_logits(chunk_size, temperature, softcap):
    """The temperature being an argument of the program."""
    hidden, unembedding, targets = arrays()
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2, 5)), jnp.float32)

    def total(form, **options):
        def loss(h, w, argument):
            found = form(h, w, targets, temperature=argument, softcap=softcap)
            return sum(jnp.sum(a * b) for a, b in zip(found, weights, strict=True))

        gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))
        return gradients(hidden, unembedding, temperature)

    def chunked(*inputs, **options):
        return logprobs.token_logprobs(*inputs, chunk_size=chunk_size, **options)

    for found, expected in zip(total(chunked), total(naive), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_any_leading_shape_and_vmap():
    shape = (3, 2, 4)
    hidden, unembedding, targets = arrays(shape=shape)

    def loss(h, t):
        found = score(h, unembedding, t, chunk_size=16)
        assert {x.shape for x in found} == {t.shape}
        return found.entropy.sum()

    mapped = jax.jit(jax.vmap(jax.grad(loss)))(hidden, targets)
    together = jax.jit(jax.grad(loss))(hidden, targets)
    np.testing.assert_allclose(mapped, together, atol=1e-6)


def largest_array(function, *inputs):
    """Elements of the largest array of the compiled program, inputs aside."""
    program = jax.jit(function).lower(*inputs).compile().as_text()
    shapes = {
        tuple(map(int, sizes.split(",")))
        for sizes in re.findall(r"\b[a-z]+\d+\[([\d,]+)\]", program)
    }
    return max(int(np.prod(s)) for s in shapes - {x.shape for x in inputs})


def test_no_program_holds_all_logits():
    inputs = arrays(shape=(2, 32), vocab=1000)
    all_logits = 2 * 32 * 1000

    def loss(form):
        def scalar(h, w, t):
            found = form(h, w, t)
            return jnp.sum(found.logprobs + found.entropy)

        return jax.grad(scalar, argnums=(0, 1))

    def chunked(h, w, t):
        return score(h, w, t, chunk_size=128)

    for form, holds in ((naive, True), (chunked, False)):
        for program in (form, loss(form)):
            assert (largest_array(program, *inputs) >= all_logits) == holds


def successor_model(tokens, vocab):
    """Hidden states and unembedding that put all probability on `token + 1`."""
    hidden = 100.0 * jax.nn.one_hot(tokens, vocab)
    return hidden, jnp.roll(jnp.eye(vocab), 1, axis=0)


def first_token_counts(columns):
    """Raises unless `columns(hidden, P, T)` predicts every response token."""
    prompt = jnp.array([[0, 3, 4], [6, 7, 8]])
    response = jnp.array([[5, 6, 7, 0], [9, 10, 0, 0]])
    prompt_mask = jnp.array([[0, 1, 1], [1, 1, 1]], bool)
    mask = jnp.array([[1, 1, 1, 0], [1, 1, 0, 0]], bool)
    inputs = masking.join(prompt, prompt_mask, response, mask)
    hidden, unembedding = successor_model(inputs.tokens, 12)
    found = score(columns(hidden, 3, 4), unembedding, response)
    np.testing.assert_allclose(found.logprobs[mask], 0.0, atol=1e-6)


@pytest.mark.identity("B1", "I19")
def test_the_column_before_a_token_predicts_it():
    """A model that is certain of "next = current + 1" gives log-prob 0 to every token
    of a counting response, the first included; reading the columns one to the right or
    to the left does not."""
    first_token_counts(lambda hidden, p, t: hidden[:, p - 1 : p + t - 1])
    for shift in (-2, 0):
        with pytest.raises(AssertionError):
            first_token_counts(lambda h, p, t, by=shift: h[:, p + by : p + by + t])


def samples_have_log_prob_minus_entropy(score_temperature):
    """Raises unless E[log-prob of samples at T = 0.7] = - entropy at T = 0.7."""
    hidden, unembedding, _ = arrays(shape=(1,))
    every = jnp.arange(VOCAB)
    repeated = jnp.broadcast_to(hidden, (VOCAB, WIDTH))
    scored = score(repeated, unembedding, every, temperature=score_temperature)
    probability = np.exp(slow(repeated, unembedding, every, 0.7)[0])
    mean = np.sum(probability * np.asarray(scored.logprobs))
    entropy = slow(repeated, unembedding, every, 0.7)[1][0]
    np.testing.assert_allclose(mean, -entropy, atol=1e-5)


@pytest.mark.identity("B9")
def test_temperature_belongs_into_every_log_prob():
    """The mean log-prob of samples at T = 0.7 is minus the entropy at T = 0.7;
    log-probs at another temperature than that of sampling miss it."""
    samples_have_log_prob_minus_entropy(0.7)
    with pytest.raises(AssertionError):
        samples_have_log_prob_minus_entropy(1.0)


@pytest.mark.identity("I5")
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_the_sampler_and_the_scorer_use_one_distribution(temperature):
    """`from_logits`, which the sampler calls, and `token_logprobs`, which scores whole
    sequences, agree to round-off at any temperature."""
    hidden, unembedding, targets = arrays()
    logits = hidden @ unembedding.T
    found = logprobs.from_logits(logits, targets, temperature)
    scored = score(hidden, unembedding, targets, temperature=temperature, chunk_size=20)
    np.testing.assert_allclose(found, scored.logprobs, atol=2e-6)


def test_forbidden_tokens_have_no_probability():
    logits = jnp.array([[0.0, -jnp.inf, 1.0]])
    found = logprobs.statistics(logits, jnp.array([1]))
    assert found.logprobs[0] == -jnp.inf
    p = 1 / (1 + np.e)
    entropy = -p * np.log(p) - (1 - p) * np.log(1 - p)
    np.testing.assert_allclose(found.entropy, entropy, atol=1e-6)

    def allowed(x):
        found = logprobs.statistics(x, jnp.array([2]))
        return jnp.sum(found.logprobs + found.entropy)

    assert jnp.isfinite(jax.grad(allowed)(logits)).all()


def softmax_is_float32(form):
    """Raises unless bfloat16 states give the numbers of their exact products."""
    hidden, unembedding, targets = arrays(vocab=4000, shape=(8,))
    hidden, unembedding = hidden.astype(jnp.bfloat16), unembedding.astype(jnp.bfloat16)
    expected = slow(
        hidden.astype(jnp.float32), unembedding.astype(jnp.float32), targets
    )
    found = form(hidden, unembedding, targets)
    np.testing.assert_allclose(found.astype(jnp.float32), expected[0], atol=1e-3)


@pytest.mark.identity("B29")
def test_the_softmax_is_float32_for_bfloat16_states():
    """Log-probs of bfloat16 states are accurate to 1e-3 over 4000 tokens; a softmax in
    bfloat16 is not."""

    def direct(hidden, unembedding, targets):
        return score(hidden, unembedding, targets).logprobs

    def chunked(*inputs):
        return score(*inputs, chunk_size=512).logprobs

    def in_bfloat16(hidden, unembedding, targets):
        every = jax.nn.log_softmax(hidden @ unembedding.T)
        return jnp.take_along_axis(every, targets[:, None], axis=1)[:, 0]

    softmax_is_float32(direct)
    softmax_is_float32(chunked)
    with pytest.raises(AssertionError):
        softmax_is_float32(in_bfloat16)


def test_gradients_keep_the_dtype_of_their_array():
    hidden, unembedding, targets = arrays()
    inputs = hidden.astype(jnp.bfloat16), unembedding

    def loss(h, w):
        return score(h, w, targets, chunk_size=20).logprobs.sum()

    slopes = jax.grad(loss, argnums=(0, 1))(*inputs)
    assert [x.dtype for x in slopes] == [jnp.bfloat16, jnp.float32]


@pytest.mark.identity("B32")
@pytest.mark.parametrize("chunk_size", [None, 20])
def test_enormous_logits_stay_finite(chunk_size):
    """Logits of 1e4 give finite log-probs, entropies and gradients."""
    hidden, unembedding, targets = arrays()

    def loss(h, w):
        found = score(1e4 * h, w, targets, chunk_size=chunk_size)
        return sum(jnp.sum(x) for x in found)

    value, slopes = jax.value_and_grad(loss, argnums=(0, 1))(hidden, unembedding)
    assert jnp.isfinite(value) and all(jnp.isfinite(x).all() for x in slopes)


@pytest.mark.parametrize(
    "options",
    [{"temperature": 0.0}, {"temperature": -1}, {"chunk_size": 0}, {"softcap": 0.0}],
)
def test_impossible_options_are_named(options):
    with pytest.raises(errors.UserError, match=next(iter(options))):
        score(*arrays(), **options)
