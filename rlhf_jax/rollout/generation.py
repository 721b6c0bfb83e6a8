"""Sampling as a state machine: one state, one step, one `while_loop`.

`machine` gives the pure functions (start, step, running, finish), for streaming and for
tests; `run` is their loop, which ends when every row has stopped or `max_length` is
reached.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax import networks, rng
from rlhf_jax.ops import logprobs, masking
from rlhf_jax.rollout import logits as rules_of
from rlhf_jax.types import Array, ModelInputs, Network, Params, PromptBatch, Rollout


class SamplingState(NamedTuple):
    """Everything that a sampling step reads and writes.

    Attributes:
      length: int32[], response tokens sampled so far (also the next free column).
      done: bool[B], the row has sampled a stop token.
      tokens: int32[B T]; the pad token where `mask` is False.
      mask: bool[B T].
      logprobs: float32[B T] of the distribution sampled from; 0 where not real.
      terminal: bool[B T], True at the stop token.
      prompt_length: int32[B], real tokens of the prompt.
      cache: the network's key-value cache, prompts and response so far.
      key: typed key of the whole call; step `t` draws with `named(key, "sample", t)`.
    """

    length: Array
    done: Array
    tokens: Array
    mask: Array
    logprobs: Array
    terminal: Array
    prompt_length: Array
    cache: Any
    key: Array


class Machine(NamedTuple):
    """Sampling in pure functions.

    Attributes:
      prepare: `prepare(params) -> params` that start and step read faster.
      start: `start(params, PromptBatch, key) -> SamplingState`; prefills the prompts
        once, repeats the cache for the samples and draws the first token.
      step: `step(params, SamplingState) -> SamplingState`; reads the last token, draws
        the next.
      running: `running(SamplingState) -> bool[]`; False once all rows are done.
      finish: `finish(PromptBatch, SamplingState) -> Rollout`.
    """

    prepare: Callable[[Params], Params]
    start: Callable[[Params, PromptBatch, Array], SamplingState]
    step: Callable[[Params, SamplingState], SamplingState]
    running: Callable[[SamplingState], Array]
    finish: Callable[[PromptBatch, SamplingState], Rollout]


def machine(
    network: Network,
    *,
    max_length: int,
    stop_tokens: Sequence[int],
    pad_token: int,
    temperature: rules_of.Number,
    min_length: int = 0,
    top_k: int | None = None,
    top_p: float | int | None = None,
    samples_per_prompt: int = 1,
    rules: Sequence[rules_of.Rule] = (),
) -> Machine:
    """The state machine of `sampler`, whose arguments it takes; inside of a program the
    temperature may be one of its arguments."""
    rules_of.check_settings(
        max_length=max_length,
        min_length=min_length,
        sampling_temperature=temperature,
        k=top_k,
        p=top_p,
        samples_per_prompt=samples_per_prompt,
        tokens=(*stop_tokens, pad_token),
        vocab_size=network.config.vocab_size,
    )
    standard = rules_of.standard(
        sampling_temperature=temperature,
        k=top_k,
        p=top_p,
        min_length=min_length,
        stop_tokens=stop_tokens,
    )
    plan = _Plan(
        network=network,
        rules=(*rules, *standard),
        greedy=not isinstance(temperature, Array) and temperature == 0,
        max_length=max_length,
        stop_tokens=tuple(stop_tokens),
        pad_token=pad_token,
        samples_per_prompt=samples_per_prompt,
    )
    return Machine(
        prepare=network.for_decoding,
        start=partial(_start, plan),
        step=partial(_step, plan),
        running=partial(_running, plan),
        finish=partial(_finish, plan),
    )


class _Plan(NamedTuple):
    """What is fixed before any array exists."""

    network: Network
    rules: tuple[rules_of.Rule, ...]
    greedy: bool
    max_length: int
    stop_tokens: tuple[int, ...]
    pad_token: int
    samples_per_prompt: int


def _start(
    plan: _Plan, params: Params, prompt: PromptBatch, key: Array
) -> SamplingState:
    """Prefill; only the last column's hidden state goes on to the language head."""
    batch, width = prompt.tokens.shape
    times, length = plan.samples_per_prompt, plan.max_length
    cache = plan.network.init_cache(batch, width + length - 1)
    outputs = plan.network.apply(params, prompt_inputs(prompt), cache)
    cache = networks.repeat_cache(outputs.cache, times) if times > 1 else outputs.cache
    shape = (batch * times, length)
    real = jnp.sum(prompt.mask, axis=1, dtype=jnp.int32)
    state = SamplingState(
        length=jnp.zeros((), jnp.int32),
        done=jnp.zeros(shape[:1], bool),
        tokens=jnp.full(shape, plan.pad_token, jnp.int32),
        mask=jnp.zeros(shape, bool),
        logprobs=jnp.zeros(shape, jnp.float32),
        terminal=jnp.zeros(shape, bool),
        prompt_length=_repeat(real, times),
        cache=cache,
        key=key,
    )
    return _extend(plan, params, _repeat(outputs.hidden[:, -1], times), state)


def _step(plan: _Plan, params: Params, state: SamplingState) -> SamplingState:
    """Read the last token, draw the next; done rows read padding."""

    def last(buffer: Array) -> Array:
        return jax.lax.dynamic_slice_in_dim(buffer, state.length - 1, 1, axis=1)

    inputs = ModelInputs(
        tokens=last(state.tokens),
        mask=last(state.mask),
        positions=(state.prompt_length + state.length - 1)[:, None],
        segment_ids=jnp.zeros_like(last(state.tokens)),
    )
    outputs = plan.network.apply(params, inputs, state.cache)
    state = state._replace(cache=outputs.cache)
    return _extend(plan, params, outputs.hidden[:, -1], state)


def _extend(
    plan: _Plan, params: Params, hidden: Array, state: SamplingState
) -> SamplingState:
    """Draw one token per row from `hidden[B D]` and write it, where not done."""
    logits = networks.logits(plan.network, params, hidden)
    tokens, chosen = _choose(plan, logits, state)
    alive = ~state.done
    stops = jnp.asarray(plan.stop_tokens, jnp.int32)
    stopped = alive & jnp.isin(tokens, stops)

    def write(buffer: Array, column: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(
            buffer, column[:, None], state.length, axis=1
        )

    return state._replace(
        length=state.length + 1,
        done=state.done | stopped,
        tokens=write(state.tokens, jnp.where(alive, tokens, plan.pad_token)),
        mask=write(state.mask, alive),
        logprobs=write(state.logprobs, jnp.where(alive, chosen, 0.0)),
        terminal=write(state.terminal, stopped),
    )


def _choose(plan: _Plan, logits: Array, state: SamplingState) -> tuple[Array, Array]:
    """Tokens int32[B] and their log-probs under the distribution sampled from."""
    logits = rules_of.apply_rules(plan.rules, logits, state.length)
    if plan.greedy:
        tokens = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        return tokens, jnp.zeros(tokens.shape, jnp.float32)
    tokens = rules_of.draw(rng.named(state.key, "sample", state.length), logits)
    return tokens, logprobs.from_logits(logits, tokens)


def _running(plan: _Plan, state: SamplingState) -> Array:
    return (state.length < plan.max_length) & ~jnp.all(state.done)


def _finish(plan: _Plan, prompt: PromptBatch, state: SamplingState) -> Rollout:
    return Rollout(
        prompt=jax.tree.map(lambda x: _repeat(x, plan.samples_per_prompt), prompt),
        tokens=state.tokens,
        mask=state.mask,
        logprobs=state.logprobs,
        terminal=state.terminal,
        truncated=~state.done,
    )


def run(
    parts: Machine, params: Params, prompt: PromptBatch, key: Array
) -> SamplingState:
    """Start the machine and step it until no row is left, as one `while_loop`."""
    with jax.named_scope("prefill"):
        params = parts.prepare(params)
        state = parts.start(params, prompt, key)
    with jax.named_scope("decode"):
        return jax.lax.while_loop(
            parts.running, lambda state: parts.step(params, state), state
        )


def prompt_inputs(prompt: PromptBatch) -> ModelInputs:
    """What the network reads of left-padded prompts, [B P]."""
    return ModelInputs(
        tokens=prompt.tokens,
        mask=prompt.mask,
        positions=masking.positions_from_mask(prompt.mask),
        segment_ids=jnp.zeros_like(prompt.tokens),
    )


def _repeat(x: Array, times: int) -> Array:
    return x if times == 1 else jnp.repeat(x, times, axis=0)
