"""Reward against KL: what each nat of distance from the reference bought."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlhf_jax.studies import figures, panels, points, runs, summary, svg

SHAPES = {"sft": "circle", "ppo": "square"}
OTHER = "diamond"
"""Marks of the rows of a table that are not among `SHAPES`."""


def figure(found: Sequence[runs.Run], stage: str, root: bool) -> str:
    """Gold (and proxy) against KL along training, with the rows of the table."""
    series, marks = [], []
    for index, run in enumerate(found):
        several = len(found) > 1
        curves = run.stages.get(stage, {})
        for dash, (label, names) in enumerate(
            (("gold", panels.GOLD), ("proxy", panels.PROXY))
        ):
            one = _against(curves, names, label, several)
            if one is not None:
                color = figures.color_of(index) if several else label
                series.append(one._replace(color=color, dash=dash if several else 0))
        marks += _marks(run, figures.color_of(index) if several else "fg", several)
    if not figures.trains_policy(found, stage) or not (series or marks):
        return ""
    plot = svg.lines(
        series,
        x_label="√ axis: KL to the reference [nats]"
        if root
        else "KL to the reference [nats]",
        y_label="reward [score]",
        marks=marks,
        root_x=root,
        whole_x=False,
    )
    if root:
        title = "Gold against KL, square-root axis"
        text = (
            "The same on a square-root axis, on which gains are close to straight "
            "before they bend (Gao et al. 2023)."
        )
    else:
        title = "Gold against KL"
        text = (
            "What each nat of distance bought, along training. Marks: rows of the "
            "table with ± 1 standard error. Higher and further left is better."
        )
    told = _shapes() if marks and len(found) > 1 else ""
    return figures.figure(title, plot, series, text + told, found)


def _shapes() -> str:
    """What the marks are where runs share a plot, in which they carry no names."""
    named = (f"{shape} {summary.label(row)}" for row, shape in SHAPES.items())
    return f" Shapes: {', '.join(named)}, {OTHER} any other row."


def _against(
    curves: dict[str, runs.Curve], names: Sequence[str], label: str, several: bool
) -> svg.Series | None:
    """A reward over KL, both held out or both from training, in the order of steps."""
    name = panels.find(curves, names)
    group = "" if name is None else name.split("/")[0]
    kl = panels.find(curves, [n for n in panels.KL if n.startswith(f"{group}/")])
    if name is None or kl is None:
        return None
    curve = curves[kl]
    y = figures.values_at(curves[name], curve.steps)
    both = np.isfinite(curve.values) & np.isfinite(y)
    if not both.any():
        return None
    return svg.Series(label, curve.values[both], y[both], dots=int(both.sum()) < 25)


def _marks(run: runs.Run, color: str, several: bool) -> list[points.Mark]:
    marks = []
    table = run.summary.get("table") or {}
    for row, cells in table.items():
        gold, kl = cells.get("gold"), cells.get("kl")
        if summary.known(gold) and summary.known(kl):
            x_error, y_error = (float(of.get("se") or 0.0) for of in (kl, gold))
            label = "" if several else summary.label(row)
            at = (kl["mean"], gold["mean"], x_error, y_error)
            marks.append(points.Mark(label, *at, color, SHAPES.get(row, OTHER)))
    return marks


def _cap(sums: np.ndarray) -> float | None:
    """Where to cut a few steps (those that compile) that would flatten all others."""
    usual = float(np.percentile(sums, 90))
    return 1.5 * usual if sums.max() > 3 * usual > 0 else None
