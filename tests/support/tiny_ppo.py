"""A PPO learner small enough to compile in seconds, with every part replaceable."""

from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax import (
    advantages,
    algorithms,
    losses,
    networks,
    optimizers,
    rewards,
    rng,
    rollout,
)
from rlhf_jax.types import ModelInputs, PromptBatch, SequenceBatch

VOCAB, PAD, EOS, PROMPT, RESPONSE = 11, 0, 1, 4, 5
CONFIG = networks.TransformerConfig(
    vocab_size=VOCAB, width=16, num_layers=1, num_heads=2, max_length=16
)


def evenness(prompt: Any, prompt_mask: Any, tokens: Any, mask: Any) -> Any:
    """Share of even tokens."""
    del prompt, prompt_mask
    return jnp.sum(mask & (tokens % 2 == 0), axis=1) / jnp.sum(mask, axis=1)


def prompts(count: int = 16) -> PromptBatch:
    """Left-padded prompts of 2 to 4 tokens."""
    tokens = 2 + (jnp.arange(count * PROMPT).reshape(count, PROMPT) * 7) % (VOCAB - 2)
    padding = jnp.arange(count) % 3
    mask = jnp.arange(PROMPT)[None, :] >= padding[:, None]
    tokens = jnp.where(mask, tokens, PAD).astype(jnp.int32)
    return PromptBatch(
        tokens, mask, jnp.arange(count, dtype=jnp.int32), jnp.ones(count)
    )


def documents(count: int = 4) -> SequenceBatch:
    """Sequences for the pretraining mix."""
    shape = (count, PROMPT + RESPONSE)
    tokens = (2 + jnp.arange(shape[0] * shape[1]).reshape(shape) % 5).astype(jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(shape[1], dtype=jnp.int32), shape)
    inputs = ModelInputs(
        tokens, jnp.ones(shape, bool), positions, jnp.zeros(shape, jnp.int32)
    )
    return SequenceBatch(
        inputs,
        jnp.ones(shape, bool),
        jnp.ones(shape),
        jnp.broadcast_to(jnp.arange(count, dtype=jnp.int32)[:, None], shape),
    )


def terms(**changes: Any) -> losses.Loss:
    """Policy and value terms of the default recipe."""
    found = {
        "policy": losses.Term(losses.clipped_surrogate(clip_eps=0.2)),
        "value": losses.Term(losses.clipped_value(clip_eps=0.2), weight=0.1),
    }
    return losses.combine(reduction=losses.token_mean, **{**found, **changes})


def build(**changes: Any) -> tuple[algorithms.PPO, Any, algorithms.Frozen]:
    """(PPO, initial state, frozen); keywords replace those of `algorithms.ppo`."""
    policy = networks.language_model(CONFIG)
    value = networks.scalar_model(CONFIG, head_init=networks.zeros())
    start = policy.init(rng.root(0))
    parts: dict[str, Any] = dict(
        policy=policy,
        value=value,
        initial=lambda key: {"policy": start, "value": value.init(key)},
        sampler=rollout.sampler(
            policy,
            max_length=RESPONSE,
            stop_tokens=(EOS,),
            pad_token=PAD,
            temperature=changes.get("temperature", 1.0),
        ),
        scorer=rollout.world_scorer(evenness),
        shaping=rewards.chain(rewards.score_at_last_token(), rewards.kl_penalty(0.05)),
        estimator=advantages.whitened(advantages.gae(discount=1.0, lam=0.95)),
        loss=terms(),
        optimizers={
            name: optimizers.optimizer("adam", 3e-3) for name in ("policy", "value")
        },
        epochs=2,
        minibatches=2,
    )
    ppo = algorithms.ppo(**{**parts, **changes})
    frozen = algorithms.Frozen(start, parts["scorer"].init(), {})
    return ppo, ppo.learner.init(rng.root(1)), frozen


def copied(tree: Any) -> Any:
    """Host copies: an update donates the state that it is given."""
    return jax.device_get(tree)


def largest_difference(a: Any, b: Any) -> float:
    """Largest absolute difference over two trees."""
    found = jax.tree.map(lambda x, y: jnp.max(jnp.abs(x - y)), a, b)
    return float(max(jax.tree.leaves(found)))
