"""The configs of runs, flat, and where they differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

ABSENT = "(absent)"
"""Stands where a run's config has no such key."""


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """`{"ppo": {"kl_coef": 0.1}}` -> `{"ppo.kl_coef": "0.1"}`; leaves as JSON text."""
    return {
        name: json.dumps(value, ensure_ascii=False, default=str)
        for name, value in leaves(config, prefix).items()
    }


def leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested mappings under dotted names.

    An empty mapping is a leaf of its own, so that it differs from an absent key.
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= leaves(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def difference(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Keys on which configs differ -> the value in each, `ABSENT` where it has none.

    Keys keep the order in which they first appear.
    """
    flats = [flatten(config) for config in configs]
    keys = dict.fromkeys(key for flat in flats for key in flat)
    found = {key: [flat.get(key, ABSENT) for flat in flats] for key in keys}
    return {key: values for key, values in found.items() if len(set(values)) > 1}


def text(names: Sequence[str], differences: Mapping[str, Sequence[str]]) -> str:
    """The difference for a terminal: a key a line, a run a line below it."""
    if not differences:
        return "the configs are the same"
    width = max(map(len, names))
    lines = []
    for key, values in differences.items():
        lines.append(key)
        for name, value in zip(names, values, strict=True):
            lines.append(f"  {name:<{width}}  {value}")
    return "\n".join(lines)
