"""What a study found, in words and in short numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from rlhf_jax.studies import compare, digits
from rlhf_jax.studies.ablation import plan as plans
from rlhf_jax.studies.ablation.analysis import Analysis, Comparison
from rlhf_jax.studies.ablation.plan import Cell, Metric, Plan
from rlhf_jax.studies.summary import number, with_error

COLORS = {True: "pos", False: "neg", None: "muted"}
"""Better, worse, undecided."""


def headline(found: Analysis, metric: Metric) -> str:
    """One or two sentences: what moved the metric, and how much is undecided."""
    cells = [found.of(cell.name, metric.name) for cell in found.plan.others]
    moved = [one for one in cells if one.verdict in ("up", "down")]
    moved.sort(key=lambda one: -abs(one.difference.mean))
    if not moved:
        what = "no difference to the baseline is decided"
        return f"{metric.name}: {what} ({_count(len(cells), 'cell')}, Holm-adjusted)."
    texts = [
        f"{one.cell} {'raised' if one.verdict == 'up' else 'lowered'} it by "
        f"{difference(one).lstrip('+−')} ({'better' if one.better else 'worse'})"
        for one in moved
    ]
    rest = len(cells) - len(moved)
    text = f"{metric.name}: {', '.join(texts)}"
    return f"{text}; {rest} undecided." if rest else f"{text}."


def summary(found: Analysis) -> str:
    """What came out, for a terminal: warnings, a line a metric, the runs lost."""
    plan = found.plan
    lines = list(plans.warnings(plan))
    lines += [headline(found, metric) for metric in plan.metrics]
    lines += [f"diverged: {text}" for text in diverged(found)]
    if found.missing:
        lines.append(f"{_count(len(found.missing), 'run')} not there yet")
    return "\n".join(lines)


def verdict(one: Comparison) -> str:
    """The verdict with what qualifies it."""
    if one.verdict == "baseline":
        return "baseline"
    arrow = {"up": "↑ up", "down": "↓ down", "undecided": "undecided"}[one.verdict]
    side = {True: ", better", False: ", worse", None: ""}[one.better]
    return arrow + side


def notes(one: Comparison) -> list[str]:
    """What a reader must know beside the verdict."""
    found = ["exploratory"] if one.exploratory else []
    if one.diverged:
        found.append(f"{one.diverged} diverged")
    if one.equal is not None and one.equal.equivalent:
        found.append(f"equal within ±{number(one.equal.margin)}")
    return found


def difference(one: Comparison) -> str:
    """The mean difference with sign, to the digits of its interval; a dash if none."""
    change = one.difference
    return digits.rounded(change.mean, change.high - change.low, sign=True)


def spread(one: Comparison) -> tuple[str, str]:
    """Mean and standard deviation over seeds, as text; the latter may be empty."""
    return with_error({"mean": one.mean, "se": one.sd})


def p_value(p: float) -> str:
    """A p value with two digits; small ones as a bound."""
    if not math.isfinite(p):
        return "–"
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def changes(plan: Plan, cell: Cell) -> dict[str, tuple[str, str]]:
    """Config key -> its value in the baseline and in the cell, where they differ.

    "(config)" stands where the plan does not know the value of the config.
    """
    have = compare.leaves(plan.config)
    before, after = plan.baseline.changes, cell.changes
    found = {}
    for key in dict.fromkeys([*before, *after]):
        old, new = (_value(key, of, have) for of in (before, after))
        if old != new:
            found[key] = (old, new)
    return found


def _value(key: str, over: Mapping[str, Any], have: Mapping[str, Any]) -> str:
    if key in over or key in have:
        value = over[key] if key in over else have[key]
        return json.dumps(value, ensure_ascii=False, default=str)
    return "(config)"


def diverged(found: Analysis) -> list[str]:
    """A sentence for each run that diverged."""
    return [
        f"{one['cell']}, seed {one['seed']}"
        + (f", step {one['step']}" if one["step"] >= 0 else "")
        + f": {one['reason']}"
        for one in found.diverged
    ]


def _count(n: int, what: str) -> str:
    return f"{n} {what}" + ("" if n == 1 else "s")


def method(plan: Plan) -> str:
    """How the numbers came about, for whoever reads the page alone."""
    share = f"{100 * plan.confidence:g} %"
    test = {
        "sign_flip": "exact sign flips of the paired differences",
        "paired_t": "the paired t test",
    }[plan.test]
    kinds = f" ({', '.join(plan.seed_kinds)})" if plan.seed_kinds else ""
    return (
        f"Every cell ran with the same {_count(len(plan.seeds), 'seed')}{kinds}; a "
        "difference is that of a cell and the baseline under one seed, averaged over "
        f"seeds. Intervals are {share} paired-t, each on its own. A verdict holds "
        f"where the p value of {test}, adjusted after Holm for the "
        f"{_count(len(plan.others), 'comparison')} of a metric, is at most "
        f"{1 - plan.confidence:.2g}. So an interval may exclude 0 and the "
        "verdict still be undecided."
    )
