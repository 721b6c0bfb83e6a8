"""Experiment files and command-line overrides, with errors that a person can use."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import traceback
from pathlib import Path
from typing import Any

import ml_collections

from rlhf_jax.build.configs.section import nearest
from rlhf_jax.errors import UserError


def load(spec: str) -> ml_collections.ConfigDict:
    """Runs `get_config` of an experiment file.

    Args:
      spec: `path.py` or `path.py:variant`; the variant goes to `get_config(variant)`.
        A file that has `VARIANTS`, a tuple of names, takes no other.

    Raises:
      UserError: no such file, no `get_config`, an unknown variant, or an error inside.
    """
    file, _, variant = spec.partition(":")
    path = Path(file)
    if not path.is_file():
        raise UserError(f"--config={spec}: there is no file '{file}'")
    module_spec = importlib.util.spec_from_file_location("experiment", path)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"--config={spec}: '{file}' is not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        function = getattr(module, "get_config", None)
        if function is None:
            raise UserError(f"--config={spec}: '{file}' defines no get_config()")
        if variant and not inspect.signature(function).parameters:
            raise UserError(f"--config={spec}: '{file}' has no variants")
        known = vars(module).get("VARIANTS", (variant,))
        if variant and variant not in known:
            raise UserError(
                f"--config={spec}: '{file}' has no variant '{variant}'"
                f"{nearest(variant, list(known))}"
            )
        config = function(variant) if variant else function()
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"--config={spec}: {_failure(error, path)}") from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(f"--config={spec}: get_config() must return a ConfigDict")
    return config.lock()


def _failure(error: BaseException, path: Path) -> str:
    """What went wrong inside an experiment file, and in which of its lines."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    if isinstance(error, SyntaxError):
        lines.append(error.lineno)
    place = f"line {lines[-1]} of " if lines and lines[-1] else ""
    return f"{place}the file fails with {type(error).__name__}: {error}"


def override(config: ml_collections.ConfigDict, settings: dict[str, str]) -> None:
    """Sets dotted keys from the command line, in place.

    The value is read as the type that the experiment gave the key; `None` is None
    everywhere, and whoever reads the key says whether it may be.

    Raises:
      UserError: an unknown key (names the nearest) or a value of the wrong type.
    """
    known = flat(config)
    for key, text in settings.items():
        if key not in known:
            inner = [name for name in known if name.startswith(key + ".")]
            if inner:
                raise UserError(
                    f"--config.{key} is a section; set one of its keys, such as"
                    f" --config.{inner[0]}"
                )
            raise UserError(
                f"--config.{key} is not a key of this experiment"
                f"{_nearest_dotted(key, list(known))}"
            )
        *parents, last = key.split(".")
        node: Any = config
        for name in parents:
            node = node[name]
        node[last] = _parse(key, text, node.get_type(last))


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of every leaf."""
    result: dict[str, Any] = {}
    for key in config:
        value = config[key]
        name = f"{prefix}{key}"
        if isinstance(value, ml_collections.ConfigDict | dict):
            result.update(flat(value, name + "."))
        else:
            result[name] = value
    return result


def _nearest_dotted(key: str, known: list[str]) -> str:
    hint = nearest(key, known)
    if "did you mean" in hint:
        return hint
    last = [name for name in known if name.split(".")[-1] == key.split(".")[-1]]
    if last:
        return f"; did you mean '{last[0]}'?"
    return "; `rlhf-jax check --config=...` prints the keys that exist"


def _parse(key: str, text: str, kind: type) -> Any:
    """Text of the command line as the type of the key."""
    if text == "None":
        return None
    if kind is str:
        return text
    if kind is bool:
        if text.lower() in ("true", "1", "yes"):
            return True
        if text.lower() in ("false", "0", "no"):
            return False
        raise UserError(f"--config.{key}={text}: not True or False")
    if kind in (int, float):
        try:
            return int(text, 0) if kind is int else float(text)
        except ValueError:
            wanted = "a whole number" if kind is int else "a number"
            raise UserError(f"--config.{key}={text}: not {wanted}") from None
    return _parse_literal(key, text, kind)


def _parse_literal(key: str, text: str, kind: type) -> Any:
    if kind is tuple and not text.startswith(("(", "[")):
        parts = [part.strip() for part in text.split(",") if part.strip()]
        return tuple(_literal(part) for part in parts)
    value = _literal(text)
    if kind is tuple and isinstance(value, list):
        value = tuple(value)
    if kind is not type(None) and not isinstance(value, kind):
        raise UserError(f"--config.{key}={text}: not a {kind.__name__}")
    return value


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
