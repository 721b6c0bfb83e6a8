"""The last stage: base policy, best-of-n and aligned policy side by side."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlhf_jax import rng, rollout
from rlhf_jax.build.context import Context, Stage
from rlhf_jax.build.ppo import scorers_of
from rlhf_jax.build.section import Section

COLUMNS = ("gold", "proxy", "kl", "length", "k1", "k2", "k3", "entropy", "truncated")


def table(name: str, section: Section, context: Context) -> Stage:
    """Reads a section of kind `table`: rows `<base>`, `best_of_<n>`, `<policy>`.

    All rows share held-out prompts that nothing was trained on, and one evaluation
    setting that is not the training's. KL is the exact per-token KL to the base summed
    along sampled prefixes; for best-of-n it is Beirami's estimate.
    """
    base, policy = section.str("base"), section.str("policy")
    proxy, n = section.str("reward_model"), section.int("best_of", 1)
    count, samples = section.int("prompts", 2), section.int("samples", 1)
    temperature, chunk = section.float("temperature", 0.0), section.int("batch_size", 1)
    task = context.task

    def measured(
        samples_per_prompt: int, scorers: Any, variables: Any, ref: Any
    ) -> Any:
        evaluate = rollout.evaluator(
            context.model.language(),
            scorers,
            temperature=temperature,
            max_length=task.response_length,
            stop_tokens=(task.tokenizer.end_token,),
            pad_token=task.tokenizer.pad_token,
            samples_per_prompt=samples_per_prompt,
            chunk_size=chunk,
            decode=task.tokenizer.decode,
        )
        key = rng.named(rng.root(context.seeds.sampling), name, samples_per_prompt)
        return evaluate(variables, ref, context.prompts(task.heldout, count), key)

    def run() -> dict[str, Any]:
        scorer = context.user_scorer or context.scorer(
            proxy, f"{section.path}.reward_model"
        )
        scorers = scorers_of(context, scorer)
        reference = context.policy(base, f"{section.path}.base")
        tuned = context.policy(policy, f"{section.path}.policy")
        drawn = measured(n, scorers, reference, reference)
        aligned = measured(samples, scorers, tuned, reference)
        rows = {
            base: drawn,
            f"best_of_{n}": rollout.evaluate.best_of(drawn, n, "proxy"),
            policy: aligned,
        }
        gold = "gold" if "gold" in drawn.columns else "proxy"
        result = {
            "table": {
                row: _columns(found.table, scorers) for row, found in rows.items()
            },
            "gold_sd_sft": float(np.std(drawn.columns[gold])),
            "gold_definition": _definition(context),
            "evaluation": {
                "prompts": count,
                "samples": samples,
                "temperature": temperature,
                "kl_bound_best_of_n": rollout.best_of_n.kl_bound(n),
            },
        }
        return result | {"verdict": verdict(result, base, policy)}

    return Stage(name, run, lambda: {"responses": f"{count} prompts x {n + samples}"})


def _columns(found: Any, scorers: Any) -> dict[str, Any]:
    wanted = dict.fromkeys((*COLUMNS, *scorers))
    return {name: found[name] for name in wanted if name in found}


def _definition(context: Context) -> str:
    if context.gold_source == "task":
        return context.task.gold_definition
    return (
        f"reward model of stage {context.gold_source}, trained on a disjoint half of"
        " the labels; it stands in for a gold reward that is not known"
    )


def verdict(result: dict[str, Any], base: str, policy: str) -> str:
    """One honest sentence on what the aligned policy gained, in gold and in proxy."""
    before, after = result["table"][base], result["table"][policy]
    if "gold" not in after:
        return (
            "No gold reward is known: the proxy moved from"
            f" {before['proxy']['mean']:.3f} to {after['proxy']['mean']:.3f}, which says"
            " nothing about quality by itself."
        )
    gain = after["gold"]["mean"] - before["gold"]["mean"]
    error = float(np.hypot(after["gold"]["se"], before["gold"]["se"]))
    spread = result["gold_sd_sft"]
    size = (
        f"{gain:+.3f} ± {error:.3f} (standard error), {gain / spread:+.2f} sd of {base}"
    )
    proxy = after["proxy"]["mean"] - before["proxy"]["mean"]
    kl = after["kl"]["mean"]
    tail = f" at {kl:.2f} nats of KL; the proxy moved {proxy:+.3f}."
    if gain > 2 * error:
        return f"{policy} improved gold by {size}{tail}"
    if gain < -2 * error:
        return f"{policy} made gold worse by {size}{tail} The proxy was over-optimised."
    return f"{policy} did not change gold measurably: {size}{tail}"
