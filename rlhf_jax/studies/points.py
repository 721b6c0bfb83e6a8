"""Single labeled points on a plot, with error bars."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import NamedTuple

from rlhf_jax.studies import axes

SHAPES: dict[str, Callable[[float, float], str]] = {
    "circle": lambda x, y: f'<circle cx="{x}" cy="{y}" r="4.5"/>',
    "square": lambda x, y: f'<rect x="{x - 4}" y="{y - 4}" width="8" height="8"/>',
    "diamond": lambda x, y: f'<path d="M{x} {y - 6}l6 6l-6 6l-6 -6Z"/>',
}


class Mark(NamedTuple):
    """A single labeled point with error bars, such as the best-of-n row."""

    label: str
    x: float
    y: float
    x_error: float = 0.0
    y_error: float = 0.0
    color: str = "fg"
    shape: str = "circle"


def draw(mark: Mark, x_axis: axes.Axis, y_axis: axes.Axis, frame: axes.Frame) -> str:
    """The point as SVG, its label where there is room."""
    x, y = x_axis.at(mark.x), y_axis.at(mark.y)
    left, right = (x_axis.at(mark.x + d) for d in (-mark.x_error, mark.x_error))
    low, high = (y_axis.at(mark.y + d) for d in (-mark.y_error, mark.y_error))
    far = x > frame.width * 0.7
    anchor, shift = ("end", -8) if far else ("start", 8)
    drop = 16 if y < frame.height - frame.bottom - 22 else -7
    return (
        f'<g class="mark" style="color:var(--{mark.color})">'
        f'<path class="bar" d="M{left} {y}H{right}M{x} {low}V{high}"/>'
        f"{SHAPES[mark.shape](x, y)}"
        f'<text x="{x + shift}" y="{y + drop}" text-anchor="{anchor}">'
        f"{escape(mark.label)}</text></g>"
    )
