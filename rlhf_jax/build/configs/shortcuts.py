"""Short names at the top of a config for keys further down.

An experiment that offers `--config.loss=ipo` for `--config.preference.loss=ipo` makes
both the same field: `config.preference.loss = config.get_ref("loss")`. Nothing reads
the short name itself, so it is checked here that it says what the long one says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf_jax.errors import UserError


def check(plain: Mapping[str, Any], names: tuple[str, ...]) -> list[str]:
    """The short names that a config has.

    Args:
      plain: the whole config.
      names: of its stages.

    Raises:
      UserError: a short name that stands for nothing here.
    """
    found = []
    if "loss" in plain:
        long = [
            f"config.{name}.loss"
            for name in names
            if plain[name].get("kind") in ("preference", "online_preference")
            and plain[name].get("loss") == plain["loss"]
        ]
        _stands(f"config.loss={plain['loss']!r}", "a preference stage's loss", long)
        found.append("loss")
    if "data" in plain:
        given, task = plain["data"], plain["task"]
        same = isinstance(given, Mapping) and set(given) == {"path"}
        long = ["config.task.path"] if same and given["path"] == task["path"] else []
        _stands(f"config.data={given!r}", "config.task.path as `path`", long)
        found.append("data")
    return found


def _stands(name: str, what: str, long: list[str]) -> None:
    if not long:
        raise UserError(f"{name} is read by nothing; it may only stand for {what}")
