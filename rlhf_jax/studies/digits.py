"""Numbers with the digits that their uncertainty leaves."""

from __future__ import annotations

import math

from rlhf_jax.studies.summary import number


def rounded(value: float, width: float, sign: bool = False) -> str:
    """A value to the second digit of the width of its interval, with a true minus.

    Args:
      value: finite or not; a dash where not.
      width: of its interval; three significant digits where that is 0 or unknown.
      sign: whether a positive value gets its plus.
    """
    if not (math.isfinite(value) and 1e-6 < width < 1e4):
        return number(value, sign)
    places = max(0, 1 - math.floor(math.log10(width)))
    text = f"{abs(value):,.{places}f}"
    negative = value < 0 and text.strip("0.,")
    return ("−" if negative else "+" if sign and value > 0 else "") + text


def interval(low: float, high: float) -> str:
    """`−0.12 to 0.46`, to the second digit of the width; a dash where unknown."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "–"
    return f"{rounded(low, high - low)} to {rounded(high, high - low)}"
