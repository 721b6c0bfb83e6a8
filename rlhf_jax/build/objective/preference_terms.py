"""The methods that a section names, as weighted loss terms."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from rlhf_jax import losses
from rlhf_jax.build.configs.section import Section
from rlhf_jax.build.objective import arguments, parts
from rlhf_jax.errors import UserError
from rlhf_jax.losses import preference as methods


def names_of(section: Section) -> tuple[str, ...]:
    """The methods of `loss` or `terms`; sub-sections of others are passed over."""
    single, several = section.optional("loss", section.str), section.names("terms")
    if (single is None) == (not several):
        raise UserError(
            f"{section.path}: give either loss, the name of one method, or terms, a"
            f" tuple of several; loss is {single!r} and terms {several!r}"
        )
    names = several or (single,)
    key = "terms" if several else "loss"
    for name in names:
        Section({key: name}, section.path).choice(key, methods.METHODS)
    for other in section.keys():
        if other in methods.METHODS and other not in names:
            _options(section.section(other), other)
    return tuple(str(name) for name in names)


def term_of(section: Section, name: str) -> losses.Term:
    """One weighted term, with the hyper-parameters of its sub-section."""
    if not section.has(name):
        return methods.term(name)
    own = section.section(name)
    options = _options(own, name)
    try:
        return arguments.method(functools.partial(methods.term, name), options)
    except UserError as error:
        raise UserError(f"{own.path}: {error}") from error


def _options(own: Section, name: str) -> dict[str, Any]:
    """Weight and numbers of a method; every key is one of its own."""
    known = list(inspect.signature(methods.METHODS[name].make).parameters)
    options: dict[str, Any] = {}
    for key in own.keys():
        if key == "weight":
            options[key] = parts.schedule_or_number(own, key)
            continue
        if key not in known:
            Section({"key": key}, own.path).choice("key", [*known, "weight"])
        options[key] = own.float(key)
    return options
