"""Kinds of record: what one example is, on the host, before any token exists.

A text field is a `str`, or a tuple of token ids for worlds without text; a prompt may
also be a tuple of chat `Message`s. Each kind knows how to read itself from a mapping
(a JSON object, a row of a tfds builder) and names the field that it cannot accept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from rlhf_jax.data import fields
from rlhf_jax.data.fields import FieldError, Message, PromptText, Text
from rlhf_jax.errors import UserError


@dataclass(frozen=True, kw_only=True)
class _Record:
    """Identity shared by all kinds.

    Attributes:
      id: unique name inside its dataset.
      weight: finite, not negative; multiplies the example's loss and metrics.
      extra: further fields of the source, handed to scorers and reports untouched.
    """

    id: str
    weight: float = 1.0
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise UserError(f"weight {self.weight} of '{self.id}' is not a weight")


@dataclass(frozen=True, kw_only=True)
class Prompt(_Record):
    """A prompt to sample from."""

    kind: ClassVar[str] = "prompt"
    prompt: PromptText


@dataclass(frozen=True, kw_only=True)
class Demonstration(_Record):
    """A prompt and the response to imitate; only the response is trained on."""

    kind: ClassVar[str] = "demonstration"
    prompt: PromptText
    response: Text


@dataclass(frozen=True, kw_only=True)
class Document(_Record):
    """Plain text for pretraining; every token after the first is trained on."""

    kind: ClassVar[str] = "document"
    text: Text


@dataclass(frozen=True, kw_only=True)
class Conversation(_Record):
    """Chat turns; only what the assistant says is trained on."""

    kind: ClassVar[str] = "conversation"
    messages: tuple[Message, ...]


@dataclass(frozen=True, kw_only=True)
class Ranking(_Record):
    """K responses to one prompt in an order that may tie; a pair is K = 2.

    Attributes:
      ranks: 1 = best, equal numbers tie, 0 = not ranked.
      margin: what the score difference of a pair must reach (0 = plain).
    """

    kind: ClassVar[str] = "ranking"
    prompt: PromptText
    responses: tuple[Text, ...]
    ranks: tuple[int, ...]
    margin: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        ranked = sum(rank > 0 for rank in self.ranks)
        if len(self.ranks) != len(self.responses) or ranked < 2:
            raise UserError(
                f"'{self.id}' ranks {len(self.responses)} responses as {self.ranks}; it"
                " needs one rank for each, two or more of them above 0"
            )


Record = Prompt | Demonstration | Document | Conversation | Ranking


def pair(
    prompt: PromptText,
    chosen: Text,
    rejected: Text,
    *,
    id: str,
    weight: float = 1.0,
    margin: float = 0.0,
    tie: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> Ranking:
    """A preference pair as the ranking of two responses that it is."""
    return Ranking(
        id=id,
        weight=weight,
        extra=extra or {},
        prompt=prompt,
        responses=(chosen, rejected),
        ranks=(1, 1) if tie else (1, 2),
        margin=margin,
    )


def parse(kind: str, row: Any, default_id: str) -> Record:
    """Read one record of a kind from a mapping.

    Args:
      kind: one of `KINDS`; `pair` reads `prompt, chosen, rejected[, margin, tie]`.
      row: the mapping (anything else is refused); `id` and `weight` are optional in
        every kind, unknown fields are kept in `extra`.
      default_id: id of a row that names none.

    Raises:
      FieldError: a field is missing, of the wrong type or out of range.
      UserError: unknown kind.
    """
    if kind not in _PARSERS:
        raise UserError(f"unknown kind of record '{kind}'; known: {', '.join(KINDS)}")
    names, build = _PARSERS[kind]
    if not isinstance(row, Mapping):
        raise FieldError("(line)", f"expected a JSON object, got {fields.show(row)}")
    identity = {
        "id": fields.identifier(row.get("id", default_id)),
        "weight": fields.number(row, "weight", 1.0, low=0.0),
        "extra": {
            name: value
            for name, value in row.items()
            if name not in names and name not in ("id", "weight")
        },
    }
    return build(row, identity)


def _demonstration(row: Mapping[str, Any], identity: dict[str, Any]) -> Record:
    prompt, response = fields.prompt(row), fields.text(row, "response")
    return Demonstration(prompt=prompt, response=response, **identity)


def _conversation(row: Mapping[str, Any], identity: dict[str, Any]) -> Record:
    messages = fields.messages("messages", fields.present(row, "messages"))
    if not any(message.role == "assistant" for message in messages):
        raise FieldError("messages", "no turn of the assistant, so nothing to train on")
    return Conversation(messages=messages, **identity)


def _pair(row: Mapping[str, Any], identity: dict[str, Any]) -> Record:
    tie = row.get("tie", False)
    if not isinstance(tie, bool):
        raise FieldError("tie", f"expected true or false, got {fields.show(tie)}")
    return pair(
        fields.prompt(row),
        fields.text(row, "chosen"),
        fields.text(row, "rejected"),
        margin=fields.number(row, "margin", 0.0),
        tie=tie,
        **identity,
    )


def _ranking(row: Mapping[str, Any], identity: dict[str, Any]) -> Record:
    prompt = fields.prompt(row)
    values = fields.items(row, "responses")
    if len(values) < 2:
        raise FieldError("responses", f"a ranking needs 2 or more, got {len(values)}")
    responses = tuple(
        fields.text_value(f"responses[{i}]", value) for i, value in enumerate(values)
    )
    ranks = tuple(
        fields.rank(i, value) for i, value in enumerate(fields.items(row, "ranks"))
    )
    if len(ranks) != len(responses):
        raise FieldError("ranks", f"{len(ranks)} for {len(responses)} responses")
    if sum(rank > 0 for rank in ranks) < 2:
        raise FieldError("ranks", f"fewer than two are ranked in {list(ranks)}")
    margin = fields.number(row, "margin", 0.0)
    return Ranking(
        prompt=prompt, responses=responses, ranks=ranks, margin=margin, **identity
    )


_Parser = Callable[[Mapping[str, Any], dict[str, Any]], Record]
_PARSERS: dict[str, tuple[tuple[str, ...], _Parser]] = {
    "prompt": (
        ("prompt",),
        lambda row, rest: Prompt(prompt=fields.prompt(row), **rest),
    ),
    "demonstration": (("prompt", "response"), _demonstration),
    "document": (
        ("text",),
        lambda row, rest: Document(text=fields.text(row, "text"), **rest),
    ),
    "conversation": (("messages",), _conversation),
    "pair": (("prompt", "chosen", "rejected", "margin", "tie"), _pair),
    "ranking": (("prompt", "responses", "ranks", "margin"), _ranking),
}
KINDS = tuple(_PARSERS)
