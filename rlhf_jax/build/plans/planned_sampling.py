"""Programs that sample, that score samples and that evaluate, as shapes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax import planning, rollout
from rlhf_jax.algorithms import collecting
from rlhf_jax.build.objective import aggregates
from rlhf_jax.build.plans import planned
from rlhf_jax.build.plans.planned import Planned
from rlhf_jax.build.stages import evaluating
from rlhf_jax.types import Network


def sampling(
    context: Any, sampler: Any, variables: Any, prompts: int, samples: int, beside: Any
) -> Planned:
    """A sampler's program: prefill and decode."""
    task, config = context.task, context.model.config
    key = context.placement.abstract(jax.eval_shape(lambda: jax.random.key(0)))
    batch = planned.rows(context, planned.prompts(prompts, task.prompt_length))
    once = planned.forward_flops(config, prompts, task.prompt_length)
    head = planned.forward_flops(config, prompts * samples, 0, columns=1)
    decoding = planned.decode_flops(
        config, prompts * samples, task.prompt_length, task.response_length
    )
    return Planned(
        "rollout",
        jax.jit(sampler),
        (variables, batch, key),
        beside=beside,
        phases=planned.SAMPLING,
        model_flops=once + head + decoding,
    )


def scoring(context: Any, source: str) -> list[Any]:
    """Frozen states of the reward models that a config names, in place."""
    return [] if context.user_scorer is not None else _members(context, source)


def watched(context: Any, source: str) -> list[Any]:
    """Those that evaluations alone read: what stands for gold, `eval_scorers`, and the
    members of an ensemble again, for their disagreement.

    Args:
      context: of the run.
      source: what is trained on, as the config names it.
    """
    gold = [] if context.gold_source == "task" else [context.gold_source]
    several = context.user_scorer is None and aggregates.parse(source)
    again = [source] if several and len(several.members) > 1 else []
    names = (*gold, *context.eval_scorers, *again)
    return [one for name in names for one in _members(context, name)]


def _members(context: Any, source: str) -> list[Any]:
    several = aggregates.parse(source)
    members = several.members if several else (source,)
    asked = [name for name in members if name in context.rewards]
    variables = planned.held(context, context.model.scalar())
    one = number(context)
    return [{"variables": variables, "gain": one, "bias": one} for _ in asked]


def number(context: Any) -> Any:
    """One number, in place."""
    return context.placement.abstract(planned.array(jnp.float32))


def scores(context: Any, scorers: list[Any], drawn: Any, beside: Any) -> list[Planned]:
    """The program of a reward model, once for each."""
    network: Network = context.model.scalar()
    program = context.compiled(
        "reward_model_scorer", (), lambda: rollout.reward_model_program(network)
    )
    count, length = drawn.tokens.shape[0], context.task.prompt_length
    flops = planned.forward_flops(network.config, count, length + drawn.tokens.shape[1])
    return [
        Planned(
            "score" if len(scorers) == 1 else f"score {index + 1}",
            program,
            (frozen, drawn),
            beside=(beside, [x for x in scorers if x is not frozen]),
            model_flops=flops,
        )
        for index, frozen in enumerate(scorers)
    ]


def evaluation(
    context: Any,
    network: Network,
    numbers: Any,
    variables: Any,
    reference: Any,
    scorers: list[Any],
    drawn: Any,
    *,
    others: Any,
) -> list[Planned]:
    """The programs of an evaluation on held-out prompts, beside the state of training.

    Its responses are measured all at once, without microbatches. To sample and to score
    them takes no more than in a step, unless a device has more rows of them.

    Args:
      context: of the run.
      network: the policy's.
      numbers: with `eval_prompts` and `eval_temperature`.
      variables: of the policy, in place.
      reference: its variables, in place.
      scorers: states of the reward models, in place.
      drawn: what a step samples.
      others: what of the train state is none of the policy's variables.
    """
    task, prompts = context.task, numbers.eval_prompts
    compiled = evaluating.programs(context, network, 1)
    temperature = None if numbers.eval_temperature == 0 else number(context)
    held = planned.rows(
        context,
        collecting.scored_like(
            prompts, 1, task.prompt_length, task.response_length, False
        ).rollout,
    )
    more = []
    if planning.per_device(held) > planning.per_device(drawn):
        beside = (others, reference, scorers)
        one = sampling(context, compiled.sample, variables, prompts, 1, beside)
        more = [
            one._replace(arguments=(*one.arguments, temperature)),
            *scores(context, scorers, held, beside=(others, variables, reference)),
        ]
    once = planned.forward_flops(
        network.config,
        prompts,
        task.prompt_length + task.response_length,
        # Log-probs need the language head once, the KL over the vocabulary once more.
        columns=2 * task.response_length,
    )
    measure = Planned(
        "evaluation",
        compiled.measure,
        (variables, reference, held, temperature),
        beside=(others, scorers),
        model_flops=2 * once,
        each_step=False,
    )
    return [
        *(one._replace(name=f"evaluation {one.name}", each_step=False) for one in more),
        measure,
    ]
