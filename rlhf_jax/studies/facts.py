"""What a summary holds beside its table, in words and side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rlhf_jax.studies import compare, figures, runs, summary
from rlhf_jax.studies.summary import number


def notes(found: Sequence[runs.Run]) -> str:
    """How good the reward model is, and where the time went, in a line each."""
    lines = []
    for run in found:
        name = f"{run.name}: " if len(found) > 1 else ""
        lines += [name + text for text in (_reward_model(run), _seconds(run)) if text]
    return "".join(f"<p class='muted'>{escape(text)}</p>" for text in lines)


def _reward_model(run: runs.Run) -> str:
    model = run.summary.get("reward_model")
    accuracy, ceiling = (number_at(model, key) for key in ("accuracy", "ceiling"))
    if accuracy is None:
        return ""
    text = (
        f"The reward model orders {100 * accuracy:.1f} % of held-out pairs as labeled"
    )
    if ceiling is None:
        return f"{text}."
    share = 100 * summary.share_of_ceiling(accuracy, ceiling)
    return (
        f"{text}; the noise of the labels allows {100 * ceiling:.1f} % "
        f"({share:.0f} % of the way from chance to there)."
    )


def _seconds(run: runs.Run) -> str:
    seconds = run.summary.get("seconds_by_stage")
    names = list(seconds) if isinstance(seconds, Mapping) else []
    spent = {n: v for n in names if (v := number_at(seconds, n)) is not None}
    if not spent:
        return ""
    parts = ", ".join(f"{name} {_duration(value)}" for name, value in spent.items())
    total = sum(spent.values())
    return f"Wall time {_duration(total)}: {parts}."


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def table(found: Sequence[runs.Run]) -> str:
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
    return {key: _fact(value) for key, value in compare.leaves(rest).items()}


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
        f"<span>{figures.dot(i)}{escape(cell)}</span>" for i, cell in enumerate(cells)
    ]
    return f'<td><div class="values">{"".join(items)}</div></td>'


def number_at(tree: Any, key: str) -> float | None:
    """A finite number of a mapping; None where there is none."""
    value = tree.get(key) if isinstance(tree, Mapping) else None
    if isinstance(value, (int, float)) and math.isfinite(value):
        return float(value)
    return None
