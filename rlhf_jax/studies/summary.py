"""Numbers of the summary table with honest standard errors, and the verdict in words.

Samples of one prompt are not independent, so every standard error here is clustered by
prompt (or by whatever `groups` names: the module of a docstring, the rater of a pair).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_jax import stats
from rlhf_jax.errors import UserError
from rlhf_jax.studies import schema

Z95 = 1.959963984540054
"""97.5 % quantile of the normal distribution."""


def entry(values: Any, groups: Any = None) -> schema.Entry:
    """Mean, standard error and number of samples, clustered where samples are not
    independent (see `stats.clustered_mean` for the formula).

    Args:
      values: N numbers, any array shape (flattened in C order).
      groups: N labels (list or array), such as prompt ids; None where samples are
        independent.

    Returns:
      `{"mean", "se", "n"}`, `n` counting samples; `se` is NaN below two groups.

    Raises:
      ValueError: a value that is not finite.
      UserError: no values, or labels of another number.
    """
    flat = np.asarray(values, np.float64).reshape(-1)
    _require_finite(flat)
    labels = np.arange(len(flat)) if groups is None else groups
    found = stats.clustered_mean(flat, labels)
    return {"mean": found.mean, "se": found.se, "n": len(flat)}


def paired_difference(
    first: Any,
    second: Any,
    first_groups: Any,
    second_groups: Any,
) -> schema.Entry:
    """Mean of `second - first` over prompts, with the standard error of paired prompts.

    Each prompt's mean under `first` is taken from its mean under `second`; prompts that
    only one of the two has are left out, so the two may differ in samples per prompt.

    Args:
      first: numbers of the baseline, with their prompts in `first_groups`.
      second: numbers of the other policy, with their prompts in `second_groups`.
      first_groups: a label for each number of `first`.
      second_groups: a label for each number of `second`.

    Returns:
      `{"mean", "se", "n"}`, `n` counting prompts.

    Raises:
      UserError: no prompt in common.
    """
    before = _group_means(first, first_groups)
    after = _group_means(second, second_groups)
    shared = [label for label in before if label in after]
    if not shared:
        raise UserError(
            f"none of {len(before)} and {len(after)} prompts is in both: "
            "a paired difference needs the same prompts"
        )
    return entry([after[label] - before[label] for label in shared])


def share_of_ceiling(accuracy: float, ceiling: float) -> float:
    """How far from chance to the ceiling: `(accuracy - 1/2) / (ceiling - 1/2)`.

    The ceiling is what the noise of the labels leaves to be learned: the accuracy of
    the true reward on the same pairs. It is `nan` where the ceiling is chance itself.
    """
    room = ceiling - 0.5
    return (accuracy - 0.5) / room if room else math.nan


def verdict(
    table: Mapping[str, Mapping[str, Any]],
    *,
    policy: str = "ppo",
    baseline: str = "sft",
    gold_sd: float | None = None,
    difference: schema.Entry | None = None,
) -> str:
    """One or two sentences on what training did to gold, proxy and KL.

    A change counts where it is larger than 1.96 of its standard errors; without a
    paired `difference` the two errors count as independent, which is the safe side.

    Args:
      table: the summary table, row -> column -> `Entry`.
      policy: row of the trained policy.
      baseline: row that it started from.
      gold_sd: standard deviation of gold under the baseline, for the size in its units.
      difference: paired gold difference, from `paired_difference`.

    Returns:
      Text; it says what is missing where the table lacks a row or a column.
    """
    name, start = label(policy), label(baseline)
    rows = [table.get(row, {}) for row in (baseline, policy)]
    gold = [row.get("gold") for row in rows]
    if not all(map(known, gold)):
        return f"No verdict yet: the gold reward of {start} or {name} is missing."
    change = difference or _independent_difference(*gold)
    proxy = [row.get("proxy") for row in rows]
    moved = _direction(_independent_difference(*proxy)) if all(map(known, proxy)) else 0
    text = _gold_sentence(name, start, change, gold_sd)
    if known(rows[1].get("kl")):
        text += (
            f" at a KL of {' ± '.join(filter(None, with_error(rows[1]['kl'])))} nats"
        )
    return f"{text}. {_proxy_sentence(_direction(change), moved)}".strip()


def label(row: str) -> str:
    """How people write a table row: `best_of_16` -> "best of 16", `ppo` -> "PPO"."""
    text = row.replace("_", " ")
    return text.upper() if len(text) <= 4 and text.isalpha() else text


def known(value: Any) -> bool:
    """Whether a table cell holds a mean that can be shown."""
    mean = value.get("mean") if isinstance(value, Mapping) else None
    return isinstance(mean, (int, float)) and math.isfinite(mean)


def write(path: Path, summary: Mapping[str, Any]) -> Path:
    """Write `summary.json` whole or not at all; non-finite numbers become null."""
    partial = path.with_name(path.name + ".partial")
    text = json.dumps(_finite(summary), indent=2, ensure_ascii=False, allow_nan=False)
    partial.write_text(text + "\n", encoding="utf-8")
    os.replace(partial, path)
    return path


def _require_finite(flat: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(flat))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(flat)} values are not finite, "
            f"the first at index {bad[0]}: {flat[bad[0]]}"
        )


def _group_means(values: Any, groups: Any) -> dict[Any, float]:
    flat = np.asarray(values, np.float64).reshape(-1)
    labels = groups.tolist() if hasattr(groups, "tolist") else list(groups)
    members: dict[Any, list[float]] = {}
    for group, value in zip(labels, flat.tolist(), strict=True):
        members.setdefault(group, []).append(value)
    return {group: float(np.mean(found)) for group, found in members.items()}


def _independent_difference(first: Any, second: Any) -> schema.Entry:
    errors = [float(of.get("se") or 0.0) for of in (first, second)]
    return {
        "mean": float(second["mean"]) - float(first["mean"]),
        "se": math.hypot(*errors),
        "n": min(int(of.get("n") or 0) for of in (first, second)),
    }


def _direction(change: schema.Entry) -> int:
    error = change["se"] if math.isfinite(change["se"]) else 0.0
    if abs(change["mean"]) <= Z95 * error:
        return 0
    return 1 if change["mean"] > 0 else -1


def _gold_sentence(
    name: str, start: str, change: schema.Entry, gold_sd: float | None
) -> str:
    size = " ± ".join(filter(None, with_error(change, sign=True)))
    if gold_sd:
        size += (
            f", or {number(change['mean'] / gold_sd, sign=True)} sd of {start} samples"
        )
    verb = {1: "raised", 0: "did not measurably change", -1: "lowered"}
    return f"{name} {verb[_direction(change)]} the gold reward ({size})"


def _proxy_sentence(gold: int, proxy: int) -> str:
    if proxy > 0 and gold < 0:
        return "The proxy rose while gold fell: the reward model was over-optimized."
    if proxy > 0 and gold == 0:
        return "The proxy rose and gold did not: a sign of over-optimization."
    if proxy < 0:
        return "The proxy fell: training did not optimize what it was given."
    return "Proxy and gold rose together." if proxy > 0 and gold > 0 else ""


def with_error(of: Mapping[str, Any], sign: bool = False) -> tuple[str, str]:
    """A mean and its standard error as text, both to the error's second digit.

    At most four decimals: round-off shows as zero. The error is empty where it is
    unknown; the mean then has three digits.
    """
    mean, error = of["mean"], of.get("se")
    if not isinstance(error, (int, float)) or not math.isfinite(error):
        return number(mean, sign), ""
    if not 0 < error < 1e4:
        return number(mean, sign), number(error)
    places = min(max(0, 1 - math.floor(math.log10(error))), 4)
    text = f"{abs(mean):,.{places}f}"
    negative = mean < 0 and text.strip("0.,")
    prefix = "−" if negative else "+" if sign else ""
    return prefix + text, f"{error:,.{places}f}"


def number(value: Any, sign: bool = False) -> str:
    """Three significant digits with a true minus; an en dash where nothing is known."""
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return "–"
    size = abs(value)
    text = f"{size:.3g}" if size < 1000 else f"{size:,.0f}"
    if "e" in text:
        mantissa, exponent = text.split("e")
        text = f"{mantissa}e{int(exponent)}".replace("e-", "e−")
    prefix = "−" if value < 0 else "+" if sign else ""
    return prefix + text


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    if hasattr(value, "tolist"):
        return _finite(value.tolist())
    return float(value) if math.isfinite(value) else None
