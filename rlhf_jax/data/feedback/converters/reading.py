"""What converters share: fields that must be there, and whatever else a row holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf_jax.data import fields
from rlhf_jax.data.fields import FieldError, show

Row = Mapping[str, Any]


def mapping(value: Any, name: str = "(line)") -> Row:
    """A JSON object."""
    if not isinstance(value, Mapping):
        raise FieldError(name, f"expected a JSON object, got {show(value)}")
    return value


def get(row: Row, name: str, where: str = "") -> Any:
    """A field that must be there."""
    place = f"{where}.{name}" if where else name
    if name not in row:
        raise FieldError(place, f"missing (there is {', '.join(row) or 'nothing'})")
    return row[name]


def text(row: Row, name: str, where: str = "") -> str:
    """A field that must be text."""
    value = get(row, name, where)
    place = f"{where}.{name}" if where else name
    if not isinstance(value, str):
        raise FieldError(place, f"expected text, got {show(value)}")
    return str(fields.text_value(place, value))


def number(name: str, value: Any) -> float:
    """A number, or one written as text."""
    try:
        found = float(value) if isinstance(value, str) else value
    except ValueError as error:
        raise FieldError(name, f"expected a number, got {show(value)}") from error
    return fields.number({name: found}, name, 0.0)


def is_side(value: Any) -> bool:
    """Whether a value is the whole number 0 or 1, which names one of two."""
    return isinstance(value, int) and value in (0, 1) and not isinstance(value, bool)


def identifier(row: Row, default_id: str) -> str:
    """The row's own `id`, or the default."""
    return fields.identifier(row.get("id", default_id))


def source(value: Any) -> str:
    """What wrote a response, where it is named."""
    return value if isinstance(value, str) else ""


def rest(row: Row, *used: str) -> dict[str, Any]:
    """Fields that hold something and have no place in a record: all but `used`."""
    return {
        name: value
        for name, value in row.items()
        if value is not None and name not in used
    }
