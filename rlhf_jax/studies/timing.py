"""Where the time goes: wall time by phase, for one run or several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np

from rlhf_jax.studies import figures, panels, runs, summary, svg


def figure(found: Sequence[runs.Run], stage: str) -> str:
    """Wall time by phase: stacked over steps for one run, mean bars for several."""
    names = panels.phases(figures.names_of(found, stage))
    if not names:
        return ""
    colors = {name: figures.color_of(i) for i, name in enumerate(names)}
    if len(found) > 1:
        return _time_bars(found, stage, names, colors)
    curves = found[0].stages[stage]
    steps = np.unique(np.concatenate([curves[name].steps for name in names]))
    layers = [
        (
            name.removeprefix("time/"),
            figures.values_at(curves[name], steps),
            colors[name],
        )
        for name in names
    ]
    sums = np.sum([np.nan_to_num(y) for _, y, _ in layers], axis=0)
    cap = _cap(sums)
    plot = svg.stacked(
        steps,
        layers,
        x_label=f"{stage} step",
        y_label="wall time [seconds per step]",
        cap=cap,
    )
    nothing = np.zeros(0)
    keys = [svg.Series(label, nothing, nothing, color) for label, _, color in layers]
    text = "Stacked: the top edge is the sum of the phases."
    if cap is not None:
        most = summary.number(float(sums.max()))
        text += f" Cut off at the top: step {steps[sums.argmax()]:.0f} took {most} s"
        text += ", as steps that compile do." if sums.argmax() < 3 else "."
    return figures.figure("Time per phase", plot, keys, text, found, patches=True)


def _cap(sums: np.ndarray) -> float | None:
    """Where to cut a few steps (those that compile) that would flatten all others."""
    few = math.ceil(0.02 * len(sums))
    usual = float(np.sort(sums)[:-few].max(initial=0.0))
    return 1.5 * usual if sums.max() > 3 * usual > 0 else None


def _time_bars(
    found: Sequence[runs.Run], stage: str, names: list[str], colors: dict[str, str]
) -> str:
    rows = []
    for run in found:
        curves = run.stages.get(stage, {})
        rows.append([_mean(curves[n]) if n in curves else 0.0 for n in names])
    widest = max(max(map(sum, rows)), 1e-12)
    bars = []
    for run, means in zip(found, rows, strict=True):
        parts = "".join(
            f'<i title="{escape(n)}: {mean:.3g} s" style="width:'
            f'{100 * mean / widest:.2f}%;background:var(--{colors[n]})"></i>'
            for n, mean in zip(names, means, strict=True)
        )
        total = summary.number(float(sum(means)))
        bars.append(
            f'<div class="barrow"><span>{escape(run.name)}: {total} s</span>'
            f'<div class="bars">{parts}</div></div>'
        )
    keys = [
        svg.Series(n.removeprefix("time/"), np.zeros(0), np.zeros(0), colors[n])
        for n in names
    ]
    text = "Mean seconds per step in each phase, compilation included."
    return figures.figure(
        "Time per phase", "".join(bars), keys, text, found, patches=True
    )


def _mean(curve: runs.Curve) -> float:
    finite = curve.values[np.isfinite(curve.values)]
    return float(finite.mean()) if len(finite) else 0.0
