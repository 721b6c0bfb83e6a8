"""Plots as inline SVG: a few small functions, themed by the CSS of the page.

Colors are CSS custom properties (`var(--c0)` ...), so a plot follows light and dark.
Text is escaped here, once. A plot carries its numbers (`data-x`, `data-y`) for the
pointer; without a script it stays a complete picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from rlhf_jax.studies import axes, points, thinning

SMOOTH_FROM = 150
"""A line with more finite points than this is drawn pale, its running mean on top."""

DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 4")


class Series(NamedTuple):
    """A line: x and y float[N], y may hold NaN (a gap, marked on the axis).

    Attributes:
      label: what the legend says.
      x: positions, ascending for lines over steps.
      y: values.
      color: name of a CSS color property without dashes, such as `c0` or `gold`.
      dash: index of a dash pattern, 0 = solid.
      band: standard error of y float[N], drawn as y ± band; None for none.
      dots: whether each point gets a dot.
    """

    label: str
    x: np.ndarray
    y: np.ndarray
    color: str = "c0"
    dash: int = 0
    band: np.ndarray | None = None
    dots: bool = False


def lines(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    marks: Sequence[points.Mark] = (),
    root_x: bool = False,
    include: Sequence[float] = (),
    whole_x: bool = True,
    frame: axes.Frame | None = None,
) -> str:
    """Lines over x. Empty input gives a frame that says so.

    Args:
      series: the lines; thinned to `thinning.POINTS`, spikes kept.
      x_label: name and unit of the horizontal axis.
      y_label: name and unit of the vertical axis.
      marks: single points on top.
      root_x: square-root horizontal axis.
      include: y values that the axis must show (0 for a fraction, say).
      whole_x: ticks on whole numbers only (steps).
      frame: size; default 380 by 220.
    """
    frame = frame or axes.Frame()
    kept = [_thin(one) for one in series]
    x_axis, y_axis = _axes(frame, kept, marks, include, root_x)
    body = [axes.grid(frame, x_axis, y_axis, whole_x)]
    body.append(axes.labels(frame, x_label, y_label))
    if not any(np.isfinite(one.y).any() for one in kept) and not marks:
        middle = f'x="{frame.width / 2}" y="{frame.height / 2}"'
        body.append(f'<text {middle} class="mid">no finite value</text>')
    body += [_band(one, x_axis, y_axis) for one in kept if one.band is not None]
    for one, whole in zip(kept, series, strict=True):
        body.append(_line(one, smoothed(whole), x_axis, y_axis))
    body += [_gaps(one, x_axis, y_axis) for one in kept]
    body += [points.draw(mark, x_axis, y_axis, frame) for mark in marks]
    return _svg(frame, x_label, y_label, x_axis, body)


def stacked(
    x: np.ndarray,
    layers: Sequence[tuple[str, np.ndarray, str]],
    *,
    x_label: str,
    y_label: str,
    cap: float | None = None,
    frame: axes.Frame | None = None,
) -> str:
    """Stacked bars, first layer lowest; long series are averaged over buckets.

    Args:
      x: float[N] positions, N > 0.
      layers: one or more (label, float[N] values, color); NaN counts as zero.
      x_label: name and unit of the horizontal axis.
      y_label: name and unit of the vertical axis.
      cap: what is higher is cut off at this height; None shows all.
      frame: size; default 380 by 220.
    """
    frame = frame or axes.Frame()
    x, averaged = thinning.bucket_means(x, [np.nan_to_num(y) for _, y, _ in layers])
    tops = np.cumsum(np.asarray(averaged).reshape(len(layers), len(x)), axis=0)
    tops = tops if cap is None else np.minimum(tops, cap)
    edges = _edges(x)
    total = Series("total", edges, np.append(tops[-1], 0.0))
    x_axis, y_axis = _axes(frame, [total], (), (0.0,), False)
    body = [axes.grid(frame, x_axis, y_axis, True)]
    body.append(axes.labels(frame, x_label, y_label))
    below = np.zeros(len(x))
    for (label, _, color), top, own in zip(layers, tops, averaged, strict=True):
        body.append(_area(label, x, below, top, own, color, x_axis, y_axis))
        below = top
    return _svg(frame, x_label, y_label, x_axis, body)


def smoothed(one: Series) -> Series | None:
    """Means over neighbors, where a line has more points than the eye can follow."""
    finite = np.isfinite(one.y)
    count = int(finite.sum())
    if count <= SMOOTH_FROM or one.band is not None:
        return None
    x, (y,) = thinning.bucket_means(one.x[finite], [one.y[finite]], min(60, count // 5))
    return one._replace(x=x, y=y)


def _thin(one: Series) -> Series:
    index = thinning.kept(one.y)
    band = None if one.band is None else one.band[index]
    return one._replace(x=one.x[index], y=one.y[index], band=band)


def _axes(
    frame: axes.Frame,
    series: Sequence[Series],
    marks: Sequence[points.Mark],
    include: Sequence[float],
    root_x: bool,
) -> tuple[axes.Axis, axes.Axis]:
    xs = [one.x[np.isfinite(one.x)] for one in series]
    xs += [np.asarray([mark.x - mark.x_error, mark.x + mark.x_error]) for mark in marks]
    ys = [_spread(one) for one in series] + [np.asarray(include, np.float64)]
    ys += [np.asarray([mark.y - mark.y_error, mark.y + mark.y_error]) for mark in marks]
    x_low, x_high = axes.limits(xs, 0.0)
    if root_x:
        x_low = 0.0
    y_low, y_high = axes.limits(ys, 0.06)
    right, bottom = frame.width - frame.right, frame.height - frame.bottom
    return (
        axes.Axis(x_low, x_high, frame.left, right, root_x),
        axes.Axis(y_low, y_high, bottom, frame.top),
    )


def _spread(one: Series) -> np.ndarray:
    band = np.zeros(len(one.y)) if one.band is None else np.nan_to_num(one.band)
    both = np.concatenate([one.y - band, one.y + band])
    return both[np.isfinite(both)]


def _stretches(y: np.ndarray) -> list[np.ndarray]:
    """Index runs over which y is finite."""
    index = np.flatnonzero(np.isfinite(y))
    if not len(index):
        return []
    return np.split(index, np.flatnonzero(np.diff(index) > 1) + 1)


def _path(x: np.ndarray, y: np.ndarray, x_axis: axes.Axis, y_axis: axes.Axis) -> str:
    points = zip(x, y, strict=True)
    return "L".join(f"{x_axis.at(float(a))} {y_axis.at(float(b))}" for a, b in points)


def _line(
    one: Series, mean: Series | None, x_axis: axes.Axis, y_axis: axes.Axis
) -> str:
    parts = _strokes(one, "line raw" if mean else "line", x_axis, y_axis)
    parts += _strokes(mean, "line", x_axis, y_axis) if mean else []
    numbers = _numbers(one.label, one.x, one.y)
    color = f"color:var(--{one.color})"
    return f'<g class="series" style="{color}" {numbers}>{"".join(parts)}</g>'


def _strokes(one: Series, kind: str, x_axis: axes.Axis, y_axis: axes.Axis) -> list[str]:
    pattern = DASHES[one.dash % len(DASHES)] if kind == "line" else ""
    dash = f' stroke-dasharray="{pattern}"' if pattern else ""
    parts = []
    for index in _stretches(one.y):
        if len(index) > 1:
            path = _path(one.x[index], one.y[index], x_axis, y_axis)
            parts.append(f'<path class="{kind}" d="M{path}"{dash}/>')
        if len(index) == 1 or one.dots:
            at = zip(one.x[index].tolist(), one.y[index].tolist(), strict=True)
            parts += [_dot(x, y, x_axis, y_axis) for x, y in at]
    return parts


def _dot(x: float, y: float, x_axis: axes.Axis, y_axis: axes.Axis) -> str:
    return f'<circle cx="{x_axis.at(float(x))}" cy="{y_axis.at(float(y))}" r="2.6"/>'


def _numbers(label: str, x: np.ndarray, y: np.ndarray) -> str:
    xs = ",".join(f"{float(v):.6g}" for v in x)
    ys = ",".join(f"{float(v):.4g}" for v in y)
    return f'data-label="{escape(label)}" data-x="{xs}" data-y="{ys}"'


def _band(one: Series, x_axis: axes.Axis, y_axis: axes.Axis) -> str:
    assert one.band is not None
    parts = []
    for index in _stretches(one.y + one.band):
        x, y, band = one.x[index], one.y[index], one.band[index]
        up = _path(x, y + band, x_axis, y_axis)
        down = _path(x[::-1], (y - band)[::-1], x_axis, y_axis)
        parts.append(f'<path class="band" d="M{up}L{down}Z"/>')
    return f'<g style="color:var(--{one.color})">{"".join(parts)}</g>'


def _gaps(one: Series, x_axis: axes.Axis, y_axis: axes.Axis) -> str:
    """Crosses on the axis where a value is NaN or infinite."""
    parts = []
    for x in one.x[~np.isfinite(one.y)]:
        at = x_axis.at(float(x))
        parts.append(
            f'<path class="bad" d="M{at - 3} {y_axis.start - 3}l6 6m0 -6l-6 6"/>'
        )
    return "".join(parts)


def _edges(x: np.ndarray) -> np.ndarray:
    """Where the bar of each position begins and ends, halfway to its neighbors."""
    if len(x) == 1:
        return np.asarray([x[0] - 0.5, x[0] + 0.5])
    middles = (x[1:] + x[:-1]) / 2
    first, last = 2 * x[0] - middles[0], 2 * x[-1] - middles[-1]
    return np.concatenate([[first], middles, [last]])


def _area(
    label: str,
    x: np.ndarray,
    below: np.ndarray,
    top: np.ndarray,
    own: np.ndarray,
    color: str,
    x_axis: axes.Axis,
    y_axis: axes.Axis,
) -> str:
    edges = _edges(x)
    sides = np.repeat(edges, 2)[1:-1]
    up = _path(sides, np.repeat(top, 2), x_axis, y_axis)
    down = _path(sides[::-1], np.repeat(below, 2)[::-1], x_axis, y_axis)
    numbers = _numbers(label, x, own)
    path = f'<path class="area" d="M{up}L{down}Z"/>'
    return f'<g class="series" style="color:var(--{color})" {numbers}>{path}</g>'


def _svg(
    frame: axes.Frame,
    x_label: str,
    y_label: str,
    x_axis: axes.Axis,
    body: Sequence[str],
) -> str:
    box = f"0 0 {frame.width} {frame.height}"
    right, bottom = frame.width - frame.right, frame.height - frame.bottom
    title = f"{y_label} against {x_label}" if x_label else y_label
    return (
        f'<svg class="plot" viewBox="{box}" role="img" aria-label="{escape(title)}" '
        f'data-frame="{frame.left},{frame.top},{right},{bottom}" '
        f'data-low="{x_axis.low:.6g}" data-high="{x_axis.high:.6g}" '
        f'data-root="{int(x_axis.root)}" data-name="{escape(x_label or "step")}">'
        f"{''.join(body)}</svg>"
    )
