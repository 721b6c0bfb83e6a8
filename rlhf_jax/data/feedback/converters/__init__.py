"""Published layouts of feedback as `Feedback` records.

A converter is `(row, default id) -> Feedback` and goes to `files.read` or
`files.from_rows`::

    found = feedback.read("hh.jsonl", feedback.converters.hh_rlhf, on_bad_record="skip")

What has a place in a record goes there; all other fields of a row are kept in `extra`,
those of a response in `extra["responses"]` by its id.

Where several rows make a record, a reader takes the file: `feedback.oasst.read(path)` a
table of messages, `feedback.helpsteer2.read(path)` a response a line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rlhf_jax.data.feedback.converters.hh import hh_rlhf
from rlhf_jax.data.feedback.converters.steer import HELPSTEER, helpsteer
from rlhf_jax.data.feedback.converters.tldr import tldr_comparisons
from rlhf_jax.data.feedback.converters.ultra import ultrafeedback
from rlhf_jax.data.feedback.converters.votes import shp
from rlhf_jax.data.feedback.record import Feedback

LAYOUTS: Mapping[str, Callable[[Any, str], Feedback]] = {
    "hh_rlhf": hh_rlhf,
    "tldr_comparisons": tldr_comparisons,
    "ultrafeedback": ultrafeedback,
    "shp": shp,
    "helpsteer": helpsteer,
}
"""Converters of one row a record, by name."""

__all__ = [
    "HELPSTEER",
    "LAYOUTS",
    "helpsteer",
    "hh_rlhf",
    "shp",
    "tldr_comparisons",
    "ultrafeedback",
]
