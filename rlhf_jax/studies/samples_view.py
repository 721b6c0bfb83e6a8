"""Sampled responses over training, and token by token, as HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from rlhf_jax.studies import figures, runs, schema, stage_view
from rlhf_jax.studies.summary import number

PROMPTS = 8
"""Prompts shown; the first that the first run wrote."""

TRACED = 4
"""Prompts shown besides where only those of later rows carry token numbers."""

MOMENTS = 8
"""Steps shown of each prompt in a report of one run, first and last included."""

TOKENS = 400
"""Tokens colored in one response; the rest is cut with a note."""

CENTERS = {"ratio": 1.0}
"""Where a token field is neutral; 0 unless named."""

MEANINGS = {
    "reward": "shaped reward of the token (score at the end, minus the price of KL)",
    "kl": "KL of the policy from the reference at the token, nats",
    "value": "the value function's forecast before the token",
    "advantage": "how much better than forecast the token turned out",
    "ratio": "probability under the policy over that when sampled; 1 is neutral",
}


def section(found: Sequence[runs.Run]) -> str:
    """Every stage's samples, or nothing where no run has any.

    The same held-out prompts at several moments, newest last, in a collapsible block
    each; where tokens carry numbers, a choice of what colors them.
    """
    names = dict.fromkeys(str(row["stage"]) for run in found for row in run.samples)
    stages = [name for name in stage_view.stages(found) if name in names]
    stages += [name for name in names if name not in stages]
    return "".join(_stage(found, stage) for stage in stages)


def _stage(found: Sequence[runs.Run], stage: str) -> str:
    rows = [[r for r in run.samples if r["stage"] == stage] for run in found]
    prompts = list(dict.fromkeys(_identity(row) for of_run in rows for row in of_run))
    traced = {_identity(r) for of_run in rows for r in of_run if r.get("tokens")}
    first = prompts[:PROMPTS]
    chosen = first if traced & set(first) else [*first, *sorted(traced)[:TRACED]]
    scales = _scales([row for of_run in rows for row in of_run])
    blocks = [
        _prompt(
            [[r for r in of_run if _identity(r) == key] for of_run in rows], found, i
        )
        for i, key in enumerate(chosen)
    ]
    blocks[0] = blocks[0].replace("<details", "<details open", 1)
    more = len(prompts) - len(chosen)
    note = f"<p class='muted'>{more} more prompts in samples.jsonl.</p>" if more else ""
    return (
        f'<section class="samples"><h3>Responses of {escape(stage)}</h3>'
        f"{_controls(stage, scales)}<div {_style(scales)}>{''.join(blocks)}</div>{note}"
        "</section>"
    )


def _identity(row: Mapping[str, Any]) -> str:
    return str(row.get("prompt_id", row.get("prompt", "")))


def _prompt(
    rows: list[list[dict[str, Any]]], found: Sequence[runs.Run], index: int
) -> str:
    """One held-out prompt: its text, then its responses over training, run by run."""
    first = next(row for of_run in rows for row in of_run)
    text = str(first.get("prompt", ""))
    moments = MOMENTS if len(found) == 1 else 3
    parts = []
    for place, of_run in enumerate(rows):
        if len(found) > 1 and of_run:
            name = escape(found[place].name)
            parts.append(f"<h5>{figures.dot(place)}{name}</h5>")
        shown = _spread(of_run, moments)
        mixed = len({bool(row.get("tokens")) for row in shown}) > 1
        parts += [_response(row, mixed) for row in shown]
        parts += [_numbers(row) for row in shown if row.get("tokens")]
    brief = " ".join(text.split())
    brief = brief if len(brief) <= 140 else brief[:139] + "…"
    return (
        f"<details><summary><b>Prompt {index + 1}</b> {escape(brief)}{_path(rows)}"
        f'</summary><pre class="text prompt">{escape(text)}</pre>'
        f"{''.join(parts)}</details>"
    )


def _path(rows: list[list[dict[str, Any]]]) -> str:
    """Gold (or the first score) from the first to the last response, in brief."""
    if len(rows) != 1 or len(rows[0]) < 2:
        return ""
    scores = [dict(_ordered(row.get("scores"))) for row in rows[0]]
    name = next(iter(scores[0]), None)
    known = [of[name] for of in scores if name in of]
    if name is None or len(known) < 2:
        return ""
    return f" <em>{escape(name)} {_short(known[0])} → {_short(known[-1])}</em>"


def _spread(rows: list[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """Rows of about `limit` steps, evenly over training, rather traced than others.

    Of one step the last row is kept, and beside it the last that carries tokens (a
    response traced token by token may be another sample than the one evaluated).
    """
    kept = {(row["step"], bool(row.get("tokens"))): row for row in rows}
    traced = _evenly(sorted({step for step, tokens in kept if tokens}), limit)
    others = sorted({step for step, _ in kept} - set(traced))
    wanted = {*traced, *_evenly(others, limit - len(traced))}
    return [kept[key] for key in sorted(kept) if key[0] in wanted]


def _evenly(steps: list[int], limit: int) -> list[int]:
    """At most `limit` of the steps, first and last included where there is room."""
    places = np.linspace(0, len(steps) - 1, min(limit, len(steps)))
    return [steps[round(place)] for place in places.tolist()]


def _ordered(scores: Any) -> list[tuple[str, Any]]:
    if not isinstance(scores, Mapping):
        return []
    first = [name for name in ("gold", "proxy") if name in scores]
    return [(n, scores[n]) for n in [*first, *(n for n in scores if n not in first)]]


def _response(row: Mapping[str, Any], mixed: bool) -> str:
    """A response under its numbers; traced ones are named where not all are."""
    facts = [(name, _short(value)) for name, value in _ordered(row.get("scores"))]
    if _finite(row.get("kl")) is not None:
        facts.append(("KL", f"{_short(row['kl'])} nats"))
    facts.append(("length", f"{number(row.get('length'))} tokens"))
    shown = "".join(f"<span>{escape(n)} <b>{escape(v)}</b></span>" for n, v in facts)
    body = _heat(row["tokens"], _text(row)) if row.get("tokens") else escape(_text(row))
    body = body or '<span class="muted">(empty response)</span>'
    trace = " traced" if mixed and row.get("tokens") else ""
    return (
        f'<div class="response"><div class="facts"><span class="step">step '
        f"{row['step']:,}{trace}</span>{shown}</div>"
        f'<pre class="text heat">{body}</pre></div>'
    )


def _text(row: Mapping[str, Any]) -> str:
    return str(row.get("response", ""))


def _heat(tokens: Sequence[Mapping[str, Any]], response: str) -> str:
    """Tokens with their numbers as CSS properties; the page's choice colors them.

    Where decoding token by token lost the spaces of the response, one stands between.
    """
    joined = "".join(str(token.get("text", "")) for token in tokens)
    gap = " " if len(response.split()) > 1 == len(joined.split()) else ""
    spans = []
    for token in tokens[:TOKENS]:
        numbers = {name: _finite(token.get(name)) for name in schema.TOKEN_FIELDS}
        held = {name: value for name, value in numbers.items() if value is not None}
        style = ";".join(
            f"--{name}:{value - CENTERS.get(name, 0.0):.4g}"
            for name, value in held.items()
        )
        title = ", ".join(f"{name} {number(value)}" for name, value in held.items())
        spans.append(
            f'<span class="t" style="{style}" title="{escape(title)}">'
            f"{_visible(str(token.get('text', '')))}</span>"
        )
    if len(tokens) > TOKENS:
        spans.append(
            f'<span class="muted"> … {len(tokens) - TOKENS} more tokens</span>'
        )
    return gap.join(spans)


def _visible(text: str) -> str:
    """Token text with a sign where there would be nothing to see."""
    return escape(text).replace("\n", "⏎\n") if text else "∅"


def _numbers(row: Mapping[str, Any]) -> str:
    """The token table of one response, all fields side by side."""
    tokens = row["tokens"][:TOKENS]
    fields = [
        f for f in schema.TOKEN_FIELDS if any(t.get(f) is not None for t in tokens)
    ]
    head = "".join(f"<th>{escape(name)}</th>" for name in fields)
    lines = []
    for token in tokens:
        text = _visible(str(token.get("text", "")))
        cells = "".join(f"<td>{_short(token.get(f))}</td>" for f in fields)
        lines.append(f"<tr><th><code>{text}</code></th>{cells}</tr>")
    title = f"Token by token, step {row['step']:,}"
    return (
        f"<details class='inner'><summary>{title}</summary>"
        f'<table class="tokens"><thead><tr><th>token</th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></details>"
    )


def _scales(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What full color stands for: the 98th percentile of each field's distance from
    neutral, over all samples, so that colors compare between responses."""
    scales = {}
    for name in schema.TOKEN_FIELDS:
        found = [
            abs(value - CENTERS.get(name, 0.0))
            for row in rows
            for token in row.get("tokens") or ()
            if (value := _finite(token.get(name))) is not None
        ]
        if found:
            scales[name] = float(np.percentile(found, 98)) or 1.0
    return scales


def _style(scales: Mapping[str, float]) -> str:
    text = ";".join(f"--s-{name}:{value:.4g}" for name, value in scales.items())
    return f'class="prompts" style="{text}"'


def _controls(stage: str, scales: Mapping[str, float]) -> str:
    if not scales:
        return ""
    group = f"heat-{escape(stage)}"
    start = "advantage" if "advantage" in scales else next(iter(scales))
    choices = []
    for name in [*scales, "none"]:
        checked = " checked" if name == start else ""
        choices.append(
            f'<label><input type="radio" name="{group}" value="{name}"{checked}>'
            f"<span>{name}</span></label>"
        )
    legends = []
    for name, scale in scales.items():
        center = CENTERS.get(name, 0.0)
        legends.append(
            f'<div class="scale {name}"><span>{number(center - scale)}</span><i></i>'
            f"<span>{number(center + scale)}</span> {MEANINGS[name]}</div>"
        )
    return (
        f'<div class="controls"><span>Color tokens by</span>{"".join(choices)}</div>'
        f"{''.join(legends)}"
    )


def _short(value: Any) -> str:
    """Three decimals, so that columns line up; tiny and huge numbers as elsewhere."""
    known = _finite(value)
    if known is None or not (known == 0 or 5e-4 <= abs(known) < 1e4):
        return number(known)
    return f"{known:.3f}".replace("-", "−")


def _finite(value: Any) -> float | None:
    numeric = isinstance(value, (int, float)) and math.isfinite(value)
    return float(value) if numeric else None
