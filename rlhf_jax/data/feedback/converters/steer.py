"""HelpSteer: single responses with ratings."""

from __future__ import annotations

from typing import Any

from rlhf_jax.data.feedback.converters import reading
from rlhf_jax.data.feedback.record import Feedback, Rating, Response

HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
"""What is rated."""


def helpsteer(row: Any, default_id: str) -> Feedback:
    """HelpSteer (Wang et al. 2023): one response, five ratings.

    `{"prompt", "response", "helpfulness", "correctness", "coherence", "complexity",
    "verbosity"}`, each 0 to 4. HelpSteer2 has the same lines; `helpsteer2.read` joins
    them and reads their conversations.
    """
    row = reading.mapping(row)
    ratings = tuple(
        Rating("0", name, reading.number(name, reading.get(row, name)), 0.0, 4.0)
        for name in HELPSTEER
    )
    return Feedback(
        id=reading.identifier(row, default_id),
        prompt=reading.text(row, "prompt"),
        responses=(Response("0", reading.text(row, "response")),),
        ratings=ratings,
        provenance="helpsteer",
        extra=reading.rest(row, "id", "prompt", "response", *HELPSTEER),
    )
