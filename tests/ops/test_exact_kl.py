import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.ops import kl, logprobs

VOCAB = 50
divergence = jax.jit(
    logprobs.exact_kl,
    static_argnames=("softcap_p", "softcap_q", "chunk_size"),
)
score = jax.jit(logprobs.token_logprobs)


def arrays(seed=0, shape=(2, 5), widths=(16, 8)):
    draw = np.random.default_rng(seed)
    result = []
    for width in widths:
        result.append(jnp.asarray(draw.normal(size=(*shape, width)), jnp.float32))
        rows = draw.normal(size=(VOCAB, width)) / np.sqrt(width)
        result.append(jnp.asarray(rows, jnp.float32))
    return result


def naive(hidden_p, rows_p, hidden_q, rows_q, temperature=1.0, cap_p=None, cap_q=None):
    logs = []
    for hidden, rows, cap in ((hidden_p, rows_p, cap_p), (hidden_q, rows_q, cap_q)):
        logits = hidden @ rows.T
        logits = cap * jnp.tanh(logits / cap) if cap else logits
        logs.append(jax.nn.log_softmax(logits / temperature))
    return jnp.sum(jnp.exp(logs[0]) * (logs[0] - logs[1]), axis=-1)


@pytest.mark.parametrize("chunk_size", [None, 7])
@pytest.mark.parametrize("options", [(1.0, None, None), (0.7, 3.0, 2.0)])
def test_value_and_gradients_are_those_of_all_logits(options, chunk_size):
    """The temperature being an argument of the program."""
    temperature, cap_p, cap_q = options
    inputs = arrays()
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5)), jnp.float32)

    def chunked(*arrays_):
        return divergence(
            *arrays_,
            temperature=temperature,
            softcap_p=cap_p,
            softcap_q=cap_q,
            chunk_size=chunk_size,
        )

    def gradients(form):
        def loss(*arrays_):
            return jnp.sum(form(*arrays_) * weights)

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(*inputs)

    expected = naive(*inputs, *options)
    np.testing.assert_allclose(chunked(*inputs), expected, atol=1e-5)
    expected_slopes = gradients(lambda *x: naive(*x, *options))
    slopes = zip(gradients(chunked), expected_slopes, strict=True)
    for found, expected in slopes:
        np.testing.assert_allclose(found, expected, atol=1e-5)


def is_the_kl_of_policy_to_reference(form):
    """Raises unless form(p, q) is KL(p || q) on rows of log-probs."""
    draw = np.random.default_rng(0)
    p, q = draw.dirichlet(np.ones(VOCAB), (2, 6)).astype(np.float32)
    expected = np.sum(p * (np.log(p) - np.log(q)), axis=-1)
    log_p, log_q = jnp.log(p), jnp.log(q)
    np.testing.assert_array_equal(form(log_p, log_p), 0.0)
    found = form(log_p, log_q)
    assert (np.asarray(found) >= 0).all()
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.identity("B4")
def test_exact_kl_is_zero_on_itself_positive_and_of_this_direction():
    """KL(p || p) = 0, KL >= 0, and the sum goes over the policy: swapped arguments, or
    probabilities where log-probs belong (`log_target` forgotten), are caught."""
    identity = jnp.eye(VOCAB)

    def ours(log_p, log_q):
        return divergence(log_p, identity, log_q, identity, chunk_size=16)

    def swapped(log_p, log_q):
        return ours(log_q, log_p)

    def without_log_target(log_p, log_q):  # F.kl_div(log_q, log_p): target = log_p
        return jnp.sum(jnp.where(log_p > 0, log_p * (log_p - log_q), -log_p), -1)

    is_the_kl_of_policy_to_reference(ours)
    for bug in (swapped, without_log_target):
        with pytest.raises(AssertionError):
            is_the_kl_of_policy_to_reference(bug)


@pytest.mark.identity("C12", "C11")
def test_exact_kl_along_sampled_prefixes_sums_to_the_kl_of_sequences():
    """The per-token KL, summed over the states that the policy visits, is the KL of the
    distributions over whole sequences; so are expected k1 and k3 (64 sequences)."""
    letters, length, width = 4, 3, 6
    draw = np.random.default_rng(0)
    prefixes = [
        y for t in range(length) for y in itertools.product(range(letters), repeat=t)
    ]
    state = {y: i for i, y in enumerate(prefixes)}
    hidden_p, hidden_q = jnp.asarray(
        draw.normal(size=(2, len(prefixes), width)), jnp.float32
    )
    rows_p, rows_q = jnp.asarray(draw.normal(size=(2, letters, width)), jnp.float32)
    per_state = np.asarray(divergence(hidden_p, rows_p, hidden_q, rows_q))
    every = list(itertools.product(range(letters), repeat=length))
    visited = np.array([[state[y[:t]] for t in range(length)] for y in every])
    tokens = jnp.asarray(every, jnp.int32)
    log_p = score(hidden_p[visited], rows_p, tokens).logprobs
    log_q = score(hidden_q[visited], rows_q, tokens).logprobs
    weight = np.exp(np.asarray(log_p, np.float64).sum(axis=1))
    gap = np.asarray(log_p - log_q, np.float64).sum(axis=1)
    truth = np.sum(weight * gap)
    assert weight.sum() == pytest.approx(1, abs=1e-5)
    for per_token in (per_state[visited], kl.k1(log_p, log_q), kl.k3(log_p, log_q)):
        summed = np.asarray(per_token, np.float64).sum(axis=1)
        assert np.sum(weight * summed) == pytest.approx(truth, abs=1e-5)


@pytest.mark.identity("B32")
@pytest.mark.parametrize("chunk_size", [None, 20])
def test_kl_of_certain_distributions_that_disagree_is_finite(chunk_size):
    """Two models that are certain of different tokens (logits of 1e4) have a finite KL
    and finite gradients."""
    hidden_p, rows_p, hidden_q, rows_q = arrays()

    def loss(h, w):
        return divergence(
            1e4 * h, w, 1e4 * hidden_q, rows_q, chunk_size=chunk_size
        ).sum()

    value, slopes = jax.value_and_grad(loss, argnums=(0, 1))(hidden_p, rows_p)
    assert jnp.isfinite(value) and all(jnp.isfinite(x).all() for x in slopes)
