"""The plots of a study: forest of differences, curves with bands, gold against KL."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rlhf_jax import stats
from rlhf_jax.studies import axes, digits, figures, forest, points, svg
from rlhf_jax.studies.ablation import curves, words
from rlhf_jax.studies.ablation.analysis import Analysis, Comparison
from rlhf_jax.studies.ablation.plan import Cell, Metric, Plan
from rlhf_jax.studies.ablation.records import Record

TOGETHER = 3
"""Up to this many cells share one plot of curves; more get one each."""

SMALL = axes.Frame(300, 180, 46, 12, 22, 32)


def color(plan: Plan, cell: Cell) -> str:
    """The color of a cell, the same in every plot; the baseline's is gray."""
    return "muted" if cell.baseline else figures.color_of(plan.others.index(cell))


def differences(found: Analysis, metric: Metric) -> str:
    """The forest plot of one metric."""
    cells = [found.of(cell.name, metric.name) for cell in found.plan.others]
    unit = f" [{metric.unit}]" if metric.unit else ""
    plot = forest.draw(
        [_effect(one) for one in cells],
        x_label=f"{metric.name} − baseline{unit}",
        margin=metric.margin,
    )
    good = "right" if metric.direction == "up" else "left"
    text = (
        f"Difference to the baseline, paired by seed, with its {_share(found.plan)} "
        f"interval; better is to the {good}. Green and red: decided after the "
        "adjustment for several comparisons; gray: undecided."
    )
    if metric.margin is not None:
        text += " Shaded: differences that do not matter, as stated beforehand."
    title = f"{metric.name}: difference to the baseline"
    return figures.figure(title, plot, (), text, patches=True)


def _effect(one: Comparison) -> forest.Effect:
    ends = (one.difference.low, one.difference.high)
    known = math.isfinite(one.difference.mean)
    text = words.difference(one) if known else "no pair of runs"
    if all(map(math.isfinite, ends)):
        text += f" ({digits.interval(*ends)})"
    shade = words.COLORS[one.better]
    return forest.Effect(one.cell, text, one.difference.mean, *ends, shade)


def over_steps(plan: Plan, found: Sequence[Record], name: str) -> list[str]:
    """A curve of every cell against the baseline's: one figure, or one a cell."""
    groups = (
        [plan.others] if len(plan.others) <= TOGETHER else [(c,) for c in plan.others]
    )
    drawn = {cell.name: _series(plan, found, cell, name) for cell in plan.cells}
    span = [v for one in drawn.values() if one is not None for v in _ends(one)]
    base = drawn[plan.baseline.name]
    parts = []
    for cells in groups:
        shown = [one for cell in cells if (one := drawn[cell.name]) is not None]
        series = ([base] if base is not None else []) + shown
        if not shown:
            continue
        alone = len(groups) > 1
        plot = svg.lines(
            series,
            x_label="step",
            y_label=name,
            include=span if alone else (),
            frame=SMALL if alone else None,
        )
        title = cells[0].name if alone else name
        parts.append(figures.figure(title, plot, series, "", patches=True))
    return parts


def _series(
    plan: Plan, found: Sequence[Record], cell: Cell, name: str
) -> svg.Series | None:
    one = curves.band(plan, found, cell.name, name)
    if one is None:
        return None
    few = len(one.steps) < 3
    shade = color(plan, cell)
    return svg.Series(
        cell.name, one.steps, one.mean, shade, 2 * cell.baseline, one.half, few
    )


def _ends(one: svg.Series) -> tuple[float, float]:
    """Lowest and highest point of a line with its band."""
    half = np.zeros(len(one.y)) if one.band is None else np.nan_to_num(one.band)
    ends = np.concatenate([one.y - half, one.y + half])
    ends = ends[np.isfinite(ends)]
    return (float(ends.min()), float(ends.max())) if len(ends) else (0.0, 0.0)


def gold_against_kl(found: Analysis, records: Sequence[Record]) -> str:
    """What each nat of distance bought, a line or a point a cell; "" where unknown."""
    plan = found.plan
    if not (plan.gold and plan.kl):
        return ""
    lines, marks = [], []
    for cell in plan.cells:
        line = _path(plan, records, cell)
        lines += [] if line is None else [line]
        marks += _mark(found, cell)
    if not (lines or marks):
        return ""
    plot = svg.lines(
        lines,
        x_label=f"{plan.kl} [nats]",
        y_label=plan.gold,
        marks=marks,
        whole_x=False,
        frame=axes.Frame(400, 260),
    )
    keys = [
        svg.Series(c.name, np.zeros(0), np.zeros(0), color(plan, c)) for c in plan.cells
    ]
    text = (
        "Higher and further left is better: more of the true reward for less distance "
        "from the reference."
    )
    text += " Lines: mean over seeds along training." if lines else ""
    if marks:
        text += f" Marks: where the cells ended, with {_share(plan)} intervals."
    return figures.figure("Gold against KL", plot, keys, text, patches=True)


def missing(found: Analysis, records: Sequence[Record]) -> list[str]:
    """A sentence for each plot, or line of one, that the plan names and no run gives.

    Cells of which no run is there, or none that did not diverge, are not spoken of.
    """
    plan = found.plan
    ended = {record.cell for record in records if not record.diverged}
    cells = [cell for cell in plan.cells if cell.name in ended]
    texts = []
    for name in plan.curves:
        lack = [c for c in cells if curves.band(plan, records, c.name, name) is None]
        texts += _told(f"{name} over training", lack, cells, f"no {name!r}")
    if plan.gold or plan.kl:
        lack = [c for c in cells if not _mark(found, c) and not _path(plan, records, c)]
        both = f"not both {plan.gold!r} and {plan.kl!r}, as curves or as metrics"
        texts += _told("gold against KL", lack, cells, both)
    return texts


def _told(
    what: str, lack: Sequence[Cell], cells: Sequence[Cell], reason: str
) -> list[str]:
    if not lack:
        return []
    some = ", ".join(cell.name for cell in lack) if len(lack) < len(cells) else ""
    where = f" for {some}: the runs there have" if some else ": the runs have"
    return [f"Not drawn: {what}{where} {reason}."]


def _path(plan: Plan, records: Sequence[Record], cell: Cell) -> svg.Series | None:
    gold, kl = (curves.band(plan, records, cell.name, n) for n in (plan.gold, plan.kl))
    if gold is None or kl is None:
        return None
    steps, at, to = np.intersect1d(gold.steps, kl.steps, return_indices=True)
    x, y = kl.mean[to], gold.mean[at]
    both = np.isfinite(x) & np.isfinite(y)
    shade = color(plan, cell)
    few = len(steps) < 25
    return svg.Series(cell.name, x[both], y[both], shade, 2 * cell.baseline, dots=few)


def _mark(found: Analysis, cell: Cell) -> list[points.Mark]:
    names = {metric.name for metric in found.plan.metrics}
    if not {found.plan.gold, found.plan.kl} <= names:
        return []
    x, y = (found.of(cell.name, n) for n in (found.plan.kl, found.plan.gold))
    if not (x.values and y.values):
        return []
    wide, tall = (_half(found.plan, one) for one in (x, y))
    shade = color(found.plan, cell)
    shape = "diamond" if cell.baseline else "square"
    return [points.Mark("", x.mean, y.mean, wide, tall, shade, shape)]


def _half(plan: Plan, one: Comparison) -> float:
    """Half-width of the interval of a cell's own mean; 0 for a single seed."""
    of = stats.mean(list(one.values.values()), confidence=plan.confidence)
    return of.high - of.mean if math.isfinite(of.high) else 0.0


def _share(plan: Plan) -> str:
    return f"{100 * plan.confidence:g} %"
