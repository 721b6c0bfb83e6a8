"""The page of a study: readable alone, on a telephone and without a network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from rlhf_jax.studies import digits, forest, page
from rlhf_jax.studies.ablation import curves, plots, words
from rlhf_jax.studies.ablation import plan as plans
from rlhf_jax.studies.ablation.analysis import Analysis, Comparison
from rlhf_jax.studies.ablation.plan import Metric
from rlhf_jax.studies.ablation.records import Record
from rlhf_jax.studies.ablation.tables import title
from rlhf_jax.studies.summary import number

STYLE = (
    forest.STYLE
    + """
.pos{color:var(--pos)}.neg{color:var(--neg)}
.side{display:grid;gap:16px 24px;align-items:start;
grid-template-columns:repeat(auto-fit,minmax(min(100%,460px),1fr))}
.cells td,.cells th{overflow-wrap:normal}.cells th:first-child{overflow-wrap:anywhere}
.cells small{font-weight:400}.other{max-width:95ch}
.change th{overflow-wrap:anywhere;width:30%}.change td{text-align:left;font:12.5px/1.5
ui-monospace,Menlo,Consolas,monospace;overflow-wrap:anywhere}
.wide{max-width:620px}
@media(min-width:521px){.cells tbody th{min-width:8.5em}}
@media(max-width:520px){.cells tr{display:grid;
grid-template-columns:1fr 1.25fr 1.25fr;border-bottom:1px solid var(--line)}
.cells th,.cells td{border:0;padding:3px}.cells small{font-size:11.5px}
.cells tbody th{grid-column:1/-1;padding-top:8px}.cells thead th:first-child{
display:none}.cells td:nth-child(2),.cells thead th:nth-child(2){text-align:left}}
"""
)


def render(found: Analysis, records: Sequence[Record]) -> str:
    """The whole page as text; the same records give the same bytes."""
    parts = [
        _top(found, plots.missing(found, records)),
        *(_metric(found, metric) for metric in found.plan.metrics),
        _frontier(found, records),
        _curves(found, records),
        _configs(found),
        _details(found),
    ]
    return page.html(f"{found.plan.name} · ablation", "".join(parts), STYLE)


def _top(found: Analysis, undrawn: Sequence[str]) -> str:
    plan = found.plan
    lead = (
        f"rlhf_jax ablation: {len(plan.others)} changes against one baseline, "
        f"{len(plan.seeds)} seeds each."
    )
    parts = [f"<header><h1>{escape(plan.name)}</h1>"]
    parts.append(f'<p class="lead">{escape(lead)} {escape(plan.question)}</p></header>')
    for place, metric in enumerate(plan.metrics):
        kind = "other" if place else "verdict"
        parts.append(f'<p class="{kind}">{escape(words.headline(found, metric))}</p>')
    items = plans.warnings(plan)
    if found.missing:
        items.append(f"In progress: {len(found.missing)} runs are not there yet.")
    items += [f"Diverged, left out: {text}" for text in words.diverged(found)]
    items += undrawn
    if items:
        rows = "".join(f"<li>{escape(item)}</li>" for item in items)
        parts.append(f'<ul class="warn">{rows}</ul>')
    parts.append(f'<p class="muted">{escape(words.method(plan))}</p>')
    return "".join(parts)


def _metric(found: Analysis, metric: Metric) -> str:
    return (
        f'<h2>{escape(title(metric))}</h2><div class="side">'
        f"<div>{_table(found, metric)}</div>{plots.differences(found, metric)}</div>"
    )


def _table(found: Analysis, metric: Metric) -> str:
    share = f"{100 * found.plan.confidence:g} % interval"
    head = (
        "<th></th><th>mean <small>± sd over seeds</small></th>"
        f"<th>difference <small>[{share}]</small></th><th>verdict</th>"
    )
    rows = "".join(
        _row(found, found.of(cell.name, metric.name)) for cell in found.plan.cells
    )
    return (
        f'<table class="cells"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _row(found: Analysis, one: Comparison) -> str:
    cell = next(cell for cell in found.plan.cells if cell.name == one.cell)
    dot = (
        f'<i class="dot" style="background:var(--{plots.color(found.plan, cell)})"></i>'
    )
    mean, sd = words.spread(one)
    seeds = f" <small>n = {len(one.values)}</small>" if _uneven(found, one) else ""
    shown = f"<b>{mean}</b>" + (f" <small>± {sd}</small>" if sd else "") + seeds
    return (
        f"<tr><th>{dot}{escape(one.cell)}</th><td>{shown}</td>"
        f"<td>{_difference(one)}</td><td>{_verdict(one)}</td></tr>"
    )


def _uneven(found: Analysis, one: Comparison) -> bool:
    return len(one.values) != len(found.plan.seeds)


def _difference(one: Comparison) -> str:
    if one.verdict == "baseline":
        return '<span class="muted">–</span>'
    ends = digits.interval(one.difference.low, one.difference.high)
    small = "" if ends == "–" else f" <small>[{ends}]</small>"
    return f"<b>{words.difference(one)}</b>{small}"


def _verdict(one: Comparison) -> str:
    if one.verdict == "baseline":
        return '<span class="muted">baseline</span>'
    shade = words.COLORS[one.better]
    notes = [f"p = {words.p_value(one.p_adjusted)}".replace("= <", "<")]
    notes += words.notes(one)
    small = " · ".join(f"<small>{escape(note)}</small>" for note in notes)
    return f'<b class="{shade}">{escape(words.verdict(one))}</b> {small}'


def _frontier(found: Analysis, records: Sequence[Record]) -> str:
    plot = plots.gold_against_kl(found, records)
    return (
        f'<h2>What the distance bought</h2><div class="wide">{plot}</div>'
        if plot
        else ""
    )


def _curves(found: Analysis, records: Sequence[Record]) -> str:
    parts = []
    for name in curves.names(found.plan, records):
        drawn = plots.over_steps(found.plan, records, name)
        if drawn:
            grid = f'<div class="grid">{"".join(drawn)}</div>'
            parts.append(f"<h3>{escape(name)}</h3>{grid}")
    if not parts:
        return ""
    share = f"{100 * found.plan.confidence:g} %"
    text = (
        f"Mean over seeds; band: {share} interval of that mean. Dashed gray: the "
        "baseline. Bands that overlap may still differ: pairing by seed, used above, "
        "sees more than the eye does here."
    )
    return f"<h2>Over training</h2><p class='muted'>{text}</p>{''.join(parts)}"


def _configs(found: Analysis) -> str:
    rows = []
    for cell in found.plan.others:
        changed = words.changes(found.plan, cell)
        texts = [
            f"<div>{escape(key)}: {escape(old)} → <b>{escape(new)}</b></div>"
            for key, (old, new) in changed.items()
        ]
        what = "".join(texts) or '<span class="muted">no change</span>'
        rows.append(f"<tr><th>{escape(cell.name)}</th><td>{what}</td></tr>")
    return (
        "<h2>What each cell changes</h2><p class='muted'>Config keys, from their value "
        f"in the baseline ({escape(found.plan.baseline.name)}).</p>"
        f'<table class="change"><tbody>{"".join(rows)}</tbody></table>'
    )


def _details(found: Analysis) -> str:
    parts = []
    for metric in found.plan.metrics:
        rows = "".join(
            f"<tr><th>{escape(cell.name)}</th>"
            f"<td>{_everything(found.of(cell.name, metric.name))}</td></tr>"
            for cell in found.plan.cells
        )
        parts.append(
            f"<details><summary>{escape(metric.name)}: every statistic and seed"
            f'</summary><table class="facts-table"><tbody>{rows}</tbody></table>'
            "</details>"
        )
    return f"<h2>All numbers</h2>{''.join(parts)}"


def _everything(one: Comparison) -> str:
    facts = {"seeds": str(len(one.values)), "diverged": str(one.diverged)}
    facts |= {"interquartile mean": number(one.iqm), "sd": number(one.sd)}
    if one.verdict != "baseline":
        facts |= {
            "pairs": str(one.difference.n),
            "paired t": digits.interval(one.difference.low, one.difference.high),
            "studentized bootstrap": digits.interval(*one.studentized),
            "p sign flip": words.p_value(one.p_sign_flip),
            "p paired t": words.p_value(one.p_t),
            "p after Holm": words.p_value(one.p_adjusted),
            "Hedges' g": number(one.g, sign=True),
        }
    if one.equal is not None:
        share = f"p equal within ±{number(one.equal.margin)}"
        facts[share] = words.p_value(one.equal.p_adjusted)
    items = "".join(
        f"<span>{escape(key)} <b>{escape(text)}</b></span>"
        for key, text in facts.items()
    )
    values = ", ".join(f"{seed}: {number(v)}" for seed, v in one.values.items())
    return (
        f'<div class="facts">{items}</div>'
        f'<div class="muted">By seed: {escape(values) or "none"}</div>'
    )
