"""All measures together, and the files that say them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.studies import digits, files
from rlhf_jax.studies.rm_report import accuracy, biases, calibration, page
from rlhf_jax.studies.rm_report.calibration import Reliability
from rlhf_jax.studies.rm_report.entries import Entry
from rlhf_jax.studies.rm_report.pairs import Pairs


class Results(NamedTuple):
    """What was found.

    Attributes:
      entries: name -> entry, as in `rm_report.json`.
      slices: slice -> bin -> entry of accuracy.
      reliability: points of the reliability plot.
    """

    entries: dict[str, Entry]
    slices: dict[str, dict[str, Entry]]
    reliability: list[Reliability]

    def with_entries(self, more: Mapping[str, Entry]) -> Results:
        """The same with further entries."""
        return self._replace(entries={**self.entries, **more})


def results(difference: np.ndarray, found: Pairs, noise: float | None) -> Results:
    """Everything that scores and labels alone can tell.

    Args:
      difference: raw score of the better minus that of the worse response, [N].
      found: the pairs.
      noise: scale of the label noise where it is known.
    """
    entries = accuracy.overall(difference, found, noise)
    entries |= calibration.measure(difference, found)
    entries["length_bias"] = biases.length_bias(difference, found)
    entries |= biases.length_correlation(difference, found)
    return Results(
        entries,
        accuracy.slices(difference, found),
        calibration.reliability(difference, found),
    )


def write(workdir: Path, found: Results, facts: Mapping[str, Any]) -> str:
    """Writes `rm_report.json`, `details.json` and `report.html`.

    Slices are entries too, named `accuracy/<slice>/<bin>`.

    Returns:
      The findings for a terminal.
    """
    named = {
        f"accuracy/{name}/{text}": one
        for name, bins in found.slices.items()
        for text, one in bins.items()
    }
    files.write_json(workdir / "rm_report.json", {**found.entries, **named})
    points = [
        {
            "forecast": p.forecast,
            "right": p.share.mean,
            "ci": [p.share.low, p.share.high],
            "n": p.n,
        }
        for p in found.reliability
    ]
    files.write_json(workdir / "details.json", {**facts, "reliability": points})
    place = workdir / "report.html"
    files.write_text(place, page.render(found, facts))
    return f"{summary(found)}\n{place}"


def summary(found: Results) -> str:
    """One line an entry: name, value, interval, verdict."""
    width = max(map(len, found.entries))
    lines = []
    for name, one in found.entries.items():
        low, high = one["ci"]
        value = digits.rounded(one["value"], high - low)
        bounds = digits.interval(low, high)
        lines.append(f"{name:<{width}}  {value:>8}  [{bounds}]  {one['verdict']}")
    return "\n".join(lines)
