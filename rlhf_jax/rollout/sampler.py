"""The sampler: prefill and decode as one jitted program.

No host round trip per token; the state machine inside is that of `generation`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax

from rlhf_jax.rollout import generation
from rlhf_jax.rollout import logits as rules_of
from rlhf_jax.types import Array, Network, Params, PromptBatch, Rollout

Sampler = Callable[[Params, PromptBatch, Array], Rollout]


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
    parts = generation.machine(
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
        return parts.finish(prompt, generation.run(parts, params, prompt, key))

    return sample
