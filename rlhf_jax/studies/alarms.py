"""Alarms of over-optimization, from what a run shows without knowing gold.

Each alarm is a pure function of the held-out evaluations so far and gives a *level*: at
1 or more it rings. A level is a change divided by what would be remarkable: a stated
limit, or `NOISE` standard errors of the change where those are larger, so that noise
alone seldom rings. The metrics are those of the evaluations (docs/metrics.md):

    alarm_kl            the KL grows faster and faster: twice the quadratic term of a
                        parabola over the window, over `KL_LIMIT` of the KL's mean
                        growth in a window so far
    alarm_length        slope of the length over the window: a rise of `LENGTH_LIMIT`
    alarm_entropy       slope of the entropy over the window: a fall of `ENTROPY_LIMIT`
    alarm_repetition    rise of the share of repeated n-grams since the start
    alarm_disagreement  rise of the ensemble members' disagreement since the start
    alarm_gap           gain of the trained-on reward model that a held-out one does not
                        confirm, as a share of it
    alarms              how many of these ring

How well they tell is measured by `scripts/alarms.py` and written in docs/alarms.md; the
limits were set on other seeds than those that are reported there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

WINDOW = 5
"""Evaluations that a slope is taken over."""
NOISE = 3.0
"""Standard errors that a change must exceed to count."""
KL_LIMIT = 1.0
"""Growth of the slope, relative to the mean growth of a window."""
LENGTH_LIMIT = 0.5
"""Relative to the length at the start."""
ENTROPY_LIMIT = 0.5
"""Relative to the entropy at the start."""
REPETITION_LIMIT = 0.05
"""Share of n-grams."""
DISAGREEMENT_LIMIT = 0.5
"""Relative to the disagreement at the start."""
GAP_LIMIT = 0.5
"""Share of the proxy's gain."""
NGRAM = 2


class History(NamedTuple):
    """A metric over evaluations: steps, values and standard errors float64[N]."""

    steps: np.ndarray
    values: np.ndarray
    errors: np.ndarray


def histories(rows: Sequence[Mapping[str, float]]) -> dict[str, History]:
    """Histories by metric name from rows with `step`, `<name>` and `<name>_se`.

    Rows without a finite value of a metric are left out of its history; an error that
    is not known is 0.
    """
    names = dict.fromkeys(
        n for row in rows for n in row if n != "step" and not n.endswith("_se")
    )
    found = {}
    for name in names:
        kept = [row for row in rows if _finite(row.get(name))]
        errors = [row.get(f"{name}_se", 0.0) for row in kept]
        found[name] = History(
            np.asarray([row["step"] for row in kept], np.float64),
            np.asarray([row[name] for row in kept], np.float64),
            np.asarray([e if _finite(e) else 0.0 for e in errors], np.float64),
        )
    return found


def levels(
    found: Mapping[str, History], held_out: Sequence[str] = ()
) -> dict[str, float]:
    """The level of every alarm that these histories allow, and `alarms`.

    Args:
      found: histories under the names of the evaluation (`kl`, `length`, `entropy`,
        `repetition`, `disagreement`, `proxy` ...).
      held_out: names of reward models that were not trained on.
    """
    alarms: dict[str, Callable[[], float]] = {
        "alarm_kl": lambda: kl_acceleration(found["kl"]),
        "alarm_length": lambda: length_slope(found["length"]),
        "alarm_entropy": lambda: entropy_slope(found["entropy"]),
        "alarm_repetition": lambda: repetition(found["repetition"]),
        "alarm_disagreement": lambda: disagreement(found["disagreement"]),
    }
    result = {
        name: alarm()
        for name, alarm in alarms.items()
        if name.removeprefix("alarm_") in found
    }
    judges = [name for name in held_out if name in found]
    if judges and "proxy" in found:
        result["alarm_gap"] = max(gap(found["proxy"], found[name]) for name in judges)
    result = {name: level for name, level in result.items() if math.isfinite(level)}
    return {**result, "alarms": float(sum(v >= 1 for v in result.values()))}


def kl_acceleration(kl: History) -> float:
    """Growth of the KL's slope within the window; NaN below four evaluations."""
    recent = _recent(kl)
    if len(recent.steps) < 4:
        return math.nan
    x = _unit(recent.steps)
    columns = np.stack([np.ones_like(x), x, x**2], axis=1)
    weights = np.linalg.pinv(columns)[2]
    growth = 2.0 * float(weights @ recent.values)
    error = 2.0 * float(np.sqrt(np.sum((weights * recent.errors) ** 2)))
    span = recent.steps[-1] - recent.steps[0]
    rate = (kl.values[-1] - kl.values[0]) / max(kl.steps[-1] - kl.steps[0], 1.0)
    return _level(growth, KL_LIMIT * abs(rate) * span, error)


def length_slope(length: History) -> float:
    """Rise of the length over the window; NaN below three evaluations."""
    return _slope(length, LENGTH_LIMIT, 1.0)


def entropy_slope(entropy: History) -> float:
    """Fall of the entropy over the window; NaN below three evaluations."""
    return _slope(entropy, ENTROPY_LIMIT, -1.0)


def repetition(repeated: History) -> float:
    """Rise of the share of repeated n-grams since the start."""
    change, error, _ = _since_start(repeated)
    return _level(change, REPETITION_LIMIT, error)


def disagreement(spread: History) -> float:
    """Relative rise of the members' standard deviation since the start."""
    change, error, start = _since_start(spread)
    return _level(change, DISAGREEMENT_LIMIT * abs(start), error)


def gap(proxy: History, held_out: History) -> float:
    """Gain of the proxy that a held-out reward model does not have.

    Both in units of their own deviation under the reference, as `normalize` gives
    them: `(dp - dh)` over `GAP_LIMIT * dp`.
    """
    gain, error, _ = _since_start(proxy)
    confirmed, other, _ = _since_start(held_out)
    limit = GAP_LIMIT * max(gain, 0.0)
    return _level(gain - confirmed, limit, math.hypot(error, other))


def repeated_ngrams(tokens: Sequence[Hashable], n: int = NGRAM) -> float:
    """Share of n-grams that came before in the same response, 0 where there is none."""
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def _slope(history: History, limit: float, sign: float) -> float:
    recent = _recent(history)
    if len(recent.steps) < 3:
        return math.nan
    x = _unit(recent.steps) - np.mean(_unit(recent.steps))
    weights = x / np.sum(x**2)
    change = sign * float(weights @ recent.values)
    error = float(np.sqrt(np.sum((weights * recent.errors) ** 2)))
    return _level(change, limit * abs(float(history.values[0])), error)


def _since_start(history: History) -> tuple[float, float, float]:
    """Change since the first evaluation, its error, and the value at the start."""
    if len(history.values) < 2:
        return math.nan, math.nan, math.nan
    error = math.hypot(history.errors[0], history.errors[-1])
    start, now = float(history.values[0]), float(history.values[-1])
    return now - start, error, start


def _level(change: float, limit: float, error: float) -> float:
    """Change over what would be remarkable; 0 where nothing changed."""
    if math.isnan(change):
        return math.nan
    bar = max(limit, NOISE * error)
    if bar <= 0:
        return 0.0 if change <= 0 else math.inf
    return change / bar


def _recent(history: History) -> History:
    return History(*(column[-WINDOW:] for column in history))


def _unit(steps: np.ndarray) -> np.ndarray:
    """Steps of a window as 0 to 1."""
    return (steps - steps[0]) / max(float(steps[-1] - steps[0]), 1.0)


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
