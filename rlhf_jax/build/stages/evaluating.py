"""Evaluations on held-out prompts that all stages share which sample: what is measured,
and for stages that train on rewards the alarms and the samples over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlhf_jax import hosts, rollout
from rlhf_jax.build.objective import aggregates
from rlhf_jax.build.runs.context import Context
from rlhf_jax.build.stages import alarming
from rlhf_jax.studies import schema
from rlhf_jax.training import loop
from rlhf_jax.types import Network, Scorer


def scorers(context: Context, proxy: Scorer) -> dict[str, Scorer]:
    """Columns of every evaluation: gold where known, proxy, and `eval_scorers`."""
    gold = context.gold()
    found = {"gold": gold} if gold is not None else {}
    found["proxy"] = proxy
    for name in context.eval_scorers:
        found[name] = context.scorer(name, "config.eval_scorers")
    return found


def columns(context: Context) -> tuple[str, ...]:
    """Names of `scorers`."""
    gold = context.gold_source != "task" or context.task.gold is not None
    return (*(["gold"] if gold else []), "proxy", *context.eval_scorers)


def names(context: Context, source: str | None) -> tuple[str, ...]:
    """What `evaluation` measures, standard errors and alarms left out.

    Args:
      context: of the run.
      source: how the config names what is trained on; None for a judge.
    """
    several = None
    if source is not None and context.user_scorer is None:
        several = aggregates.parse(source)
    spread = several is not None and len(several.members) > 1
    own = ["disagreement"] if spread else []
    return (*columns(context), *own, "repetition", *rollout.evaluate.MEASURES)


def watched(context: Context, proxy: Scorer, source: str) -> dict[str, Scorer]:
    """`scorers`, and of an ensemble the disagreement of its members.

    Args:
      context: of the run.
      proxy: what is trained on.
      source: how the config names it.
    """
    found = scorers(context, proxy)
    several = aggregates.parse(source) if context.user_scorer is None else None
    if several is not None and len(several.members) > 1:
        members = [context.scorer(name, "reward_model") for name in several.members]
        found["disagreement"] = aggregates.disagreement(members)
    return found


def measuring(
    context: Context,
    network: Network,
    scorers: dict[str, Scorer],
    *,
    temperature: float,
    samples: int,
    chunk_size: int,
) -> Any:
    """`rollout.evaluator` with the task's lengths and tokens."""
    return rollout.evaluator(
        network,
        scorers,
        temperature=temperature,
        chunk_size=chunk_size,
        decode=context.task.tokenizer.decode,
        compiled=programs(context, network, samples),
        **_settings(context, samples),
    )


def programs(context: Context, network: Network, samples: int) -> Any:
    """The programs of `measuring`, compiled once for all runs of a study."""
    settings = _settings(context, samples)
    return context.compiled(
        "evaluation",
        (settings, repr(network.config)),
        lambda: rollout.measuring.programs(network, **settings),
    )


def _settings(context: Context, samples: int) -> dict[str, Any]:
    task = context.task
    return dict(
        max_length=task.response_length,
        stop_tokens=task.stop_tokens,
        pad_token=task.tokenizer.pad_token,
        samples_per_prompt=samples,
    )


def evaluation(
    context: Context,
    stage: str,
    step: int,
    found: rollout.Evaluation,
    *,
    held_out: Sequence[str],
    shown: int,
) -> loop.Evaluation:
    """What a stage that trains on rewards tells of one evaluation.

    Args:
      context: of the run.
      stage: its name; its folder remembers the evaluations (`alarming`).
      step: of the evaluation.
      found: with one sample a prompt.
      held_out: names of the scorers that the proxy's gain is compared with.
      shown: responses that become sample rows.

    Returns:
      Metrics under their plain names and `<name>_se`, levels of the alarms, samples.
    """
    measured = {column: entry["mean"] for column, entry in found.table.items()}
    measured |= {f"{column}_se": e["se"] for column, e in found.table.items()}
    measured |= alarming.repetition([row["response"] for row in found.records])
    folder = context.folder(stage)
    rung = hosts.told(lambda: alarming.levels(folder, step, measured, held_out))
    rows = [_row(stage, step, record) for record in found.records[:shown]]
    return loop.Evaluation(measured | rung, rows)


def _row(stage: str, step: int, record: dict[str, Any]) -> Any:
    return schema.sample_row(
        stage,
        step,
        record["id"],
        record["prompt"],
        record["response"],
        scores=record["scores"],
        length=int(record["length"]),
        kl=record["kl"],
    )
