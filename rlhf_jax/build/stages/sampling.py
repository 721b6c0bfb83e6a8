"""Samplers of a task, compiled once for all runs of a process."""

from __future__ import annotations

from typing import Any

from rlhf_jax import rollout, worlds
from rlhf_jax.build.runs.context import Context
from rlhf_jax.types import Network


def sampler(
    context: Context,
    network: Network,
    *,
    temperature: float,
    samples: int,
    made_of: tuple[Any, ...] = (),
) -> rollout.Sampler:
    """Draws responses to the task's prompts from the whole softmax.

    Args:
      context: of the run.
      network: the language model.
      temperature: 0 takes the likeliest token.
      samples: responses per prompt.
      made_of: what else tells the network from others of its architecture.
    """
    task = context.task
    program = context.compiled(
        "sampler",
        (samples, repr(network.config), *made_of),
        lambda: rollout.sampling_program(
            network,
            max_length=task.response_length,
            stop_tokens=task.stop_tokens,
            pad_token=task.tokenizer.pad_token,
            samples_per_prompt=samples,
        ),
    )
    draw = rollout.at_temperature(program, temperature)
    return worlds.ends_at(draw, task.response_length) if task.ends_at_length else draw
