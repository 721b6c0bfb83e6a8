"""A claim of a paper as a value: what is measured, and when it holds.

A claim is written before its first measurement. What it takes to hold (threshold,
minimum effect, seeds, power) stands in it; a change of any of that is a new `version`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from rlhf_jax.errors import UserError
from rlhf_jax.studies.reproduction.curves import Measured, Plot

SUITES = ("smoke", "nightly", "release")


class Above(NamedTuple):
    """The mean over seeds is above `effect` (a paired difference above 0, say)."""

    effect: float = 0.0


class Below(NamedTuple):
    """The mean over seeds is below `effect`."""

    effect: float = 0.0


class Band(NamedTuple):
    """The mean over seeds lies between `low` and `high`."""

    low: float
    high: float


class Equivalence(NamedTuple):
    """The mean of paired differences is within `margin` of 0 (two one-sided tests)."""

    margin: float


class Exact(NamedTuple):
    """Each seed gives `value` up to `tolerance`: a fact without sampling error."""

    value: float
    tolerance: float


Threshold = Above | Below | Band | Equivalence | Exact

KINDS = {
    Above: "inequality",
    Below: "inequality",
    Band: "band",
    Equivalence: "equivalence",
    Exact: "exact",
}


class FullScale(NamedTuple):
    """What the paper did at its scale.

    Attributes:
      recipe: models, data, hyper-parameters; how one would run it with this package.
      numbers: what it reported.
    """

    recipe: str
    numbers: str


Measure = Callable[[int], "float | Mapping[str, float] | Measured"]
"""`measure(seed)`: the effect under that seed (paired where two arms are compared), or
several quantities by name; with curves to draw where it gives `Measured`."""


class Claim(NamedTuple):
    """One claim (see `check`, which every claim passes before it is measured).

    Attributes:
      id: short, unique, a file name: `M1`, `kl-k2-bias`.
      paper: authors, year, title; where in it.
      statement: what is claimed, as an inequality, a band or an equivalence.
      protocol: world, arms, steps: what `measure` does, for a reader.
      seeds: stated beforehand.
      measure: the effect under a seed.
      threshold: one, or one by name where `measure` gives several quantities; the claim
        holds if all of them do.
      full_scale: the paper's recipe and numbers.
      suites: which of `SUITES` it belongs to.
      power: why these seeds suffice for the threshold.
      unit: of the effect.
      version: of the protocol; a measurement of another version is made anew.
      confidence: of the one-sided interval that decides.
      plot: axes and caption of the curves that `measure` gives; None draws none.
      further_seeds: measured beside `seeds` in the suite `release`.
    """

    id: str
    paper: str
    statement: str
    protocol: str
    seeds: tuple[int, ...]
    measure: Measure
    threshold: Threshold | Mapping[str, Threshold]
    full_scale: FullScale
    suites: tuple[str, ...] = ("nightly", "release")
    power: str = ""
    unit: str = ""
    version: int = 1
    confidence: float = 0.95
    plot: Plot | None = None
    further_seeds: tuple[int, ...] = ()

    @property
    def thresholds(self) -> dict[str, Threshold]:
        """Thresholds by the name of their quantity; "" where there is one alone."""
        if isinstance(self.threshold, Mapping):
            return dict(self.threshold)
        return {"": self.threshold}

    @property
    def kind(self) -> str:
        """`inequality`, `band`, `equivalence` or `exact`; several joined by `+`."""
        kinds = [KINDS[type(one)] for one in self.thresholds.values()]
        return "+".join(dict.fromkeys(kinds))


def check(claim: Claim) -> Claim:
    """The claim, if it can be measured and decided.

    Raises:
      UserError: a name that is no file name, no or too few or repeated seeds, a suite
        that does not exist, a threshold that nothing can meet.
    """

    def wrong(text: str) -> UserError:
        return UserError(f"claim {claim.id!r}: {text}")

    if not claim.id or not all(c.isalnum() or c in "-_." for c in claim.id):
        raise wrong("the id is a file name: letters, digits, - _ and .")
    if not claim.thresholds:
        raise wrong("no threshold: say when it holds")
    seeds = claim.seeds + claim.further_seeds
    if not claim.seeds or len(set(seeds)) < len(seeds):
        raise wrong(f"seeds={seeds} must be at least one and all different")
    exact = all(isinstance(one, Exact) for one in claim.thresholds.values())
    if len(claim.seeds) < 2 and not exact:
        raise wrong("one seed has no interval: state at least 2, better 5 or more")
    unknown = [suite for suite in claim.suites if suite not in SUITES]
    if unknown or not claim.suites:
        raise wrong(f"suites={claim.suites} must be some of {', '.join(SUITES)}")
    if not 0.5 < claim.confidence < 1:
        raise wrong(f"confidence={claim.confidence} must lie between 0.5 and 1")
    for one in claim.thresholds.values():
        if not _possible(one):
            raise wrong(f"nothing can meet {one}")
    return claim


def _possible(one: Threshold) -> bool:
    if not all(map(math.isfinite, one)):
        return False
    if isinstance(one, Band):
        return one.low < one.high
    if isinstance(one, Equivalence):
        return one.margin > 0
    return one.tolerance >= 0 if isinstance(one, Exact) else True


def describe(one: Threshold) -> str:
    """The threshold as a formula over the effect."""
    if isinstance(one, Above):
        return f"> {one.effect:g}"
    if isinstance(one, Below):
        return f"< {one.effect:g}"
    if isinstance(one, Band):
        return f"{one.low:g} to {one.high:g}"
    if isinstance(one, Equivalence):
        return f"within ±{one.margin:g}"
    return f"= {one.value:g} ± {one.tolerance:g}"
