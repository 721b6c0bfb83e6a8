"""This project's worker: a PPO iteration, sampling alone, or the update alone."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp
from work import Channel, Work, asked

from rlhf_jax import (
    advantages,
    algorithms,
    losses,
    metrics,
    networks,
    optimizers,
    rewards,
    rng,
    rollout,
)
from rlhf_jax.algorithms import optimization
from rlhf_jax.types import PromptBatch

TRIES = 8


def learner(work: Work, **options: Any) -> tuple[algorithms.PPO, algorithms.Frozen]:
    """PPO as a user would write it, and what it reads; `options` of both networks."""
    config = networks.presets.llama(
        vocab_size=work.vocab,
        width=work.width,
        mlp_width=work.mlp,
        num_layers=work.layers,
        num_heads=work.heads,
    )
    policy = networks.language_model(config, **options)
    value = networks.scalar_model(config, **options)
    start = policy.init(rng.root(0))
    ppo = algorithms.ppo(
        policy=policy,
        value=value,
        initial=lambda key: {"policy": start, "value": value.init(key)},
        sampler=rollout.sampler(
            policy,
            max_length=work.response,
            stop_tokens=[],
            pad_token=0,
            temperature=1.0,
        ),
        scorer=rollout.reward_model_scorer(value, value.init(rng.root(2))),
        shaping=rewards.chain(rewards.score_at_last_token(), rewards.kl_penalty(0.05)),
        estimator=advantages.whitened(advantages.gae(discount=1.0, lam=0.95)),
        loss=losses.combine(
            policy=losses.Term(losses.clipped_surrogate(clip_eps=0.2), weight=1.0),
            value=losses.Term(losses.clipped_value(clip_eps=0.2), weight=0.1),
            reduction=losses.token_mean,
        ),
        optimizers={
            n: optimizers.optimizer("adamw", 1e-5) for n in ("policy", "value")
        },
        epochs=work.epochs,
    )
    scorer = ppo.parts.scorer.init()
    return ppo, algorithms.Frozen(reference=start, scorer=scorer, policy_base={})


def prompts(work: Work) -> PromptBatch:
    """The prompts as one batch."""
    tokens = jnp.asarray(work.tokens(), jnp.int32)
    ids = jnp.arange(work.batch)
    return PromptBatch(tokens, jnp.ones(tokens.shape, bool), ids, jnp.ones(work.batch))


def iteration(work: Work, **options: Any):
    """`once()` of a whole PPO iteration; its parts are the phases."""
    ppo, frozen = learner(work, **options)
    held = {"state": ppo.learner.init(rng.root(1))}
    batch = algorithms.PPOBatch(prompts(work))

    def once() -> dict[str, float]:
        held["state"], measured = ppo.learner.update(held["state"], frozen, batch)
        found = metrics.finish(measured)
        return {k.removeprefix("time/"): v for k, v in found.items() if "time/" in k}

    return once


def sampling(work: Work):
    """`once()` of sampling alone."""
    ppo, frozen = learner(work)
    batch, key = prompts(work), rng.root(3)

    def once() -> dict[str, float]:
        jax.block_until_ready(ppo.parts.sampler(frozen.reference, batch, key))
        return {}

    return once


def update(work: Work):
    """`once()` of the update alone; beside it the machine's rate of products, FLOP/s,
    at the shapes of a layer's projections forward and backward."""
    ppo, frozen = learner(work)
    state = ppo.learner.init(rng.root(1))
    batch = algorithms.PPOBatch(prompts(work))
    collected = ppo.explain(state, frozen, batch).experience
    learn = jax.jit(
        lambda *args: optimization.optimize(ppo.parts, *args, collected, None),
        donate_argnums=0,
    )
    held = {"state": state}
    fixed = frozen._replace(scorer=())
    measure = product_rate(work)

    def once() -> dict[str, float]:
        since = time.perf_counter()
        held["state"], _ = jax.block_until_ready(learn(held["state"], fixed))
        return {"update": time.perf_counter() - since, "product_rate": measure()}

    return once


def product_rate(work: Work):
    """A function that measures FLOP/s of the products of one layer, forward and
    backward, each at its best of `TRIES`."""
    tokens = work.batch * (work.prompt + work.response)
    shapes = {(work.width, work.width): 4, (work.width, work.mlp): 3}
    plain, turned = jax.jit(lambda a, b: a @ b), jax.jit(lambda a, b: a.T @ b)
    calls, flops = [], 0
    for (rows, columns), count in shapes.items():
        x, y = jnp.ones((tokens, rows)), jnp.ones((tokens, columns))
        kernel = jnp.ones((rows, columns))
        products = [(plain, x, kernel), (plain, y, kernel.T), (turned, x, y)]
        calls += [(count, *product) for product in products]
        flops += count * 3 * 2 * tokens * rows * columns

    def best(product, a, b) -> float:
        seconds = []
        for _ in range(TRIES):
            since = time.perf_counter()
            product(a, b).block_until_ready()
            seconds.append(time.perf_counter() - since)
        return min(seconds)

    return lambda: flops / sum(count * best(*call) for count, *call in calls)


def main() -> None:
    kind, work, _ = asked()
    channel = Channel()
    once = {"ppo": iteration, "sample": sampling, "update": update}[kind](work)
    channel.ready("rlhf_jax", "jax", "jaxlib", "flax")
    channel.serve(once)


if __name__ == "__main__":
    main()
