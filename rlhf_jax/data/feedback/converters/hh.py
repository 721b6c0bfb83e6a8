"""HH-RLHF: two whole conversations."""

from __future__ import annotations

import re
from typing import Any

from rlhf_jax.data.feedback.converters import reading
from rlhf_jax.data.feedback.record import Feedback, FeedbackError, Pair, Response
from rlhf_jax.data.fields import FieldError, Message


def hh_rlhf(row: Any, default_id: str) -> Feedback:
    """HH-RLHF (Bai et al. 2022): `{"chosen", "rejected"}`, two whole conversations.

    Each is `"\\n\\nHuman: ...\\n\\nAssistant: ..."`; they agree up to the last turn of
    the assistant, which is the response.
    """
    row = reading.mapping(row)
    chosen, rejected = (
        _turns(name, reading.text(row, name)) for name in ("chosen", "rejected")
    )
    if chosen[:-1] != rejected[:-1]:
        raise FieldError("rejected", "its conversation is not that of 'chosen'")
    responses = (
        Response("chosen", chosen[-1].content),
        Response("rejected", rejected[-1].content),
    )
    return Feedback(
        id=reading.identifier(row, default_id),
        prompt=chosen[:-1],
        responses=responses,
        pairs=(Pair("chosen", "rejected"),),
        provenance="hh-rlhf",
        extra=reading.rest(row, "id", "chosen", "rejected"),
    )


_TURN = re.compile(r"\n\n(Human|Assistant): ?")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def _turns(name: str, text: str) -> tuple[Message, ...]:
    """An HH conversation as messages, the last one of the assistant."""
    parts = _TURN.split(text)
    turns = tuple(
        Message(_ROLES[role], content)
        for role, content in zip(parts[1::2], parts[2::2], strict=True)
    )
    if parts[0].strip() or len(turns) < 2 or turns[-1].role != "assistant":
        raise FieldError(
            name,
            "expected '\\n\\nHuman: ...\\n\\nAssistant: ...' ending with the assistant",
        )
    if not turns[-1].content.strip():
        raise FeedbackError(
            "empty response", name, "the assistant's last turn is empty"
        )
    return turns
