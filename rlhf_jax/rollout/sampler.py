"""Sampling as a state machine: one state, one step, one `while_loop`.

`machine` gives the pure functions (start, step, running, finish), for streaming and for
tests; `sampler` is their loop as one jitted program, with no host round trip per token.
The loop ends when every row has stopped or `max_length` is reached.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax import networks, rng
from rlhf_jax.ops import logprobs, masking
from rlhf_jax.rollout import logits as rules_of
from rlhf_jax.types import Array, ModelInputs, Network, Params, PromptBatch, Rollout

Sampler = Callable[[Params, PromptBatch, Array], Rollout]


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
    """Sampling in four pure functions.

    Attributes:
      start: `start(params, PromptBatch, key) -> SamplingState`; prefills the prompts
        once, repeats the cache for the samples and draws the first token.
      step: `step(params, SamplingState) -> SamplingState`; reads the last token, draws
        the next.
      running: `running(SamplingState) -> bool[]`; False once all rows are done.
      finish: `finish(PromptBatch, SamplingState) -> Rollout`.
    """

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
    temperature: float | int,
    min_length: int = 0,
    top_k: int | None = None,
    top_p: float | int | None = None,
    samples_per_prompt: int = 1,
    rules: Sequence[rules_of.Rule] = (),
) -> Machine:
    """The state machine of `sampler`, whose arguments it takes."""
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
    every_rule = tuple(rules) + rules_of.standard(
        sampling_temperature=temperature,
        k=top_k,
        p=top_p,
        min_length=min_length,
        stop_tokens=stop_tokens,
    )
    stops = jnp.asarray(tuple(stop_tokens), jnp.int32)

    def choose(logits: Array, state: SamplingState) -> tuple[Array, Array]:
        logits = rules_of.apply_rules(every_rule, logits, state.length)
        if temperature == 0:
            tokens = jnp.argmax(logits, axis=-1).astype(jnp.int32)
            return tokens, jnp.zeros(tokens.shape, jnp.float32)
        tokens = rules_of.draw(rng.named(state.key, "sample", state.length), logits)
        return tokens, logprobs.from_logits(logits, tokens)

    def extend(params: Params, hidden: Array, state: SamplingState) -> SamplingState:
        tokens, chosen = choose(networks.logits(network, params, hidden), state)
        alive = ~state.done
        stopped = alive & jnp.isin(tokens, stops)

        def write(buffer: Array, column: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(
                buffer, column[:, None], state.length, axis=1
            )

        return state._replace(
            length=state.length + 1,
            done=state.done | stopped,
            tokens=write(state.tokens, jnp.where(alive, tokens, pad_token)),
            mask=write(state.mask, alive),
            logprobs=write(state.logprobs, jnp.where(alive, chosen, 0.0)),
            terminal=write(state.terminal, stopped),
        )

    def start(params: Params, prompt: PromptBatch, key: Array) -> SamplingState:
        batch, width = prompt.tokens.shape
        cache = network.init_cache(batch, width + max_length - 1)
        outputs = network.apply(params, prompt_inputs(prompt), cache)
        cache = outputs.cache
        if samples_per_prompt > 1:
            cache = networks.repeat_cache(cache, samples_per_prompt)
        rows = batch * samples_per_prompt
        state = SamplingState(
            length=jnp.zeros((), jnp.int32),
            done=jnp.zeros((rows,), bool),
            tokens=jnp.full((rows, max_length), pad_token, jnp.int32),
            mask=jnp.zeros((rows, max_length), bool),
            logprobs=jnp.zeros((rows, max_length), jnp.float32),
            terminal=jnp.zeros((rows, max_length), bool),
            prompt_length=_repeat(
                jnp.sum(prompt.mask, axis=1, dtype=jnp.int32), samples_per_prompt
            ),
            cache=cache,
            key=key,
        )
        hidden = _repeat(outputs.hidden[:, -1], samples_per_prompt)
        return extend(params, hidden, state)

    def step(params: Params, state: SamplingState) -> SamplingState:
        last = jax.lax.dynamic_slice_in_dim(state.tokens, state.length - 1, 1, axis=1)
        real = jax.lax.dynamic_slice_in_dim(state.mask, state.length - 1, 1, axis=1)
        inputs = ModelInputs(
            tokens=last,
            mask=real,
            positions=(state.prompt_length + state.length - 1)[:, None],
            segment_ids=jnp.zeros_like(last),
        )
        outputs = network.apply(params, inputs, state.cache)
        state = state._replace(cache=outputs.cache)
        return extend(params, outputs.hidden[:, -1], state)

    def running(state: SamplingState) -> Array:
        return (state.length < max_length) & ~jnp.all(state.done)

    def finish(prompt: PromptBatch, state: SamplingState) -> Rollout:
        return Rollout(
            prompt=jax.tree.map(lambda x: _repeat(x, samples_per_prompt), prompt),
            tokens=state.tokens,
            mask=state.mask,
            logprobs=state.logprobs,
            terminal=state.terminal,
            truncated=~state.done,
        )

    return Machine(start, step, running, finish)


def run(
    parts: Machine, params: Params, prompt: PromptBatch, key: Array
) -> SamplingState:
    """Start the machine and step it until no row is left, as one `while_loop`."""
    state = parts.start(params, prompt, key)
    return jax.lax.while_loop(
        parts.running, lambda state: parts.step(params, state), state
    )


def sampler(
    network: Network,
    *,
    max_length: int,
    stop_tokens: Sequence[int],
    pad_token: int,
    temperature: float | int,
    min_length: int = 0,
    top_k: int | None = None,
    top_p: float | int | None = None,
    samples_per_prompt: int = 1,
    rules: Sequence[rules_of.Rule] = (),
) -> Sampler:
    """Jitted sampling of responses; compiled once for each shape of the prompts.

    Args:
      network: the language model.
      max_length: T, the largest number of response tokens, the stop token included.
      stop_tokens: ids that end a response; the one sampled is part of it. With none,
        every response is truncated at `max_length`.
      pad_token: what fills the columns after the end; it may equal a stop token, since
        the mask says what is real.
      temperature: divides the logits; 0 takes the likeliest token.
      min_length: number of tokens that must precede a stop token.
      top_k: keep the k likeliest tokens. None: all.
      top_p: keep the likeliest tokens that hold this probability together. None: all.
      samples_per_prompt: G responses per prompt, from one prefill; rows of one prompt
        are neighbors in the result.
      rules: further `logits.Rule`s, applied before those above.

    Returns:
      `sample(params, PromptBatch[B P], key) -> Rollout[B*G ...]`. Log-probs are those
      of the distribution sampled from: at this temperature, renormalized over what
      minimum length, top-k and top-p leave. At temperature 0 that distribution is one
      point and the log-probs are 0.

    Raises:
      UserError: a setting is out of its range.
    """
    parts = machine(
        network,
        max_length=max_length,
        stop_tokens=stop_tokens,
        pad_token=pad_token,
        temperature=temperature,
        min_length=min_length,
        top_k=top_k,
        top_p=top_p,
        samples_per_prompt=samples_per_prompt,
        rules=rules,
    )

    @jax.jit
    def sample(params: Params, prompt: PromptBatch, key: Array) -> Rollout:
        return parts.finish(prompt, run(parts, params, prompt, key))

    return sample


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
