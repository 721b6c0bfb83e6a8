"""Axes of a plot: ranges, round ticks, the map from numbers to SVG units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from rlhf_jax.studies.summary import number


class Frame(NamedTuple):
    """Size of a plot and where its axes lie, in SVG units."""

    width: int = 380
    height: int = 220
    left: int = 52
    right: int = 20
    top: int = 24
    bottom: int = 34


class Axis(NamedTuple):
    """Maps data to SVG units: `low..high` to `start..end`, after `warp`."""

    low: float
    high: float
    start: float
    end: float
    root: bool = False

    def warp(self, value: float) -> float:
        return math.sqrt(max(value, 0.0)) if self.root else value

    def at(self, value: float) -> float:
        low, high = self.warp(self.low), self.warp(self.high)
        share = (self.warp(value) - low) / (high - low)
        return round(self.start + share * (self.end - self.start), 1)


def limits(parts: Sequence[np.ndarray], pad: float) -> tuple[float, float]:
    """Lowest and highest finite value, `pad` of the span around; a point gets room.

    Zero at an end stays the end, so that fractions and counts stand on the axis.
    """
    values = np.concatenate([*parts, np.zeros(0)])
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        room = abs(low) * 0.1 or 1.0
        return low - room, high + room
    room = pad * (high - low)
    return low - (room if low else 0.0), high + (room if high else 0.0)


def ticks(low: float, high: float, count: int = 5, whole: bool = False) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten) inside `[low, high]`."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.75)
    step = max(1.0, float(round(step))) if whole else step
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) + 0.0 for i in range(first, last + 1)]


def x_ticks(axis: Axis, count: int, whole: bool) -> list[float]:
    """Ticks of a horizontal axis; on a root axis, evenly far apart to the eye."""
    if not axis.root:
        return ticks(axis.low, axis.high, count, whole)
    found = [0.0]
    for share in range(1, count + 1):
        value = (share / count) ** 2 * axis.high
        power = 10.0 ** math.floor(math.log10(value))
        rounded = max(m * power for m in (1, 2, 5) if m <= value / power + 1e-9)
        if math.sqrt(rounded) - math.sqrt(found[-1]) > 0.12 * math.sqrt(axis.high):
            found.append(rounded)
    return found


def tick_texts(values: list[float]) -> list[str]:
    """Ticks with the decimals that their distance needs, so that no two look alike."""
    gap = min((b - a for a, b in pairwise(values)), default=0.0)
    if not 1e-4 <= gap < 1e4 or max(map(abs, values)) >= 1e6:
        return [number(value) for value in values]
    fits = (p for p in range(6) if abs(round(gap, p) - gap) < 1e-3 * gap)
    places = next(fits, 6)
    return [f"{value:,.{places}f}".replace("-", "−") for value in values]


def grid(frame: Frame, x_axis: Axis, y_axis: Axis, whole_x: bool) -> str:
    """Grid lines, ticks and their numbers."""
    right, bottom = frame.width - frame.right, frame.height - frame.bottom
    parts = []
    rows = ticks(y_axis.low, y_axis.high, 4 if frame.height > 150 else 2)
    for value, text in zip(rows, tick_texts(rows), strict=True):
        y = y_axis.at(value)
        parts.append(f'<path class="gridline" d="M{frame.left} {y}H{right}"/>')
        at = f'x="{frame.left - 6}" y="{y + 3.5}"'
        parts.append(f'<text {at} class="end">{text}</text>')
    columns = x_ticks(x_axis, 5 if frame.width > 300 else 3, whole_x)
    texts = map(number, columns) if x_axis.root else tick_texts(columns)
    for value, text in zip(columns, texts, strict=True):
        x = x_axis.at(value)
        parts.append(f'<path class="tick" d="M{x} {bottom}v4"/>')
        parts.append(f'<text x="{x}" y="{bottom + 15}" class="mid">{text}</text>')
    parts.append(f'<path class="axis" d="M{frame.left} {bottom}H{right}"/>')
    return "".join(parts)


def labels(frame: Frame, x_label: str, y_label: str) -> str:
    """Names and units of both axes."""
    middle = (frame.left + frame.width - frame.right) / 2
    return (
        f'<text x="4" y="11" class="label">{escape(y_label)}</text>'
        f'<text x="{middle}" y="{frame.height - 3}" class="label mid">'
        f"{escape(x_label)}</text>"
    )
