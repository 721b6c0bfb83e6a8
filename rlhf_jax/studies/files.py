"""Files that are there whole or not at all, and JSON that any reader can read."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_jax.errors import UserError


def write_text(path: Path, text: str) -> Path:
    """Write a text file in one atomic replacement; its folder is made if missing.

    Raises:
      UserError: a place that cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    return path


def write_json(path: Path, value: Any) -> Path:
    """Write JSON atomically; what is not finite becomes null, keys keep their order."""
    text = json.dumps(finite(value), indent=1, ensure_ascii=False, allow_nan=False)
    return write_text(path, text + "\n")


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
      UserError: a file that cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {path} ({error}): delete it, and what it held is made again"
        ) from error


def finite(value: Any) -> Any:
    """A value as JSON has it: mappings, lists, text, numbers; None where not finite.

    Raises:
      UserError: a value of another kind, such as a function.
    """
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    if hasattr(value, "tolist"):
        return finite(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    raise UserError(
        f"{value!r} of type {type(value).__name__} has no place in JSON: give text, "
        "numbers, lists or mappings"
    )
