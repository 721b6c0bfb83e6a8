"""Tabular networks run in the ordinary sampler, scoring and heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import networks, rng, rollout
from rlhf_jax.errors import UserError
from rlhf_jax.ops import masking
from rlhf_jax.rollout import scorers, scoring
from rlhf_jax.types import PromptBatch, Rollout
from rlhf_jax.worlds import boundaries, enumerable, tabular
from rlhf_jax.worlds.enumerable import BOS, FIRST, PAD

WORLD = enumerable.e64(0)
NETWORK = tabular.policy(WORLD)


def prompts(count, width=1):
    mask = jnp.arange(width)[None, :] >= width - 1
    return PromptBatch(
        tokens=jnp.where(mask, BOS, PAD) * jnp.ones((count, width), jnp.int32),
        mask=jnp.broadcast_to(mask, (count, width)),
        example_id=jnp.zeros(count, jnp.int32),
        weight=jnp.ones(count, jnp.float32),
    )


def everything(width=1):
    """All 64 responses as a rollout."""
    y = jnp.asarray(enumerable.sequences(WORLD))
    real = jnp.ones(y.shape, bool)
    return Rollout(
        prompt=prompts(64, width),
        tokens=y,
        mask=real,
        logprobs=jnp.zeros(y.shape, jnp.float32),
        terminal=real & (jnp.arange(3)[None, :] == 2),
        truncated=jnp.zeros(64, bool),
    )


def random_variables(seed=0):
    table = np.random.default_rng(seed).normal(size=(21, 4)) * 2.0
    return {"params": {"table": jnp.asarray(table, jnp.float32)}}


def sampler():
    return rollout.sampler(
        NETWORK, max_length=3, stop_tokens=(PAD,), pad_token=PAD, temperature=1.0
    )


def test_it_starts_as_the_reference():
    table = tabular.logits(NETWORK.init(rng.root(0)))
    np.testing.assert_allclose(
        enumerable.distribution(table), np.exp(WORLD.reference), atol=1e-7
    )


@pytest.mark.parametrize("width", [1, 3])
def test_scoring_gives_the_enumerated_logprobs(width):
    """Log-probs, entropy and exact KL of the training graph are those of the tables,
    whatever the left padding."""
    own, other = random_variables(0), random_variables(1)
    sampled = everything(width)
    found = scoring.response_logprobs(NETWORK, own, sampled)
    table = tabular.logits(own)
    np.testing.assert_allclose(
        found.logprobs, enumerable.token_logprobs(table), atol=2e-6
    )
    p, q = (jax.nn.log_softmax(x["params"]["table"]) for x in (own, other))
    at = enumerable.rows(4, 3)
    entropy = -jnp.sum(jnp.exp(p) * p, axis=1)
    np.testing.assert_allclose(found.entropy, np.asarray(entropy)[at], atol=2e-6)
    divergence = jnp.sum(jnp.exp(p) * (p - q), axis=1)
    exact = scoring.exact_kl(NETWORK, own, other, sampled)
    np.testing.assert_allclose(exact, np.asarray(divergence)[at], atol=5e-6)


@pytest.mark.identity("C12")
def test_exact_divergence_of_tokens_is_that_of_sequences():
    """Exact per-token KL, summed along responses of the policy, is the sequence KL."""
    own, other = random_variables(0), random_variables(1)
    p, q = (enumerable.distribution(tabular.logits(x)) for x in (own, other))
    tokens = scoring.exact_kl(NETWORK, own, other, everything())
    total = p @ np.asarray(tokens, np.float64).sum(axis=1)
    assert total == pytest.approx(enumerable.kl(p, q), abs=1e-5)


@pytest.mark.identity("C32")
@pytest.mark.parametrize("width", [1, 3])
def test_sampler_and_scorer_agree(width):
    """Sampled log-probs are those of the training graph, and all tokens are content."""
    variables = random_variables()
    found = sampler()(variables, prompts(128, width), rng.root(1))
    assert found.tokens.shape == (128, 3)
    assert bool(jnp.all((found.tokens >= FIRST) & found.mask))
    scored = scoring.response_logprobs(NETWORK, variables, found)
    np.testing.assert_allclose(found.logprobs, scored.logprobs, atol=2e-6)


def test_samples_follow_the_table():
    variables = random_variables()
    found = sampler()(variables, prompts(8192), rng.root(2))
    number = (np.asarray(found.tokens) - FIRST) @ [16, 4, 1]
    counts = np.bincount(number, minlength=64) / len(number)
    pi = enumerable.distribution(tabular.logits(variables))
    assert enumerable.total_variation(counts, pi) < 0.04


def test_tokens_without_content_get_no_gradient_and_no_probability():
    """The gradient of a log-prob is onehot - p over the contents alone."""
    variables = random_variables()

    def first(variables):
        return scoring.response_logprobs(NETWORK, variables, everything()).logprobs[
            0, 0
        ]

    found = jax.grad(first)(variables)["params"]["table"]
    p = jax.nn.softmax(variables["params"]["table"][0])
    np.testing.assert_allclose(found[0], jax.nn.one_hot(0, 4) - p, atol=1e-6)
    assert not np.any(np.asarray(found[1:]))
    logits = networks.logits(
        NETWORK, variables, NETWORK.apply(variables, scoring.sequences(everything()))[0]
    )
    assert not np.any(np.asarray(jax.nn.softmax(logits))[..., :FIRST])


def test_a_prompt_may_follow_another_document():
    """The prompt's token goes back to the empty prefix: packed rows stay apart."""
    tokens = jnp.asarray([[BOS, 2, 3, 4, BOS, 5, 2]])
    inputs = masking.join(
        tokens[:, :1], tokens[:, :1] > 0, tokens[:, 1:], tokens[:, 1:] > 0
    )
    alone = masking.join(
        tokens[:, :1], tokens[:, :1] > 0, tokens[:, 5:], tokens[:, 5:] > 0
    )
    variables = random_variables()
    packed = NETWORK.apply(variables, inputs).hidden
    np.testing.assert_array_equal(packed[:, 4:], NETWORK.apply(variables, alone).hidden)


def test_a_scalar_table_has_one_number_a_state():
    """A reward model of 64 + 21 entries; scores read the complete response's."""
    network = tabular.scalar(WORLD)
    variables = network.init(rng.root(0))
    assert not np.any(np.asarray(variables["params"]["head"]["table"]))
    states = jnp.arange(85.0)
    variables = {"params": {"head": {"table": states}}}
    inputs = scoring.sequences(everything(2))
    scores = scorers.last_token_scores(network, variables, inputs)
    np.testing.assert_array_equal(scores, np.arange(21, 85))
    values = network.apply(variables, inputs).scalars
    np.testing.assert_array_equal(values[:, 1:-1], enumerable.rows(4, 3))
    with pytest.raises(UserError, match="no language head"):
        network.unembedding(variables)


def test_a_policy_may_carry_a_value_head():
    network = tabular.policy(WORLD, value_head=True)
    variables = network.init(rng.root(0))
    outputs = network.apply(variables, scoring.sequences(everything()))
    assert outputs.scalars.shape == (64, 4) and not np.any(np.asarray(outputs.scalars))
    critic = networks.initialize_from(
        tabular.scalar(WORLD), variables, key=rng.root(0), keep_head=False
    )
    assert set(critic["params"]) == {"head"}


def test_complete_responses_are_terminal_and_not_truncated():
    variables = random_variables()
    cut = sampler()(variables, prompts(8), rng.root(0))
    assert bool(jnp.all(cut.truncated)) and not bool(jnp.any(cut.terminal))
    ended = boundaries.ends_at(sampler(), 3)(variables, prompts(8), rng.root(0))
    assert not bool(jnp.any(ended.truncated))
    np.testing.assert_array_equal(ended.terminal, [[False, False, True]] * 8)
    np.testing.assert_array_equal(ended.tokens, cut.tokens)


def test_a_short_response_stays_truncated():
    found = everything()
    short = found._replace(
        mask=found.mask.at[0, 2].set(False),
        terminal=jnp.zeros((64, 3), bool),
        truncated=jnp.ones(64, bool),
    )
    ended = boundaries.ended(short, 3)
    assert bool(ended.truncated[0]) and not bool(jnp.any(ended.terminal[0]))
    assert not bool(jnp.any(ended.truncated[1:]))


def transformer(**settings):
    return networks.language_model(
        networks.TransformerConfig(
            vocab_size=6, width=8, num_layers=1, num_heads=2, max_length=8, **settings
        )
    )


def test_a_restricted_transformer_has_the_support_of_the_world():
    """Probabilities of the 64 responses sum to 1, in scoring as in sampling."""
    network = boundaries.restricted(transformer(), range(FIRST, 6))
    variables = network.init(rng.root(0))
    scored = scoring.response_logprobs(network, variables, everything()).logprobs
    assert float(jnp.sum(jnp.exp(scored.sum(axis=1)))) == pytest.approx(1.0, abs=1e-5)
    draw = rollout.sampler(
        network, max_length=3, stop_tokens=(PAD,), pad_token=PAD, temperature=1.0
    )
    found = draw(variables, prompts(64), rng.root(0))
    assert bool(jnp.all((found.tokens >= FIRST) & found.mask))
    again = scoring.response_logprobs(network, variables, found).logprobs
    np.testing.assert_allclose(found.logprobs, again, atol=1e-5)


def test_a_soft_cap_cannot_be_restricted():
    with pytest.raises(UserError, match="final_softcap"):
        boundaries.restricted(transformer(final_softcap=30.0), range(FIRST, 6))
