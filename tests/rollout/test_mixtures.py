"""The geometric mixture of two networks is a network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import networks, rng, rollout
from rlhf_jax.errors import UserError
from rlhf_jax.rollout import generation, scoring
from rlhf_jax.types import PromptBatch

PRESET = networks.presets.llama(
    vocab_size=12, max_length=12, width=8, num_layers=1, num_heads=2
)
POLICY = networks.language_model(PRESET)
REFERENCE = networks.language_model(dataclasses.replace(PRESET, num_layers=2))
VARIABLES = {
    "policy": POLICY.init(rng.root(0)),
    "reference": REFERENCE.init(rng.root(1)),
}
PROMPTS = PromptBatch(
    jnp.asarray([[0, 2], [3, 4]]),
    jnp.asarray([[False, True], [True, True]]),
    jnp.asarray([7, 9], jnp.int32),
    jnp.asarray([1.0, 2.0]),
)


def logits(network, variables):
    inputs = generation.prompt_inputs(PROMPTS)
    hidden = network.apply(variables, inputs).hidden
    return np.asarray(networks.logits(network, variables, hidden))


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_its_logits_are_the_weighted_sum(weight):
    mixed = rollout.geometric_mixture(POLICY, REFERENCE, weight)
    own = logits(POLICY, VARIABLES["policy"])
    other = logits(REFERENCE, VARIABLES["reference"])
    real = np.asarray(PROMPTS.mask)
    found = logits(mixed, VARIABLES)[real]
    expected = ((1 - weight) * own + weight * other)[real]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_it_is_laid_out_for_decoding_as_its_models_are():
    """Their layers are unstacked once, and on a mesh their weights gathered once."""
    mixed = rollout.geometric_mixture(POLICY, REFERENCE, 0.4)
    alone = {
        "policy": POLICY.for_decoding(VARIABLES["policy"]),
        "reference": REFERENCE.for_decoding(VARIABLES["reference"]),
    }
    assert jax.tree.structure(mixed.for_decoding(VARIABLES)) == jax.tree.structure(
        alone
    )


@pytest.mark.identity("C32")
def test_it_is_sampled_and_scored_as_any_network():
    """Sampled log-probs of a mixture are those of the training graph."""
    mixed = rollout.geometric_mixture(POLICY, REFERENCE, 0.4)
    sample = rollout.sampler(
        mixed,
        max_length=6,
        stop_tokens=(1,),
        pad_token=0,
        temperature=0.7,
        samples_per_prompt=3,
    )
    drawn = sample(VARIABLES, PROMPTS, rng.root(2))
    scored = jax.jit(
        lambda variables: scoring.response_logprobs(
            mixed, variables, drawn, temperature=0.7
        )
    )(VARIABLES)
    np.testing.assert_allclose(drawn.logprobs, scored.logprobs, atol=1e-5)
    alone = scoring.response_logprobs(POLICY, VARIABLES["policy"], drawn)
    assert np.abs(drawn.logprobs - alone.logprobs).max() > 1e-3


def test_what_has_no_mixture_is_refused():
    def other(**changes):
        return networks.language_model(dataclasses.replace(PRESET, **changes))

    with pytest.raises(UserError, match="lies in 0 .. 1, not 1.5"):
        rollout.geometric_mixture(POLICY, REFERENCE, 1.5)
    with pytest.raises(UserError, match="12 and 13 tokens"):
        rollout.geometric_mixture(POLICY, other(vocab_size=13), 0.5)
    with pytest.raises(UserError, match="final_softcap"):
        rollout.geometric_mixture(POLICY, other(final_softcap=5.0), 0.5)
