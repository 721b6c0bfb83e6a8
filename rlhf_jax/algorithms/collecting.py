"""Rollouts with their scores, before anything is learned from them.

Between sampling and learning three things may stand: a greedy response per prompt as
baseline (ReMax), a choice of the groups that teach something (DAPO), and a buffer that
hands out older rollouts (asynchronous RLHF).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax import metrics, rng
from rlhf_jax.algorithms import forward
from rlhf_jax.algorithms.parts import Frozen, Parts, PPOBatch
from rlhf_jax.errors import UserError
from rlhf_jax.types import Array, Metrics, PromptBatch, Rollout, TrainState


class Scored(NamedTuple):
    """What was sampled and how it was judged.

    Attributes:
      rollout: B responses.
      scores: float32[B].
      baseline: float32[B], score of the prompt's greedy response, or None.
      version: int32[B], step of the policy that sampled.
    """

    rollout: Rollout
    scores: Array
    baseline: Array | None
    version: Array


class Selection(NamedTuple):
    """Which rollouts are worth learning from.

    Attributes:
      keep: `keep(Scored) -> bool[B]`, equal for all rows of a prompt.
      rounds: how often prompts are drawn at most until enough are kept; a batch brings
        `rounds` times as many prompts as one round takes.
    """

    keep: Callable[[Scored], Array]
    rounds: int


class Staleness(NamedTuple):
    """A buffer of rollouts that are learned from some steps late.

    Step `t` learns from what step `t - min(t, steps)` sampled; the first rollouts are
    learned from once in each of the first `steps + 1` steps. The buffer is part of the
    train state, so a resumed run replays it.

    Attributes:
      steps: how many steps late.
      empty: a `Scored` of the right shapes and dtypes (see `scored_like`).
    """

    steps: int
    empty: Scored


def informative_groups(group_size: int, rounds: int) -> Selection:
    """DAPO's dynamic sampling (2503.14476, section 3.2).

    Groups whose responses all have the same score have no advantage and dilute the
    batch; prompts are drawn until the batch is full of groups that vary, at most
    `rounds` times. What is still missing then has weight 0.

    Args:
      group_size: G responses of one prompt, neighbours in the batch.
      rounds: at least 1.
    """
    if group_size < 2 or rounds < 1:
        raise UserError(
            f"informative_groups: group_size {group_size} must be at least 2 and rounds"
            f" {rounds} at least 1"
        )

    def keep(scored: Scored) -> Array:
        groups = scored.scores.reshape(-1, group_size)
        varies = jnp.max(groups, axis=1) > jnp.min(groups, axis=1)
        return jnp.repeat(varies, group_size)

    return Selection(keep, rounds)


def scored_like(
    prompts: int, samples: int, prompt_length: int, response_length: int, baseline: bool
) -> Scored:
    """Empty rollouts of a shape, for `Staleness`."""
    size, width = prompts * samples, (prompts * samples, response_length)
    prompt = PromptBatch(
        tokens=jnp.zeros((size, prompt_length), jnp.int32),
        mask=jnp.zeros((size, prompt_length), bool),
        example_id=jnp.zeros(size, jnp.int32),
        weight=jnp.zeros(size, jnp.float32),
    )
    rollout = Rollout(
        prompt=prompt,
        tokens=jnp.zeros(width, jnp.int32),
        mask=jnp.zeros(width, bool),
        logprobs=jnp.zeros(width, jnp.float32),
        terminal=jnp.zeros(width, bool),
        truncated=jnp.zeros(size, bool),
    )
    scores = jnp.zeros(size, jnp.float32)
    version = jnp.zeros(size, jnp.int32)
    return Scored(rollout, scores, scores if baseline else None, version)


class Clock:
    """Seconds of each phase; waits for the devices, once a phase."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def __call__(self, phase: str, result: Any) -> Any:
        jax.block_until_ready(result)
        now = time.perf_counter()
        self._seconds[phase] = self._seconds.get(phase, 0.0) + now - self._since
        self._since = now
        return result

    @property
    def metrics(self) -> dict[str, metrics.Mean]:
        """`time/<phase>`, seconds."""
        return {f"time/{k}": metrics.scalar(v) for k, v in self._seconds.items()}


def gather(
    parts: Parts, state: TrainState, frozen: Frozen, batch: PPOBatch, clock: Clock
) -> tuple[Scored, Metrics]:
    """Samples and scores what one iteration learns from.

    Called on the host: a scorer may be Python, and dynamic sampling looks at scores.
    """
    selection = parts.selection
    if selection is None:
        return _draw(parts, state, frozen, batch.prompts, 0, clock), {}
    rounds = _rounds(batch.prompts, selection.rounds)
    scored = _draw(parts, state, frozen, rounds[0], 0, clock)
    good = selection.keep(scored)
    kept, drawn, used = int(jnp.sum(good)), good.size, 1
    for prompts in rounds[1:]:
        if bool(jnp.all(good)):
            break
        fresh = _draw(parts, state, frozen, prompts, used, clock)
        new = selection.keep(fresh)
        kept, drawn, used = kept + int(jnp.sum(new)), drawn + new.size, used + 1
        scored, good = _merge(scored, good, fresh, new)
    prompt = scored.rollout.prompt
    prompt = prompt._replace(weight=jnp.where(good, prompt.weight, 0.0))
    scored = scored._replace(rollout=scored.rollout._replace(prompt=prompt))
    return scored, {
        "rollout/kept_fraction": metrics.scalar(kept / drawn),
        "rollout/rounds": metrics.scalar(used),
    }


def _draw(
    parts: Parts,
    state: TrainState,
    frozen: Frozen,
    prompts: PromptBatch,
    attempt: int,
    clock: Clock,
) -> Scored:
    variables = forward.merged(frozen.policy_base, state.params["policy"])
    names = ("rollout",) if attempt == 0 else ("rollout", attempt)
    key = rng.named(state.key, state.step, *names)
    rollout = clock("rollout", parts.sampler(variables, prompts, key))
    baseline = None
    if parts.baseline_sampler is not None:
        greedy = clock("rollout", parts.baseline_sampler(variables, prompts, key))
        found = parts.scorer.apply(frozen.scorer, variables, greedy).sequence
        baseline = jnp.repeat(found, rollout.mask.shape[0] // found.shape[0])
    scores = parts.scorer.apply(frozen.scorer, variables, rollout)
    clock("score", scores)
    version = jnp.full(rollout.truncated.shape, state.step, jnp.int32)
    return Scored(rollout, scores.sequence, baseline, version)


def _rounds(prompts: PromptBatch, count: int) -> list[PromptBatch]:
    size = prompts.tokens.shape[0]
    if size % count:
        raise UserError(
            f"a batch of {size} prompts does not divide into {count} rounds of dynamic"
            " sampling; bring `rounds` times the prompts of one round"
        )
    rows = size // count
    return [
        jax.tree.map(lambda x, i=i: x[i * rows : (i + 1) * rows], prompts)
        for i in range(count)
    ]


@jax.jit
def _merge(
    first: Scored, good: Array, fresh: Scored, new: Array
) -> tuple[Scored, Array]:
    """The kept rows of both, then others to fill the batch, in their order."""
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, fresh)
    all_good = jnp.concatenate([good, new])
    order = jnp.argsort(~all_good, stable=True)[: good.shape[0]]
    return jax.tree.map(lambda x: x[order], both), all_good[order]


def empty_buffer(staleness: Staleness | None) -> Any:
    """The state of the buffer before the first step: [steps + 1, ...], or None."""
    if staleness is None:
        return None
    return jax.tree.map(
        lambda x: jnp.zeros((staleness.steps + 1, *x.shape), x.dtype), staleness.empty
    )


@jax.jit
def exchange(buffer: Any, fresh: Scored, step: Array) -> tuple[Any, Scored]:
    """Puts rollouts in, takes the oldest that are due out."""
    slots = jax.tree.leaves(buffer)[0].shape[0]
    late = jnp.minimum(step, slots - 1)
    buffer = jax.tree.map(lambda b, x: b.at[step % slots].set(x), buffer, fresh)
    return buffer, jax.tree.map(lambda b: b[(step - late) % slots], buffer)
