"""What a study names of its runs, checked before the first of them.

A run says what it found in `summary.json` and in its rows of metrics. Most of both is
known from the config: which stages, table rows and scorers there are. What is known
only from a run, such as what a term of the loss measures, is left to the end of the
first one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf_jax.build.configs.section import nearest
from rlhf_jax.build.runs.context import Context, Stage
from rlhf_jax.build.stages import evaluating, exact, table
from rlhf_jax.errors import UserError
from rlhf_jax.rollout import evaluate
from rlhf_jax.studies.ablation.plan import Plan

Tree = Mapping[str, Any]

NUMBER, OPEN = "number", "known from a run"
"""Leaves of a tree: one number, or whatever a run puts there."""

ENTRY: Tree = {"mean": NUMBER, "se": NUMBER, "n": NUMBER}

ALARMS = ("kl", "length", "entropy", "repetition", "disagreement", "gap")
"""What `studies.alarms` may ring for."""


def check(plan: Plan, config: Tree, context: Context, stage: Stage) -> None:
    """Checks metrics, curves, `gold` and `kl` of a study against one of its cells.

    Args:
      plan: of the study.
      config: of the cell, plain.
      context: of the cell.
      stage: of the cell, whose rows of metrics count.

    Raises:
      UserError: a name that no run of this cell can have, with the nearest one; `gold`
        and `kl` that could not be drawn against each other.
    """
    tree, held_out = summary(config, context), evaluated(stage)
    for metric in plan.metrics:
        wrong = _unfit(metric.source, tree, stage.name, held_out)
        if wrong:
            raise UserError(
                f"config.study.metrics: '{metric.name}' is read at '{metric.source}',"
                f" {wrong}"
            )
    for name in plan.curves:
        wrong = _unfit_row(name, stage.name, held_out)
        if wrong:
            raise UserError(f"config.study.curves names '{name}', {wrong}")
    _check_plot(plan)


def _check_plot(plan: Plan) -> None:
    """`gold` and `kl` are two curves, or two metrics: else no plot could have both."""
    given = {"gold": plan.gold, "kl": plan.kl}
    if not any(given.values()):
        return
    metrics = [metric.name for metric in plan.metrics]
    for key, name in given.items():
        if name not in (*plan.curves, *metrics):
            known = nearest(name, [*plan.curves, *metrics])
            raise UserError(
                f"config.study.{key}='{name}' is neither in config.study.curves nor the"
                f" name of a metric of the study, so gold cannot be drawn against KL"
                f"{known} (leave both gold and kl empty for no such plot)"
            )
    if not any(set(given.values()) <= set(of) for of in (plan.curves, metrics)):
        raise UserError(
            f"config.study.gold='{plan.gold}' and config.study.kl='{plan.kl}': one is a"
            " curve and the other a metric, which no plot can have both of; name two of"
            " config.study.curves, or two metrics"
        )


def summary(config: Tree, context: Context) -> dict[str, Any]:
    """What `summary.json` of a run will hold, as far as it is known: nested keys whose
    leaves are `NUMBER` or `OPEN`. Texts and lists are left out.

    Args:
      config: of the run, plain.
      context: of the run.
    """
    names = config["stages"]
    found: dict[str, Any] = {"seconds_by_stage": dict.fromkeys(names, NUMBER)}
    found["stages"] = {}
    for name in names:
        kind = config[name]["kind"]
        if kind == "table":
            found |= _table(config[name], evaluating.columns(context))
        elif kind == "exact":
            nash = config[name]["target"] == "nash"
            found |= dict.fromkeys(exact.MEASURES, NUMBER)
            found |= dict.fromkeys(exact.NASH if nash else (), NUMBER)
        elif kind == "pydoc_summary":
            found |= dict.fromkeys(
                ("perplexity", "bigram_perplexity", "perplexity_ratio"), NUMBER
            )
            found |= {"perplexity_tokens": NUMBER}
            found |= {"rm_accuracy": OPEN, "rouge_l": OPEN}
        elif kind in ("rm", "odin") and "reward_model" not in found:
            found["reward_model"] = OPEN
        else:
            found["stages"][name] = OPEN
    return found


def _table(settings: Tree, scored: tuple[str, ...]) -> dict[str, Any]:
    """What a stage of kind `table` adds."""
    columns = dict.fromkeys((*table.COLUMNS, *scored), ENTRY)
    if "gold" not in scored:
        del columns["gold"]
    chosen = {k: v for k, v in columns.items() if k not in evaluate.UNCHOSEN}
    best = f"best_of_{settings['best_of']}"
    rows = {settings["base"]: columns, best: chosen, settings["policy"]: columns}
    wins = {"mean": NUMBER, "se": NUMBER}
    found: dict[str, Any] = {"table": rows, "win_rate": wins}
    found["evaluation"] = dict.fromkeys(
        ("prompts", "temperature", "kl_bound_best_of_n"), NUMBER
    )
    if "gold" in scored:
        found |= {"gold_sd_sft": NUMBER, "gold_gain": ENTRY, "win_rate_gold": wins}
    return found


def evaluated(stage: Stage) -> list[str]:
    """Metrics of the evaluations of a stage; empty where only a run knows them."""
    found = [] if stage.measures is None else list(stage.measures())
    if "repetition" in found:  # a stage that samples, see `evaluating.evaluation`
        found += [f"{name}_se" for name in found]
        found += ["alarms", *(f"alarm_{name}" for name in ALARMS)]
    return [f"eval/{name}" for name in found]


def _unfit(path: str, tree: Tree, stage: str, held_out: list[str]) -> str | None:
    """Why a path leads to no number of a run; None where it may lead to one."""
    wrong, row = _unfit_summary(path, tree), _unfit_row(path, stage, held_out)
    if wrong is None or row is None:
        return None
    if path.split(".")[0] in tree:
        return wrong
    if "/" in path:
        return row
    close = nearest(path, [*_leaves(tree), *held_out])
    close = close if "did you mean" in close else nearest(path, list(tree))
    return f"which neither a run's summary nor a row of stage '{stage}' has{close}"


def _unfit_summary(path: str, tree: Any) -> str | None:
    """Follows dotted keys; a key may hold dots itself."""
    if tree is OPEN or not path and (tree is NUMBER or "mean" in tree):
        return None
    if tree is NUMBER:
        return f"but what stands before '{path}' there is a number"
    if not path:
        return f"but there is no single number{nearest('', list(tree))}"
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        key = ".".join(parts[:count])
        if key in tree:
            return _unfit_summary(".".join(parts[count:]), tree[key])
    return f"but a run has no '{parts[0]}' there{nearest(parts[0], list(tree))}"


def _unfit_row(name: str, stage: str, held_out: list[str]) -> str | None:
    """Why no row of the stage has a metric of this name; None where one may: what the
    updates measure is known from a run, a term may have names of its own."""
    if "/" not in name:
        close = nearest(name, held_out)
        return f"but the metrics of stage '{stage}' are group/name{close}"
    if not name.startswith("eval/") or not held_out or name in held_out:
        return None
    return f"which no evaluation of stage '{stage}' measures{nearest(name, held_out)}"


def _leaves(tree: Tree) -> list[str]:
    """Paths of all single numbers, a cell of a table as its mean."""
    found = []
    for key, value in tree.items():
        if value is NUMBER or value is OPEN or "mean" in value:
            found.append(key)
        else:
            found += [f"{key}.{below}" for below in _leaves(value)]
    return found
