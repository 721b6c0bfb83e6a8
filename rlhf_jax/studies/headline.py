"""The top of a report: the verdict in words, three numbers together, the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from rlhf_jax.studies import compare, figures, panels, runs, summary
from rlhf_jax.studies.summary import known, number

COLUMNS = {
    "gold": "gold [score]",
    "proxy": "proxy [score]",
    "kl": "KL [nats]",
    "length": "length [tokens]",
}


def verdicts(found: Sequence[runs.Run]) -> str:
    """What came out, a sentence or two a run."""
    parts = []
    for index, run in enumerate(found):
        name = ""
        if len(found) > 1:
            color = f"background:var(--{figures.color_of(index)})"
            name = f'<b><i class="dot" style="{color}"></i>{escape(run.name)}</b> '
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
        gold_sd = run.summary.get("gold_sd_sft")
        gold_sd = float(gold_sd) if isinstance(gold_sd, (int, float)) else None
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
        color = f"background:var(--{figures.color_of(index)})"
        chip = f'<small><i class="dot" style="{color}"></i>{escape(run)}</small>'
    return (
        f'<div class="card"><h3>{escape(summary.label(row))}{chip}</h3>'
        f"<dl>{''.join(numbers)}</dl></div>"
    )


def table(found: Sequence[runs.Run]) -> str:
    """The summary table: a row a policy, mean over its standard error in each cell."""
    groups = []
    for index, run in enumerate(found):
        rows = _table(run)
        if not rows:
            continue
        if len(found) > 1:
            color = f"background:var(--{figures.color_of(index)})"
            chip = f'<i class="dot" style="{color}"></i>'
            groups.append(
                f'<tr class="group"><th colspan="6">{chip}{escape(run.name)}</th></tr>'
            )
        groups += [_row(row, cells, rows, run) for row, cells in rows.items()]
    if not groups:
        return ""
    head = "".join(f"<th>{escape(title)}</th>" for title in COLUMNS.values())
    return (
        '<table class="summary"><thead><tr><th></th>'
        f"{head}<th>samples</th></tr></thead><tbody>{''.join(groups)}</tbody></table>"
        '<p class="muted">Mean over held-out prompts, ± 1 standard error. '
        f"{_gains(found)}</p>{_definitions(found)}"
    )


def _row(
    row: str, cells: Mapping[str, Any], rows: Mapping[str, Any], run: runs.Run
) -> str:
    shown = "".join(f"<td>{_cell(cells.get(name))}</td>" for name in COLUMNS)
    counts = [of.get("n") for of in cells.values() if isinstance(of, Mapping)]
    count = max((n for n in counts if isinstance(n, (int, float))), default=None)
    return (
        f"<tr><th>{escape(summary.label(row))}</th>{shown}<td>{number(count)}</td></tr>"
    )


def _cell(of: Any) -> str:
    if not known(of):
        return '<span class="muted">–</span>'
    error = of.get("se")
    text = f"<b>{number(of['mean'])}</b>"
    return text if error is None else f"{text} <small>± {number(error)}</small>"


def _gains(found: Sequence[runs.Run]) -> str:
    """Gains in standard deviations of SFT gold, where the summary holds one."""
    parts = []
    for run in found:
        gold_sd, rows = run.summary.get("gold_sd_sft"), _table(run)
        base = rows.get("sft", {}).get("gold")
        if not isinstance(gold_sd, (int, float)) or not gold_sd or not known(base):
            continue
        gains = [
            f"{summary.label(row)} "
            f"{number((of['gold']['mean'] - base['mean']) / gold_sd, sign=True)}"
            for row, of in rows.items()
            if row != "sft" and known(of.get("gold"))
        ]
        if gains:
            name = f"{run.name}: " if len(found) > 1 else ""
            parts.append(f"{name}{', '.join(gains)} (1 sd = {number(gold_sd)})")
    text = "; ".join(parts)
    return (
        f"Gold gained over SFT in standard deviations of SFT: {escape(text)}."
        if text
        else ""
    )


def _definitions(found: Sequence[runs.Run]) -> str:
    texts = [run.summary.get("gold_definition") for run in found]
    unique = dict.fromkeys(text for text in texts if isinstance(text, str))
    return "".join(
        f"<p class='muted'><b>Gold:</b> {escape(text)}</p>" for text in unique
    )


def facts(found: Sequence[runs.Run]) -> str:
    """Everything else that the summaries hold, flat, runs side by side."""
    flats = [_facts(run) for run in found]
    keys = list(dict.fromkeys(key for flat in flats for key in flat))
    if not keys:
        return ""
    rows = []
    for key in keys:
        cells = [flat.get(key, "–") for flat in flats]
        rows.append(f"<tr><th>{escape(key)}</th>{key_values(cells)}</tr>")
    return f'<table class="facts-table"><tbody>{"".join(rows)}</tbody></table>'


def _facts(run: runs.Run) -> dict[str, str]:
    rest = dict(run.summary)
    for key in ("table", "verdict", "gold_definition"):
        rest.pop(key, None)
    flat = {key: _fact(value) for key, value in compare.leaves(rest).items()}
    model = run.summary.get("reward_model")
    if isinstance(model, Mapping):
        accuracy, ceiling = model.get("accuracy"), model.get("ceiling")
        if isinstance(accuracy, (int, float)) and isinstance(ceiling, (int, float)):
            share = 100 * summary.share_of_ceiling(float(accuracy), float(ceiling))
            flat["reward_model: way from chance to the ceiling"] = f"{share:.0f} %"
    return flat


def _fact(value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return number(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_fact, value)) + "]"
    return str(value)


def key_values(cells: Sequence[str]) -> str:
    """A cell that holds a value for each run, wrapped where the page is narrow."""
    if len(cells) == 1:
        return f"<td>{escape(cells[0])}</td>"
    items = [
        f'<span><i class="dot" style="background:var(--{figures.color_of(i)})"></i>'
        f"{escape(cell)}</span>"
        for i, cell in enumerate(cells)
    ]
    return f'<td><div class="values">{"".join(items)}</div></td>'


def _table(run: runs.Run) -> dict[str, Any]:
    rows = run.summary.get("table")
    if not isinstance(rows, Mapping):
        return {}
    return {str(row): of for row, of in rows.items() if isinstance(of, Mapping)}
