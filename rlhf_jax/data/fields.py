"""Reading the fields of one line; whatever cannot be accepted is named."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


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


def show(value: Any) -> str:
    """A value as it appears in a message: type and shortened repr."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def present(row: Mapping[str, Any], name: str) -> Any:
    """The value of a field that must be there."""
    if name not in row:
        raise FieldError(name, f"missing (the line has {', '.join(row) or 'nothing'})")
    return row[name]


def items(row: Mapping[str, Any], name: str) -> Sequence[Any]:
    """A field that must be a list."""
    value = present(row, name)
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
        raise FieldError(name, f"expected a list, got {show(value)}")
    return value


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_token(value: Any) -> bool:
    return _is_int(value) and 0 <= value < 2**31


def _unicode(name: str, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise FieldError(name, f"not Unicode text: {error.reason}") from error
    return value


def text_value(name: str, value: Any) -> Text:
    """Text or token ids, of any part of a field."""
    if isinstance(value, str):
        return _unicode(name, value)
    if isinstance(value, list | tuple) and all(_is_token(x) for x in value):
        return tuple(value)
    raise FieldError(name, f"expected text or a list of token ids, got {show(value)}")


def text(row: Mapping[str, Any], name: str) -> Text:
    """A field that must be text or token ids."""
    return text_value(name, present(row, name))


def prompt(row: Mapping[str, Any]) -> PromptText:
    """The field `prompt`: text, token ids or chat messages."""
    value = present(row, "prompt")
    turns = isinstance(value, list | tuple) and value and isinstance(value[0], Mapping)
    return messages("prompt", value) if turns else text_value("prompt", value)


def messages(name: str, value: Any) -> tuple[Message, ...]:
    """Chat messages, at least one."""
    if not isinstance(value, list | tuple) or not value:
        raise FieldError(name, f"expected a list of messages, got {show(value)}")
    return tuple(_message(f"{name}[{i}]", turn) for i, turn in enumerate(value))


def _message(name: str, turn: Any) -> Message:
    if not isinstance(turn, Mapping):
        raise FieldError(name, f"expected {{role, content}}, got {show(turn)}")
    for key in ("role", "content"):
        if not isinstance(turn.get(key), str):
            raise FieldError(
                f"{name}.{key}", f"expected text, got {show(turn.get(key))}"
            )
    content = _unicode(f"{name}.content", turn["content"])
    return Message(_unicode(f"{name}.role", turn["role"]), content)


def rank(index: int, value: Any) -> int:
    """One rank: 0 (not ranked), 1 (best), 2 ..."""
    if not _is_int(value) or value < 0:
        raise FieldError(f"ranks[{index}]", f"expected 0, 1, 2 ..., got {show(value)}")
    return value


def identifier(value: Any) -> str:
    """An id: text, or a whole number as text."""
    if isinstance(value, str) and value or _is_int(value):
        return _unicode("id", str(value))
    raise FieldError("id", f"expected text or a whole number, got {show(value)}")


def number(
    row: Mapping[str, Any], name: str, default: float, low: float = -math.inf
) -> float:
    """An optional number within float32; `low` is the least allowed."""
    value = row.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise FieldError(name, f"expected a number, got {show(value)}")
    if not low <= value <= 3e38 or value < -3e38:  # what float32 holds; no NaN
        raise FieldError(name, f"expected a number of at least {low}, got {value}")
    return float(value)


def decode(row: Any) -> Any:
    """A line of JSON, or a row that already is a mapping, as plain Python values.

    Raises:
      FieldError: not UTF-8, not JSON, or a number that is not finite.
    """
    if not isinstance(row, bytes):
        return plain(row)
    try:
        text = row.decode("utf-8")
        return json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise FieldError("(line)", f"not UTF-8: {error.reason}") from error
    except RecursionError as error:
        raise FieldError("(line)", "not JSON to read: nested too deeply") from error
    except ValueError as error:
        raise FieldError("(line)", f"not JSON: {error}") from error


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number in JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits} is beyond what a number holds")
    return value


def plain(value: Any) -> Any:
    """NumPy and bytes, which tfds rows are made of, as Python values."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise FieldError("(line)", f"not UTF-8: {error.reason}") from error
    if isinstance(value, np.ndarray):
        return [plain(item) for item in value.tolist()]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, Mapping):
        row = {name: plain(item) for name, item in value.items()}
        return _turns(row) if set(row) == {"role", "content"} else row
    if isinstance(value, list | tuple) and not isinstance(value, Message):
        return [plain(item) for item in value]
    return value


def _turns(turns: dict[str, Any]) -> Any:
    """tfds stores a sequence of messages as one mapping of two lists."""
    if not all(isinstance(column, list) for column in turns.values()):
        return turns
    return [
        {"role": role, "content": content}
        for role, content in zip(turns["role"], turns["content"], strict=True)
    ]
