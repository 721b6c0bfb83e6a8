"""Forest plot: an effect with its interval a row, zero as a line to look against."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from rlhf_jax.studies import axes

ROW, TOP, BOTTOM, WIDTH, SIDE = 36, 8, 36, 380, 14

CHARACTERS = 56
"""So many letters of name and numbers stand side by side; a longer name is cut."""


class Effect(NamedTuple):
    """One row.

    Attributes:
      label: what was changed.
      text: its numbers in words, at the right.
      mean: the effect; NaN draws none.
      low: end of its interval; NaN draws the point alone.
      high: the other end.
      color: CSS color property without dashes.
    """

    label: str
    text: str
    mean: float
    low: float = math.nan
    high: float = math.nan
    color: str = "fg"


def draw(
    effects: Sequence[Effect], *, x_label: str, margin: float | None = None
) -> str:
    """Effects as SVG, name and numbers above each interval.

    Args:
      effects: rows from the top down.
      x_label: what the axis measures, with unit.
      margin: half-width of the band in which effects do not matter; None for none.
    """
    ends = [e.mean for e in effects] + [e.low for e in effects] + [0.0, -(margin or 0)]
    ends += [e.high for e in effects] + [margin or 0.0]
    low, high = axes.limits([np.asarray(ends)], 0.06)
    height = TOP + ROW * max(len(effects), 1) + BOTTOM
    axis = axes.Axis(low, high, SIDE, WIDTH - SIDE)
    body = [_scale(axis, height - BOTTOM, x_label, height)]
    for index, effect in enumerate(effects):
        top = TOP + ROW * index
        body += [_zero(axis, top, margin), _row(effect, top, axis)]
    return (
        f'<svg class="forest" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(x_label)}">{"".join(body)}</svg>'
    )


def _scale(axis: axes.Axis, bottom: int, x_label: str, height: int) -> str:
    values = axes.ticks(axis.low, axis.high)
    parts = []
    for value, text in zip(values, axes.tick_texts(values), strict=True):
        x = axis.at(value)
        parts.append(f'<path class="gridline" d="M{x} {TOP}V{bottom}"/>')
        parts.append(f'<text x="{x}" y="{bottom + 14}" class="mid">{text}</text>')
    parts.append(
        f'<text x="{WIDTH / 2}" y="{height - 5}" class="label mid">'
        f"{escape(x_label)}</text>"
    )
    return "".join(parts)


def _zero(axis: axes.Axis, top: int, margin: float | None) -> str:
    """Zero, and the margin around it, beside one interval; not behind its words."""
    line = f'<path class="zero" d="M{axis.at(0.0)} {top + 18}v14"/>'
    if margin is None:
        return line
    left, right = axis.at(-margin), axis.at(margin)
    size = f'width="{right - left:.1f}" height="14"'
    return f'<rect class="margin" x="{left}" y="{top + 18}" {size}/>{line}'


def _row(effect: Effect, top: int, axis: axes.Axis) -> str:
    y = top + 25
    label, room = effect.label, CHARACTERS - len(effect.text)
    short = label if len(label) <= room else label[: room - 1].rstrip(", ") + "…"
    parts = [
        f'<text x="{SIDE}" y="{top + 14}" class="name">{escape(short)}'
        f"<title>{escape(label)}</title></text>",
        f'<text x="{WIDTH - SIDE}" y="{top + 14}" class="end value">'
        f"{escape(effect.text)}</text>",
    ]
    if math.isfinite(effect.low) and math.isfinite(effect.high):
        left, right = axis.at(effect.low), axis.at(effect.high)
        parts.append(
            f'<path class="bar" d="M{left} {y}H{right}M{left} {y - 4}v8'
            f'M{right} {y - 4}v8"/>'
        )
    if math.isfinite(effect.mean):
        x = axis.at(effect.mean)
        parts.append(f'<circle class="point" cx="{x}" cy="{y}" r="4"/>')
    return f'<g style="color:var(--{effect.color})">{"".join(parts)}</g>'


STYLE = """
svg.forest{display:block;width:100%;height:auto;max-width:620px}
svg.forest .name,svg.forest .value{fill:var(--fg);font-size:11.5px;
paint-order:stroke;stroke:var(--card);stroke-width:3px}
svg.forest .value{font-variant-numeric:tabular-nums}
.zero{stroke:var(--fg);stroke-width:1.2;fill:none}
.margin{fill:var(--faint);opacity:.18}.point{fill:currentColor}
svg.forest .bar{stroke-width:2}
"""
