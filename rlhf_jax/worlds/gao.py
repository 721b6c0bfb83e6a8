"""The two forms of over-optimization curves of Gao, Schulman and Hilton 2023.

With d the square root of KL(policy || reference), gold reward less its start is

    best_of_n   d (alpha - beta d)         peak at alpha / (2 beta)
    rl          d (alpha - beta log d)     peak at exp(alpha / beta - 1)

(arXiv:2210.10760, section 3.2). Both are linear in alpha and beta, so the fit is
ordinary least squares.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from rlhf_jax.errors import UserError

FORMS = ("best_of_n", "rl")


class Fit(NamedTuple):
    """A fitted form.

    Attributes:
      form: one of `FORMS`.
      alpha: slope at the start (best_of_n), gold per root nat.
      beta: how fast it bends.
      r2: share of the variance of the points that it explains.
    """

    form: str
    alpha: float
    beta: float
    r2: float

    def at(self, distance: Float[np.ndarray, " P"]) -> Float[np.ndarray, " P"]:
        """The form at distances d."""
        return _inputs(np.asarray(distance, np.float64), self.form) @ np.asarray(
            [self.alpha, self.beta]
        )

    @property
    def peak(self) -> float:
        """The distance at which gold is highest; infinite where it never falls."""
        if self.beta <= 0:
            return math.inf
        if self.form == "best_of_n":
            return self.alpha / (2 * self.beta)
        return math.exp(min(self.alpha / self.beta - 1, 700.0))


def fit(
    distance: Float[np.ndarray, " P"], reward: Float[np.ndarray, " P"], form: str
) -> Fit:
    """Least squares of one form.

    Args:
      distance: d, roots of nats, not negative.
      reward: gold less its mean under the reference.
      form: one of `FORMS`.

    Raises:
      UserError: an unknown form, or fewer than three points away from 0.
    """
    if form not in FORMS:
        raise UserError(f"form={form!r} must be one of {', '.join(FORMS)}")
    distance = np.asarray(distance, np.float64)
    reward = np.asarray(reward, np.float64)
    if np.sum(distance > 0) < 3:
        raise UserError(
            f"a fit of two coefficients needs 3 points with KL above 0, got"
            f" {int(np.sum(distance > 0))}; measure at more of them"
        )
    inputs = _inputs(distance, form)
    (alpha, beta), *_ = np.linalg.lstsq(inputs, reward, rcond=None)
    left = reward - inputs @ np.asarray([alpha, beta])
    spread = float(np.sum((reward - reward.mean()) ** 2))
    r2 = 1 - float(np.sum(left**2)) / spread if spread > 0 else math.nan
    return Fit(form, float(alpha), float(beta), r2)


def _inputs(distance: np.ndarray, form: str) -> np.ndarray:
    """Columns that alpha and beta multiply; d log d is 0 at 0."""
    if form == "best_of_n":
        bend = distance**2
    else:
        bend = distance * np.log(np.where(distance > 0, distance, 1.0))
    return np.stack([distance, -bend], axis=-1)
