import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import rng, rollout
from rlhf_jax.rollout import sampler as make_sampler

STOP = 0


def settings(**changes):
    base = dict(max_length=6, stop_tokens=(STOP,), pad_token=6, temperature=0.7)
    return base | changes


def full_logits(fake, result, temperature=1.0):
    """float64 logits [B T V] of the training graph at the response columns."""
    outputs = fake.network.apply(fake.params, rollout.sequences(result))
    hidden = rollout.response_columns(
        outputs.hidden, result.prompt.tokens.shape[1], result.tokens.shape[1]
    )
    unembedding = fake.network.unembedding(fake.params)
    logits = np.asarray(hidden, np.float64) @ np.asarray(unembedding, np.float64).T
    return logits / temperature


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_shape_of_a_rollout(fake):
    sample = make_sampler(fake.network, **settings(samples_per_prompt=3))
    result = sample(fake.params, fake.prompts, rng.root(1))
    tokens, mask = np.asarray(result.tokens), np.asarray(result.mask)
    assert tokens.shape == (12, 6) and result.tokens.dtype == jnp.int32
    np.testing.assert_array_equal(result.prompt.example_id, np.repeat(range(4), 3))
    np.testing.assert_array_equal(
        result.prompt.tokens, np.repeat(fake.prompts.tokens, 3, axis=0)
    )
    lengths = mask.sum(1)
    np.testing.assert_array_equal(mask, np.arange(6)[None] < lengths[:, None])
    assert (tokens[~mask] == 6).all()
    assert (np.asarray(result.logprobs)[~mask] == 0).all()
    stops = (tokens == STOP) & mask
    np.testing.assert_array_equal(result.terminal, stops)
    np.testing.assert_array_equal(result.truncated, ~stops.any(1))
    assert 0 < stops.any(1).sum() < 12


@pytest.mark.identity("C32", "B9", "I5")
def test_sampled_logprobs_are_those_of_the_training_graph(fake):
    """Log-probs from the decode cache equal those of the full forward pass at T = 0.7,
    left-padded; at another temperature they do not."""
    sample = make_sampler(fake.network, **settings())
    result = sample(fake.params, fake.prompts, rng.root(2))
    scored = rollout.response_logprobs(
        fake.network, fake.params, result, temperature=0.7
    )
    gauge = rollout.logprob_difference(result.logprobs, scored.logprobs, result.mask)
    assert gauge["rollout/logprob_difference"].finish() < 1e-5
    wrong = rollout.response_logprobs(fake.network, fake.params, result)
    gauge = rollout.logprob_difference(result.logprobs, wrong.logprobs, result.mask)
    assert gauge["rollout/logprob_difference"].finish() > 0.05
