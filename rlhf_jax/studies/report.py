"""The self-contained report of one or several runs: `report.html`.

One file that asks nothing of a network: plots are inline SVG, style and script are
inline, and a content security policy forbids every request. It is readable without its
script, in light and dark, from 390 px up.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path

from rlhf_jax.errors import UserError
from rlhf_jax.studies import (
    assets,
    compare,
    facts,
    figures,
    headline,
    page,
    runs,
    samples_view,
    schema,
    stage_view,
)

STAGES = {
    "sft": "Supervised fine-tuning",
    "rm": "Reward model",
    "reward_model": "Reward model",
    "ppo": "Policy optimization (PPO)",
    "pretrain": "Pretraining",
}


def write(workdirs: Sequence[Path], out: Path) -> Path:
    """Write the report of one run, or several runs laid over each other, to `out`.

    A run may be in progress: what is not there yet is left out. The file appears whole
    or not at all.

    Args:
      workdirs: run directories (see `schema` for what lies in them).
      out: the HTML file; its folder is made if missing.

    Returns:
      `out`.

    Raises:
      UserError: a workdir that is no run, or a place that cannot be written.
    """
    text = render(runs.read(workdirs))
    partial = out.with_name(out.name + ".partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, out)
    except OSError as error:
        raise UserError(
            f"cannot write the report to {out}: {error.strerror}"
        ) from error
    return out


def render(found: Sequence[runs.Run]) -> str:
    """The page of runs already read, as text; the same runs give the same bytes."""
    parts = [
        _top(found),
        *(_stage(found, stage) for stage in stage_view.stages(found)),
        _samples(found),
        _more(found),
        _config(found),
    ]
    title = " · ".join(run.name for run in found)
    return page.html(title, "".join(parts), assets.heat_rules(schema.TOKEN_FIELDS))


def difference(workdirs: Sequence[Path]) -> str:
    """How the configs of runs differ, as text for a terminal.

    Raises:
      UserError: a workdir that is no run.
    """
    found = runs.read(workdirs)
    differences = compare.difference([run.config for run in found])
    return compare.text([run.name for run in found], differences)


def _top(found: Sequence[runs.Run]) -> str:
    several = len(found) > 1
    title = f"{len(found)} runs compared" if several else found[0].name
    parts = [
        f"<header><h1>{escape(title)}</h1>",
        '<p class="lead">rlhf_jax report: gold is the reward we care about, proxy the '
        "one that was optimized, KL how far the policy moved for it.</p></header>",
        headline.verdicts(found),
        _problems(found),
        "" if several else headline.cards(found),
        headline.table(found),
        "" if several else facts.notes(found),
    ]
    if several:
        parts.append(f"<h2>What differs</h2>{_differences(found)}")
    numbers = facts.table(found)
    if numbers:
        parts.append(
            f"<details><summary>All numbers of the summary</summary>{numbers}</details>"
        )
    return "".join(parts) + (_run_keys(found) if several else "")


def _problems(found: Sequence[runs.Run]) -> str:
    items = [
        f"<li>{escape(run.name)}: {escape(problem)}</li>"
        for run in found
        for problem in run.problems[:5]
    ]
    return f'<ul class="warn">{"".join(items)}</ul>' if items else ""


def _run_keys(found: Sequence[runs.Run]) -> str:
    items = "".join(
        f'<span class="key">{figures.dot(i)}{escape(run.name)}</span>'
        for i, run in enumerate(found)
    )
    return f'<div class="legend runs">{items}</div>'


def _stage(found: Sequence[runs.Run], stage: str) -> str:
    plots = stage_view.plots(found, stage)
    if not plots:
        return ""
    title = STAGES.get(stage.rsplit("/", 1)[-1], stage)
    chip = "" if title == stage else f" <small>stage {escape(stage)}</small>"
    return f'<h2>{escape(title)}{chip}</h2><div class="grid">{"".join(plots)}</div>'


def _samples(found: Sequence[runs.Run]) -> str:
    text = samples_view.section(found)
    if not text:
        return ""
    return (
        "<h2>What it writes</h2><p class='muted'>The same held-out prompts over "
        f"training. Point at a token for its numbers.</p>{text}"
    )


def _more(found: Sequence[runs.Run]) -> str:
    parts = []
    for stage in stage_view.stages(found):
        plots = stage_view.more_plots(found, stage)
        if plots:
            grid = f'<div class="grid tight">{"".join(plots)}</div>'
            parts.append(f"<h3>{escape(stage)}</h3>{grid}")
    if not parts:
        return ""
    title = "Every metric without a plot above, over steps"
    return (
        f"<h2>All other metrics</h2><details><summary>{title}</summary>"
        f"{''.join(parts)}</details>"
    )


def _differences(found: Sequence[runs.Run]) -> str:
    differences = compare.difference([run.config for run in found])
    if not differences:
        return '<p class="muted">The configs are the same.</p>'
    rows = "".join(
        f"<tr><th>{escape(key)}</th>{facts.key_values(values)}</tr>"
        for key, values in differences.items()
    )
    return f'<table class="config"><tbody>{rows}</tbody></table>'


def _config(found: Sequence[runs.Run]) -> str:
    if len(found) > 1 or not found[0].config:
        return ""
    flat = compare.flatten(found[0].config)
    rows = "".join(
        f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>"
        for key, value in flat.items()
    )
    return (
        f"<h2>Config</h2><details><summary>{len(flat)} resolved keys</summary>"
        f'<table class="config"><tbody>{rows}</tbody></table></details>'
    )
