"""The top of a report: the verdict in words, three numbers together, the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from rlhf_jax.studies import facts, figures, panels, runs, summary
from rlhf_jax.studies.summary import known, number

COLUMNS = {
    "gold": ("gold", "score"),
    "gain": ("gain", "sd"),
    "proxy": ("proxy", "score"),
    "kl": ("KL", "nats"),
    "length": ("length", "tokens"),
}
"""Column -> title and unit."""


def verdicts(found: Sequence[runs.Run]) -> str:
    """What came out, a sentence or two a run."""
    parts = []
    for index, run in enumerate(found):
        name = ""
        if len(found) > 1:
            name = f"<b>{figures.dot(index)}{escape(run.name)}</b> "
        parts.append(f'<p class="verdict">{name}{escape(verdict(run))}</p>')
    return "".join(parts)


def verdict(run: runs.Run) -> str:
    """The run's own verdict, else one from its table, else how far it has come."""
    given = run.summary.get("verdict")
    if isinstance(given, Mapping):
        given = given.get("text")
    if isinstance(given, str) and given.strip():
        return given
    table = _table(run)
    if table:
        rows = list(table)
        policy = "ppo" if "ppo" in table else rows[-1]
        gold_sd = facts.number_at(run.summary, "gold_sd_sft")
        start = "sft" if "sft" in table else rows[0]
        return summary.verdict(table, policy=policy, baseline=start, gold_sd=gold_sd)
    return _progress(run)


def _progress(run: runs.Run) -> str:
    if not run.stages:
        return "Nothing measured yet."
    stage = list(run.stages)[-1]
    curves = run.stages[stage]
    steps = [int(curve.steps[-1]) for curve in curves.values() if len(curve.steps)]
    text = f"No summary yet. Stage {stage}, step {max(steps, default=0):,}"
    for label, names in (
        ("gold", panels.GOLD),
        ("proxy", panels.PROXY),
        ("KL", panels.KL),
    ):
        name = panels.find(curves, names)
        if name is not None and np.isfinite(curves[name].values).any():
            values = curves[name].values
            text += f", {label} {number(float(values[np.isfinite(values)][-1]))}"
    return text + "."


def cards(found: Sequence[runs.Run]) -> str:
    """Gold, proxy and KL together for each row of the table, with standard errors."""
    parts = []
    for index, run in enumerate(found):
        for row, cells in _table(run).items():
            several = len(found) > 1
            parts.append(_card(row, cells, run.name if several else "", index))
    return f'<div class="cards">{"".join(parts)}</div>' if parts else ""


def _card(row: str, cells: Mapping[str, Any], run: str, index: int) -> str:
    numbers = []
    for name, title in (("gold", "gold"), ("proxy", "proxy"), ("kl", "KL, nats")):
        cell = _cell(cells.get(name))
        numbers.append(f'<div class="{name}"><dt>{title}</dt><dd>{cell}</dd></div>')
    chip = ""
    if run:
        chip = f"<small>{figures.dot(index)}{escape(run)}</small>"
    return (
        f'<div class="card"><h3>{escape(summary.label(row))}{chip}</h3>'
        f"<dl>{''.join(numbers)}</dl></div>"
    )


def table(found: Sequence[runs.Run]) -> str:
    """The summary table: a row a policy, mean over its standard error in each cell."""
    groups = []
    for index, run in enumerate(found):
        rows = _table(run)
        if rows and len(found) > 1:
            chip = figures.dot(index)
            groups.append(
                f'<tr class="group"><th colspan="6">{chip}{escape(run.name)}</th></tr>'
            )
        groups += [_row(row, rows, run) for row in rows]
    if not groups:
        return ""
    head = "".join(
        f"<th>{escape(title)} <small>[{escape(unit)}]</small></th>"
        for title, unit in COLUMNS.values()
    )
    return (
        f'<table class="summary"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(groups)}</tbody></table>"
        f'<p class="muted">{_reading(found)}</p>{_definitions(found)}'
    )


def _reading(found: Sequence[runs.Run]) -> str:
    """How to read the table: what an error is, of how many samples, what a gain is."""
    counts = {
        int(n)
        for run in found
        for cells in _table(run).values()
        for of in cells.values()
        if (n := facts.number_at(of, "n"))
    }
    text = "Mean over samples of held-out prompts, ± 1 standard error"
    if counts:
        low, high = number(min(counts)), number(max(counts))
        text += f"; {low if low == high else f'{low} to {high}'} samples a cell"
    spreads = [facts.number_at(run.summary, "gold_sd_sft") for run in found]
    shown = ", ".join(dict.fromkeys(number(spread) for spread in spreads if spread))
    if shown:
        text += f". Gain: gold over SFT in standard deviations of SFT samples ({shown})"
    return escape(f"{text}.")


def _row(row: str, rows: Mapping[str, Any], run: runs.Run) -> str:
    cells = [_cell(rows[row].get(name)) for name in COLUMNS if name != "gain"]
    cells.insert(1, _gain(row, rows, run))
    shown = "".join(f"<td>{cell}</td>" for cell in cells)
    return f"<tr><th>{escape(summary.label(row))}</th>{shown}</tr>"


def _gain(row: str, rows: Mapping[str, Any], run: runs.Run) -> str:
    """Gold over that of SFT, in standard deviations of SFT samples."""
    spread = facts.number_at(run.summary, "gold_sd_sft")
    base, gold = (rows.get(name, {}).get("gold") for name in ("sft", row))
    if row == "sft" or not spread or not (known(base) and known(gold)):
        return '<span class="muted">–</span>'
    gain = f"{(gold['mean'] - base['mean']) / spread:+.2f}".replace("-", "−")
    return f"<b>{gain}</b>"


def _cell(of: Any) -> str:
    if not known(of):
        return '<span class="muted">–</span>'
    mean, error = summary.with_error(of)
    return f"<b>{mean}</b>" + (f" <small>± {error}</small>" if error else "")


def _definitions(found: Sequence[runs.Run]) -> str:
    texts = [run.summary.get("gold_definition") for run in found]
    unique = dict.fromkeys(text for text in texts if isinstance(text, str))
    return "".join(
        f"<p class='muted'><b>Gold:</b> {escape(text)}</p>" for text in unique
    )


def _table(run: runs.Run) -> dict[str, Any]:
    rows = run.summary.get("table")
    if not isinstance(rows, Mapping):
        return {}
    return {str(row): of for row, of in rows.items() if isinstance(of, Mapping)}
