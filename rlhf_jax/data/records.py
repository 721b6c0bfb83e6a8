"""Kinds of record: what one example is, on the host, before any token exists.

A text field is a `str`, or a tuple of token ids for worlds without text; a prompt may
also be a tuple of chat `Message`s. Each kind knows how to read itself from a mapping
(a JSON object, a row of a tfds builder) and names the field that it cannot accept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from rlhf_jax.errors import UserError


class Message(NamedTuple):
    """One turn of a conversation: role (`system`, `user`, `assistant`), content."""

    role: str
    content: str


Text = str | tuple[int, ...]
"""Text, or token ids that are taken as they are."""
PromptText = str | tuple[int, ...] | tuple[Message, ...]


class FieldError(ValueError):
    """A field that cannot be accepted; sources add file and line number."""

    def __init__(self, name: str, problem: str):
        super().__init__(f"field '{name}': {problem}")


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


def parse(kind: str, row: Mapping[str, Any], default_id: str) -> Record:
    """Read one record of a kind from a mapping.

    Args:
      kind: one of `KINDS`; `pair` reads `prompt, chosen, rejected[, margin, tie]`.
      row: the mapping; `id` and `weight` are optional in every kind, unknown fields
        are kept in `extra`.
      default_id: id of a row that names none.

    Raises:
      FieldError: a field is missing, of the wrong type or out of range.
      UserError: unknown kind.
    """
    if kind not in _PARSERS:
        raise UserError(f"unknown kind of record '{kind}'; known: {', '.join(KINDS)}")
    names, build = _PARSERS[kind]
    if not isinstance(row, Mapping):
        raise FieldError("(line)", f"expected a JSON object, got {_show(row)}")
    identity = {
        "id": _id(row.get("id", default_id)),
        "weight": _number(row, "weight", 1.0, low=0.0),
        "extra": {
            name: value
            for name, value in row.items()
            if name not in names and name not in ("id", "weight")
        },
    }
    return build(row, identity)


def _demonstration(row: Mapping[str, Any], identity: dict[str, Any]) -> Record:
    prompt, response = _prompt(row), _text(row, "response")
    return Demonstration(prompt=prompt, response=response, **identity)


def _conversation(row: Mapping[str, Any], identity: dict[str, Any]) -> Record:
    messages = _messages("messages", _present(row, "messages"))
    if not any(message.role == "assistant" for message in messages):
        raise FieldError("messages", "no turn of the assistant, so nothing to train on")
    return Conversation(messages=messages, **identity)


def _pair(row: Mapping[str, Any], identity: dict[str, Any]) -> Record:
    tie = row.get("tie", False)
    if not isinstance(tie, bool):
        raise FieldError("tie", f"expected true or false, got {_show(tie)}")
    return pair(
        _prompt(row),
        _text(row, "chosen"),
        _text(row, "rejected"),
        margin=_number(row, "margin", 0.0),
        tie=tie,
        **identity,
    )


def _ranking(row: Mapping[str, Any], identity: dict[str, Any]) -> Record:
    prompt = _prompt(row)
    values = _list(row, "responses")
    if len(values) < 2:
        raise FieldError("responses", f"a ranking needs 2 or more, got {len(values)}")
    responses = tuple(
        _text_value(f"responses[{i}]", value) for i, value in enumerate(values)
    )
    ranks = tuple(_rank(i, value) for i, value in enumerate(_list(row, "ranks")))
    if len(ranks) != len(responses):
        raise FieldError("ranks", f"{len(ranks)} for {len(responses)} responses")
    if sum(rank > 0 for rank in ranks) < 2:
        raise FieldError("ranks", f"fewer than two are ranked in {list(ranks)}")
    margin = _number(row, "margin", 0.0)
    return Ranking(
        prompt=prompt, responses=responses, ranks=ranks, margin=margin, **identity
    )


_Parser = Callable[[Mapping[str, Any], dict[str, Any]], Record]
_PARSERS: dict[str, tuple[tuple[str, ...], _Parser]] = {
    "prompt": (("prompt",), lambda row, rest: Prompt(prompt=_prompt(row), **rest)),
    "demonstration": (("prompt", "response"), _demonstration),
    "document": (
        ("text",),
        lambda row, rest: Document(text=_text(row, "text"), **rest),
    ),
    "conversation": (("messages",), _conversation),
    "pair": (("prompt", "chosen", "rejected", "margin", "tie"), _pair),
    "ranking": (("prompt", "responses", "ranks", "margin"), _ranking),
}
KINDS = tuple(_PARSERS)


def _show(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def _present(row: Mapping[str, Any], name: str) -> Any:
    if name not in row:
        raise FieldError(name, f"missing (the line has {', '.join(row) or 'nothing'})")
    return row[name]


def _list(row: Mapping[str, Any], name: str) -> Sequence[Any]:
    value = _present(row, name)
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
        raise FieldError(name, f"expected a list, got {_show(value)}")
    return value


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _text_value(name: str, value: Any) -> Text:
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(_is_int(x) and x >= 0 for x in value):
        return tuple(value)
    raise FieldError(name, f"expected text or a list of token ids, got {_show(value)}")


def _text(row: Mapping[str, Any], name: str) -> Text:
    return _text_value(name, _present(row, name))


def _prompt(row: Mapping[str, Any]) -> PromptText:
    value = _present(row, "prompt")
    turns = isinstance(value, list | tuple) and value and isinstance(value[0], Mapping)
    return _messages("prompt", value) if turns else _text_value("prompt", value)


def _messages(name: str, value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise FieldError(name, f"expected a list of messages, got {_show(value)}")
    return tuple(_message(f"{name}[{i}]", turn) for i, turn in enumerate(value))


def _message(name: str, turn: Any) -> Message:
    if not isinstance(turn, Mapping):
        raise FieldError(name, f"expected {{role, content}}, got {_show(turn)}")
    for key in ("role", "content"):
        if not isinstance(turn.get(key), str):
            raise FieldError(
                f"{name}.{key}", f"expected text, got {_show(turn.get(key))}"
            )
    return Message(turn["role"], turn["content"])


def _rank(index: int, value: Any) -> int:
    if not _is_int(value) or value < 0:
        raise FieldError(f"ranks[{index}]", f"expected 0, 1, 2 ..., got {_show(value)}")
    return value


def _id(value: Any) -> str:
    if isinstance(value, str) and value or _is_int(value):
        return str(value)
    raise FieldError("id", f"expected text or a whole number, got {_show(value)}")


def _number(
    row: Mapping[str, Any], name: str, default: float, low: float = -math.inf
) -> float:
    value = row.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise FieldError(name, f"expected a number, got {_show(value)}")
    if not math.isfinite(value) or value < low:
        raise FieldError(name, f"expected a finite number >= {low}, got {value}")
    return float(value)
