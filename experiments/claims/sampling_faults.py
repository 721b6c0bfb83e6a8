"""Two faults of sampling that the N+ paper warns of, planted and measured.

Paper:    Huang et al. 2024 (arXiv:2403.17031): the temperature of sampling belongs into
          every log-prob, and dropout is off while responses are sampled and scored.
Command:  rlhf-jax reproduce R4-temperature R4-dropout
Hardware: 2 CPU cores, under a minute.

Configs of this package refuse the first and no network of it has the second.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import networks, rng, types
from rlhf_jax.ops import logprobs
from rlhf_jax.studies import reproduction as rep

SUITES = ("smoke", "nightly", "release")
SEEDS = tuple(range(8))
COLD, DROPPED = 0.7, 0.1
VOCAB, WIDTH, LENGTH, ROWS = 32, 32, 16, 64


def expected_gradient(logits, sampled, scored):
    """`E grad log pi(y)`, y sampled at one temperature, log-probs at another."""
    weight = jax.nn.softmax(logits / sampled)
    return jax.grad(lambda x: weight @ jax.nn.log_softmax(x / scored))(logits)


def entropy(logits):
    """Of the next token, nats."""
    return -jax.nn.softmax(logits) @ jax.nn.log_softmax(logits)


def temperature(seed):
    """The expected policy gradient where every response has the same advantage."""
    with jax.enable_x64(True):
        logits = jnp.asarray(np.random.default_rng(seed).normal(size=VOCAB))
        same, other = (expected_gradient(logits, COLD, t) for t in (COLD, 1.0))
        slope = jax.grad(entropy)(logits) @ other
        return {
            "largest entry, one temperature": float(jnp.abs(same).max()),
            "largest entry, two temperatures": float(jnp.abs(other).max()),
            "slope of the entropy, two temperatures": float(slope),
        }


@functools.cache
def scorer():
    """`(variables, tokens, key, rate) -> log-probs` of a small transformer."""
    network = networks.language_model(
        networks.TransformerConfig(
            vocab_size=VOCAB, width=WIDTH, num_layers=2, num_heads=4, max_length=LENGTH
        )
    )

    @jax.jit
    def score(variables, tokens, key, rate):
        places = jnp.broadcast_to(jnp.arange(LENGTH), tokens.shape)
        inputs = types.ModelInputs(
            tokens, jnp.ones(tokens.shape, bool), places, jnp.zeros_like(places)
        )
        hidden = network.apply(variables, inputs).hidden
        kept = jax.random.bernoulli(key, 1 - rate, hidden.shape) / (1 - rate)
        logits = (hidden * kept) @ jax.random.normal(rng.root(1), (WIDTH, VOCAB))
        logits *= 2 / WIDTH**0.5  # a standard deviation of 2, as a trained model has
        return logprobs.from_logits(logits[:, :-1], tokens[:, 1:], 1.0)

    return network, score


def dropout(seed):
    """The ratio of a policy to itself: two passes over the same responses."""
    network, score = scorer()
    key = rng.root(seed)
    variables = network.init(rng.named(key, "init"))
    tokens = jax.random.randint(rng.named(key, "tokens"), (ROWS, LENGTH), 0, VOCAB)
    found = {}
    for name, rate in (("no dropout", 0.0), ("dropout", DROPPED)):
        one, two = (
            score(variables, tokens, rng.named(key, name, i), rate) for i in range(2)
        )
        away = np.abs(np.exp(np.asarray(two - one, np.float64)) - 1)
        found[f"largest |ratio - 1|, {name}"] = float(away.max())
        found[f"tokens beyond the clip range 0.2, {name}"] = float(np.mean(away > 0.2))
    return found


HUANG = "Huang et al. 2024, The N+ implementation details of RLHF with PPO"
FULL = rep.FullScale(
    "TL;DR, Pythia 1B, PPO with one of the faults switched on.",
    "No number: both are listed among the details that must be right",
)

CLAIMS = (
    rep.Claim(
        id="R4-temperature",
        paper=HUANG,
        statement="where sampling and log-probs have one temperature, equal advantages "
        "move nothing; sampled at 0.7 and scored at 1 they sharpen the policy",
        protocol="A softmax over 32 tokens with normal logits, exact expected gradient "
        "of the log-prob, float64.",
        seeds=SEEDS,
        measure=temperature,
        threshold={
            "largest entry, one temperature": rep.Exact(0.0, 1e-12),
            "largest entry, two temperatures": rep.Above(0.01),
            "slope of the entropy, two temperatures": rep.Below(0.0),
        },
        full_scale=FULL,
        suites=SUITES,
    ),
    rep.Claim(
        id="R4-dropout",
        paper=HUANG,
        statement="without dropout the ratio of a policy to itself is 1; dropout of "
        "0.1 puts a tenth of the tokens beyond the clip range before any update",
        protocol="A transformer of width 32 with random weights, 64 random sequences "
        "of 16 tokens scored twice, dropout on its last states.",
        seeds=SEEDS,
        measure=dropout,
        threshold={
            "largest |ratio - 1|, no dropout": rep.Exact(0.0, 1e-5),
            "tokens beyond the clip range 0.2, dropout": rep.Above(0.1),
        },
        full_scale=FULL,
        suites=SUITES,
    ),
)
