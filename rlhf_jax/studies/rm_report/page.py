"""The page of a reward-model report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf_jax.studies import digits, figures, forest, svg
from rlhf_jax.studies import page as frame
from rlhf_jax.studies.rm_report.entries import Entry

if TYPE_CHECKING:
    from rlhf_jax.studies.rm_report.output import Results

BAD = (
    "biased",
    "worse than chance",
    "no better than chance",
    "too sure",
    "miscalibrated",
    "sensitive",
    "ignores the prompt",
    "rewarded",
    "out of distribution",
    "higher",
)
"""Verdicts that are shown in the color of a warning."""

TITLES = {
    "accuracy": "Accuracy",
    "accuracy_gold": "Accuracy by gold",
    "ceiling": "Reachable ceiling",
    "share_of_ceiling": "Share of the ceiling",
    "calibration_slope": "Calibration slope",
    "ece": "Calibration error",
    "length_bias": "Length bias",
    "length_correlation": "Length correlation",
    "length_correlation_gold": "… of gold",
    "length_correlation_label": "… of the label",
    "position_bias": "Position bias",
    "repetition": "Saying it twice",
    "prompt_shuffle": "Another's prompt: score",
    "prompt_shuffle_accuracy_drop": "Another's prompt: accuracy",
    "score_drift": "Drift of the score",
    "ood_data": "Data out of distribution",
    "ood_policy": "Policy out of distribution",
}

EFFECTS = (
    "length_bias",
    "length_correlation",
    "length_correlation_gold",
    "length_correlation_label",
    "position_bias",
    "repetition",
    "score_drift",
)
"""Entries that stand against zero in the figure of effects."""

STYLE = (
    forest.STYLE
    + """
.entries td,.entries th{font-size:13.5px;overflow-wrap:normal}
.entries td:nth-child(4),.entries thead th:nth-child(4){text-align:left}
.entries th small{display:block;font-weight:400;max-width:70ch;white-space:normal}
.neg{color:var(--neg)}.good{color:var(--pos)}
@media(max-width:620px){.entries tr{display:grid;grid-template-columns:1fr 1.6fr 1.6fr;
border-bottom:1px solid var(--line)}.entries th,.entries td{border:0;padding:3px}
.entries tbody th{grid-column:1/-1}.entries thead{display:none}}
"""
)


def render(found: Results, facts: Mapping[str, Any]) -> str:
    """The whole page as text."""
    plots = [_reliability(found), _effects(found), *_slices(found)]
    body = (
        "<header><h1>Reward model report</h1>"
        f'<p class="lead">{escape(str(facts.get("model", "")))} on '
        f"{escape(str(facts.get('data', '')))}. Intervals are 95 %, clustered by"
        " prompt.</p></header>"
        f'<p class="verdict">{escape(headline(found))}</p>'
        f'<div class="grid">{"".join(plots)}</div>'
        f"<h2>Every number</h2>{_table(found.entries)}"
        f"<h2>What was read</h2>{_facts(facts)}"
    )
    return frame.html("Reward model report", body, STYLE)


def headline(found: Results) -> str:
    """Two or three sentences: accuracy, calibration, length, and what else is wrong."""
    of = found.entries
    text = f"Accuracy {_numbers(of['accuracy'])}"
    if "ceiling" in of:
        text += f", where {digits.rounded(of['ceiling']['value'], 0.1)} can be reached"
    slope = of["calibration_slope"]
    text += f". Calibration slope {_numbers(slope)}: {slope['verdict']}."
    bias = of["length_bias"]
    text += f" Length bias {_numbers(bias)}: {bias['verdict']}."
    rest = [name for name in of if of[name]["verdict"] in BAD and name != "length_bias"]
    rest = [name for name in rest if not name.startswith(("accuracy", "calibration"))]
    named = ", ".join(f"{title(name)} ({of[name]['verdict']})" for name in rest)
    return f"{text} Also look at: {named}." if rest else text


def title(name: str) -> str:
    """What an entry is called on the page."""
    if name.startswith("consistency_"):
        return f"Consistency: {name.removeprefix('consistency_')}"
    return TITLES.get(name, name)


def _numbers(one: Entry) -> str:
    low, high = one["ci"]
    value = digits.rounded(one["value"], high - low)
    bounds = digits.interval(low, high)
    return value if bounds == "–" else f"{value} ({bounds})"


def _color(verdict: str) -> str:
    return "neg" if verdict in BAD else "fg"


def _reliability(found: Results) -> str:
    x = np.asarray([point.forecast for point in found.reliability])
    y = np.asarray([point.share.mean for point in found.reliability])
    error = np.asarray([point.share.se for point in found.reliability])
    ends = np.asarray([0.5, max(0.51, float(x.max()))])
    series = [
        svg.Series("calibrated", ends, ends, "faint", dash=1),
        svg.Series("the model", x, y, "c0", band=np.nan_to_num(error), dots=True),
    ]
    plot = svg.lines(
        series,
        x_label="forecast: sigmoid of the score difference",
        y_label="share of pairs ordered right",
        whole_x=False,
    )
    text = (
        "Pairs of like confidence, in bins of equal size. On the dashed line a score"
        " difference is the log-odds that it claims to be; below it the model is too"
        " sure. Band: ± 1 standard error."
    )
    return figures.figure("Reliability", plot, series, text)


def _effects(found: Results) -> str:
    rows = [
        forest.Effect(
            title(name),
            f"{_numbers(one)}, {one['verdict']}",
            one["value"],
            *one["ci"],
            color=_color(one["verdict"]),
        )
        for name in EFFECTS
        if (one := found.entries.get(name)) and math.isfinite(one["value"])
    ]
    if not rows:
        return ""
    plot = forest.draw(rows, x_label="effect (units in the table below)")
    text = "What should be zero, or no larger than what gold or the labels have."
    return figures.figure("What the score follows", plot, [], text)


def _slices(found: Results) -> list[str]:
    plots = []
    for name, bins in found.slices.items():
        rows = [
            forest.Effect(
                text,
                f"{digits.rounded(one['value'], 0.1)} of {one['n']}",
                one["value"] - 0.5,
                one["ci"][0] - 0.5,
                one["ci"][1] - 0.5,
                color="c0",
            )
            for text, one in bins.items()
        ]
        plot = forest.draw(rows, x_label="accuracy above chance [share of pairs]")
        label = f"Accuracy by {name}"
        plots.append(figures.figure(label, plot, [], "Zero is chance."))
    return plots


def _table(entries: Mapping[str, Entry]) -> str:
    rows = []
    for name, one in entries.items():
        low, high = one["ci"]
        shade = ' class="neg"' if one["verdict"] in BAD else ""
        rows.append(
            f"<tr><th>{escape(title(name))}<small>{escape(one['definition'])}"
            f"</small></th><td>{digits.rounded(one['value'], high - low)}</td>"
            f"<td>{digits.interval(low, high)}</td>"
            f"<td><b{shade}>{escape(one['verdict'])}</b></td>"
            f"<td>{escape(one['unit'])}</td><td>{one['n']}</td></tr>"
        )
    head = "".join(
        f"<th>{text}</th>" for text in ("", "value", "95 %", "verdict", "unit", "n")
    )
    return (
        f'<table class="entries"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _facts(facts: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>"
        for name, value in facts.items()
    )
    return f'<table class="facts-table"><tbody>{rows}</tbody></table>'
