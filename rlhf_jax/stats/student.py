"""Student's t: its distribution function and quantiles (no scipy at run time)."""

from __future__ import annotations

import math

from rlhf_jax.errors import UserError


def student_t_quantile(probability: float, df: float) -> float:
    """The quantile of Student's t with `df` degrees of freedom, to about 1e-10."""
    if not 0 < probability < 1:
        raise UserError(f"confidence must lie between 0 and 1, got {probability}")
    if probability < 0.5:
        return -student_t_quantile(1 - probability, df)
    low, high = 0.0, 1.0
    while student_t_cdf(high, df) < probability:
        high *= 2.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        below = student_t_cdf(middle, df) < probability
        low, high = (middle, high) if below else (low, middle)
        if high - low <= 1e-13 * high:
            break
    return 0.5 * (low + high)


def student_t_cdf(t: float, df: float) -> float:
    """P(T <= t): `1 - I_x(df/2, 1/2) / 2` with `x = df / (df + t^2)`, for t >= 0."""
    if t < 0:
        return 1.0 - student_t_cdf(-t, df)
    return 1.0 - 0.5 * _incomplete_beta(df / 2, 0.5, df / (df + t * t))


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularized incomplete beta by its continued fraction (Lentz's method)."""
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1.0 - _incomplete_beta(b, a, 1.0 - x)
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(scale + a * math.log(x) + b * math.log1p(-x)) / a
    tiny = 1e-300
    c, d = 1.0, 1.0 / max(1.0 - (a + b) * x / (a + 1), tiny)
    result = d
    for m in range(1, 1000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / (1.0 + term * d or tiny)
            c = 1.0 + term / c or tiny
            result *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return front * result
