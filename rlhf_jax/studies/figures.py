"""Figures of a report: metrics of one or several runs, as titled, explained plots.

With one run a color tells the line; with several a color tells the run, everywhere the
same, and the dash tells the line.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from rlhf_jax.studies import panels, runs, svg

RUN_COLORS = tuple(f"c{i}" for i in range(8))


def color_of(index: int) -> str:
    """The color of the run at `index`, the same in every figure."""
    return RUN_COLORS[index % len(RUN_COLORS)]


def dot(index: int) -> str:
    """A dot in the color of the run at `index`."""
    return f'<i class="dot" style="background:var(--{color_of(index)})"></i>'


def trains_policy(found: Sequence[runs.Run], stage: str) -> bool:
    """Whether a stage optimizes a reward, as its metrics tell."""
    return any(name.startswith("objective/") for name in names_of(found, stage))


def panel_figure(found: Sequence[runs.Run], stage: str, panel: panels.Panel) -> str:
    """A panel's plot, or nothing where no run has its metrics."""
    series = panel_series(found, stage, panel)
    if not series:
        return ""
    plot = svg.lines(
        series,
        x_label=f"{stage} step",
        y_label=panel.unit,
        include=panel.include,
    )
    return figure(panel.title, plot, series, panel.help, found)


def panel_series(
    found: Sequence[runs.Run], stage: str, panel: panels.Panel
) -> list[svg.Series]:
    """The lines of a panel over all runs, colored by line or by run."""
    series = []
    for index, run in enumerate(found):
        curves = run.stages.get(stage, {})
        used = set()
        for dash, line in enumerate(panel.lines):
            name = panels.find(curves, line.names)
            if name is None or name in used:
                continue
            used.add(name)
            several = len(found) > 1
            one = series_of(curves, name, line.label)
            one = one._replace(color=color_of(index) if several else line.color)
            series.append(one._replace(dash=dash if several else 0))
    return series


def figure(
    title: str,
    plot: str,
    series: Sequence[svg.Series],
    text: str,
    found: Sequence[runs.Run] = (),
    patches: bool = False,
) -> str:
    """A plot with title, legend and caption; says how many values were not finite."""
    bad = sum(int((~np.isfinite(one.y)).sum()) for one in series)
    pale = (
        [one for one in series if svg.smoothed(one) is not None] if not patches else []
    )
    if pale:
        text += " Pale: single steps; line: mean over neighbors."
    note = f' <b class="warn">{bad} non-finite, marked ×.</b>' if bad else ""
    return (
        f"<figure><h4>{escape(title)}</h4>{_legend(series, found, patches)}{plot}"
        f"<figcaption>{escape(text)}{note}</figcaption></figure>"
    )


def _legend(
    series: Sequence[svg.Series], found: Sequence[runs.Run], patches: bool
) -> str:
    several = len(found) > 1 and not patches
    keys = dict.fromkeys(
        (one.label, "fg" if several else one.color, one.dash) for one in series
    )
    if len(keys) < 2 and not several:
        return ""
    items = [
        f'<span style="color:var(--{color})">{_swatch(dash, patches)}</span>'
        f"<span>{escape(label)}</span>"
        for label, color, dash in keys
    ]
    items = [f'<span class="key">{item}</span>' for item in items]
    return f'<div class="legend">{"".join(items)}</div>'


def _swatch(dash: int, patch: bool) -> str:
    if patch:
        box = '<rect width="12" height="10"/>'
        return f'<svg class="swatch" viewBox="0 0 12 10">{box}</svg>'
    pattern = svg.DASHES[dash % len(svg.DASHES)]
    return (
        '<svg class="swatch" viewBox="0 0 22 10"><path class="line" d="M0 5H22" '
        f'stroke-dasharray="{pattern}"/></svg>'
    )


def names_of(found: Sequence[runs.Run], stage: str) -> list[str]:
    """Every metric that any run has in the stage, in the order first written."""
    return list(dict.fromkeys(n for run in found for n in run.stages.get(stage, {})))


def series_of(curves: dict[str, runs.Curve], name: str, label: str) -> svg.Series:
    """A metric over steps, with its standard error where the stage has one."""
    curve = curves[name]
    error = curves.get(f"{name}_se")
    band = None if error is None else values_at(error, curve.steps)
    return svg.Series(
        label, curve.steps, curve.values, band=band, dots=len(curve.steps) < 25
    )


def values_at(curve: runs.Curve, steps: np.ndarray) -> np.ndarray:
    """Values at `steps`, NaN where the curve has none."""
    known = dict(zip(curve.steps.tolist(), curve.values.tolist(), strict=True))
    return np.asarray([known.get(step, np.nan) for step in steps.tolist()], np.float64)
