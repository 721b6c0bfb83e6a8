"""Reading a config so that every key is read or refused.

A `Section` hands out typed values and remembers what was asked for; `finish` refuses
what nobody read, naming the nearest key that something does read.
"""

from __future__ import annotations

import difflib
import inspect
import math
import typing
from collections.abc import Callable, Mapping
from typing import Any

from rlhf_jax.errors import UserError


def nearest(name: str, known: list[str]) -> str:
    """`; did you mean 'x'?` for the closest known name, or the known names."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(sorted(known))}" if known else ""


class Section:
    """One level of a config.

    Args:
      values: the plain mapping of this level.
      path: dotted name from the root, for messages, e.g. `config.ppo`.
    """

    def __init__(self, values: Mapping[str, Any], path: str = "config"):
        self._values = dict(values)
        self._path = path
        self._asked: set[str] = set()
        self._children: dict[str, Section] = {}

    @property
    def path(self) -> str:
        """Dotted name from the root."""
        return self._path

    def has(self, key: str) -> bool:
        """Whether the config gives this key; counts as asking, not as reading."""
        return key in self._values

    def keys(self) -> list[str]:
        """The keys that the config gives."""
        return list(self._values)

    def value(self, key: str) -> Any:
        """The value as it stands in the config."""
        return self._take(key)

    def values(self) -> dict[str, Any]:
        """A copy of the plain mapping; counts as reading nothing."""
        return dict(self._values)

    def int(
        self, key: str, minimum: int | None = None, maximum: int | None = None
    ) -> int:
        """A whole number, at least `minimum`, at most `maximum`."""
        value = self._take(key)
        if isinstance(value, bool) or not isinstance(value, int):
            self._refuse(key, value, "a whole number")
        return self._bounded(key, value, minimum, maximum)

    def float(
        self, key: str, minimum: float | None = None, maximum: float | None = None
    ) -> float:
        """A finite number, at least `minimum`, at most `maximum`."""
        value = self._take(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._refuse(key, value, "a number")
        if not math.isfinite(value):
            raise UserError(f"{self._path}.{key}={value} is not a finite number")
        return self._bounded(key, float(value), minimum, maximum)

    def bool(self, key: str) -> bool:
        """True or False."""
        value = self._take(key)
        if not isinstance(value, bool):
            self._refuse(key, value, "True or False")
        return value

    def str(self, key: str) -> str:
        """A text."""
        value = self._take(key)
        if not isinstance(value, str):
            self._refuse(key, value, "a text")
        return value

    def choice(self, key: str, known: Any) -> str:
        """A text out of the known ones."""
        value = self.str(key)
        if value not in known:
            known = list(known)
            raise UserError(
                f"{self._path}.{key}='{value}' is not known{nearest(value, known)}"
            )
        return value

    def names(self, key: str) -> tuple[str, ...]:
        """An explicit order: a tuple of texts."""
        value = self._take(key)
        if not isinstance(value, tuple | list) or not all(
            isinstance(x, str) for x in value
        ):
            self._refuse(key, value, "a tuple of names, such as ('a', 'b')")
        for index, name in enumerate(value):
            if name in value[:index]:
                raise UserError(f"{self._path}.{key} names '{name}' twice")
        return tuple(value)

    def ints(self, key: str) -> tuple[int, ...]:
        """A tuple of whole numbers."""
        value = self._take(key)
        if not isinstance(value, tuple | list) or not all(
            isinstance(x, int) and not isinstance(x, bool) for x in value
        ):
            self._refuse(key, value, "a tuple of whole numbers, such as (64, 128)")
        return tuple(value)

    def optional(self, key: str, reader: Callable[[str], Any]) -> Any:
        """`reader(key)`, or None where the config says None."""
        if self._values.get(key, 0) is None:
            return self._take(key)
        return reader(key)

    def section(self, key: str) -> Section:
        """The level below."""
        if key not in self._children:
            value = self._take(key)
            if not isinstance(value, Mapping):
                self._refuse(key, value, "a section with keys of its own")
            self._children[key] = Section(value, f"{self._path}.{key}")
        return self._children[key]

    def keywords(self, factory: Callable[..., Any], **given: Any) -> dict[str, Any]:
        """Every key of this section as a keyword of a library factory.

        Args:
          factory: its signature says which keys exist.
          **given: keywords that come from elsewhere; the section must not repeat them.

        Raises:
          UserError: a key that the factory does not take, or a required one missing.
        """
        parameters = inspect.signature(factory).parameters
        known = [name for name in parameters if name not in given]
        for key in self._values:
            if key not in known:
                raise UserError(
                    f"{self._path}.{key}: {factory.__name__} takes no such key"
                    f"{nearest(key, known)}"
                )
        for name, parameter in parameters.items():
            required = parameter.default is inspect.Parameter.empty
            plain = parameter.kind not in (
                inspect.Parameter.VAR_KEYWORD,
                inspect.Parameter.VAR_POSITIONAL,
            )
            if required and plain and name not in given and name not in self._values:
                raise UserError(
                    f"{self._path}.{name} is missing: {factory.__name__} needs it"
                )
        found = {key: self._take(key) for key in self._values}
        for key, value in found.items():
            self._check_keyword(key, value, factory)
        return {**found, **given}

    def _check_keyword(self, key: str, value: Any, factory: Callable[..., Any]) -> None:
        """None where the factory knows none, and numbers that are none, are refused."""
        if isinstance(value, float) and not math.isfinite(value):
            self._refuse(key, value, "a finite number")
        default = inspect.signature(factory).parameters[key].default
        if value is None and default is not None:
            hint = typing.get_type_hints(factory).get(key, Any)
            if hint is not Any and type(None) not in typing.get_args(hint):
                self._refuse(key, value, f"a value: {factory.__name__} needs one")

    def leave(self, keys: list[str]) -> None:
        """Passes over keys that are there on purpose although nothing reads them."""
        self._asked.update(keys)

    def finish(self) -> None:
        """Refuses keys that nothing read, here and below."""
        for key in self._values:
            if key not in self._asked:
                raise UserError(
                    f"{self._path}.{key} is read by nothing"
                    f"{nearest(key, sorted(self._asked))}"
                )
        for child in self._children.values():
            child.finish()

    def _take(self, key: str) -> Any:
        self._asked.add(key)
        if key not in self._values:
            raise UserError(
                f"{self._path}.{key} is missing{nearest(key, list(self._values))}"
            )
        return self._values[key]

    def _bounded(self, key: str, value: Any, minimum: Any, maximum: Any) -> Any:
        if minimum is not None and value < minimum:
            raise UserError(f"{self._path}.{key}={value} must be at least {minimum}")
        if maximum is not None and value > maximum:
            raise UserError(f"{self._path}.{key}={value} must be at most {maximum}")
        return value

    def _refuse(self, key: str, value: Any, wanted: str) -> None:
        raise UserError(
            f"{self._path}.{key}={value!r} is {type(value).__name__}, not {wanted}"
        )
