"""Figures of a report: metrics of one or several runs, as titled, explained plots.

With one run a color tells the line; with several a color tells the run, everywhere the
same, and the dash tells the line.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from rlhf_jax.studies import axes, panels, runs, summary, svg

RUN_COLORS = tuple(f"c{i}" for i in range(8))
SHAPES = {"sft": "circle", "ppo": "square"}
SMALL = axes.Frame(width=240, height=130, left=44, right=8, top=20, bottom=22)


def color_of(index: int) -> str:
    """The color of the run at `index`, the same in every figure."""
    return RUN_COLORS[index % len(RUN_COLORS)]


def stages(found: Sequence[runs.Run]) -> list[str]:
    """All stages; those that train a policy first, else in the order written."""
    names = list(dict.fromkeys(name for run in found for name in run.stages))

    return sorted(names, key=lambda name: not trains_policy(found, name))


def trains_policy(found: Sequence[runs.Run], stage: str) -> bool:
    """Whether a stage optimizes a reward, as its metrics tell."""
    return any(name.startswith("objective/") for name in _names(found, stage))


def stage_figures(found: Sequence[runs.Run], stage: str) -> list[str]:
    """Every figure of a stage that has data, in reading order."""
    names = _names(found, stage)
    wanted = list(panels.PANELS)
    after_entropy = next(i for i, p in enumerate(wanted) if p.title == "Entropy") + 3
    wanted[after_entropy:after_entropy] = panels.losses(names)
    figures = [panel_figure(found, stage, panel) for panel in wanted]
    figures[1:1] = [frontier(found, stage, root) for root in (False, True)]
    figures.append(time_figure(found, stage))
    return [text for text in figures if text]


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
            one = _series(curves, name, line.label)
            one = one._replace(color=color_of(index) if several else line.color)
            series.append(one._replace(dash=dash if several else 0))
    return series


def frontier(found: Sequence[runs.Run], stage: str, root: bool) -> str:
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
                color = color_of(index) if several else label
                series.append(one._replace(color=color, dash=dash if several else 0))
        marks += _marks(run, color_of(index) if several else "fg", several)
    if not trains_policy(found, stage) or not (series or marks):
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
    return figure(title, plot, series, text, found)


def time_figure(found: Sequence[runs.Run], stage: str) -> str:
    """Wall time by phase: stacked over steps for one run, mean bars for several."""
    names = panels.phases(_names(found, stage))
    if not names:
        return ""
    colors = {name: color_of(i) for i, name in enumerate(names)}
    if len(found) > 1:
        return _time_bars(found, stage, names, colors)
    curves = found[0].stages[stage]
    steps = np.unique(np.concatenate([curves[name].steps for name in names]))
    layers = [
        (name.removeprefix("time/"), _on(curves[name], steps), colors[name])
        for name in names
    ]
    plot = svg.stacked(
        steps, layers, x_label=f"{stage} step", y_label="wall time [seconds per step]"
    )
    keys = [svg.Series(label, steps, y, color) for label, y, color in layers]
    text = (
        "Stacked: the top edge is the whole step. The first one includes compilation."
    )
    return figure("Time per phase", plot, keys, text, found, patches=True)


def more_figures(found: Sequence[runs.Run], stage: str) -> list[str]:
    """Small multiples of every metric that has no panel of its own."""
    names = _names(found, stage)
    rest = sorted(set(names) - panels.shown(names))
    return [_small(found, stage, name) for name in rest]


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


def _names(found: Sequence[runs.Run], stage: str) -> list[str]:
    return list(dict.fromkeys(n for run in found for n in run.stages.get(stage, {})))


def _series(curves: dict[str, runs.Curve], name: str, label: str) -> svg.Series:
    curve = curves[name]
    error = curves.get(f"{name}_se")
    band = None if error is None else _on(error, curve.steps)
    return svg.Series(
        label, curve.steps, curve.values, band=band, dots=len(curve.steps) < 25
    )


def _on(curve: runs.Curve, steps: np.ndarray) -> np.ndarray:
    """Values at `steps`, NaN where the curve has none."""
    known = dict(zip(curve.steps.tolist(), curve.values.tolist(), strict=True))
    return np.asarray([known.get(step, np.nan) for step in steps.tolist()], np.float64)


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
    y = _on(curves[name], curve.steps)
    both = np.isfinite(curve.values) & np.isfinite(y)
    if not both.any():
        return None
    return svg.Series(label, curve.values[both], y[both], dots=both.sum() < 25)


def _marks(run: runs.Run, color: str, several: bool) -> list[svg.Mark]:
    marks = []
    table = run.summary.get("table") or {}
    for row, cells in table.items():
        gold, kl = cells.get("gold"), cells.get("kl")
        if summary.known(gold) and summary.known(kl):
            x_error, y_error = (float(of.get("se") or 0.0) for of in (kl, gold))
            label = "" if several else summary.label(row)
            at = (kl["mean"], gold["mean"], x_error, y_error)
            marks.append(svg.Mark(label, *at, color, SHAPES.get(row, "diamond")))
    return marks


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
    return figure("Time per phase", "".join(bars), keys, text, found, patches=True)


def _mean(curve: runs.Curve) -> float:
    finite = curve.values[np.isfinite(curve.values)]
    return float(finite.mean()) if len(finite) else 0.0


def _small(found: Sequence[runs.Run], stage: str, name: str) -> str:
    series = []
    for index, run in enumerate(found):
        curves = run.stages.get(stage, {})
        if name in curves:
            one = _series(curves, name, run.name)
            series.append(one._replace(color=color_of(index), dots=False))
    plot = svg.lines(series, x_label="", y_label=name, frame=SMALL)
    return f'<figure class="small">{plot}</figure>'
