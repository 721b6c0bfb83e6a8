"""Curves of a claim: what a paper would print, averaged over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from rlhf_jax.errors import UserError
from rlhf_jax.studies import figures, points, svg

Kind = Literal["line", "fit", "point"]

COLORS = ("c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7")


class Curve(NamedTuple):
    """One curve under one seed; the same panels and labels under every seed.

    Attributes:
      panel: title of the plot that it is drawn in.
      label: its name in the legend; a fit has the name of what it fits.
      x: positions; equal indices of different seeds are averaged.
      y: values.
      kind: `line`; `fit`, drawn dashed; or `point`, marks with error bars.
      color: a CSS color property such as `gold` or `proxy`; "" takes the next.
    """

    panel: str
    label: str
    x: Sequence[float]
    y: Sequence[float]
    kind: Kind = "line"
    color: str = ""


class Measured(NamedTuple):
    """What `Claim.measure` gives where there is something to draw."""

    values: float | Mapping[str, float]
    curves: Sequence[Curve] = ()


class Plot(NamedTuple):
    """How the curves of a claim are drawn.

    Attributes:
      x_label: name and unit.
      y_label: name and unit.
      text: how to read it.
      root_x: a square-root horizontal axis.
    """

    x_label: str
    y_label: str
    text: str
    root_x: bool = False


def of_rows(rows: Iterable[Mapping[str, Any]]) -> list[Curve]:
    """Curves as they lie in a measurement, null being NaN."""
    return [
        Curve(**{**row, "x": _numbers(row["x"]), "y": _numbers(row["y"])})
        for row in rows
    ]


def _numbers(values: Iterable[float | None]) -> list[float]:
    return [float("nan") if value is None else float(value) for value in values]


def mean(by_seed: Mapping[int, Sequence[Curve]]) -> list[tuple[Curve, Curve]]:
    """Each curve averaged over seeds, and with it its standard errors.

    Raises:
      UserError: a curve has other points, or is missing, under another seed.
    """
    rows = list(by_seed.values())
    found = []
    for index, first in enumerate(rows[0] if rows else ()):
        same = [row[index] for row in rows if index < len(row)]
        if len(same) < len(rows) or any(
            (one.panel, one.label, len(one.x))
            != (first.panel, first.label, len(first.x))
            for one in same
        ):
            raise UserError(
                f"curve {first.label!r} of {first.panel!r} is not the same under every "
                "seed: measure it at the same number of points"
            )
        xs, ys = (np.asarray([getattr(c, a) for c in same], float) for a in "xy")
        errors = first._replace(x=_error(xs).tolist(), y=_error(ys).tolist())
        averaged = first._replace(x=xs.mean(0).tolist(), y=ys.mean(0).tolist())
        found.append((averaged, errors))
    return found


def _error(values: np.ndarray) -> np.ndarray:
    count = len(values)
    if count < 2:
        return np.zeros(values.shape[1])
    return values.std(axis=0, ddof=1) / np.sqrt(count)


def draw(by_seed: Mapping[int, Sequence[Curve]], plot: Plot) -> str:
    """Every panel as a figure; "" where nothing was measured."""
    found = mean(by_seed)
    panels = dict.fromkeys(curve.panel for curve, _ in found)
    drawn = [
        _panel(name, [pair for pair in found if pair[0].panel == name], plot)
        for name in panels
    ]
    return f'<div class="grid">{"".join(drawn)}</div>' if drawn else ""


def _panel(name: str, found: list[tuple[Curve, Curve]], plot: Plot) -> str:
    labels = list(dict.fromkeys(curve.label for curve, _ in found))
    series, marks, keys = [], [], []
    for curve, errors in found:
        if curve.kind == "point":
            marks += _marks(curve, errors, labels)
            nothing = np.zeros(0)
            keys.append(
                svg.Series(curve.label, nothing, nothing, _color(curve, labels))
            )
            continue
        series.append(_series(curve, errors, labels))
    picture = svg.lines(
        series,
        x_label=plot.x_label,
        y_label=plot.y_label,
        marks=marks,
        root_x=plot.root_x,
        whole_x=False,
    )
    return figures.figure(name, picture, series + keys, plot.text)


def _color(curve: Curve, labels: list[str]) -> str:
    return curve.color or COLORS[labels.index(curve.label) % len(COLORS)]


def _series(curve: Curve, errors: Curve, labels: list[str]) -> svg.Series:
    fit = curve.kind == "fit"
    return svg.Series(
        f"{curve.label}, fit" if fit else curve.label,
        np.asarray(curve.x),
        np.asarray(curve.y),
        color=_color(curve, labels),
        dash=int(fit),
        band=None if fit else np.asarray(errors.y),
    )


def _marks(curve: Curve, errors: Curve, labels: list[str]) -> list[points.Mark]:
    """Marks of one color and shape, named in the legend."""
    at = zip(curve.x, curve.y, errors.x, errors.y, strict=True)
    color, shapes = _color(curve, labels), list(points.SHAPES)
    shape = shapes[labels.index(curve.label) % len(shapes)]
    return [points.Mark("", *place, color, shape) for place in at]
