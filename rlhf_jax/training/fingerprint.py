"""Which settings a checkpoint was made under, and whether it may be continued.

Settings are of two kinds. Those that change numbers form the *fingerprint*: a run
cannot continue under another value and still end where an undisturbed run ends, so
it is refused. All others (mesh, logging, retention, machine) are *notes*: a change is
logged and allowed.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import jax
from absl import logging

from rlhf_jax.errors import UserError

_ABSENT = "(absent)"


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as flat dotted names; other values as plain JSON."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{key}."))
        else:
            flat[key] = json.loads(json.dumps(value, default=str))
    return flat


def differences(
    saved: Mapping[str, Any], current: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
    """Names whose values differ, as (name, saved value, current value), sorted."""
    old, new = flatten(saved), flatten(current)
    return [
        (name, old.get(name, _ABSENT), new.get(name, _ABSENT))
        for name in sorted(old.keys() | new.keys())
        if name not in old or name not in new or old[name] != new[name]
    ]


def check(
    saved: Mapping[str, Any], current: Mapping[str, Any], *, checkpoint: str
) -> None:
    """Refuse to continue `checkpoint` under other number-changing settings.

    Args:
      saved: fingerprint stored in the checkpoint.
      current: fingerprint of this run.
      checkpoint: its path, for the message.

    Raises:
      UserError: naming every key with the old and the new value.
    """
    changed = differences(saved, current)
    if changed:
        listed = "; ".join(f"{n} was {o!r}, is now {c!r}" for n, o, c in changed[:8])
        more = f" (and {len(changed) - 8} more)" if len(changed) > 8 else ""
        raise UserError(
            f"checkpoint {checkpoint} was made with other settings: {listed}{more}; "
            "restore the old value, or start in another workdir"
        )


def note(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Log the harmless settings that changed since the checkpoint; returns lines."""
    lines = [f"{n}: {o!r} -> {c!r}" for n, o, c in differences(saved, current)]
    if lines:
        logging.info("settings noted since the checkpoint: %s", "; ".join(lines))
    return lines


def environment() -> dict[str, str]:
    """What bit-for-bit equality also hangs on: versions, device kind, threads."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    found = {f"environment.{name}": metadata.version(name) for name in packages}
    return found | {
        "environment.python": platform.python_version(),
        "environment.machine": platform.machine(),
        "environment.device": jax.devices()[0].device_kind,
        "environment.devices": str(jax.device_count()),
        "environment.cpus": str(_cpus()),
        "environment.XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }


def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
