"""A small network of closed form: an oracle for sampler, cache and log-probs.

`hidden[t] = embed[token_t] + mix * mean(embed of earlier real tokens) +
places[position_t]`, logits = hidden @ unembedding.T. It reads past, position and mask,
so that a wrong cache, position or padding shows.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import networks
from rlhf_jax.types import Network, NetworkOutputs, PromptBatch, Rollout


class FakeConfig(NamedTuple):
    vocab_size: int
    final_softcap: float | None


def fake_network(
    vocab: int, width: int = 8, *, mix: float = 0.7, softcap: float | None = None
) -> Network:
    def init(key):
        keys = jax.random.split(key, 4)
        return {
            "params": {
                "embed": jax.random.normal(keys[0], (vocab, width)),
                "places": 0.5 * jax.random.normal(keys[1], (64, width)),
                "unembedding": jax.random.normal(keys[2], (vocab, width)) / 5,
                "head": jax.random.normal(keys[3], (width,)),
            }
        }

    def init_cache(batch_size, length):
        integers = jnp.zeros((batch_size, length), jnp.int32)
        return networks.Cache(
            keys=(jnp.zeros((batch_size, length, width), jnp.float32),),
            values=(),
            mask=jnp.zeros((batch_size, length), bool),
            positions=integers,
            segment_ids=integers,
            index=0,
            angles={},
        )

    def apply(variables, inputs, cache=None):
        weights = variables["params"]
        embedded = weights["embed"][inputs.tokens]
        columns = inputs.tokens.shape[1]
        if cache is None:
            index, mask, past = 0, inputs.mask, embedded
        else:
            index = cache.index
            mask = jax.lax.dynamic_update_slice(cache.mask, inputs.mask, (0, index))
            past = jax.lax.dynamic_update_slice(cache.keys[0], embedded, (0, index, 0))
            after = jnp.asarray(index + columns, jnp.int32)
            cache = cache._replace(keys=(past,), mask=mask, index=after)
        keys = jnp.arange(mask.shape[1])
        earlier = keys[None, :] < (index + jnp.arange(columns))[:, None]
        visible = (earlier[None] & mask[:, None]).astype(jnp.float32)
        count = jnp.maximum(visible.sum(-1, keepdims=True), 1.0)
        context = jnp.einsum("btl,bld->btd", visible, past) / count
        places = weights["places"][inputs.positions]
        hidden = embedded + mix * context + places
        return NetworkOutputs(hidden, hidden @ weights["head"], cache)

    return Network(
        init=jax.jit(init),
        apply=jax.jit(apply),
        init_cache=init_cache,
        unembedding=lambda variables: variables["params"]["unembedding"],
        config=FakeConfig(vocab, softcap),
    )


def left_padded(rows: list[list[int]], width: int, pad: int = 0) -> PromptBatch:
    tokens = np.full((len(rows), width), pad, np.int32)
    mask = np.zeros(tokens.shape, bool)
    for i, row in enumerate(rows):
        tokens[i, width - len(row) :] = row
        mask[i, width - len(row) :] = True
    return PromptBatch(
        tokens=jnp.asarray(tokens),
        mask=jnp.asarray(mask),
        example_id=jnp.arange(len(rows), dtype=jnp.int32),
        weight=jnp.ones(len(rows), jnp.float32),
    )


def hand_rollout(
    prompts: list[list[int]],
    responses: list[list[int]],
    *,
    prompt_width: int | None = None,
    width: int | None = None,
    pad: int = 0,
    stop: int = 0,
) -> Rollout:
    """A rollout of given token lists; a response that ends in `stop` is terminal."""
    width = width or max(len(r) for r in responses)
    tokens = np.full((len(responses), width), pad, np.int32)
    mask = np.zeros(tokens.shape, bool)
    for i, response in enumerate(responses):
        tokens[i, : len(response)] = response
        mask[i, : len(response)] = True
    terminal = mask & (tokens == stop)
    return Rollout(
        prompt=left_padded(prompts, prompt_width or max(map(len, prompts)), pad),
        tokens=jnp.asarray(tokens),
        mask=jnp.asarray(mask),
        logprobs=jnp.where(mask, -1.0, 0.0),
        terminal=jnp.asarray(terminal),
        truncated=jnp.asarray(~terminal.any(1)),
    )


def oracle_logits(params: dict, tokens: list[int], mix: float = 0.7) -> np.ndarray:
    """float64 logits [len(tokens), V] of one sequence without padding, by loops."""
    weights = {k: np.asarray(v, np.float64) for k, v in params["params"].items()}
    rows = []
    for t, token in enumerate(tokens):
        hidden = weights["embed"][token] + weights["places"][t]
        if t:
            hidden = hidden + mix * weights["embed"][tokens[:t]].mean(axis=0)
        rows.append(weights["unembedding"] @ hidden)
    return np.array(rows)


def oracle_responses(next_probabilities, length: int, stops: tuple[int, ...]) -> dict:
    """Every response of at most `length` tokens with its probability.

    `next_probabilities(response so far) -> float64[V]` is the distribution sampled
    from.
    """
    finished, open_ends = {}, {(): 1.0}
    for _ in range(length):
        grown = {}
        for response, mass in open_ends.items():
            for token, p in enumerate(next_probabilities(response)):
                place = finished if token in stops else grown
                if p > 0:
                    place[(*response, token)] = mass * p
        open_ends = grown
    return finished | open_ends


class Fake(NamedTuple):
    network: Network
    params: dict
    prompts: PromptBatch


@pytest.fixture(scope="session")
def oracle():
    class Oracle:
        logits = staticmethod(oracle_logits)
        responses = staticmethod(oracle_responses)

    return Oracle


@pytest.fixture(scope="session")
def make_network():
    return fake_network


@pytest.fixture(scope="session")
def make_prompts():
    return left_padded


@pytest.fixture(scope="session")
def make_rollout():
    return hand_rollout


@pytest.fixture(scope="session")
def fake() -> Fake:
    """Vocabulary 7, prompts of 1 to 5 tokens in 5 columns."""
    network = fake_network(7)
    rows = [[1, 2, 3], [4], [5, 6, 1, 2, 3], [6, 6]]
    return Fake(network, network.init(jax.random.key(0)), left_padded(rows, 5))
