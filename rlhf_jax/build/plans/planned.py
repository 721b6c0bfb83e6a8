"""The programs of a stage as shapes: what `plan` compiles instead of running it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax import algorithms, rng
from rlhf_jax.build.runs import models
from rlhf_jax.networks import TransformerConfig
from rlhf_jax.types import (
    ComparisonBatch,
    Learner,
    ModelInputs,
    Network,
    Params,
    PromptBatch,
    RankingBatch,
    SequenceBatch,
)

EXPERIENCE = ("update", "values", "reference", "experience")
"""Parts of a PPO step, the innermost first: `jax.named_scope`s of the program."""
SAMPLING = ("decode", "prefill")
"""Parts of a sampler."""


class Planned(NamedTuple):
    """One program of a stage.

    Attributes:
      name: e.g. `rollout`.
      function: what `jax.jit` made; it is lowered with the arguments.
      arguments: abstract arrays with shardings.
      beside: abstract trees that stay on the devices meanwhile and are no arguments.
      phases: scopes to tell apart; the first that fits counts.
      model_flops: of matrix products by formula, all devices together: 2 N for each
        token forward, 6 N for one that is trained on, and attention.
      each_step: False for a program that runs now and then: its memory counts, its time
        is none of a step.
    """

    name: str
    function: Any
    arguments: tuple[Any, ...]
    beside: Any = ()
    phases: tuple[str, ...] = ()
    model_flops: float = 0.0
    each_step: bool = True


class Plan(NamedTuple):
    """A stage's programs: those of a step, each run once, and an evaluation's.

    Attributes:
      programs: in the order in which they run.
      tokens: that a step learns from, padding included.
    """

    programs: list[Planned]
    tokens: int


def learning(
    context: Any,
    name: str,
    learner: Learner,
    *,
    frozen: Any,
    batch: Any,
    tokens: int,
    model_flops: float,
) -> Plan:
    """The plan of a stage whose step is one program, `learner.update`.

    Args:
      context: of the run.
      name: of the stage.
      learner: of the stage.
      frozen: abstract, in place.
      batch: abstract.
      tokens: of the batch.
      model_flops: see `Planned`.
    """
    arguments = (state(context, name, learner), frozen, rows(context, batch))
    one = Planned("update", learner.update, arguments, model_flops=model_flops)
    return Plan([one], tokens)


def preference(stage: Any, context: Any) -> Plan:
    """The plan of a `preference` stage.

    Args:
      stage: what the section says, and what was built from it.
      context: of the run.
    """
    fixed = {"pairs": 2, "labels": 1}.get(stage.needs.batch)
    count = fixed or responses(context, stage.name, stage.source.name)
    length, config = context.task.length, stage.network.config
    reference = None if stage.compared is None else held(context, stage.compared)
    each = stage.batch_size * count
    once = forward_flops(config, each, length, columns=length - 1)
    return learning(
        context,
        stage.name,
        stage.learner,
        frozen=algorithms.PreferenceFrozen(base(context, stage.network), reference),
        batch=comparisons(
            stage.batch_size,
            count,
            length,
            mismatched=stage.needs.mismatched,
            scored=stage.cache,
            wins=bool(stage.needs.wins),
        ),
        tokens=each * length,
        model_flops=(3 + (reference is not None)) * once,
    )


def state(context: Any, name: str, learner: Learner) -> Any:
    """The train state of a stage, in place."""
    made = jax.eval_shape(learner.init, context.init_key(name))
    return context.placement.abstract(made)


def variables(context: Any, network: Network) -> Params:
    """Variables of a network, in place."""
    return context.placement.abstract(jax.eval_shape(network.init, rng.root(0)))


def held(context: Any, network: Network) -> Params:
    """Variables of a network that is asked and not trained, in place."""
    made = jax.eval_shape(
        lambda key: context.model.held(network.init(key)), rng.root(0)
    )
    return context.placement.frozen().abstract(made)


def base(context: Any, network: Network) -> Params:
    """Variables under those that train: none without adapters."""
    return models.trainable(variables(context, network), context.model.lora)[0]


def rows(context: Any, batch: Any) -> Any:
    """A batch, its rows laid over the devices."""
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        batch,
        context.placement.rows(batch),
    )


def responses(context: Any, name: str, source: str) -> int:
    """Responses of a ranking: as a stage collects them, or as the task has them.

    Args:
      context: of the run.
      name: of the stage that reads them.
      source: `task`, or stages that collect labels.
    """
    first = source.split(",")[0]
    if first != "task":
        return context.settings[name][first]["responses"]
    return len(context.task.rankings.records[0].responses)


def inputs(*shape: int) -> ModelInputs:
    """Tokens with masks, e.g. [B L]."""
    return ModelInputs(_int(*shape), array(bool, *shape), _int(*shape), _int(*shape))


def prompts(rows: int, length: int) -> PromptBatch:
    """Left-padded prompts."""
    tokens, mask = _int(rows, length), array(bool, rows, length)
    return PromptBatch(tokens, mask, _int(rows), array(jnp.float32, rows))


def sequences(rows: int, length: int) -> SequenceBatch:
    """Rows for next-token prediction."""
    mask, weight = array(bool, rows, length), array(jnp.float32, rows, length)
    return SequenceBatch(inputs(rows, length), mask, weight, _int(rows, length))


def rankings(rows: int, responses: int, length: int) -> RankingBatch:
    """Ranked responses."""
    number = array(jnp.float32, rows)
    return RankingBatch(
        inputs(rows, responses, length),
        _int(rows, responses),
        number,
        _int(rows),
        number,
    )


def comparisons(
    rows: int,
    responses: int,
    length: int,
    *,
    mismatched: bool,
    scored: bool,
    wins: bool,
) -> ComparisonBatch:
    """Compared responses.

    Args:
      rows: prompts.
      responses: of each.
      length: of prompt and response together.
      mismatched: with responses of other prompts.
      scored: with log-probs of the reference, computed beforehand.
      wins: with chances of winning.
    """
    shape, numbers = (rows, responses, length), array(jnp.float32, rows, responses)
    logprobs = numbers if scored else None
    return ComparisonBatch(
        inputs=inputs(*shape),
        response=array(bool, *shape),
        ranks=_int(rows, responses),
        example_id=_int(rows),
        weight=array(jnp.float32, rows),
        mismatched=inputs(*shape) if mismatched else None,
        mismatched_response=array(bool, *shape) if mismatched else None,
        ref_logprobs=logprobs,
        mismatched_ref_logprobs=logprobs if mismatched else None,
        win_probability=numbers if wins else None,
    )


def _int(*shape: int) -> Any:
    return array(jnp.int32, *shape)


def array(dtype: Any, *shape: int) -> Any:
    """An abstract array."""
    return jax.ShapeDtypeStruct(shape, dtype)


def forward_flops(config: Any, rows: int, length: int, *, columns: int = 0) -> float:
    """Operations of a forward pass by formula: 2 N per token, and attention.

    N counts the matrices of the layers, and the language head for the columns that
    have one; attention reads every column, masked or not. A table has no products.

    Args:
      config: of the network: a `TransformerConfig`, or that of a table.
      rows: sequences.
      length: tokens of each.
      columns: of each that go through the language head.
    """
    if not isinstance(config, TransformerConfig):
        return 0.0
    heads = config.num_heads * config.head_width
    kept = config.kv_heads * config.head_width
    mlp = (2 + config.gated_mlp) * config.hidden_width
    layer = config.width * (2 * heads + 2 * kept + mlp) + 2 * length * heads
    head = columns * config.width * config.vocab_size
    return 2.0 * rows * (length * config.num_layers * layer + head)


def decode_flops(config: Any, rows: int, prompt: int, response: int) -> float:
    """Operations of sampling every token after the first, over a cache of full size."""
    if not isinstance(config, TransformerConfig):
        return 0.0
    columns = prompt + response - 1
    one = forward_flops(config, rows, 1, columns=1)
    heads = config.num_heads * config.head_width
    attention = 4.0 * rows * config.num_layers * heads * (columns - 1)
    return (response - 1) * (one + attention)
