import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import rng, rollout
from rlhf_jax.rollout import logits as rules
from rlhf_jax.rollout import scoring
from rlhf_jax.types import PromptBatch, Rollout

STOP = 0
SETTINGS = ("temperature", "min_length", "stop_tokens")
response_logprobs = jax.jit(
    rollout.response_logprobs, static_argnums=0, static_argnames=SETTINGS
)
exact_kl = jax.jit(rollout.exact_kl, static_argnums=0, static_argnames=SETTINGS)


@pytest.fixture(scope="module")
def sampled(fake) -> Rollout:
    """64 rows at T = 0.7 from left-padded prompts of 1 to 5 tokens."""
    sample = rollout.sampler(
        fake.network,
        max_length=6,
        stop_tokens=(STOP,),
        pad_token=6,
        temperature=0.7,
        samples_per_prompt=16,
    )
    return sample(fake.params, fake.prompts, rng.root(11))


def rows(result):
    """(prompt, response) token lists of each row, real tokens only."""
    host = jax.device_get(result)
    for i in range(len(host.tokens)):
        prompt = host.prompt.tokens[i][host.prompt.mask[i]].tolist()
        yield prompt, host.tokens[i][host.mask[i]].tolist()


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def slow(oracle, params, result, temperature, forbid=0):
    """float64 [B T V] log-probs by loops; the row of padding stays zero."""
    tables = np.zeros((*result.tokens.shape, 7))
    for i, (prompt, response) in enumerate(rows(result)):
        logits = oracle.logits(params, prompt + response)
        for t in range(len(response)):
            row = logits[len(prompt) + t - 1] / temperature
            if t < forbid:
                row[STOP] = -np.inf
            tables[i, t] = log_softmax(row)
    return tables


def chosen(tables, result):
    picked = np.take_along_axis(tables, np.asarray(result.tokens)[..., None], -1)
    return np.where(result.mask, picked[..., 0], 0.0)


def gauge(result, scored):
    found = rollout.logprob_difference(result.logprobs, scored, result.mask)
    return found["rollout/logprob_difference"].finish()


@pytest.mark.identity("C32", "I5")
def test_sampler_training_graph_and_oracle_agree(fake, sampled, oracle):
    """Log-probs of the decode cache, of the full forward pass and of a slow float64
    loop are the same numbers at T = 0.7, left-padded."""
    scored = response_logprobs(fake.network, fake.params, sampled, temperature=0.7)
    tables = slow(oracle, fake.params, sampled, 0.7)
    np.testing.assert_allclose(scored.logprobs, chosen(tables, sampled), atol=1e-5)
    entropy = np.where(sampled.mask, -np.sum(np.exp(tables) * tables, -1), 0.0)
    np.testing.assert_allclose(scored.entropy, entropy, atol=1e-5)
    assert gauge(sampled, scored.logprobs) < 1e-5


@pytest.mark.identity("B9")
def test_log_probs_at_another_temperature_fail_the_gauge(fake, sampled):
    """Sampling at T = 0.7: the mean log-prob is minus the entropy at 0.7 within three
    standard errors; log-probs at 1 (the mutation) miss the gauge and the entropy."""
    for temperature, right in ((0.7, True), (1.0, False)):
        scored = response_logprobs(
            fake.network, fake.params, sampled, temperature=temperature
        )
        mask = np.asarray(sampled.mask)
        surprise = np.asarray(-sampled.logprobs - scored.entropy)[mask]
        error = surprise.std() / np.sqrt(surprise.size)
        assert (abs(surprise.mean()) < 3 * error) == right
        assert (gauge(sampled, scored.logprobs) < 1e-5) == right


@pytest.mark.parametrize("setting", [{"top_k": 3}, {"top_p": 0.6}])
@pytest.mark.identity("B10", "I5")
def test_truncated_sampling_renormalizes_its_log_probs(fake, oracle, setting):
    """With top-k or top-p the sampler's log-probs are those of the renormalized
    support; log-probs of the full softmax (the mutation) fail the same check."""
    sample = rollout.sampler(
        fake.network,
        max_length=6,
        stop_tokens=(STOP,),
        pad_token=6,
        temperature=0.7,
        samples_per_prompt=8,
        **setting,
    )
    result = sample(fake.params, fake.prompts, rng.root(3))
    chain = rules.standard(
        sampling_temperature=1.0, k=setting.get("top_k"), p=setting.get("top_p")
    )
    tables = slow(oracle, fake.params, result, 0.7)
    flat = jnp.asarray(tables.reshape(-1, 7), jnp.float32)
    cut = rules.apply_rules(chain, flat, jnp.zeros((), jnp.int32))
    support = log_softmax(np.asarray(cut, np.float64)).reshape(tables.shape)
    full = response_logprobs(
        fake.network, fake.params, result, temperature=0.7
    ).logprobs
    np.testing.assert_allclose(result.logprobs, chosen(support, result), atol=1e-5)
    assert gauge(result, full) > 0.05
    assert bool(jnp.all(full <= result.logprobs + 1e-5))


def test_minimum_length_renormalizes_sampler_and_scorer_alike(fake, oracle):
    sample = rollout.sampler(
        fake.network,
        max_length=6,
        stop_tokens=(STOP,),
        pad_token=6,
        temperature=0.7,
        min_length=3,
        samples_per_prompt=8,
    )
    result = sample(fake.params, fake.prompts, rng.root(4))
    support = dict(temperature=0.7, min_length=3, stop_tokens=(STOP,))
    scored = response_logprobs(fake.network, fake.params, result, **support)
    assert gauge(result, scored.logprobs) < 1e-5
    tables = slow(oracle, fake.params, result, 0.7, forbid=3)
    entropy = -np.sum(np.exp(tables) * np.where(np.isneginf(tables), 0, tables), -1)
    entropy = np.where(result.mask, entropy, 0.0)
    np.testing.assert_allclose(scored.entropy, entropy, atol=1e-5)
    other = fake.network.init(rng.root(9))
    ref = slow(oracle, other, result, 0.7, forbid=3)
    gap = np.where(np.isneginf(tables), 0.0, tables - np.where(ref > -99, ref, 0.0))
    exact = np.where(result.mask, np.sum(np.exp(tables) * gap, -1), 0.0)
    ours = exact_kl(fake.network, fake.params, other, result, **support)
    np.testing.assert_allclose(ours, exact, atol=2e-5)


def test_exact_kl_is_the_slow_one(fake, sampled, oracle):
    other = fake.network.init(rng.root(9))
    ours = exact_kl(fake.network, fake.params, other, sampled, temperature=0.7)
    p = slow(oracle, fake.params, sampled, 0.7)
    q = slow(oracle, other, sampled, 0.7)
    np.testing.assert_allclose(ours, np.sum(np.exp(p) * (p - q), -1), atol=2e-5)
    same = exact_kl(fake.network, other, other, sampled)
    np.testing.assert_allclose(same, 0.0, atol=1e-6)


def counting_rollout(vocab=8, prompt=4, length=3) -> Rollout:
    """Prompt 0..3, response 4, 5, 6: every token is its predecessor plus one."""
    ones = jnp.ones((1, prompt), bool)
    return Rollout(
        prompt=rollout_prompt(jnp.arange(prompt)[None].astype(jnp.int32), ones),
        tokens=(prompt + jnp.arange(length, dtype=jnp.int32))[None],
        mask=jnp.ones((1, length), bool),
        logprobs=jnp.zeros((1, length)),
        terminal=jnp.zeros((1, length), bool),
        truncated=jnp.ones((1,), bool),
    )


def rollout_prompt(tokens, mask):
    return PromptBatch(tokens, mask, jnp.zeros(1, jnp.int32), jnp.ones(1))


def successor_network(fake, vocab=8):
    """Puts probability 1 on "next = current + 1"."""

    def apply(variables, inputs, cache=None):
        hidden = jax.nn.one_hot(inputs.tokens, vocab)
        return fake.network.apply(fake.params, inputs)._replace(hidden=hidden)

    table = 100.0 * jnp.eye(vocab, k=-1)  # row v answers to token v - 1
    return fake.network._replace(apply=apply, unembedding=lambda variables: table)


@pytest.mark.parametrize("shift", [0, 1, -1])
@pytest.mark.identity("B1", "I19")
def test_every_response_token_is_predicted_from_the_column_before(
    fake, monkeypatch, shift
):
    """A model that is sure of "next = current + 1" gives every response token, the
    first one included, log-prob 0; columns shifted by one (the mutation) do not."""

    def shifted(hidden, prompt_length, response_length):
        start = prompt_length - 1 + shift
        columns = jnp.clip(jnp.arange(start, start + response_length), 0, 6)
        return hidden[:, columns]

    if shift:
        monkeypatch.setattr(scoring, "response_columns", shifted)
    network = successor_network(fake)
    result = counting_rollout()
    scored = response_logprobs(network, fake.params, result).logprobs
    assert scored.shape == (1, 3)
    assert bool(jnp.all(scored > -1e-6)) == (shift == 0)


@pytest.mark.identity("B15")
def test_nothing_after_the_stop_token_counts(fake, sampled):
    """Gradients with respect to the states after the end are exactly 0 and garbage
    there changes no log-prob and no KL; a mask of ones (the mutation) fails."""
    hidden = scoring.response_hidden(fake.network, fake.params, sampled)
    after = ~np.asarray(sampled.mask)
    assert after.any()

    def total(states, batch):
        scored = rollout.logprobs_from_hidden(
            fake.network, fake.params, states, batch, temperature=0.7
        )
        return jnp.sum(scored.logprobs) + jnp.sum(scored.entropy)

    gradient_of = jax.jit(jax.grad(total))
    gradient = np.asarray(gradient_of(hidden, sampled))
    assert (gradient[after] == 0).all() and (gradient[~after] != 0).any()
    mutated = sampled._replace(mask=jnp.ones_like(sampled.mask))
    assert (np.asarray(gradient_of(hidden, mutated))[after] != 0).any()

    other = fake.network.init(rng.root(9))
    garbage = sampled._replace(tokens=jnp.where(sampled.mask, sampled.tokens, 3))
    for function in (
        lambda x: response_logprobs(fake.network, fake.params, x).logprobs,
        lambda x: exact_kl(fake.network, fake.params, other, x),
    ):
        np.testing.assert_array_equal(function(sampled), function(garbage))


def test_sequences_join_prompt_and_response(sampled):
    inputs = rollout.sequences(sampled)
    assert inputs.tokens.shape == (64, 11)
    for i, (prompt, response) in enumerate(rows(sampled)):
        mask = np.asarray(inputs.mask[i])
        joined = np.asarray(inputs.tokens[i])[mask]
        np.testing.assert_array_equal(joined, prompt + response)
        np.testing.assert_array_equal(
            np.asarray(inputs.positions[i])[mask], np.arange(len(joined))
        )
