"""The sampler: prefill and decode as one jitted program.

No host round trip per token; the state machine inside is that of `generation`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from rlhf_jax.rollout import generation
from rlhf_jax.rollout import logits as rules_of
from rlhf_jax.types import Array, Network, Params, PromptBatch, Rollout

Sampler = Callable[[Params, PromptBatch, Array], Rollout]

Program = Callable[[Params, PromptBatch, Array, Array | None], Rollout]
"""A sampler whose temperature is an argument, as `temperature_argument` gives it."""


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
    program = sampling_program(
        network,
        max_length=max_length,
        stop_tokens=stop_tokens,
        pad_token=pad_token,
        min_length=min_length,
        top_k=top_k,
        top_p=top_p,
        samples_per_prompt=samples_per_prompt,
        rules=rules,
    )
    return at_temperature(program, temperature)


def at_temperature(program: Program, temperature: float | int) -> Sampler:
    """The sampler of a program at one temperature.

    Raises:
      UserError: a temperature that logits cannot be divided by.
    """
    argument = temperature_argument(temperature)

    def sample(params: Params, prompt: PromptBatch, key: Array) -> Rollout:
        return program(params, prompt, key, argument)

    return sample


def temperature_argument(temperature: float | int) -> Array | None:
    """What a program is given for a temperature: float32[], None for 0 (greedy).

    Raises:
      UserError: a temperature that logits cannot be divided by.
    """
    rules_of.check_temperature(temperature)
    return None if temperature == 0 else jnp.asarray(temperature, jnp.float32)


def sampling_program(
    network: Network,
    *,
    max_length: int,
    stop_tokens: Sequence[int],
    pad_token: int,
    min_length: int = 0,
    top_k: int | None = None,
    top_p: float | int | None = None,
    samples_per_prompt: int = 1,
    rules: Sequence[rules_of.Rule] = (),
) -> Program:
    """`sampler` for every temperature: one program for all above 0, one for 0.

    Raises:
      UserError: a setting is out of its range.
    """
    machine = functools.partial(
        generation.machine,
        network,
        max_length=max_length,
        stop_tokens=stop_tokens,
        pad_token=pad_token,
        min_length=min_length,
        top_k=top_k,
        top_p=top_p,
        samples_per_prompt=samples_per_prompt,
        rules=rules,
    )
    machine(temperature=1.0)  # its settings are checked here, not at the first call

    @jax.jit
    def sample(
        params: Params, prompt: PromptBatch, key: Array, temperature: Array | None
    ) -> Rollout:
        parts = machine(temperature=0.0 if temperature is None else temperature)
        return parts.finish(prompt, generation.run(parts, params, prompt, key))

    return sample
