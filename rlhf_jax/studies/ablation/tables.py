"""The table of a study for a spreadsheet (CSV) and for a paper (Markdown, LaTeX)."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

from rlhf_jax.studies import digits
from rlhf_jax.studies.ablation import words
from rlhf_jax.studies.ablation.analysis import Analysis, Comparison
from rlhf_jax.studies.ablation.plan import Metric, Plan

COLUMNS = (
    *("metric", "cell", "baseline", "n", "diverged", "mean", "iqm", "sd"),
    *("pairs", "difference", "se", "low", "high"),
    *("studentized_low", "studentized_high", "p_sign_flip", "p_t", "p_adjusted"),
    *("hedges_g", "verdict", "better", "exploratory"),
    *("margin", "p_equivalence", "equivalent"),
)

LATEX = {
    **{c: "\\" + c for c in "&%$#_{}"},
    **{
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    },
    **{"−": "$-$", "±": r"$\pm$", "–": "--", "↑": r"$\uparrow$", "↓": r"$\downarrow$"},
    **{"<": "$<$", ">": "$>$", "√": r"$\sqrt{}$"},
}


def to_csv(found: Analysis) -> str:
    """A row a metric and cell, all digits; empty where there is no number."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in found.comparisons:
        row = _row(one)
        writer.writerow([_plain(row[name]) for name in COLUMNS])
    return out.getvalue()


def _row(one: Comparison) -> dict[str, Any]:
    equal = one.equal
    change = one.difference
    return one._asdict() | {
        "baseline": one.verdict == "baseline",
        "n": len(one.values),
        "pairs": change.n,
        "difference": change.mean,
        "se": change.se,
        "low": change.low,
        "high": change.high,
        "studentized_low": one.studentized[0],
        "studentized_high": one.studentized[1],
        "hedges_g": one.g,
        "margin": None if equal is None else equal.margin,
        "p_equivalence": None if equal is None else equal.p_adjusted,
        "equivalent": None if equal is None else equal.equivalent,
    }


def _plain(value: Any) -> Any:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return str(value).lower() if isinstance(value, bool) else value


def to_markdown(found: Analysis) -> str:
    """A table a metric, with a line on how to read it."""
    parts = [f"# {found.plan.name}\n"]
    if found.plan.question:
        parts.append(f"{found.plan.question}\n")
    for metric in found.plan.metrics:
        head, *rows = _texts(found, metric)
        lines = [_line(head), _line(["---"] + ["---:"] * (len(head) - 1))]
        parts.append(f"## {title(metric)}\n\n" + "\n".join(lines))
        parts[-1] += "\n" + "\n".join(_line(row) for row in rows) + "\n"
    parts.append(_note(found.plan) + "\n")
    return "\n".join(parts)


def to_latex(found: Analysis) -> str:
    """A `tabular` a metric (package booktabs), captioned with how to read it."""
    return "\n\n".join(_tabular(found, m) for m in found.plan.metrics) + "\n"


def _tabular(found: Analysis, metric: Metric) -> str:
    head, *rows = ([_escape(c) for c in row] for row in _texts(found, metric))
    caption = f"{_escape(title(metric))}. {_escape(_note(found.plan))}"
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{caption}}}"]
    lines += [rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", r"\toprule"]
    lines += [" & ".join(head) + r" \\", r"\midrule"]
    lines += [" & ".join(row) + r" \\" for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def title(metric: Metric) -> str:
    """Name, unit and the better direction."""
    unit = f" [{metric.unit}]" if metric.unit else ""
    side = "higher" if metric.direction == "up" else "lower"
    return f"{metric.name}{unit}, {side} is better"


def _texts(found: Analysis, metric: Metric) -> list[list[str]]:
    share = f"{100 * found.plan.confidence:g} % interval"
    head = ["cell", "n", "mean ± sd", "difference", share, "p (Holm)", "g", "verdict"]
    rows = [head]
    for cell in found.plan.cells:
        one = found.of(cell.name, metric.name)
        mean = " ± ".join(filter(None, words.spread(one)))
        notes = words.notes(one)
        verdict = words.verdict(one) + (f" ({', '.join(notes)})" if notes else "")
        change = [
            words.difference(one),
            digits.interval(one.difference.low, one.difference.high),
            words.p_value(one.p_adjusted),
            words.number(one.g, sign=True),
        ]
        if cell.baseline:
            change = [""] * 4
        rows.append([cell.name, str(len(one.values)), mean, *change, verdict])
    return rows


def _note(plan: Plan) -> str:
    text = words.method(plan)
    return text + (" Exploratory: few seeds." if plan.exploratory else "")


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _escape(text: str) -> str:
    return "".join(LATEX.get(c, c) for c in text)
