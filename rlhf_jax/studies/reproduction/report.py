"""The page of a reproduction: found here, and reported at full scale, side by side.

The two never share a column: a sign seen in a small world is not the paper's number.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from rlhf_jax.studies import digits, page
from rlhf_jax.studies.reproduction import curves
from rlhf_jax.studies.reproduction.verdict import Beside, Finding, Result
from rlhf_jax.studies.summary import number

SHADES = {"holds": "pos", "fails": "neg", "undecided": "muted"}

STYLE = """
.pos{color:var(--pos)}.neg{color:var(--neg)}
.claim{border-top:1px solid var(--line);padding:12px 0}
.claim h3{margin:0 0 2px;font-size:16px}.claim h3 b{float:right;margin-left:12px}
.columns{display:grid;gap:8px 28px;margin-top:6px;
grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr))}
.columns h4{color:var(--muted);font-weight:500}
.parts td,.parts th{font-size:13px;overflow-wrap:normal}
.parts th:first-child{overflow-wrap:anywhere;font-weight:400}
@media(max-width:520px){.parts tr{display:grid;grid-template-columns:1fr 1.4fr 1.2fr;
border-bottom:1px solid var(--line)}.parts th,.parts td{border:0;padding:3px}
.parts tbody th{grid-column:1/-1}.parts thead th:first-child{display:none}}
"""


def render(results: Sequence[Result]) -> str:
    """The whole page as text."""
    body = _top(results) + "".join(_claim(result) for result in results)
    return page.html("Reproduction", body, STYLE)


def _top(results: Sequence[Result]) -> str:
    counts = {v: sum(r.verdict == v for r in results) for v in SHADES}
    text = ", ".join(
        f"{count} {_verb(verdict, count)}" for verdict, count in counts.items() if count
    )
    total = f"{len(results)} claim{'s' if len(results) != 1 else ''}: {text}."
    return (
        "<header><h1>Claims of papers, tried here</h1>"
        '<p class="lead">rlhf_jax reproduction: what each paper says, whether it comes '
        "out in a small world on a CPU, and what the paper reports at its own scale."
        f'</p></header><p class="verdict">{escape(total)}</p>'
        '<p class="muted">Thresholds and seeds were stated beforehand. A claim holds '
        "where the one-sided bounds over seeds lie beyond its threshold, fails where "
        "they lie on the wrong side, and is undecided between. A fact without sampling "
        "error must come out under each seed; its bounds are the least and the largest "
        "value. Quantities without a threshold stand below, with a two-sided interval. "
        "A claim that does not come out stays in the list.</p>"
    )


def _verb(verdict: str, count: int) -> str:
    if verdict == "undecided":
        return verdict
    return verdict if count == 1 else verdict.removesuffix("s")


def _claim(result: Result) -> str:
    claim = result.claim
    shade = SHADES[result.verdict]
    full = claim.full_scale
    return (
        f'<section class="claim"><h3><b class="{shade}">{result.verdict}</b>'
        f"{escape(claim.id)}: {escape(claim.statement)}</h3>"
        f"<small>{escape(claim.paper)}</small>"
        f'<div class="columns"><div><h4>Found here, on a CPU</h4>{_here(result)}</div>'
        f"<div><h4>In the paper, at full scale</h4><p>{escape(full.numbers)}</p>"
        f'<p class="muted">{escape(full.recipe)}</p></div></div>'
        f"{_plots(result)}{_seeds(result)}</section>"
    )


def _plots(result: Result) -> str:
    plot = result.claim.plot
    return "" if plot is None else curves.draw(result.curves, plot)


def _here(result: Result) -> str:
    claim = result.claim
    rows = "".join(_part(one, claim.unit) for one in result.findings)
    rows += "".join(_beside(one) for one in result.beside)
    share = f"{100 * claim.confidence:g} %"
    head = f"<th></th><th>effect</th><th>{share} bounds</th><th>asked</th>"
    facts = [f"{len(claim.seeds)} seed{'s' if len(claim.seeds) > 1 else ''}"]
    facts += [f"{number(result.seconds)} s (CPU {number(result.cpu_seconds)} s)"]
    facts += [claim.kind, f"protocol {claim.version}"]
    power = f" {escape(claim.power)}" if claim.power else ""
    return (
        f'<table class="parts"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody>'
        f"</table><p class='muted'>{escape(', '.join(facts))}. "
        f"{escape(claim.protocol)}{power}</p>"
    )


def _part(one: Finding, unit: str) -> str:
    shade = SHADES[one.verdict]
    label = escape(one.name or "effect") + (
        f" <small>[{escape(unit)}]</small>" if unit else ""
    )
    width = one.high - one.low
    effect, bounds = (
        digits.rounded(one.effect, width),
        digits.interval(one.low, one.high),
    )
    return (
        f'<tr><th>{label}</th><td><b class="{shade}">{effect}</b></td>'
        f"<td>{bounds}</td><td>{escape(one.threshold)}</td></tr>"
    )


def _beside(one: Beside) -> str:
    """A row without a threshold, with its two-sided interval."""
    effect = digits.rounded(one.effect, one.high - one.low)
    return (
        f'<tr class="muted"><th>{escape(one.name)}</th><td>{effect}</td>'
        f"<td>{digits.interval(one.low, one.high)}</td><td>–</td></tr>"
    )


def _seeds(result: Result) -> str:
    lines = [
        f"<p><small>{escape(one.name or 'effect')}: "
        + escape(", ".join(f"{s}: {number(v)}" for s, v in one.values.items()))
        + "</small></p>"
        for one in (*result.findings, *result.beside)
    ]
    return f"<details><summary>Every seed</summary>{''.join(lines)}</details>"
